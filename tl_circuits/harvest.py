"""A token stream through a model: what its MLPs read and write, aligned token by token.

Prompts are laid out as one matrix of token ids. What is kept of them comes either from one sweep over everything, or
block by block: prompts in a random order, the tokens of each block shuffled. Every block is a function of its number,
so that a run that was broken off can go on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import FitError, PromptError
from tl_circuits.graph.asked import whole
from tl_circuits.sites import Model, Sites, Tap, run_to

TOKENS_PER_PASS = 16_384
COLUMNS = ("tokens", "input_ids", "text")


@dataclass(frozen=True)
class Pairs:
    """MLP inputs and outputs of every kept token, and the prompt that each token is of."""

    reads: Float[Tensor, "layer token d_model"]
    writes: Float[Tensor, "layer token d_model"]
    prompt: Int64[Tensor, " token"]


def kept_tokens(tokens: Int64[Tensor, "prompt pos"], tokenizer) -> Bool[Tensor, "prompt pos"]:
    """All tokens but the beginning-of-sequence tokens a prompt starts with and the padding it ends in.

    The first token attends only to itself and is an outlier in every model; replacement models leave it alone too.
    """
    bos, pad = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "pad_token_id", None)
    kept = torch.ones_like(tokens, dtype=torch.bool)
    if bos is not None:
        kept &= ~(tokens == bos).cumprod(-1).bool()
    if pad is not None:
        kept &= ~(tokens == pad).flip(-1).cumprod(-1).bool().flip(-1)
    return kept


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts side by side, padded on the right, and which of their tokens count."""

    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]

    @classmethod
    def of(cls, model: Model, data: Any, context: int | None = None) -> "Prompts":
        """Prompts from a matrix of token ids, a list of texts or of lists of token ids, or a `datasets.Dataset`.

        A dataset is read by its column "tokens", "input_ids" or "text". Texts are cut into prompts of at most `context`
        tokens (default: the model's context), each beginning with the tokenizer's beginning-of-sequence token. Raises
        `PromptError` for data that is empty, of another kind, or of another vocabulary.
        """
        cut = min(context or model.cfg.n_ctx, model.cfg.n_ctx)
        if isinstance(data, Tensor):
            tokens = _matrix(data)
            kept = kept_tokens(tokens, model.tokenizer)
        else:
            rows = [row for item in _items(data) for row in _rows(model, item, cut)]
            if not rows:
                raise PromptError(f"The data ({type(data).__name__} {data!r:.60}) holds no prompt: give at least one.")
            tokens, kept = _side_by_side(rows, model.tokenizer)
        _refuse_other_vocabulary(tokens, model)
        if tokens.shape[1] > model.cfg.n_ctx:
            raise PromptError(
                f"Prompts have {tokens.shape[1]} tokens, but the model's context holds {model.cfg.n_ctx}: cut them, or "
                "give texts, which are cut here."
            )
        if not bool(kept.any()):
            raise PromptError(
                f"None of the {tokens.numel()} tokens is left to train on: all are padding or beginnings of sequence."
            )
        return cls(tokens, kept)

    @property
    def n_kept(self) -> int:
        """How many tokens count."""
        return int(self.kept.sum())

    def fingerprint(self) -> int:
        """A number by which the same prompts are known again."""
        place = torch.arange(1, self.tokens.numel() + 1).view_as(self.tokens)
        return int(((self.tokens + 1) * self.kept * (place * 2_654_435_761 % 1_000_003)).sum() % (2**61 - 1))


