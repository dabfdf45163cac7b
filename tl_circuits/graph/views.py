"""Looking around in a graph: one node at a time, its inputs and outputs, and the nodes that a word finds."""

import re
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph.asked import number, whole
from tl_circuits.graph.record import GraphRecord
from tl_circuits.nodes import Feature, Kind, NodeId

_FEATURE_ANYWHERE = re.compile(r"L(?P<layer>\d{1,18})/(?P<index>\d{1,18})")
_FEATURE_AT = re.compile(r"L\d{1,1000}/\d{1,1000}@-?\d{1,1000}")
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
        """What feeds the node and by how much, the largest |weight| first; only the first `k` where that is given.

        Raises `SettingError` where `k` is no whole number or less than 1.
        """
        edges = self.graph.edges
        run = edges.into(self.row)
        return self._sorted("inputs", edges.source[run].long(), edges.weight[run], k)

    def outputs(self, k: int | None = None) -> list[tuple["NodeView", float]]:
        """What the node feeds and by how much, the largest |weight| first; only the first `k` where that is given.

        Raises `SettingError` where `k` is no whole number or less than 1.
        """
        edges = self.graph.edges
        found = edges.out_of(self.row)
        return self._sorted("outputs", edges.target[found], edges.weight[found], k)

    def _sorted(
        self, door: str, rows: Int64[Tensor, " found"], weights: Tensor, k: int | None
    ) -> list[tuple["NodeView", float]]:
        k = len(weights) if k is None else min(number(door, "k", k), len(weights))
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


NodeName = str | NodeId | Feature | int | NodeView
"""A node as `L20/15589@-1`, `error L3@5` or the like, by its coordinates, by its row, or as a view."""


def row_of(graph: GraphRecord, which: NodeName) -> int:
    """The row of the node that is meant.

    Raises `GraphError` where the graph does not hold it and `SettingError` for what can be no node.
    """
    match which:
        case NodeView():
            return which.row if which.graph is graph else row_of(graph, which.id)
        case str():
            return graph.nodes.row_named(which)
        case Feature():
            return graph.nodes.row(_feature_node(graph, which))
        case NodeId():
            kind, layer, pos, index = which
            return graph.nodes.row(NodeId(_kind(kind, which), *_whole(which, layer, pos, index)))
    row = None if isinstance(which, Kind) else whole(which)
    if row is None:
        raise SettingError(
            f"node({which!r:.80}): write a node as 'L20/15589@-1' or 'error L3@5', give its row, or a tlc.Feature; "
            "graph.find(...) lists nodes by label or token."
        )
    if not 0 <= row < len(graph.nodes):
        raise GraphError(f"There is no row {row} among {len(graph.nodes)} nodes. Rows are counted from 0.")
    return row


def rows_found(graph: GraphRecord, what: str | int | Feature) -> list[int]:
    """The rows that `AttributionGraph.find` lists, in the graph's order."""
    nodes = graph.nodes
    if isinstance(what, Feature):
        try:
            return [nodes.row(_feature_node(graph, what))]
        except GraphError:
            return []
    if not isinstance(what, str):
        token = None if isinstance(what, Kind) else whole(what)
        if token is None:
            raise SettingError(
                f"find({what!r:.80}): give a word of a label, a token, a token id, or a feature as 'L20/15589'; "
                "graph.node(...) takes a node of another kind."
            )
        if not 0 <= token <= _LARGEST:
            return []
        found = nodes.rows(Kind.TOKEN, Kind.TARGET) & (nodes.index == token)
        return found.nonzero().squeeze(1).tolist()
    if not what:
        raise GraphError("find('') would find every node. Give a word of a label, a token, a token id or a feature.")
    if named := _FEATURE_ANYWHERE.fullmatch(what.strip()):
        place = (nodes.layer == int(named["layer"])) & (nodes.index == int(named["index"]))
        return (nodes.rows(Kind.FEATURE) & place).nonzero().squeeze(1).tolist()
    if _FEATURE_AT.fullmatch(what.strip()):
        return rows_found(graph, Feature.parse(what))
    spoken = nodes.rows(Kind.FEATURE, Kind.TOKEN, Kind.TARGET).nonzero().squeeze(1).tolist()
    return [row for row in spoken if what.casefold() in label_of(graph, row).casefold()]


def _feature_node(graph: GraphRecord, feature: Feature) -> NodeId:
    layer, pos, index = _whole(feature, *feature)
    return NodeId(Kind.FEATURE, layer, graph.nodes.absolute(pos), index)


def _whole(which: Feature | NodeId, *coordinates: object) -> list[int]:
    found = [whole(value) for value in coordinates]
    if None in found:
        raise SettingError(f"{which!r:.100} is no node: its layer, position and index are whole numbers.")
    return [value for value in found if value is not None]


def _kind(kind: object, which: NodeId) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise SettingError(f"{which!r:.100} is no node: its kind is one of tl_circuits.nodes.Kind.") from None
