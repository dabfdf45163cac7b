"""Rows of the attribution graph: the pull-back of read vectors through the frozen model, contracted with all sources.

A sweep starts at the layer where its targets read and walks down: pull the cotangent back through one block, then
contract it with what was written there (Ameisen et al. 2025, "Attribution Graphs": one backward pass per target, here
in batches).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.nodes import Kind, Nodes, lay_out
from tl_circuits.replacement.localize import LocalReplacementModel
from tl_circuits.replacement.pieces import Pieces
from tl_circuits.replacement.prefixes import Prefixes
from tl_circuits.replacement.written import Writes

MEMORY_BUDGET = 2**30
"""Bytes for one batch of targets at most, and half as many for rows that are gathered beforehand."""
BATCH_BYTES = {"cpu": 2**26, "cuda": 2**32}
"""Bytes of a batch of targets: enough to fill the matrix products, beyond which only memory grows."""
GATHERING = 16
"""How much larger a batch is where what is written is gathered for it: that takes as long as many targets."""


@dataclass(frozen=True, eq=False)
class Readouts:
    """Targets of a sweep: ⟨vector_b, what is read at layer_b and pos_b⟩. Layer `n_layers`: the unembedding's input."""

    layer: Int64[Tensor, " batch"]
    pos: Int64[Tensor, " batch"]
    vector: Float[Tensor, "batch d_model"]

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, rows: Int64[Tensor, " part"]) -> "Readouts":
        return Readouts(self.layer[rows], self.pos[rows], self.vector[rows])


