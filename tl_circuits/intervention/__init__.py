"""Acting on a circuit: what the model does when features are scaled, set, ablated or added."""

from tl_circuits.intervention.bootstrap import Estimate as Estimate
from tl_circuits.intervention.collapse import HopCollapse as HopCollapse
from tl_circuits.intervention.collapse import hop_collapse as hop_collapse
from tl_circuits.intervention.correlation import Interval as Interval
from tl_circuits.intervention.faithfulness import faithfulness as faithfulness
from tl_circuits.intervention.faithfulness_report import FaithfulnessReport as FaithfulnessReport
from tl_circuits.intervention.fidelity import evaluate as evaluate
from tl_circuits.intervention.fidelity_report import Fidelity as Fidelity
from tl_circuits.intervention.fidelity_report import FidelityReport as FidelityReport
from tl_circuits.intervention.fidelity_report import LayerFidelity as LayerFidelity
from tl_circuits.intervention.fidelity_report import Measure as Measure
from tl_circuits.intervention.generate import GenerationResult as GenerationResult
from tl_circuits.intervention.generate import generate as generate
from tl_circuits.intervention.intervene import intervene as intervene
from tl_circuits.intervention.result import FeatureChanges as FeatureChanges
from tl_circuits.intervention.result import InterventionResult as InterventionResult
from tl_circuits.intervention.result import TopToken as TopToken
from tl_circuits.intervention.validate import Effect as Effect
from tl_circuits.intervention.validate import PathVerdict as PathVerdict
from tl_circuits.intervention.validate import Validation as Validation
from tl_circuits.intervention.validate import validate as validate
from tl_circuits.intervention.write_shares import WriteShares as WriteShares
from tl_circuits.intervention.write_shares import write_shares as write_shares
