"""The strongest paths of a graph. A path's share is the product of its edges' shares, so shares of paths add up."""

import heapq
import math
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.graph.influence import Shares, top_down
from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.views import NodeView
from tl_circuits.nodes import Nodes


@dataclass(frozen=True, repr=False)
class Path:
    """One way from a source to a target.

    `share` is the product of p and of the shares Â along the path: what of the targets' influence takes it. `effect` is
    signed and in the units of the target's value: the source's edge, passed on by each feature in proportion to its
    activation, Π A / Π a over the features between (exact while these keep to the linear side of their activation).
    """

    nodes: tuple[NodeView, ...]
    share: float
    effect: float

    def __repr__(self) -> str:
        steps = " → ".join(str(view.id) + (f" {view.label!r}" if view.label else "") for view in self.nodes)
        return f"<{steps}: share {self.share:.3g}, effect {self.effect:+.3g}>"


def best_share(shares: Shares, nodes: Nodes, sources: Bool[Tensor, " source"]) -> Float64[Tensor, " source"]:
    """The share of the strongest path from any of the sources to each node: 1 at the sources, 0 out of reach."""
    best = sources.to(torch.float64)
    for rows in reversed(list(top_down(nodes))):
        row, source, share = shares.block(rows)
        best[rows] = best[rows].scatter_reduce(0, row, share * best[source], "amax")
    return best


def strongest(
    shares: Shares, nodes: Nodes, p: Float64[Tensor, " node"], sources: Bool[Tensor, " source"], k: int
) -> list[tuple[float, tuple[int, ...]]]:
    """(share, rows from source to target) of the k strongest paths from any source to any target of weight p.

    Best-first from the targets down. The bound of an unfinished path is exact (`best_share`), so that only prefixes of
    the k paths are ever extended, each by its k best inputs at most.
    """
    best, order = best_share(shares, nodes, sources), count()
    heap: list[tuple[float, int, float, tuple[int, ...], bool]] = [
        (-weight * float(best[row]), next(order), weight, (row,), False)
        for row, weight in ((row, float(p[row])) for row in p.nonzero().squeeze(1).tolist())
        if float(best[row]) > 0
    ]
    heapq.heapify(heap)
    found = []
    while heap and len(found) < k:
        _, _, share, rows, finished = heapq.heappop(heap)
        if finished:
            found.append((share, rows))
            continue
        first = rows[0]
        if bool(sources[first]):
            heapq.heappush(heap, (-share, next(order), share, rows, True))
        if first >= len(nodes):
            continue
        _, inputs, portions = shares.block(slice(first, first + 1))
        bounds = portions * best[inputs]
        top = torch.topk(bounds, min(k, len(bounds)))
        for bound, edge in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            if bound > 0:
                step = (int(inputs[edge]), *rows)
                heapq.heappush(heap, (-share * bound, next(order), share * float(portions[edge]), step, False))
    return found


def effect(graph: GraphRecord, shares: Shares, rows: tuple[int, ...]) -> float:
    """The signed effect of a path on its target: Π A / Π a over the features between (see `Path`)."""
    product = 1.0
    for source, target in pairwise(rows):
        run = shares.edges.into(target)
        at = run.start + int(torch.searchsorted(shares.edges.source[run], source))
        product *= float(shares.edges.weight[at])
    for between in rows[1:-1]:
        activation = float(graph.activations[between])
        product = product / activation if activation else math.nan
    return product
