"""Circuit tracing with cross-layer transcoders, for TransformerLens and SAELens.

    model, clt = tlc.demo()
    graph = tlc.trace(model, clt, prompt)
    graph.scores()

Each public name is loaded when it is first used, so that reading a graph does not load TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tl_circuits.attribution import Plan as Plan
    from tl_circuits.attribution import Target as Target
    from tl_circuits.attribution import Targets as Targets
    from tl_circuits.attribution import attribute as attribute
    from tl_circuits.attribution import plan as plan
    from tl_circuits.attribution import trace as trace
    from tl_circuits.attribution import trace_many as trace_many
    from tl_circuits.comparison import Basis as Basis
    from tl_circuits.comparison import CircuitCurve as CircuitCurve
    from tl_circuits.comparison import Task as Task
    from tl_circuits.comparison import circuit_curve as circuit_curve
    from tl_circuits.errors import FileError as FileError
    from tl_circuits.errors import FitError as FitError
    from tl_circuits.errors import GraphError as GraphError
    from tl_circuits.errors import PromptError as PromptError
    from tl_circuits.errors import SettingError as SettingError
    from tl_circuits.errors import TargetError as TargetError
    from tl_circuits.errors import TLCircuitsError as TLCircuitsError
    from tl_circuits.errors import TLCircuitsWarning as TLCircuitsWarning
    from tl_circuits.features import FeatureCard as FeatureCard
    from tl_circuits.features import FeatureCards as FeatureCards
    from tl_circuits.features import Operands as Operands
    from tl_circuits.features import feature_cards as feature_cards
    from tl_circuits.features import load_cards as load_cards
    from tl_circuits.features import score_labels as score_labels
    from tl_circuits.graph import AttributionGraph as AttributionGraph
    from tl_circuits.graph import GraphScores as GraphScores
    from tl_circuits.graph import TraceResults as TraceResults
    from tl_circuits.graph import load_graph as load_graph
    from tl_circuits.graph import load_supernodes as load_supernodes
    from tl_circuits.intervention import FaithfulnessReport as FaithfulnessReport
    from tl_circuits.intervention import FidelityReport as FidelityReport
    from tl_circuits.intervention import GenerationResult as GenerationResult
    from tl_circuits.intervention import HopCollapse as HopCollapse
    from tl_circuits.intervention import InterventionResult as InterventionResult
    from tl_circuits.intervention import Validation as Validation
    from tl_circuits.intervention import WriteShares as WriteShares
    from tl_circuits.intervention import evaluate as evaluate
    from tl_circuits.intervention import faithfulness as faithfulness
    from tl_circuits.intervention import generate as generate
    from tl_circuits.intervention import hop_collapse as hop_collapse
    from tl_circuits.intervention import intervene as intervene
    from tl_circuits.intervention import validate as validate
    from tl_circuits.intervention import write_shares as write_shares
    from tl_circuits.nodes import Feature as Feature
    from tl_circuits.nodes import Intervention as Intervention
    from tl_circuits.page import load_labels as load_labels
    from tl_circuits.page import save_page as save_page
    from tl_circuits.page import show as show
    from tl_circuits.page import widget as widget
    from tl_circuits.pictures import plot as plot
    from tl_circuits.pictures import plot_attention as plot_attention
    from tl_circuits.pictures import plot_curves as plot_curves
    from tl_circuits.pictures import plot_error_share as plot_error_share
    from tl_circuits.pictures import plot_intervention as plot_intervention
    from tl_circuits.pictures import subgraph_svg as subgraph_svg
    from tl_circuits.replacement import LocalReplacementModel as LocalReplacementModel
    from tl_circuits.replacement import localize as localize
    from tl_circuits.replacement import replace_mlps as replace_mlps
    from tl_circuits.training import TrainingSettings as TrainingSettings
    from tl_circuits.training import train as train
    from tl_circuits.training.report import training_report as training_report
    from tl_circuits.transcoder import BatchTopK as BatchTopK
    from tl_circuits.transcoder import CrossLayerTranscoder as CrossLayerTranscoder
    from tl_circuits.transcoder import JumpReLU as JumpReLU
    from tl_circuits.transcoder import ReLU as ReLU
    from tl_circuits.transcoder import TopK as TopK
    from tl_circuits.transcoder.files import save_transcoder as save_transcoder
    from tl_circuits.transcoder.load import load_transcoder as load_transcoder
    from tl_circuits.transcoder.registry import register_release as register_release
    from tl_circuits.transcoder.registry import releases as releases
    from tl_circuits.transcoder.release import Release as Release
    from tl_circuits.transcoder.saes import as_saes as as_saes
    from tl_circuits.transcoder.saes import register_saelens_classes as register_saelens_classes
    from tl_circuits.zoo.atlas import atlas as atlas
    from tl_circuits.zoo.demo import demo as demo

_ROOMS = {
    "attribution": ("Plan", "Target", "Targets", "attribute", "plan", "trace", "trace_many"),
    "comparison": ("Basis", "CircuitCurve", "Task", "circuit_curve"),
    "errors": (
        "FileError",
        "FitError",
        "GraphError",
        "PromptError",
        "SettingError",
        "TLCircuitsError",
        "TLCircuitsWarning",
        "TargetError",
    ),
    "features": ("FeatureCard", "FeatureCards", "Operands", "feature_cards", "load_cards", "score_labels"),
    "graph": ("AttributionGraph", "GraphScores", "TraceResults", "load_graph", "load_supernodes"),
    "intervention": (
        "FaithfulnessReport",
        "FidelityReport",
        "GenerationResult",
        "HopCollapse",
        "InterventionResult",
        "Validation",
        "WriteShares",
        "evaluate",
        "faithfulness",
        "generate",
        "hop_collapse",
        "intervene",
        "validate",
        "write_shares",
    ),
    "nodes": ("Feature", "Intervention"),
    "page": ("load_labels", "save_page", "show", "widget"),
    "pictures": ("plot", "plot_attention", "plot_curves", "plot_error_share", "plot_intervention", "subgraph_svg"),
    "replacement": ("LocalReplacementModel", "localize", "replace_mlps"),
    "training": ("TrainingSettings", "train"),
    "training.report": ("training_report",),
    "transcoder": ("BatchTopK", "CrossLayerTranscoder", "JumpReLU", "ReLU", "TopK"),
    "transcoder.files": ("save_transcoder",),
    "transcoder.load": ("load_transcoder",),
    "transcoder.registry": ("register_release", "releases"),
    "transcoder.release": ("Release",),
    "transcoder.saes": ("as_saes", "register_saelens_classes"),
    "zoo.atlas": ("atlas",),
    "zoo.demo": ("demo",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'tl_circuits' has no attribute '{name}'; it offers {', '.join(__all__)}.")
    value = getattr(import_module(f"tl_circuits.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
