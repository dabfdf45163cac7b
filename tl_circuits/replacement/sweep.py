"""Rows of the attribution graph: the pull-back of read vectors through the frozen model, contracted with all sources.

A sweep starts at the layer where its targets read and walks down: contract the cotangent with what each layer writes,
then pull it back through one block (Ameisen et al. 2025, "Attribution Graphs": one backward pass per target, here in
batches).

Inside a sweep, features are columns by position, then layer, then index: what is written at (layer, position) by the
features of that layer and below is then one contiguous span, and its edges one matrix product.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.nodes import Kind, Nodes, lay_out
from tl_circuits.replacement.localize import LocalReplacementModel
from tl_circuits.replacement.pieces import Pieces, cut

PREBUILT_BYTES = 512 * 2**20
"""Up to this much, what features write is gathered once and kept; above, anew in each batch, at no cost seen."""
COTANGENTS = 4096
"""Targets times positions in one batch: enough to fill the matrix products, little enough for the cache."""


@dataclass(frozen=True, eq=False)
class Readouts:
    """Targets of a sweep: ⟨vector_b, what is read at layer_b and pos_b⟩. Layer `n_layers`: the unembedding's input."""

    layer: Int64[Tensor, " batch"]
    pos: Int64[Tensor, " batch"]
    vector: Float[Tensor, "batch d_model"]

    def __len__(self) -> int:
        return len(self.layer)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A local replacement model made ready for sweeps. `sources` are the nodes of its columns: all but targets."""

    local: LocalReplacementModel
    sources: Nodes
    prefixes: tuple[tuple[int, Pieces], ...]
    order: Int64[Tensor, " feature"]
    offsets: list[list[int]]
    written: list[list[Float[Tensor, "_ d_model"]]] | None

    @classmethod
    def of(cls, local: LocalReplacementModel) -> "Sweep":
        """Lays out the columns, cuts the prefixes and gathers what features write where it is little."""
        sources = lay_out(
            local.features.cpu(),
            local.n_layers,
            local.prompt.tokens.cpu(),
            learned_positions=local.position_vectors is not None,
            masked_positions=local.prompt.masked,
            targets=torch.empty(0, 3, dtype=torch.int64),
        )
        layer, pos = local.features[:, 0], local.features[:, 1]
        cell = pos * local.n_layers + layer
        counts = torch.bincount(cell, minlength=local.n_pos * local.n_layers)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        offsets = [ends[p * local.n_layers : (p + 1) * local.n_layers + 1].tolist() for p in range(local.n_pos)]
        sweep = cls(local, sources, _prefixes(local), torch.argsort(cell, stable=True), offsets, None)
        if _bytes_written(local) > PREBUILT_BYTES:
            return sweep
        written = [[sweep._gather(k, p) for p in range(local.n_pos)] for k in range(local.n_layers)]
        return cls(local, sources, sweep.prefixes, sweep.order, offsets, written)

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

    def batches(self, rows: Int64[Tensor, " batch"], *, join_layers: bool) -> Iterator[Int64[Tensor, " part"]]:
        """Feature rows in parts that one sweep each serves well: of one prefix, and of one layer unless `join_layers`.

        One layer a batch wastes nothing and suits whole graphs; joined layers suit the few rows of a best-first round.
        """
        lengths = torch.tensor([length for length, _ in self.prefixes])
        prefix = torch.bucketize(self.local.features[rows, 1].cpu(), lengths, right=True)
        layer = torch.zeros_like(prefix) if join_layers else self.local.features[rows, 0].cpu()
        group = layer * len(lengths) + prefix
        for which in group.unique().tolist():
            size = max(16, COTANGENTS // int(lengths[which % len(lengths)]))
            yield from rows[group == which].split(size)

    def rows(self, readouts: Readouts) -> Float[Tensor, "batch source"]:
        """The edges from every source into each target, in the order of `sources`; their sum is what the target reads.

        Law: row b sums to ⟨vector_b, read⟩, and each entry is the change of that read when its source is added to a
        real forward pass of the frozen model. Targets of several layers share one sweep, each joining at its own layer.
        """
        with torch.inference_mode(False), torch.no_grad():
            down = torch.argsort(readouts.layer, descending=True, stable=True)
            sorted_readouts = Readouts(readouts.layer[down], readouts.pos[down], readouts.vector[down])
            columns = _Columns.empty(self, len(readouts))
            self._walk_down(sorted_readouts, columns)
            return columns.in_node_order(self)[torch.argsort(down)]

    def _walk_down(self, readouts: Readouts, columns: "_Columns") -> None:
        layers = readouts.layer.tolist()
        length, pieces = self._prefix(int(readouts.pos.max()), whole=layers[0] == self.local.n_layers)
        joined, cotangent = 0, readouts.vector.new_empty(0, 1, length, readouts.vector.shape[1])
        for layer in range(layers[0], -1, -1):
            if joined:
                at_input, at_write = pieces.pull_back_block(layer, cotangent)
                self._contract(layer, length, cotangent, at_write, columns)
                cotangent = at_input
            first, joined = joined, joined + layers.count(layer)
            if joined > first:
                vector, pos = readouts.vector[first:joined], readouts.pos[first:joined]
                cotangent = torch.cat([cotangent, pieces.pull_back_read(layer, vector, pos)])
                constants = self.local.pieces.read_constants[layer][pos]
                columns.bias[first:joined, layer] += (vector * constants).sum(-1)
        self._contract_embeddings(length, cotangent, columns)

    def _contract(
        self,
        layer: int,
        length: int,
        cotangent: Float[Tensor, "part 1 pos d_model"],
        at_write: Float[Tensor, "part 1 pos d_model"],
        columns: "_Columns",
    ) -> None:
        targets = len(cotangent)
        for pos in range(length):
            # Rows written here: features of this layer and below, what the transcoder does not explain, b_dec.
            edges = at_write[:, 0, pos] @ self._written(layer, pos).T
            first, last = self._span(layer, pos)
            columns.features[:targets, first:last] += edges[:, : last - first]
            columns.unexplained[:targets, layer, pos] = edges[:, -2]
            columns.b_dec[:targets, layer] += edges[:, -1]
        constants = self.local.pieces.block_constants[layer][:length]
        columns.bias[:targets, layer] += cotangent[:, 0].flatten(1) @ constants.flatten()

    def _contract_embeddings(
        self, length: int, cotangent: Float[Tensor, "batch 1 pos d_model"], columns: "_Columns"
    ) -> None:
        at_embedding, local = cotangent[:, 0], self.local
        columns.tokens[:, :length] = torch.einsum("bpd,pd->bp", at_embedding, local.token_vectors[:length])
        if local.position_vectors is not None:
            columns.positions[:, :length] = torch.einsum("bpd,pd->bp", at_embedding, local.position_vectors[:length])
        columns.bias[:, 0] += at_embedding.flatten(1) @ local.pieces.embedding_constant[:length].flatten()

    def _prefix(self, last_pos: int, *, whole: bool) -> tuple[int, Pieces]:
        # The passes over prefixes stop before the unembedding.
        return self.prefixes[-1] if whole else next(prefix for prefix in self.prefixes if prefix[0] > last_pos)

    def _span(self, layer: int, pos: int) -> tuple[int, int]:
        first_source = self.local.transcoder.sources(layer)[0]
        return self.offsets[pos][first_source], self.offsets[pos][layer + 1]

    def _written(self, layer: int, pos: int) -> Float[Tensor, "row d_model"]:
        return self._gather(layer, pos) if self.written is None else self.written[layer][pos]

    def _gather(self, layer: int, pos: int) -> Float[Tensor, "row d_model"]:
        local, transcoder = self.local, self.local.transcoder
        writing = transcoder.sources(layer)
        parts = []
        for source in range(writing[0], layer + 1):
            columns = self.order[self.offsets[pos][source] : self.offsets[pos][source + 1]]
            if source in writing:
                index, decoder = local.features[columns, 2], transcoder.W_dec[source]
                outgoing = transcoder.outgoing(local.activations[columns], source, layer, index)
                parts.append(outgoing[:, None] * decoder[index.to(decoder.device), layer - source].to(outgoing))
            else:
                parts.append(local.activations.new_zeros(len(columns), transcoder.d_model))
        unexplained = local.errors[layer, pos] + local.masked_writes[layer, pos]
        return torch.cat([*parts, unexplained[None], transcoder.b_dec[layer].to(unexplained)[None]])


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
        features = row[:, sources.span(Kind.FEATURE)]
        features[:, sweep.order] = self.features
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


def _prefixes(local: LocalReplacementModel) -> tuple[tuple[int, Pieces], ...]:
    # A target reads nothing after its position, so early targets need only the prompt's beginning: half of the work.
    whole = (local.n_pos, local.pieces)
    causal = getattr(local.model.cfg, "attention_dir", "causal") == "causal"
    if not causal or local.hooked:
        return (whole,)
    writes = [write.detach() for write in local.pieces.writes]
    shorter = [
        (length, cut(local.model, local.sites, local.transcoder, local.prompt.tokens[:length], writes=writes))
        for length in _lengths(local.n_pos)
    ]
    return (*shorter, whole)


def _lengths(n_pos: int) -> list[int]:
    if n_pos < 8:
        return []
    if n_pos <= 32:
        return [n_pos * quarter // 4 for quarter in (1, 2, 3)]
    steps = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
    return list(steps[: bisect_right(steps, n_pos - 1)])


def _bytes_written(local: LocalReplacementModel) -> int:
    layers = torch.bincount(local.features[:, 0], minlength=local.n_layers).tolist()
    rows = sum(count * decoder.shape[1] for count, decoder in zip(layers, local.transcoder.W_dec, strict=True))
    return rows * local.transcoder.d_model * local.activations.element_size()