@torch.no_grad()
def collect(
    model: Model,
    tokens: Int64[Tensor, "prompt pos"],
    kept: Bool[Tensor, "prompt pos"],
    read: str,
    write: str,
) -> Pairs:
    """Runs the model over the prompts, no further than its last MLP, and keeps what passes at the kept tokens.

    Raises `FitError` where NaN or infinity passes, with the layer and the prompts.
    """
    if not bool(kept.any()):
        raise PromptError(
            f"None of the {tokens.numel()} tokens is left to train on: all are padding or beginnings of sequence."
        )
    sites = Sites.of(model, read, write).sites
    reads: list[list[Tensor]] = [[] for _ in sites]
    writes: list[list[Tensor]] = [[] for _ in sites]
    per_pass = max(1, TOKENS_PER_PASS // tokens.shape[1])
    for first in range(0, len(tokens), per_pass):
        rows, keep = tokens[first : first + per_pass], kept[first : first + per_pass]
        where = f"prompts {first} to {first + len(rows) - 1}"
        functions: dict[Tap, Callable[[Tensor], None]] = {}
        for site in sites:
            functions[site.read] = _append(reads[site.layer], keep, f"what the MLP of layer {site.layer} reads", where)
            functions[site.write] = _append(
                writes[site.layer], keep, f"what the MLP of layer {site.layer} writes", where
            )
        run_to(model, rows, functions, sites[-1].write)
    stacked = [torch.stack([torch.cat(parts) for parts in side]) for side in (reads, writes)]
    return Pairs(*stacked, prompt=kept.nonzero()[:, 0])


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


def _append(parts: list[Tensor], keep: Tensor, what: str, where: str) -> Callable[[Tensor], None]:
    def append(x: Tensor) -> None:
        kept = x[keep].float()
        if not bool(kept.isfinite().all()):
            raise FitError(
                f"{int((~kept.isfinite()).sum())} NaN or infinite numbers are in {what}, in {where}: run the model in "
                "float32, or leave these prompts out."
            )
        parts.append(kept)

    return append


def _matrix(data: Tensor) -> Int64[Tensor, "prompt pos"]:
    if data.ndim != 2 or data.is_floating_point() or data.dtype == torch.bool or not data.numel():
        raise PromptError(
            f"Training data of shape {tuple(data.shape)} and {data.dtype} was given: token ids are integers of shape "
            "(prompt, position), with at least one prompt."
        )
    return data.to(torch.int64)


def _items(data: Any) -> Sequence[Any]:
    columns = getattr(data, "column_names", None)
    if columns is not None and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        name = next((name for name in COLUMNS if name in columns), None)
        if name is None:
            raise PromptError(
                f"The dataset has columns {', '.join(map(repr, columns))}, but prompts are read from "
                f"{', '.join(map(repr, COLUMNS))}: rename one with dataset.rename_column(...)."
            )
        return data[name]
    if isinstance(data, str | bytes | dict) or not isinstance(data, Sequence):
        raise PromptError(
            f"{type(data).__name__} {data!r:.60} is no training data: give a list of texts, token ids of shape "
            "(prompt, position), or a datasets.Dataset with a length (stream one into it with Dataset.from_list)."
        )
    return data


def _rows(model: Model, item: Any, context: int) -> Iterator[list[int]]:
    tokenizer = model.tokenizer
    bos = getattr(tokenizer, "bos_token_id", None)
    if isinstance(item, str):
        if tokenizer is None:
            raise PromptError(f"The model has no tokenizer for the text {item!r:.40}: give token ids.")
        ids = tokenizer.encode(item, add_special_tokens=False)
        head = [] if bos is None else [bos]
        for first in range(0, len(ids), context - len(head)):
            yield head + ids[first : first + context - len(head)]
        return
    ids = item.tolist() if isinstance(item, Tensor) else item
    if not isinstance(ids, list | tuple) or any(whole(token) is None for token in ids):
        raise PromptError(f"{item!r:.60} is no prompt to train on: give texts, or lists of token ids.")
    for first in range(0, len(ids), context):
        yield [int(token) for token in ids[first : first + context]]


def _side_by_side(rows: list[list[int]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    pad = getattr(tokenizer, "pad_token_id", None)
    tokens = torch.full((len(rows), width), 0 if pad is None else pad, dtype=torch.int64)
    there = torch.zeros_like(tokens, dtype=torch.bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        there[place, : len(row)] = True
    return tokens, there & kept_tokens(tokens, tokenizer)


def _refuse_other_vocabulary(tokens: Tensor, model: Model) -> None:
    low, high = (int(extreme) for extreme in tokens.aminmax())
    if low < 0 or high >= model.cfg.d_vocab:
        worst = high if high >= model.cfg.d_vocab else low
        raise PromptError(
            f"Token id {worst} is not in the model's vocabulary of {model.cfg.d_vocab} tokens (0 to "
            f"{model.cfg.d_vocab - 1}): the data was made with another model's tokenizer."
        )
