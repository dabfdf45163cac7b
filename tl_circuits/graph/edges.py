"""The edges of a graph, stored by target: compressed rows that are never made dense on the way to a result."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from torch import Tensor

from tl_circuits.errors import GraphError

BLOCK_EDGES = 2**17
"""Edges that are summed at a time."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Who adds how much to whom. Row `t` holds the inputs of node `t`: `source[indptr[t]:indptr[t + 1]]`, ascending.

    `weight` is signed and in the units of the target (a feature's pre-activation, a target's value). Raises
    `GraphError` where the three columns do not make such a table.
    """

    indptr: Int64[Tensor, " node_plus_1"]
    source: Int32[Tensor, " edge"]
    weight: Float[Tensor, " edge"]

    def __post_init__(self) -> None:
        self._check_columns()
        if bool((self.indptr.diff() < 0).any()) or int(self.indptr[0]) != 0 or int(self.indptr[-1]) != len(self.source):
            raise GraphError(
                f"The row bounds of the edges run from {int(self.indptr[0])} to {int(self.indptr[-1])} for "
                f"{len(self.source)} edges. They must rise from 0 to the number of edges: build them with "
                "Edges.from_pairs."
            )
        if len(self.source) and int(self.source.min()) < 0:
            raise GraphError(f"An edge starts at node {int(self.source.min())}. Sources are counted from 0.")
        falling = self.source[1:] <= self.source[:-1]
        starts = self.indptr[(self.indptr > 0) & (self.indptr < len(self.source))]
        falling[starts - 1] = False
        if bool(falling.any()):
            edge = int(falling.nonzero()[0]) + 1
            raise GraphError(
                f"Edge {edge} starts at node {int(self.source[edge])}, the one before it at "
                f"{int(self.source[edge - 1])}. Within a row sources rise, each named once: build the edges with "
                "Edges.from_pairs."
            )
        finite = torch.isfinite(self.weight)
        if not bool(finite.all()):
            raise GraphError(
                f"{int((~finite).sum())} of {len(self)} edges are not finite numbers. Run the model in float32 or "
                "float64, where activations do not overflow."
            )

    def _check_columns(self) -> None:
        given = {name: getattr(self, name) for name in ("indptr", "source", "weight")}
        shapes = ", ".join(f"{name} {column.dtype} {tuple(column.shape)}" for name, column in given.items())
        types = (
            self.indptr.dtype == torch.int64 and self.source.dtype == torch.int32 and self.weight.is_floating_point()
        )
        flat = all(column.dim() == 1 for column in given.values())
        if not (types and flat and len(self.indptr) and len(self.source) == len(self.weight)):
            raise GraphError(
                f"These columns are no edges: {shapes}. Give indptr int64 (nodes + 1), source int32 (edges) and a "
                "floating weight (edges)."
            )
        if any(column.device.type != "cpu" for column in given.values()):
            raise GraphError(
                f"A graph lives in main memory, its edges were given on {self.weight.device}. Call .cpu() first."
            )

    @classmethod
    def from_pairs(
        cls,
        n_rows: int,
        target: Int[Tensor, " pair"],
        source: Int[Tensor, " pair"],
        weight: Float[Tensor, " pair"],
    ) -> "Edges":
        """Edges from (target, source, weight) in any order; the weights of a pair that is named twice add up."""
        n_columns = int(source.max()) + 1 if len(source) else 1
        key, place = torch.unique(target.to(torch.int64) * n_columns + source, return_inverse=True)
        total = torch.zeros(len(key), dtype=weight.dtype).index_add_(0, place, weight)
        counts = torch.bincount(key // n_columns, minlength=n_rows)
        return cls(_bounds(counts), (key % n_columns).to(torch.int32), total)

    @classmethod
    def from_dense(cls, matrix: Float[Tensor, "target source"]) -> "Edges":
        """The nonzero entries of a matrix whose rows are targets."""
        target, source = matrix.nonzero(as_tuple=True)
        return cls(_bounds((matrix != 0).sum(1)), source.to(torch.int32), matrix[target, source])

    def __len__(self) -> int:
        return len(self.source)

    @property
    def n_rows(self) -> int:
        """How many nodes there are, with inputs or without."""
        return len(self.indptr) - 1

    @cached_property
    def target(self) -> Int64[Tensor, " edge"]:
        """The row of each edge."""
        return torch.repeat_interleave(self.indptr.diff())

    @cached_property
    def _by_source(self) -> tuple[Int64[Tensor, " edge"], Int64[Tensor, " source_plus_1"]]:
        return torch.argsort(self.source, stable=True), _bounds(torch.bincount(self.source, minlength=self.n_rows))

    def into(self, row: int) -> slice:
        """The edges that end at a node."""
        return slice(int(self.indptr[row]), int(self.indptr[row + 1]))

    def out_of(self, row: int) -> Int64[Tensor, " found"]:
        """The edges that start at a node, by target."""
        order, bounds = self._by_source
        return order[int(bounds[row]) : int(bounds[row + 1])]

    def sums(
        self,
        times: Float64[Tensor, " source"] | Bool[Tensor, " source"] | None = None,
        *,
        magnitude: bool = False,
    ) -> Float64[Tensor, " node"]:
        """Σ weight of each row, or Σ |weight|, each weight so many `times` (by source) where given."""
        return torch.cat([self._sums(rows, times, magnitude) for rows in self._row_blocks()])

    def _sums(self, rows: slice, times: Tensor | None, magnitude: bool) -> Float64[Tensor, " row"]:
        bounds = self.indptr[rows.start : rows.stop + 1]
        run = slice(int(bounds[0]), int(bounds[-1]))
        weight = self.weight[run].to(torch.float64)
        weight = weight.abs() if magnitude else weight
        if times is not None:
            weight = weight * times.index_select(0, self.source[run])
        return torch.segment_reduce(weight, "sum", offsets=bounds - bounds[0], initial=0.0)

    def _row_blocks(self) -> list[slice]:
        """Runs of rows with so many edges that a processor's cache holds what is computed of them."""
        block = self.indptr[:-1] // BLOCK_EDGES
        starts = [0, *((block.diff() > 0).nonzero()[:, 0] + 1).tolist(), self.n_rows]
        return [slice(start, stop) for start, stop in pairwise(starts) if stop > start]

    def keep(self, edges: Bool[Tensor, " edge"]) -> "Edges":
        """The same rows with these edges only."""
        counts = torch.bincount(self.target[edges], minlength=self.n_rows)
        return Edges(_bounds(counts), self.source[edges], self.weight[edges])

    def renumber(self, nodes: Bool[Tensor, " node"]) -> "Edges":
        """The edges among these nodes, which are counted anew in the same order."""
        number = torch.cumsum(nodes, 0, dtype=torch.int32) - 1
        among = nodes[self.source] & nodes[self.target]
        counts = torch.bincount(self.target[among], minlength=self.n_rows)[nodes]
        return Edges(_bounds(counts), number[self.source[among].long()], self.weight[among])

    def dense(self, n_columns: int) -> Float[Tensor, "target source"]:
        """The same numbers as a matrix, row = target, column = source."""
        matrix = torch.zeros(self.n_rows, n_columns, dtype=self.weight.dtype)
        matrix[self.target, self.source.long()] = self.weight
        return matrix


def conservation_error(edges: Edges, totals: Float[Tensor, " node"], expanded: Bool[Tensor, " node"]) -> float:
    """The largest |Σ inputs − total| of the expanded rows, as a share of the row's Σ|inputs| (0 without such rows).

    Conservation, the first law of a graph that holds its constants: what enters a node is what the node reads.
    """
    if not bool(expanded.any()):
        return 0.0
    gap = (edges.sums() - totals.to(torch.float64))[expanded].abs()
    scale = edges.sums(magnitude=True)[expanded]
    return float((gap / scale.clamp(min=torch.finfo(torch.float64).tiny)).max())


def _bounds(counts: Int64[Tensor, " row"]) -> Int64[Tensor, " row_plus_1"]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
