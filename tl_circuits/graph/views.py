"""Looking around in a graph: one node at a time, its inputs and outputs, and the nodes that a word finds."""

import re
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import GraphError
from tl_circuits.graph.record import GraphRecord
from tl_circuits.nodes import Feature, Kind, NodeId

NodeName = str | NodeId | Feature | int
"""A node as `L20/15589@-1`, `error L3@5` or the like, by its coordinates, or by its row."""

_FEATURE_ANYWHERE = re.compile(r"L(?P<layer>\d{1,18})/(?P<index>\d{1,18})")
_LARGEST = 2**63 - 1


@dataclass(frozen=True, eq=False, repr=False)
class NodeView:
    """One node of a graph: what it is, what feeds it and what it feeds."""

    graph: GraphRecord
    row: int
    influences: Float64[Tensor, " node"] = field(repr=False)

    @property
    def id(self) -> NodeId:
        """The kind and coordinates of the node."""
        return self.graph.nodes[self.row]

    @property
    def label(self) -> str:
        """The feature's label, the token, or what the target is called; empty where there is none."""
        return label_of(self.graph, self.row)

    @property
    def activation(self) -> float:
        """The feature's activation or the target's value; nan for other kinds."""
        return float(self.graph.activations[self.row])

    @property
    def influence(self) -> float:
        """The share of the targets' weight that passes through the node."""
        return float(self.influences[self.row])

    def inputs(self, k: int | None = None) -> list[tuple["NodeView", float]]:
        """What feeds the node and by how much, the largest |weight| first; only the first `k` where that is given."""
        edges = self.graph.edges
        run = edges.into(self.row)
        return self._sorted(edges.source[run].long(), edges.weight[run], k)

    def outputs(self, k: int | None = None) -> list[tuple["NodeView", float]]:
        """What the node feeds and by how much, the largest |weight| first; only the first `k` where that is given."""
        edges = self.graph.edges
        found = edges.out_of(self.row)
        return self._sorted(edges.target[found], edges.weight[found], k)

    def _sorted(self, rows: Int64[Tensor, " found"], weights: Tensor, k: int | None) -> list[tuple["NodeView", float]]:
        order = torch.argsort(weights.abs(), descending=True, stable=True)[:k]
        return [
            (NodeView(self.graph, row, self.influences), weight)
            for row, weight in zip(rows[order].tolist(), weights[order].tolist(), strict=True)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeView) and other.graph is self.graph and other.row == self.row

    def __hash__(self) -> int:
        return hash((id(self.graph), self.row))

    def __repr__(self) -> str:
        shown = f" {self.label!r}" if self.label else ""
        if self.id.kind in (Kind.FEATURE, Kind.TARGET):
            shown += f" value {self.activation:.3g}"
        return f"<{self.id}{shown} influence {self.influence:.3g}>"


def label_of(graph: GraphRecord, row: int) -> str:
    """What people call a node: a feature's label, a token, a target's name; empty where there is none."""
    node = graph.nodes[row]
    match node.kind:
        case Kind.FEATURE:
            return graph.labels.get((node.layer, node.index), "")
        case Kind.TOKEN:
            return graph.tokens[node.pos]
        case Kind.TARGET:
            return graph.target_labels[row - graph.nodes.span(Kind.TARGET).start]
        case _:
            return ""


def row_of(graph: GraphRecord, which: NodeName) -> int:
    """The row of the node that is meant. Raises `GraphError` where the graph does not hold it."""
    match which:
        case str():
            return graph.nodes.row_named(which)
        case Feature(layer, pos, index):
            return graph.nodes.row(NodeId(Kind.FEATURE, layer, graph.nodes.absolute(pos), index))
        case NodeId():
            return graph.nodes.row(which)
        case _:
            if not 0 <= which < len(graph.nodes):
                raise GraphError(f"There is no row {which} among {len(graph.nodes)} nodes. Rows are counted from 0.")
            return which


def rows_found(graph: GraphRecord, what: str | int | Feature) -> list[int]:
    """The rows that `AttributionGraph.find` lists, in the graph's order."""
    nodes = graph.nodes
    match what:
        case Feature(layer, pos, index):
            try:
                return [nodes.row(NodeId(Kind.FEATURE, layer, nodes.absolute(pos), index))]
            except GraphError:
                return []
        case int() if abs(what) > _LARGEST:
            return []
        case int():
            return (nodes.rows(Kind.TOKEN, Kind.TARGET) & (nodes.index == what)).nonzero().squeeze(1).tolist()
    if not what:
        raise GraphError("find('') would find every node. Give a word of a label, a token, a token id or a feature.")
    if named := _FEATURE_ANYWHERE.fullmatch(what.strip()):
        place = (nodes.layer == int(named["layer"])) & (nodes.index == int(named["index"]))
        return (nodes.rows(Kind.FEATURE) & place).nonzero().squeeze(1).tolist()
    if re.fullmatch(r"L\d+/\d+@-?\d+", what.strip()):
        return rows_found(graph, Feature.parse(what))
    spoken = nodes.rows(Kind.FEATURE, Kind.TOKEN, Kind.TARGET).nonzero().squeeze(1).tolist()
    return [row for row in spoken if what.casefold() in label_of(graph, row).casefold()]
