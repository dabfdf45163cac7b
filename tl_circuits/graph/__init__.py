"""Attribution graphs as values: what they hold, how they are weighed, cut, read and written. No model is needed."""

from tl_circuits.graph.edges import Edges, conservation_error
from tl_circuits.graph.graph import AttributionGraph
from tl_circuits.graph.record import Provenance, Pruned
from tl_circuits.graph.scores import GraphScores

__all__ = ["AttributionGraph", "Edges", "GraphScores", "Provenance", "Pruned", "conservation_error"]