@dataclass(frozen=True, eq=False)
class Sweep:
    """A local replacement model made ready for sweeps. `sources` are the nodes of its columns: all but targets."""

    local: LocalReplacementModel
    sources: Nodes
    prefixes: Prefixes
    writes: Writes
    memory_budget: int

    @classmethod
    def of(
        cls, local: LocalReplacementModel, *, n_rows: int | None = None, memory_budget: int | None = None
    ) -> "Sweep":
        """Lays out the columns, plans for so many rows (default: all), gathers what is written if it fits."""
        budget = MEMORY_BUDGET if memory_budget is None else memory_budget
        sources = lay_out(
            local.features.cpu(),
            local.n_layers,
            local.prompt.tokens.cpu(),
            learned_positions=local.position_vectors is not None,
            masked_positions=local.prompt.masked,
            targets=torch.empty(0, 3, dtype=torch.int64),
        )
        n_rows = len(local.features) if n_rows is None else n_rows
        prefixes = Prefixes.of(local, n_rows, budget)
        return cls(local, sources, prefixes, Writes.of(local, keep_bytes=budget // 2), budget)

    def feature_readouts(self, rows: Int64[Tensor, " batch"]) -> Readouts:
        """The readouts of feature nodes, by row: their encoder vectors where they read."""
        coordinates = self.local.features[rows]
        like = self.local.activations
        vectors = like.new_empty(len(rows), self.local.transcoder.d_model)
        for layer in coordinates[:, 0].unique().tolist():
            here = coordinates[:, 0] == layer
            encoder = self.local.transcoder.W_enc[layer]
            vectors[here] = encoder[coordinates[here, 2].to(encoder.device)].to(like)
        return Readouts(coordinates[:, 0], coordinates[:, 1], vectors)

    @property
    def bytes(self) -> int:
        """What it holds beside batches: what is written, where it is kept, and the passes over prefixes."""
        return (0 if self.writes.kept is None else self.writes.bytes) + self.prefixes.bytes

    @property
    def batch_bytes(self) -> int:
        """What a batch of targets may take: more where each gathers anew what is written."""
        enough = BATCH_BYTES.get(self.local.activations.device.type, BATCH_BYTES["cpu"])
        return min(self.memory_budget, enough if self.writes.kept is not None else GATHERING * enough)

    def bytes_per_target(self, pos: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """What a batch holds for each target: cotangents of its prefix, thrice, and its row, summed up and sorted."""
        numbers = 3 * self.prefix_lengths(pos) * self.local.transcoder.d_model + 3 * len(self.sources)
        return numbers * self.local.activations.element_size()

    def prefix_lengths(self, pos: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """How much of the prompt a sweep walks through for a target at each position."""
        return self.prefixes.lengths[self.prefixes.shortest(pos)]

    def batches(self, rows: Int64[Tensor, " batch"]) -> Iterator[Int64[Tensor, " part"]]:
        """Feature rows in parts that fit the memory budget, neighbours in the prompt together.

        Those of one prefix walk as one, the highest layers first, so that most blocks are pulled back in large batches.
        """
        layer, pos = self.local.features[rows, 0].cpu(), self.local.features[rows, 1].cpu()
        order = torch.argsort(pos * self.local.n_layers - layer, stable=True)
        part = self.bytes_per_target(pos[order]).cumsum(0) // self.batch_bytes
        for members in order.split(part.unique(return_counts=True)[1].tolist()):
            yield rows[members]

    def rows(self, readouts: Readouts) -> Float[Tensor, "batch source"]:
        """The edges from every source into each target, in the order of `sources`; their sum is what the target reads.

        Law: row b sums to ⟨vector_b, read⟩, and each entry is the change of that read when its source is added to a
        real forward pass of the frozen model. Targets of several layers share one sweep, each joining at its own layer.
        """
        with torch.inference_mode(False), torch.no_grad():
            walks, order = self._walks(readouts)
            columns = _Columns.empty(self, len(readouts))
            for layer in range(int(readouts.layer.max()), -1, -1):
                moving = [walk for walk in walks if walk.joined]
                for walk in moving:
                    walk.descend(layer, columns)
                if moving:
                    self._contract(layer, moving, columns)
                for walk in walks:
                    walk.join(layer, columns)
            for walk in walks:
                walk.arrive(columns)
            return columns.in_node_order(self).index_select(0, torch.argsort(order))

    def _walks(self, readouts: Readouts) -> tuple[list["_Walk"], Int64[Tensor, " batch"]]:
        """The targets by the prefix that they need, and the order in which that puts them."""
        lengths = self.prefix_lengths(readouts.pos).to(readouts.pos.device)
        # The passes over prefixes stop before the unembedding.
        lengths[readouts.layer == self.local.n_layers] = self.local.n_pos
        walks, order = [], []
        for length in lengths.unique().tolist():
            here = (lengths == length).nonzero()[:, 0]
            here = here[torch.argsort(readouts.layer[here], descending=True, stable=True)]
            walks.append(_Walk(self.local, self.prefixes.pieces(length), length, readouts[here], sum(map(len, order))))
            order.append(here)
        return walks, torch.cat(order)

    def _contract(self, layer: int, walks: list["_Walk"], columns: "_Columns") -> None:
        for pos, span, written in self.writes.at(layer, max(walk.length for walk in walks)):
            for walk in walks:
                if pos < walk.length:
                    edges = walk.at_write[:, pos] @ written.T
                    columns.features[walk.rows, span] += edges[:, :-2]
                    columns.unexplained[walk.rows, layer, pos] = edges[:, -2]
                    columns.b_dec[walk.rows, layer] += edges[:, -1]


class _Walk:
    """Targets of one prefix on their way down: those of the highest layer first, the others joining at their own."""

    def __init__(
        self, local: LocalReplacementModel, pieces: Pieces, length: int, readouts: Readouts, first_row: int
    ) -> None:
        self._local, self._pieces, self._readouts, self._first_row = local, pieces, readouts, first_row
        self._layers = readouts.layer.tolist()
        self._cotangents = readouts.vector.new_empty(len(readouts), length, readouts.vector.shape[1])
        self._spare = torch.empty_like(self._cotangents)
        self.at_write = self._spare[:0]
        self.length, self.joined = length, 0

    @property
    def rows(self) -> slice:
        """Where the targets that have joined stand in the batch."""
        return slice(self._first_row, self._first_row + self.joined)

    def descend(self, layer: int, columns: "_Columns") -> None:
        """From the output of a block to its input, and to what its MLP writes."""
        cotangent, constants = self._cotangents[: self.joined], self._local.pieces.block_constants[layer]
        columns.bias[self.rows, layer] += cotangent.flatten(1) @ constants[: self.length].flatten()
        self.at_write = self._pieces.pull_back_block(layer, cotangent, self._spare[: self.joined])
        self._cotangents, self._spare = self._spare, self._cotangents

    def join(self, layer: int, columns: "_Columns") -> None:
        """The targets that read at this layer begin."""
        first, self.joined = self.joined, self.joined + self._layers.count(layer)
        if self.joined == first:
            return
        vector, pos = self._readouts.vector[first : self.joined], self._readouts.pos[first : self.joined]
        self._pieces.pull_back_read(layer, vector, pos, self._cotangents[first : self.joined])
        constants = self._local.pieces.read_constants[layer][pos]
        columns.bias[self._first_row + first : self._first_row + self.joined, layer] += (vector * constants).sum(-1)

    def arrive(self, columns: "_Columns") -> None:
        """At what enters the first block."""
        local, length, cotangents = self._local, self.length, self._cotangents
        columns.tokens[self.rows, :length] = torch.einsum("bpd,pd->bp", cotangents, local.token_vectors[:length])
        if local.position_vectors is not None:
            vectors = local.position_vectors[:length]
            columns.positions[self.rows, :length] = torch.einsum("bpd,pd->bp", cotangents, vectors)
        columns.bias[self.rows, 0] += cotangents.flatten(1) @ local.pieces.embedding_constant[:length].flatten()


@dataclass(frozen=True, eq=False)
class _Columns:
    """The edges of one batch while it is swept, by what the sources are."""

    features: Float[Tensor, "batch feature"]
    unexplained: Float[Tensor, "batch layer pos"]
    tokens: Float[Tensor, "batch pos"]
    positions: Float[Tensor, "batch pos"]
    b_dec: Float[Tensor, "batch layer"]
    bias: Float[Tensor, "batch layer_plus_1"]

    @classmethod
    def empty(cls, sweep: Sweep, batch: int) -> "_Columns":
        local = sweep.local
        n_layers, n_pos = local.n_layers, local.n_pos
        shapes = ((len(local.features),), (n_layers, n_pos), (n_pos,), (n_pos,), (n_layers,), (n_layers + 1,))
        return cls(*(local.activations.new_zeros(batch, *shape) for shape in shapes))

    def in_node_order(self, sweep: Sweep) -> Float[Tensor, "batch source"]:
        local, sources, masked = sweep.local, sweep.sources, list(sweep.local.prompt.masked)
        row = self.tokens.new_empty(len(self.tokens), len(sources))
        row[:, sources.span(Kind.FEATURE)] = self.features.index_select(1, sweep.writes.column)
        row[:, sources.span(Kind.MASKED)] = self.unexplained[:, :, masked].flatten(1)
        errors = row[:, sources.span(Kind.ERROR)].view(len(row), local.n_layers, local.n_pos)
        errors.copy_(self.unexplained)
        errors[:, :, masked] = 0
        row[:, sources.span(Kind.TOKEN)] = self.tokens
        if local.position_vectors is not None:
            row[:, sources.span(Kind.POSITION)] = self.positions
        row[:, sources.span(Kind.B_DEC)] = self.b_dec
        row[:, sources.span(Kind.BIAS)] = self.bias
        return row
