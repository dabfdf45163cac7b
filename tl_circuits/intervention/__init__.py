"""Acting on a circuit: what the model does when features are scaled, set, ablated or added."""

from tl_circuits.intervention.bootstrap import Estimate as Estimate
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
