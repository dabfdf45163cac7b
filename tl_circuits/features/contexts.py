"""Stretches of text drawn from the whole stream, and which features are active in each: what labels are tested on."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_circuits.features.kept import NOBODY, Window
from tl_circuits.features.tally import keys


@dataclass(frozen=True, eq=False)
class Contexts:
    """Stretches of text drawn from the whole stream of `n_tokens`, and which of the cards' features are active in each.

    Rows of `active` are the cards' features in order.
    """

    texts: tuple[tuple[str, ...], ...]
    active: Bool[Tensor, "feature context"]
    n_tokens: int = 0

    def without(self, row: int) -> list[tuple[str, ...]]:
        """The stretches in which a feature is nowhere active."""
        return [text for text, there in zip(self.texts, self.active[row].tolist(), strict=True) if not there]


NO_CONTEXTS = Contexts((), torch.zeros(0, 0, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class Drawn:
    """The prompts of a pass that were drawn, their places among the contexts, and the stretch of each that is kept."""

    place: Int64[Tensor, " drawn"]
    prompt: Int64[Tensor, " drawn"]
    inside: Bool[Tensor, "drawn pos"]


class ContextTally:
    """`size` prompts drawn from all, each cut to a stretch of the window's width, which begins at a random token."""

    def __init__(self, n_features: list[int], size: int, window: Window, seed: int) -> None:
        self.n_tokens = 0
        self.key = torch.full((size,), -1, dtype=torch.int64)
        self.tokens = torch.full((size, window.width), NOBODY, dtype=torch.int64)
        self.active = [torch.zeros(size, n, dtype=torch.bool) for n in n_features]
        self._width, self._seed = window.width, seed

    def draw(self, tokens: Int64[Tensor, "prompt pos"], kept: Bool[Tensor, "prompt pos"], first: int) -> Drawn:
        """Takes in those of these prompts that are drawn, in the place of others."""
        tokens, kept = tokens.cpu(), kept.cpu()
        number = first + torch.arange(len(tokens))
        key = keys(self._seed, -1, torch.full_like(number, -1), number).masked_fill(~kept.any(1), -1)
        best = torch.cat([self.key, key]).topk(len(self.key))
        inside = (best.indices >= len(self.key)) & (best.values >= 0)
        old = best.indices[~inside & (best.indices < len(self.key))]
        free = torch.ones(len(self.key), dtype=torch.bool).index_fill_(0, old, False).nonzero()[:, 0]
        prompt = best.indices[inside] - len(self.key)
        place = free[: len(prompt)]
        self.key[place] = key[prompt]
        stretch = _stretch(kept[prompt], key[prompt], self._width)
        self.tokens[place] = NOBODY
        for at, row, within in zip(place.tolist(), prompt.tolist(), stretch, strict=True):
            self.tokens[at, : int(within.sum())] = tokens[row][within]
        return Drawn(place, prompt, stretch)

    def mark(self, at: int, columns: slice, drawn: Drawn, activations: Tensor) -> None:
        """Notes which features of a layer are active in what was drawn."""
        if len(drawn.place):
            there = (activations[drawn.prompt.to(activations.device)] != 0).cpu() & drawn.inside[..., None]
            self.active[at][drawn.place, columns] = there.any(1)

    @property
    def there(self) -> Bool[Tensor, " context"]:
        """Which places are filled: fewer than `size` where the stream has fewer prompts."""
        return self.key >= 0


def _stretch(kept: Bool[Tensor, "drawn pos"], key: Int64[Tensor, " drawn"], width: int) -> Bool[Tensor, "drawn pos"]:
    place = kept.cumsum(1) - 1
    spare = (kept.sum(1) - width).clamp_min(0)
    start = (key % (spare + 1))[:, None]
    return kept & (place >= start) & (place < start + width)
