"""Acting on a circuit: what the model does when features are scaled, set, ablated or added."""

from tl_circuits.intervention.intervene import intervene as intervene
from tl_circuits.intervention.result import FeatureChanges as FeatureChanges
from tl_circuits.intervention.result import InterventionResult as InterventionResult
from tl_circuits.intervention.result import TopToken as TopToken
