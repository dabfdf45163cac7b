"""What is written into the residual stream at each layer and position: the rows that cotangents are contracted with.

Features are columns by position, then layer, then index. What features write at (layer, position), all of that layer
and below, is then one contiguous span of columns, and their edges are one matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.replacement.localize import LocalReplacementModel

BLOCK_ROWS = 8192
"""Rows that are gathered at a time: enough that gathering is few large reads, little enough to be no burden."""


@dataclass(frozen=True, eq=False)
class Writes:
    """What each source writes, laid out for a sweep. `column` is the place of each feature among the columns.

    `bounds[p][l]` is the first column of the features of layer l at position p, and `bounds[p][n_layers]` ends the
    position. `kept` holds what was gathered beforehand, layer by layer; without it, rows are gathered each time they
    are asked for.
    """

    local: LocalReplacementModel
    column: Int64[Tensor, " feature"]
    bounds: Int64[Tensor, "pos layer_plus_1"]
    kept: tuple[Float[Tensor, "_ d_model"], ...] | None

    @classmethod
    def of(cls, local: LocalReplacementModel, *, keep_bytes: int) -> "Writes":
        """The layout of a local replacement model; its rows are gathered now where they take no more than that."""
        layer, pos = local.features[:, 0], local.features[:, 1]
        cell = pos * local.n_layers + layer
        counts = torch.bincount(cell, minlength=local.n_pos * local.n_layers).view(local.n_pos, local.n_layers)
        ends = counts.flatten().cumsum(0).view_as(counts)
        bounds = torch.cat([(ends - counts), ends[:, -1:]], dim=1)
        column = torch.empty_like(cell)
        column[torch.argsort(cell, stable=True)] = torch.arange(len(cell), device=cell.device)
        writes = cls(local, column, bounds.cpu(), None)
        if writes.bytes > keep_bytes:
            return writes
        everything = range(local.n_layers)
        return cls(local, column, bounds.cpu(), tuple(writes._all_of(layer) for layer in everything))

    @property
    def bytes(self) -> int:
        """What all rows take in memory."""
        rows = sum(int(self._sizes(layer).sum()) for layer in range(self.local.n_layers))
        return rows * self.local.transcoder.d_model * self.local.activations.element_size()

    def at(self, layer: int, length: int) -> Iterator[tuple[int, slice, Float[Tensor, "row d_model"]]]:
        """For each position before `length`: the position, the columns of its features, and what is written there.

        The rows are those of the features, then what the transcoder does not explain, then b_dec.
        """
        sizes = self._sizes(layer)
        first, last = self._span(layer)
        decoders = {} if self.kept is not None else self._decoders(layer, length)
        for start, stop in self._blocks(sizes, length):
            if self.kept is None:
                block = self._gather(layer, start, stop, decoders)
            else:
                before = int(sizes[:start].sum())
                block = self.kept[layer][before : before + int(sizes[start:stop].sum())]
            rows = block.split(sizes[start:stop].tolist())
            columns = zip(first[start:stop].tolist(), last[start:stop].tolist(), strict=True)
            for pos, (low, high), written in zip(range(start, stop), columns, rows, strict=True):
                yield pos, slice(low, high), written

    def _span(self, layer: int) -> tuple[Int64[Tensor, " pos"], Int64[Tensor, " pos"]]:
        """The columns of the features that write a layer, at each position: first and end."""
        return self.bounds[:, self.local.transcoder.sources(layer)[0]], self.bounds[:, layer + 1]

    def _sizes(self, layer: int) -> Int64[Tensor, " pos"]:
        first, last = self._span(layer)
        return last - first + 2

    def _blocks(self, sizes: Int64[Tensor, " pos"], length: int) -> list[tuple[int, int]]:
        """Runs of positions, each of about so many rows that are gathered at a time."""
        block = (sizes[:length].cumsum(0) - sizes[:length]) // BLOCK_ROWS
        starts = torch.cat([torch.ones(1, dtype=torch.bool), block.diff() > 0]).nonzero()[:, 0].tolist()
        return list(pairwise([*starts, length]))

    def _all_of(self, layer: int) -> Float[Tensor, "row d_model"]:
        n_pos = self.local.n_pos
        return self._gather(layer, 0, n_pos, self._decoders(layer, n_pos))

    def _decoders(self, layer: int, length: int) -> dict[int, "_Decoders"]:
        """What is needed of each source's decoders into a layer, for the features before a position."""
        transcoder, index = self.local.transcoder, self.local.features[:, 2]
        return {
            source: _Decoders.of(transcoder.W_dec[source], layer - source, index[self._features(source, 0, length)])
            for source in transcoder.sources(layer)
        }

    def _gather(
        self, layer: int, start: int, stop: int, decoders: dict[int, "_Decoders"]
    ) -> Float[Tensor, "row d_model"]:
        """The rows of a run of positions."""
        local, transcoder = self.local, self.local.transcoder
        sizes, (first, _) = self._sizes(layer)[start:stop], self._span(layer)
        ends = sizes.cumsum(0)
        # From a column to its row in this block: positions lie one after the other, two rows longer than their columns.
        shift = (ends - sizes - first[start:stop]).to(self.column.device)
        rows = local.activations.new_zeros(int(ends[-1]), transcoder.d_model)
        for source, decoder in decoders.items():
            features = self._features(source, start, stop)
            _, pos, index = local.features[features].unbind(1)
            outgoing = transcoder.outgoing(local.activations[features], source, layer, index)
            first_feature = self._features(source, 0, 0).start
            vectors = decoder.rows(slice(features.start - first_feature, features.stop - first_feature)).to(outgoing)
            rows[self.column[features] + shift[pos - start]] = vectors.mul_(outgoing[:, None])
        ends = ends.to(rows.device)
        rows[ends - 2] = local.errors[layer, start:stop] + local.masked_writes[layer, start:stop]
        rows[ends - 1] = transcoder.b_dec[layer].to(rows)
        return rows

    def _features(self, source: int, start: int, stop: int) -> slice:
        """The features of a layer at a run of positions, which lie together in the order of features."""
        counts = self.bounds[:, source + 1] - self.bounds[:, source]
        below = int((self.bounds[:, source] - self.bounds[:, 0]).sum())
        return slice(below + int(counts[:start].sum()), below + int(counts[:stop].sum()))


@dataclass(frozen=True, eq=False)
class _Decoders:
    """Decoders of some features of one layer into another: each is read once, however many positions it is active at.

    They are read in the order in which they lie, since a transcoder may be a file that is larger than memory.
    """

    distinct: Float[Tensor, "distinct d_model"]
    which: Int64[Tensor, " feature"]

    @classmethod
    def of(
        cls, decoder: Float[Tensor, "d_sae written d_model"], step: int, index: Int64[Tensor, " feature"]
    ) -> "_Decoders":
        distinct, which = index.unique(return_inverse=True)
        return cls(decoder[distinct.to(decoder.device), step].to(index.device), which)

    def rows(self, features: slice) -> Float[Tensor, "feature d_model"]:
        return self.distinct[self.which[features]]
