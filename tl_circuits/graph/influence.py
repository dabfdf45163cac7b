"""How much of the targets' value each node and each edge carries: pure functions of nodes, edges and weights.

Ameisen et al. 2025 ("Circuit Tracing", appendix "Graph Pruning"): Â is |A| with normalised rows, and

    I = pᵀ B,   B = Â + Â² + … = (I − Â)⁻¹ − I,

with p the weights of the targets. The graph has no cycles and a feature reads only features of lower layers, so one
pass over the rows from the targets down to layer 0 gives I exactly; no power iteration and no dense matrix is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor

from tl_circuits.graph.asked import flag
from tl_circuits.graph.edges import Edges
from tl_circuits.nodes import PAPER_SOURCES, Kind, Nodes

ROUNDING = 1e-9
"""Scores that differ by less, relatively, are the same score."""


@dataclass(frozen=True, eq=False)
class Shares:
    """Â: what share of a node's counted inputs each edge is, by magnitude. Computed by blocks, never stored whole.

    `counted` says which sources share a row; edges from the others have share 0. A row without counted inputs is all 0.
    Sources may outnumber the rows: columns without a row are ends of the graph that are not nodes of their own.
    """

    edges: Edges
    counted: Bool[Tensor, " source"]

    @cached_property
    def denominator(self) -> Float64[Tensor, " node"]:
        """Σ|A| of each row over its counted sources."""
        return self.edges.sums(self.counted, magnitude=True)

    def block(self, rows: slice) -> tuple[Int64[Tensor, " edge"], Int32[Tensor, " edge"], Float64[Tensor, " edge"]]:
        """(row, source, share) of the edges into a run of rows; rows are numbered from the run's first."""
        bounds = self.edges.indptr[rows.start : rows.stop + 1]
        run = slice(int(bounds[0]), int(bounds[-1]))
        row = torch.repeat_interleave(bounds.diff())
        source = self.edges.source[run]
        total = self.denominator[rows]
        share = self.edges.weight[run].to(torch.float64).abs() * self.counted[source]
        return row, source, share / torch.where(total > 0, total, 1.0)[row]

    def all(self) -> Float64[Tensor, " edge"]:
        """The shares of all edges, in their order."""
        return self.block(slice(0, self.edges.n_rows))[2]


def counted_sources(nodes: Nodes, *, constants: bool) -> Bool[Tensor, " node"]:
    """True at the kinds over which inputs are normalised: features, errors and tokens, or with constants all."""
    return ~nodes.rows(Kind.TARGET) if flag("constants", constants) else nodes.rows(*PAPER_SOURCES)


def target_shares(nodes: Nodes, target_weights: Float[Tensor, " target"]) -> Float64[Tensor, " node"]:
    """p: |weight| of each target over their sum, at the targets' rows; 0 at all others.

    The magnitude, because a share of influence cannot be negative: a difference of two logits counts both alike.
    """
    weight = target_weights.to(torch.float64).abs()
    p = torch.zeros(len(nodes), dtype=torch.float64)
    p[nodes.span(Kind.TARGET)] = weight / weight.sum()
    return p


def top_down(nodes: Nodes) -> Iterator[slice]:
    """Runs of rows, each after every row that it feeds: the targets, then the features layer by layer from the top."""
    yield nodes.span(Kind.TARGET)
    span = nodes.span(Kind.FEATURE)
    sizes = torch.unique_consecutive(nodes.layer[span], return_counts=True)[1].tolist()
    stop = span.stop
    for size in reversed(sizes):
        yield slice(stop - size, stop)
        stop -= size


def node_influence(shares: Shares, nodes: Nodes, p: Float64[Tensor, " node"]) -> Float64[Tensor, " source"]:
    """I = pᵀB, the influence of every source. The targets' own p is not in it."""
    influence = torch.zeros(len(shares.counted), dtype=torch.float64)
    for rows in top_down(nodes):
        row, source, share = shares.block(rows)
        flow = influence[rows] + p[rows]
        influence.index_add_(0, source, flow[row] * share)
    return influence


def edge_influence(
    shares: Shares, influence: Float64[Tensor, " source"], p: Float64[Tensor, " node"]
) -> Float64[Tensor, " edge"]:
    """What of the influence each edge carries: Â_ts · (I_t + p_t)."""
    return shares.all() * (influence[: len(p)] + p)[shares.edges.target]


def influence_by_length(
    shares: Shares, p: Float64[Tensor, " node"], ends: Bool[Tensor, " source"]
) -> Float64[Tensor, " length"]:
    """Σ over the ends of pᵀ(Â + … + Âˡ), for l = 1, 2, … until no longer path exists: what reaches them in l steps."""
    target, source, share = shares.block(slice(0, shares.edges.n_rows))
    flow, reached = p, []
    while bool(flow.any()):
        flow = torch.zeros(len(shares.counted), dtype=torch.float64).index_add_(
            0, source, flow[: len(p)][target] * share
        )
        reached.append(flow[ends].sum())
    return torch.stack(reached).cumsum(0)[:-1] if len(reached) > 1 else torch.zeros(0, dtype=torch.float64)


def cumulative(influence: Float64[Tensor, " node"]) -> Float64[Tensor, " node"]:
    """The share of all influence that a node and those before it carry, sorted from the largest: small is important."""
    order = torch.argsort(influence, descending=True, stable=True)
    running = influence[order].cumsum(0)
    total = torch.where(running[-1:] > 0, running[-1:], 1.0)
    return torch.empty_like(influence).index_copy_(0, order, running / total)


def reaching(scores: Float64[Tensor, " score"], threshold: float) -> Bool[Tensor, " score"]:
    """The smallest set of the largest scores that adds up to `threshold` of their sum.

    The score that crosses the threshold is in, and so is whatever ties with it up to rounding, so that the order of
    summation decides nothing. Nothing that scores 0 is in: at a threshold of 1 all that scores is kept.
    """
    return (scores > 0) & (scores >= least_kept(scores, threshold))


def least_kept(scores: Float64[Tensor, " score"], threshold: float) -> float:
    """The score from which upwards all are in (`reaching`)."""
    n_scored = int((scores > 0).sum())
    if threshold >= 1 or n_scored == 0:
        return 0.0
    ordered = scores.sort(descending=True).values
    running = ordered.cumsum(0)
    crossing = int(torch.searchsorted(running / running[-1], threshold * (1 - ROUNDING)))
    return float(ordered[min(crossing, n_scored - 1)]) * (1 - ROUNDING)
