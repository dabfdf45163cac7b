"""Which units give the smaller and the truer circuit: neurons, features, heads, all on one measure."""

from tl_circuits.comparison.basis import Basis as Basis
from tl_circuits.comparison.basis import Slot as Slot
from tl_circuits.comparison.curve import CircuitCurve as CircuitCurve
from tl_circuits.comparison.curve import Unit as Unit
from tl_circuits.comparison.edges import EdgeScores as EdgeScores
from tl_circuits.comparison.edges import edge_curve as edge_curve
from tl_circuits.comparison.edges import edge_scores as edge_scores
from tl_circuits.comparison.graph_curve import graph_curve as graph_curve
from tl_circuits.comparison.graph_curve import pruned_to as pruned_to
from tl_circuits.comparison.scorers import scores as scores
from tl_circuits.comparison.task import Task as Task
from tl_circuits.comparison.units import circuit_curve as circuit_curve
