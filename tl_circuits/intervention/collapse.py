"""Hop collapse: does a graph send through a step as much as the model does?

A cross-layer transcoder may let one shallow feature write what the model computes in two steps. How much of a source's
effect passes a mediator is read off the graph, and measured in the model by patching the mediator.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.views import NodeName, row_of
from tl_circuits.hooks import installed
from tl_circuits.intervention.ablation import Readout
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.graph_of import check_same
from tl_circuits.intervention.intervene import intervene
from tl_circuits.intervention.passes import Way, run
from tl_circuits.intervention.prediction import Prediction
from tl_circuits.nodes import Feature, Intervention, Kind
from tl_circuits.replacement import LocalReplacementModel

Features = Feature | str | Sequence[Feature | str]


@dataclass(frozen=True)
class HopCollapse:
    """How much of a source's effect on a target passes a mediator: in the graph, in the model, and how far they differ.

    `graph_effect`, `model_effect`: the change of the target's centred logit where the source is ablated. The shares are
    of these; NaN where there is no effect to share.
    """

    graph: float
    model: float
    graph_effect: float
    model_effect: float

    @property
    def collapse(self) -> float:
        """|share mediated in the graph − share mediated in the model|."""
        return abs(self.graph - self.model)

    def to_dict(self) -> dict[str, float | None]:
        """The fields and the collapse as JSON values; None for NaN."""
        plain = asdict(self) | {"collapse": self.collapse}
        return {name: None if value != value else value for name, value in plain.items()}


def hop_collapse(
    graph: AttributionGraph,
    local: LocalReplacementModel,
    source: Features,
    mediator: Features,
    target: NodeName | None = None,
    *,
    mediator_of: LocalReplacementModel | None = None,
    stands_for: Features = (),
) -> HopCollapse:
    """The share of the source's effect on a target that the mediator carries, in the graph and in the model.

    Source and mediator are features, each of one layer, the mediator's the higher one. In the model the source is
    ablated, all MLPs above it running on; the mediator's activation then is read, and set so, alone, on the unchanged
    prompt: what that does to the target is the mediated part. Where the mediator is a feature of another transcoder
    (`mediator_of`, the same model and prompt under it, say a per-layer one), `stands_for` names the features of the
    graph that stand for it: none, where the graph lacks the step. The target is the graph's heaviest by default.

    Raises `GraphError` for a graph that is not whole or not of this prompt, `SettingError` for features that are no
    such pair and for another model or prompt under the mediator.
    """
    other = local if mediator_of is None else mediator_of
    for given in (local, other):
        if not isinstance(given, LocalReplacementModel):
            raise SettingError(
                f"{type(given).__name__} is no local replacement model: give tlc.localize(model, clt, prompt)."
            )
    check_same(graph, local, whole_graph=True)
    if other.model is not local.model or other.prompt.tokens.tolist() != local.prompt.tokens.tolist():
        what = "model" if other.model is not local.model else "prompt"
        raise SettingError(
            f"mediator_of is of another {what}: localize this prompt in this model with the mediator's transcoder."
        )
    sources, mediators = _of_one_layer("source", local, source), _of_one_layer("mediator", other, mediator)
    if mediators[0].layer <= sources[0].layer:
        raise SettingError(
            f"The mediator is of layer {mediators[0].layer}, the source of layer {sources[0].layer}: name a mediator "
            "above the source."
        )
    inside = mediators if mediator_of is None else _of_one_layer("stands_for", local, stands_for) if stands_for else []
    row = _target_row(graph, target)
    readout = Readout.of(local, graph)
    shared, graph_effect = _in_graph(graph, sources, inside, row)
    mediated, model_effect = _in_model(local, other, sources, mediators, readout, row)
    return HopCollapse(shared, mediated / model_effect if model_effect else float("nan"), graph_effect, model_effect)


def _in_graph(
    graph: AttributionGraph, sources: Sequence[Feature], mediators: Sequence[Feature], target: int
) -> tuple[float, float]:
    prediction = Prediction.of(graph)
    rows = [row_of(graph, feature) for feature in sources]
    through = [row_of(graph, feature) for feature in mediators]
    moved = prediction.total[through][:, rows].sum(1)
    per_unit = -prediction.total_on_targets[target, through] / graph.activations[through].to(torch.float64)
    whole = float(prediction.total_on_targets[target, rows].sum())
    return (float(moved @ per_unit) / whole if whole else float("nan")), whole


def _in_model(
    local: LocalReplacementModel,
    other: LocalReplacementModel,
    sources: Sequence[Feature],
    mediators: Sequence[Feature],
    readout: Readout,
    target: int,
) -> tuple[float, float]:
    layer, read_at = sources[0].layer, mediators[0].layer
    reads: list[Tensor] = []
    way = Way("constrained", range(layer, layer + 1), "frozen")
    edits = Edits.of(local, [[Intervention(list(sources), scale=0)]], way.layers)
    with installed(local.model, {other.sites.sites[read_at].read: lambda x: reads.append(x.detach())}):
        logits = run(local, edits, way).logits[0]
    activations = other.transcoder.encode(reads[0][0].to(other.activations), read_at)
    patched = [Intervention(f, value=float(activations[f.pos, f.index])) for f in mediators]
    held = intervene(other, patched, (read_at, read_at)).logits
    before = readout.values(local.logits[readout.at])[target]
    mediated, whole = (float(readout.values(after[readout.at])[target] - before) for after in (held, logits))
    return mediated, whole


def _of_one_layer(name: str, local: LocalReplacementModel, given: Any) -> list[Feature]:
    features = [f._replace(pos=f.pos % local.n_pos) for f in Intervention(given, scale=0).features]
    active = set(local.active())
    silent = [feature for feature in features if feature not in active]
    if silent or len({feature.layer for feature in features}) != 1:
        why = f"{silent[0]} is not active on this prompt" if silent else "they are of several layers"
        raise SettingError(f"{name}={given!s:.80}: {why}. Give features of one layer that local.active() lists.")
    return features


def _target_row(graph: AttributionGraph, target: NodeName | None) -> int:
    """Which of the targets is meant, counted from 0."""
    span = graph.nodes.span(Kind.TARGET)
    if target is None:
        return int(graph.target_weights.abs().argmax())
    row = row_of(graph, target)
    if row < span.start:
        raise SettingError(
            f"{graph.nodes[row]} is no target of this graph: name one, such as '{graph.nodes[span.start]}'."
        )
    return row - span.start
