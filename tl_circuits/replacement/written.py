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
        return cls(local, column, bounds.cpu(), tuple(map(writes._all_of, range(local.n_layers))))

    @property
    def bytes(self) -> int:
        """What all rows take in memory."""
        rows = sum(int(self._sizes(layer).sum()) for layer in range(self.local.n_layers))
        return rows * self.local.transcoder.d_model * self.local.activations.element_size()

    def at(self, layer: int, length: int) -> Iterator[tuple[int, slice, Float[Tensor, "row d_model"]]]:
        """For each position before `length`: the position, the columns of its features, and what is written there.

        The rows are those of the features, then what the transcoder does not explain, then b_dec. Rows that are
        gathered anew hold until the next position is asked for.
        """
        sizes = self._sizes(layer)
        first, last = self._span(layer)
        for start, stop, block in self._runs(layer, length):
            rows = block.split(sizes[start:stop].tolist())
            columns = zip(first[start:stop].tolist(), last[start:stop].tolist(), strict=True)
            for pos, (low, high), written in zip(range(start, stop), columns, rows, strict=True):
                yield pos, slice(low, high), written

    def _runs(self, layer: int, length: int) -> Iterator[tuple[int, int, Float[Tensor, "row d_model"]]]:
        """What is written at runs of positions: first position, end, and rows."""
        sizes = self._sizes(layer)
        if self.kept is not None:
            yield 0, length, self.kept[layer][: int(sizes[:length].sum())]
            return
        blocks = self._blocks(sizes, length)
        most = max(int(sizes[start:stop].sum()) for start, stop in blocks)
        gathering = _Gathering.of(self, layer, length, most)
        for start, stop in blocks:
            yield start, stop, gathering.rows(start, stop)

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
        return _Gathering.of(self, layer, n_pos, int(self._sizes(layer).sum())).rows(0, n_pos)

    def _features(self, source: int, start: int, stop: int) -> slice:
        """The features of a layer at a run of positions, which lie together in the order of features."""
        counts = self.bounds[:, source + 1] - self.bounds[:, source]
        below = int((self.bounds[:, source] - self.bounds[:, 0]).sum())
        return slice(below + int(counts[:start].sum()), below + int(counts[:stop].sum()))


@dataclass(frozen=True, eq=False)
class _Gathering:
    """What is written at a layer, by rows: those of one position after those of another.

    A row is `times` the one of `decoders` in its `place`. A decoder is read once, however many positions it is active
    at, and in the order in which it lies: a transcoder may be a file that is larger than memory.
    """

    writes: Writes
    layer: int
    ends: Int64[Tensor, " pos"]
    decoders: Float[Tensor, "decoder d_model"]
    place: Int64[Tensor, " row"]
    times: Float[Tensor, " row"]
    taken: Float[Tensor, "most d_model"]
    scaled: Float[Tensor, "most d_model"]

    @classmethod
    def of(cls, writes: Writes, layer: int, length: int, most: int) -> "_Gathering":
        """Of the features at positions before `length`, for runs of no more than so many rows."""
        local, transcoder = writes.local, writes.local.transcoder
        first, ends = writes._span(layer)[0][:length], writes._sizes(layer)[:length].cumsum(0)
        # From a column to its row: positions lie one after the other, two rows longer than their columns.
        shift = (ends - writes._sizes(layer)[:length] - first).to(writes.column.device)
        n_rows = int(ends[-1])
        place, times = writes.column.new_zeros(n_rows), local.activations.new_zeros(n_rows)
        # The first one stands in for what a feature does not write.
        decoders = [transcoder.W_dec[layer].new_zeros(1, transcoder.d_model)]
        for source in transcoder.sources(layer):
            features, decoder = writes._features(source, 0, length), transcoder.W_dec[source]
            _, pos, index = local.features[features].unbind(1)
            distinct, which = index.unique(return_inverse=True)
            row = writes.column[features] + shift[pos]
            place[row] = which + sum(map(len, decoders))
            times[row] = transcoder.outgoing(local.activations[features], source, layer, index)
            decoders.append(decoder[distinct.to(decoder.device), layer - source])
        table = torch.cat(decoders)
        # New memory for each run would cost as much as filling it.
        taken = table.new_empty(most, transcoder.d_model)
        scaled = taken if taken.dtype == times.dtype else times.new_empty(taken.shape)
        return cls(writes, layer, ends, table, place.to(table.device), times, taken, scaled)

    def rows(self, start: int, stop: int) -> Float[Tensor, "row d_model"]:
        """The rows of a run of positions. They hold until the next run is asked for."""
        local = self.writes.local
        before = int(self.ends[start - 1]) if start else 0
        run = slice(before, int(self.ends[stop - 1]))
        n_rows = run.stop - run.start
        taken = torch.index_select(self.decoders, 0, self.place[run], out=self.taken[:n_rows])
        rows = torch.mul(taken, self.times[run, None], out=self.scaled[:n_rows])
        ends = (self.ends[start:stop] - before).to(rows.device)
        rows[ends - 2] = local.errors[self.layer, start:stop] + local.masked_writes[self.layer, start:stop]
        rows[ends - 1] = local.transcoder.b_dec[self.layer].to(rows)
        return rows
