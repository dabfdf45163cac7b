"""Attribution graphs as values: what they hold, how they are weighed, cut, read and written. No model is needed."""

from tl_circuits.graph.edges import Edges, conservation_error
from tl_circuits.graph.graph import AttributionGraph, load_graph
from tl_circuits.graph.paths import Path
from tl_circuits.graph.record import Provenance, Pruned
from tl_circuits.graph.scores import GraphScores
from tl_circuits.graph.supernodes import load_supernodes
from tl_circuits.graph.tables import GraphTables
from tl_circuits.graph.traced import Traced, TraceResults
from tl_circuits.graph.views import NodeView

__all__ = [
    "AttributionGraph",
    "Edges",
    "GraphScores",
    "GraphTables",
    "NodeView",
    "Path",
    "Provenance",
    "Pruned",
    "TraceResults",
    "Traced",
    "conservation_error",
    "load_graph",
    "load_supernodes",
]
