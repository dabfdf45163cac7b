"""Which features' inputs are known so far, and how much of the targets' influence that explains.

All influence flows from the targets down and ends in tokens and errors, or in features that were not expanded, which
absorb it. What does not end in those is explained: an exact share, from the rows that are known (method: coverage).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from tl_circuits.graph import Edges
from tl_circuits.graph.influence import Shares, counted_sources, node_influence, target_shares
from tl_circuits.nodes import Kind, Nodes
from tl_circuits.replacement.sweep import Sweep

ROUNDS = 16
SMALLEST_ROUND, LARGEST_ROUND = 8, 256
"""A best-first round is a sixteenth of the features, within bounds: smaller ones waste sweeps, larger ones rows."""


@dataclass(eq=False)
class Expansion:
    """Rows of the graph as they come in: targets first, then features, kept sparse."""

    sweep: Sweep
    nodes: Nodes
    target_weights: Float[Tensor, " target"]
    expanded: Bool[Tensor, " feature"]
    _rows: list[Int64[Tensor, " row"]] = field(default_factory=list)
    _parts: list["_SparseRows"] = field(default_factory=list)
    _known_influence: Float[Tensor, " node"] | None = None

    @classmethod
    def start(
        cls, sweep: Sweep, target_rows: Float[Tensor, "target source"], target_weights: Float[Tensor, " target"]
    ) -> "Expansion":
        """Only the targets are known."""
        sources = sweep.sources
        targets = torch.full((len(target_rows),), int(Kind.TARGET))
        unplaced = torch.full_like(targets, -1)
        columns = zip(
            (sources.kind, sources.layer, sources.pos, sources.index),
            (targets, unplaced, unplaced, unplaced),
            strict=True,
        )
        nodes = Nodes(*(torch.cat([column.cpu(), more]) for column, more in columns))
        expanded = torch.zeros(len(sweep.local.features), dtype=torch.bool)
        expansion = cls(sweep, nodes, target_weights, expanded)
        expansion._keep(torch.arange(len(target_rows)) + len(sources), target_rows)
        return expansion

    @property
    def n_features(self) -> int:
        """How many active features there are."""
        return len(self.expanded)

    @property
    def n_expanded(self) -> int:
        """How many of them have their inputs in the graph."""
        return int(self.expanded.sum())

    @property
    def n_rows(self) -> int:
        """How many nodes' inputs are known, targets included."""
        return sum(map(len, self._rows))

    @property
    def bytes(self) -> int:
        """What the rows take that are known so far."""
        return sum(part.source.nbytes + part.weight.nbytes for part in self._parts)

    def pending(self) -> Int64[Tensor, " feature"]:
        """The features whose inputs are not known yet."""
        return (~self.expanded).nonzero()[:, 0]

    def add(self, features: Int64[Tensor, " batch"]) -> None:
        """Computes and keeps the inputs of these features."""
        self._keep(features, self.sweep.rows(self.sweep.feature_readouts(features)))
        self.expanded[features] = True

    def coverage(self) -> float:
        """The share of the targets' influence that ends in tokens and errors."""
        if bool(self.expanded.all()):
            return 1.0
        # Shares sum to one up to rounding only.
        return float((1.0 - self._influence()[self.pending()].sum()).clamp(min=0.0))

    def most_influential(self, at_most: int) -> Int64[Tensor, " feature"]:
        """The pending features that carry most of what is unexplained: one round's worth."""
        influence = self._influence()[: self.n_features].clone()
        influence[self.expanded] = 0
        size = min(max(SMALLEST_ROUND, min(LARGEST_ROUND, self.n_features // ROUNDS)), at_most, self.n_features)
        best = influence.topk(size)
        return best.indices[best.values > 0].sort().values

    def edges(self) -> Edges:
        """The rows known so far, in the order of nodes."""
        rows, parts = torch.cat(self._rows), self._parts
        counts = torch.cat([part.counts for part in parts])
        indptr = torch.zeros(len(self.nodes) + 1, dtype=torch.int64)
        indptr[rows + 1] = counts
        indptr = indptr.cumsum(0)
        source = torch.empty(int(indptr[-1]), dtype=torch.int32)
        weight = torch.empty(int(indptr[-1]), dtype=parts[0].weight.dtype)
        for part_rows, part in zip(self._rows, parts, strict=True):
            # Each row of a part is a run; its edges go to where the run of that node begins.
            shift = indptr[part_rows] - (part.counts.cumsum(0) - part.counts)
            place = torch.arange(len(part.source)) + torch.repeat_interleave(shift, part.counts)
            source[place], weight[place] = part.source, part.weight
        return Edges(indptr, source, weight)

    def _influence(self) -> Float[Tensor, " node"]:
        if self._known_influence is None:
            shares = Shares(self.edges(), counted_sources(self.nodes, constants=False))
            self._known_influence = node_influence(shares, self.nodes, target_shares(self.nodes, self.target_weights))
        return self._known_influence

    def _keep(self, rows: Int64[Tensor, " row"], dense: Float[Tensor, "row source"]) -> None:
        self._known_influence = None
        self._rows.append(rows)
        self._parts.append(_SparseRows.of(dense))


@dataclass(frozen=True, eq=False)
class _SparseRows:
    """The nonzero entries of some rows."""

    counts: Int64[Tensor, " row"]
    source: Int32[Tensor, " edge"]
    weight: Float[Tensor, " edge"]

    @classmethod
    def of(cls, dense: Float[Tensor, "row source"]) -> "_SparseRows":
        # Picked out where they were computed, so that only they travel.
        row, source = dense.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(dense))
        return cls(counts.cpu(), source.to(torch.int32).cpu(), dense[row, source].cpu())
