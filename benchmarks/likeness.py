"""How alike are two pruned graphs of one prompt, and how much of the full graph does each way to stop early need?

Two tools can stop early: ours at a share of influence, where features that were not expanded stay as leaves, and
circuit-tracer at a number of features, where the others are dropped with their edges. To compare what they cost, each
is given the least setting at which its pruned graph is much the same as that of the full graph.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import tl_circuits as tlc
from tl_circuits.nodes import Kind

UPDATE_INTERVAL = 4
"""Batches after which circuit-tracer ranks features anew (its default)."""


@dataclass(frozen=True)
class Likeness:
    """Jaccard indices of the features, and of the edges, that two pruned graphs keep."""

    nodes: float
    edges: float

    @property
    def least(self) -> float:
        """The smaller of both."""
        return min(self.nodes, self.edges)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a pruned graph keeps, as numbers that mean the same in every graph of the prompt."""

    features: Tensor
    edges: Tensor

    @classmethod
    def of(cls, pruned: tlc.AttributionGraph) -> "Kept":
        """Features by layer, position and index; edges by both of their ends."""
        nodes = pruned.nodes
        # Coordinates start at -1, and no transcoder has 2²⁴ features, nor a prompt 2¹⁴ tokens.
        place = (nodes.layer + 1) * 2**14 + nodes.pos + 1
        key = (nodes.kind << 58) + (place << 34) + nodes.index + 1
        target, source = key[pruned.edges.target], key[pruned.edges.source.long()]
        return cls(key[nodes.span(Kind.FEATURE)], torch.stack([target, source], dim=1))

    def like(self, other: "Kept") -> Likeness:
        """How alike they are."""
        return Likeness(_jaccard(self.features[:, None], other.features[:, None]), _jaccard(self.edges, other.edges))


def _jaccard(one: Tensor, other: Tensor) -> float:
    both = torch.unique(torch.cat([one, other]), dim=0)
    # Within each, rows differ: what is in both is what makes the union smaller than the sum.
    return 1.0 if len(both) == 0 else (len(one) + len(other) - len(both)) / len(both)


def expanded_only(graph: tlc.AttributionGraph, features: Tensor) -> tlc.AttributionGraph:
    """The full graph as it would be with only these features expanded; the others are leaves."""
    expanded = graph.expanded.clone()
    expanded[graph.nodes.span(Kind.FEATURE)] = False
    expanded[features] = True
    totals = torch.where(expanded, graph.totals, torch.nan)
    return replace(graph, edges=graph.edges.keep(expanded[graph.edges.target]), expanded=expanded, totals=totals)


def capped(graph: tlc.AttributionGraph, features: Tensor) -> tlc.AttributionGraph:
    """The full graph as circuit-tracer gives it with these features and no others."""
    keep = torch.ones(len(graph.nodes), dtype=torch.bool)
    keep[graph.nodes.span(Kind.FEATURE)] = False
    keep[features] = True
    return replace(
        graph,
        nodes=graph.nodes.subset(keep),
        edges=graph.edges.renumber(keep),
        activations=graph.activations[keep],
        totals=graph.totals[keep],
        expanded=graph.expanded[keep],
    )


def peers_order(graph: tlc.AttributionGraph, batch_size: int) -> Iterator[Tensor]:
    """The features that circuit-tracer would visit, round by round, found from the rows of the full graph.

    A round ranks all features by their influence through the rows that are known, and takes the most influential of
    those that are not (`max_feature_nodes` cuts the last round short and changes nothing before it).
    """
    n_features = graph.nodes.count(Kind.FEATURE)
    visited = torch.zeros(n_features, dtype=torch.bool)
    while not bool(visited.all()):
        influence = expanded_only(graph, visited.nonzero()[:, 0]).influence()[:n_features]
        ranked = torch.argsort(influence, descending=True)
        best = ranked[~visited[ranked]][: UPDATE_INTERVAL * batch_size]
        visited[best] = True
        yield best


def least_count(
    order: Iterator[Tensor], n_features: int, alike: Callable[[Tensor], Likeness], wanted: float
) -> tuple[int, Likeness] | None:
    """The least number of features, to a hundredth of all, whose graph is as alike as wanted; None where none is."""
    known = torch.zeros(0, dtype=torch.int64)
    step = max(1, n_features // 100)
    low, high = 0, 5 * step
    while True:
        while len(known) < high and (more := next(order, None)) is not None:
            known = torch.cat([known, more])
        high = min(high, len(known))
        found = alike(known[:high])
        if found.least >= wanted:
            break
        if high == n_features:
            return None
        low, high = high, min(high + 5 * step, n_features)
    while high - low > step:
        middle = (low + high) // 2
        there = alike(known[:middle])
        low, high, found = (low, middle, there) if there.least >= wanted else (middle, high, found)
    return high, found


def least_coverage(alike: Callable[[float], Likeness], wanted: float) -> tuple[float, Likeness] | None:
    """The least coverage, to a hundredth, whose graph is as alike as wanted; None where that of .99 is not."""
    low, high = 0, 99
    found = alike(high / 100)
    if found.least < wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        there = alike(middle / 100)
        low, high, found = (low, middle, there) if there.least >= wanted else (middle, high, found)
    return high / 100, found
