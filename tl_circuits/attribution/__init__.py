"""From a local replacement model to its attribution graph."""

from tl_circuits.attribution.attribute import attribute as attribute
from tl_circuits.attribution.attribute import plan as plan
from tl_circuits.attribution.attribute import trace as trace
from tl_circuits.attribution.many import trace_many as trace_many
from tl_circuits.attribution.planner import Plan as Plan
from tl_circuits.attribution.targets import Target as Target
from tl_circuits.attribution.targets import Targets as Targets
