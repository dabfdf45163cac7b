"""Which units give the smaller and the truer circuit: neurons, features, heads, all on one measure."""

from tl_circuits.comparison.basis import Basis as Basis
from tl_circuits.comparison.basis import Slot as Slot
from tl_circuits.comparison.curve import CircuitCurve as CircuitCurve
from tl_circuits.comparison.curve import circuit_curve as circuit_curve
from tl_circuits.comparison.task import Task as Task
