"""How to cut a prompt into prefixes, each with a pass of its own, so that rows walk little further than they must."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.replacement.layouts import LaidOutOnce
from tl_circuits.replacement.localize import LocalReplacementModel
from tl_circuits.replacement.pieces import Pieces, cut

PASS, PASS_POSITION = 6e7, 2.0
"""What a pass costs, in rows that walk through it at one position: so much over d_model² (calls, and weights laid out
anew), and so much more for each position. Measured on a model of GPT-2-small's shape."""
MOST = 16
"""Passes at most: each leaves its activations in memory."""
PASS_TENSORS = 8
"""Tensors of the residual stream's size that autograd keeps of a block for its pull-backs."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The beginnings of a prompt, by rising length, that targets are walked through; the last one is the whole of it.

    A target reads nothing after its position, so early targets need only the beginning: half of the work. Each prefix
    has a pass of its own, made when the first target asks for it: those that matter most may sit in few places.
    """

    local: LocalReplacementModel
    lengths: Int64[Tensor, " prefix"]
    _cut: dict[int, Pieces]
    _laid_out: LaidOutOnce = field(default_factory=LaidOutOnce)

    @classmethod
    def of(cls, local: LocalReplacementModel, n_rows: int, memory_budget: int) -> "Prefixes":
        """Those that cost least where so many rows are asked for, as far as memory allows."""
        lengths = [local.n_pos]
        causal = getattr(local.model.cfg, "attention_dir", "causal") == "causal"
        if causal and not local.hooked:
            most_positions = memory_budget // _bytes_per_position(local)
            lengths = [*cheapest_lengths(_work(local, n_rows), local.transcoder.d_model, most_positions), *lengths]
        return cls(local, torch.tensor(lengths), {local.n_pos: local.pieces})

    @property
    def bytes(self) -> int:
        """What their passes take, all of them made, beside the whole prompt's."""
        return int(self.lengths[:-1].sum()) * _bytes_per_position(self.local)

    def shortest(self, pos: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Which prefix is the shortest that holds each position."""
        return torch.bucketize(pos.cpu().contiguous(), self.lengths, right=True)

    def pieces(self, length: int) -> Pieces:
        """The pass over the prefix of a length."""
        if length not in self._cut:
            local = self.local
            with self._laid_out:
                self._cut[length] = cut(
                    local.model, local.sites, local.transcoder, local.prompt.tokens[:length], longer=local.pieces
                )
        return self._cut[length]


def cheapest_lengths(work: Float64[Tensor, " pos"], d_model: int, most_positions: int) -> list[int]:
    """The lengths of the prefixes, rising, without the whole prompt: those that cost least, rows and passes together.

    `work` is how many rows start at each position, each counted by the share of the layers that it walks through; a row
    walks through the shortest prefix that holds its position. All prefixes together have no more than `most_positions`.
    """
    price = 1.0
    while (
        len(lengths := _cheapest(work, price * PASS / d_model**2, price * PASS_POSITION)) > MOST
        or sum(lengths) > most_positions
    ):
        price *= 2
    return lengths


def _cheapest(work: Float64[Tensor, " pos"], each: float, per_position: float) -> list[int]:
    """By dynamic programming: the best way to cover the first n positions ends in some prefix of length n."""
    n_pos = len(work)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), work.cumsum(0)])
    cost, came_from = torch.zeros(n_pos + 1, dtype=torch.float64), torch.zeros(n_pos + 1, dtype=torch.int64)
    for length in range(1, n_pos + 1):
        ways = cost[:length] + (below[length] - below[:length]) * length
        came_from[length] = ways.argmin()
        cost[length] = ways.min() + (each + per_position * length if length < n_pos else 0.0)
    return _back(came_from)


def _back(came_from: Int64[Tensor, " length"]) -> list[int]:
    lengths, length = [], int(came_from[-1])
    while length > 0:
        lengths.append(length)
        length = int(came_from[length])
    return lengths[::-1]


def _work(local: LocalReplacementModel, n_rows: int) -> Float64[Tensor, " pos"]:
    """How many of so many rows start at each position, each counted by the share of the layers below it."""
    layer, pos, _ = local.features.cpu().unbind(1)
    shares = (layer + 1).double() / local.n_layers * n_rows / max(1, len(layer))
    return torch.zeros(local.n_pos, dtype=torch.float64).index_add_(0, pos, shares)


def _bytes_per_position(local: LocalReplacementModel) -> int:
    return PASS_TENSORS * local.n_layers * local.transcoder.d_model * local.activations.element_size()
