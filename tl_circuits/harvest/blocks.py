"""Prompts whose tokens are shuffled together, one block after another, each a function of its number."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import PromptError


@dataclass(frozen=True)
class Block:
    """Prompts whose tokens are shuffled together, and how many batches of a step each they make."""

    number: int
    prompts: Int64[Tensor, " prompt"]
    n_batches: int


def blocks(
    kept: Bool[Tensor, "prompt pos"],
    weights: Float[Tensor, " prompt"] | None,
    buffer_tokens: int,
    batch_tokens: int,
    seed: int,
) -> Iterator[Block]:
    """Blocks of about `buffer_tokens` tokens without end: every epoch in another order, or drawn by weight."""
    n_kept = kept.sum(1)
    if batch_tokens > int(n_kept.sum()) and weights is None:
        raise PromptError(
            f"{int(n_kept.sum())} tokens do not fill one batch of {batch_tokens}: give more, or a smaller batch_tokens."
        )
    average = float(n_kept.float().mean() if weights is None else (n_kept * weights).sum() / weights.sum())
    per_block = max(1, round(max(buffer_tokens, 2 * batch_tokens) / max(average, 1e-9)))
    for number, prompts in enumerate(_orders(len(kept), weights, per_block, seed)):
        yield Block(number, prompts, int(n_kept[prompts].sum()) // batch_tokens)


def _orders(n: int, weights: Tensor | None, per_block: int, seed: int) -> Iterator[Tensor]:
    turn, left = 0, torch.empty(0, dtype=torch.int64)
    while True:
        draw = torch.Generator().manual_seed(seed + turn)
        turn += 1
        if weights is not None:
            yield torch.multinomial(weights, per_block, replacement=True, generator=draw)
            continue
        left = torch.cat([left, torch.randperm(n, generator=draw)])
        while len(left) >= per_block:
            yield left[:per_block]
            left = left[per_block:]
