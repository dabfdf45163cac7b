"""The best few of what a stream offers, for many features at once, each with the text around it.

What is kept does not depend on how the stream is cut into passes: of equals the first stays.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

NOBODY = -1
"""The prompt of a place that is still empty."""


@dataclass(frozen=True)
class Window:
    """How many tokens of an example stand before its peak, and how many after."""

    before: int
    after: int

    @property
    def width(self) -> int:
        """All of them, the peak too."""
        return self.before + 1 + self.after


@dataclass(frozen=True, eq=False)
class Seen:
    """One pass at one layer: prompts side by side, which tokens count, and the activations of the chosen features."""

    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]
    first: int
    activations: Float[Tensor, "prompt pos feature"]


@dataclass(frozen=True, eq=False)
class Offer:
    """Candidates for each feature: a score (the lowest of its dtype where there is none), and where each peaks."""

    score: Tensor
    prompt: Int64[Tensor, "feature candidate"]
    pos: Int64[Tensor, "feature candidate"]


class Kept:
    """The `size` best offers of each feature so far, with tokens and activations of the window around each.

    A token that is outside the prompt, or does not count, is `NOBODY`.
    """

    def __init__(self, n_features: int, size: int, window: Window, dtype: torch.dtype, device: torch.device) -> None:
        shape = (n_features, size)
        self.score = torch.full(shape, lowest(dtype), dtype=dtype, device=device)
        self.prompt = torch.full(shape, NOBODY, device=device)
        self.tokens = torch.full((*shape, window.width), NOBODY, dtype=torch.int32, device=device)
        self.activations = torch.zeros((*shape, window.width), device=device)
        self.reach = torch.arange(-window.before, window.after + 1, device=device)

    @property
    def worst(self) -> Tensor:
        """What an offer to each feature has to exceed to be kept."""
        return self.score[:, -1]

    def take(self, offer: Offer, seen: Seen, columns: slice) -> None:
        """Keeps the best of what it has and what is offered to the features of these columns."""
        score = torch.cat([self.score[columns], offer.score], dim=1)
        size = self.score.shape[1]
        best = score.sort(dim=1, descending=True, stable=True)
        order, changed = best.indices[:, :size], (best.indices[:, :size] >= size).any(1).nonzero()[:, 0]
        if not len(changed):
            return
        order, rows = order[changed], changed + columns.start
        self.score[rows] = best.values[changed, :size]
        old = order.clamp_max(size - 1)
        self.prompt[rows] = self.prompt[rows].gather(1, old)
        for held in (self.tokens, self.activations):
            held[rows] = held[rows].gather(1, old[:, :, None].expand(-1, -1, held.shape[2]))
        row, place = (order >= size).nonzero(as_tuple=True)
        new = order[row, place] - size
        self._write(rows[row], place, offer.prompt[changed[row], new], offer.pos[changed[row], new], seen, columns)

    def _write(
        self,
        rows: Int64[Tensor, " new"],
        places: Int64[Tensor, " new"],
        prompts: Int64[Tensor, " new"],
        pos: Int64[Tensor, " new"],
        seen: Seen,
        columns: slice,
    ) -> None:
        at = pos[:, None] + self.reach
        there = (at >= 0) & (at < seen.tokens.shape[1])
        at = at.clamp(0, seen.tokens.shape[1] - 1)
        there &= seen.kept[prompts[:, None], at]
        tokens: Int[Tensor, "new window"] = seen.tokens[prompts[:, None], at].to(torch.int32)
        self.tokens[rows, places] = tokens.masked_fill(~there, NOBODY)
        found = seen.activations[prompts[:, None], at, (rows - columns.start)[:, None]]
        # A jump leaves -0.0 below its threshold.
        self.activations[rows, places] = found.masked_fill(~there, 0).to(torch.float32) + 0.0
        self.prompt[rows, places] = prompts + seen.first


def lowest(dtype: torch.dtype) -> float | int:
    """The score of what is not there."""
    return float("-inf") if dtype.is_floating_point else -1
