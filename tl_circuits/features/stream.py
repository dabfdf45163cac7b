"""A token stream, a pass at a time: nothing of it is kept but the prompts that one pass of the model takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_circuits.errors import PromptError
from tl_circuits.graph.asked import whole
from tl_circuits.harvest import COLUMNS, kept_tokens
from tl_circuits.harvest.prompts import warn_of_unknown_words
from tl_circuits.hooks import Model

Data = Any
"""Token ids of shape (prompt, position); texts or lists of token ids, in a list or as they come; a `datasets.Dataset`,
streamed or not, of which the first of the columns below that it has is read."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Prompts side by side, padded on the right, which of their tokens count, and the number of the first of them."""

    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]
    first: int


def passes(model: Model, data: Data, context: int | None, tokens_per_pass: int) -> Iterator[Pass]:
    """The prompts in order, as many side by side as make about `tokens_per_pass` tokens, padding included.

    Texts begin with the tokenizer's beginning-of-sequence token and, like lists of ids, are cut into prompts of at most
    `context` tokens; empty ones are passed over. Beginnings of sequence and padding do not count. Raises `PromptError`
    for data of another kind or vocabulary.
    """
    if isinstance(data, Tensor) and (data.ndim != 2 or data.is_floating_point() or data.dtype == torch.bool):
        raise PromptError(
            f"A token stream of shape {tuple(data.shape)} and {data.dtype} was given: token ids are integers of shape "
            "(prompt, position)."
        )
    waiting: list[list[int]] = []
    first = width = 0
    for row in _rows(model, data, _cut(model, data, context)):
        width = max(width, len(row))
        if waiting and width * (len(waiting) + 1) > tokens_per_pass:
            yield _side_by_side(model, waiting, first)
            waiting, first, width = [], first + len(waiting), len(row)
        waiting.append(row)
    if waiting:
        yield _side_by_side(model, waiting, first)


def length(data: Data) -> int:
    """How many items there are, or 0 where nobody knows beforehand."""
    return len(data) if hasattr(data, "__len__") else 0


def can_be_read_again(data: Data) -> bool:
    """Whether going through the data a second time gives it all again."""
    return isinstance(data, Tensor) or (isinstance(data, Iterable) and iter(data) is not data)


def _cut(model: Model, data: Data, context: int | None) -> int:
    most = model.cfg.n_ctx
    if isinstance(data, Tensor) and data.shape[1] > most:
        raise PromptError(
            f"Prompts have {data.shape[1]} tokens, but the model's context holds {most}: cut them, or give lists or "
            "texts, which are cut here."
        )
    return min(context or most, most)


def _rows(model: Model, data: Data, cut: int) -> Iterator[list[int]]:
    for item in _items(data):
        if isinstance(item, str):
            yield from _of_text(model.tokenizer, item, cut)
            continue
        ids = item.tolist() if hasattr(item, "tolist") else item
        if not isinstance(ids, list | tuple) or any(whole(token) is None for token in ids):
            raise PromptError(f"{item!r:.60} is no prompt: give texts, or lists of token ids.")
        yield from ([int(token) for token in ids[first : first + cut]] for first in range(0, len(ids), cut))


def _of_text(tokenizer: Any, text: str, cut: int) -> Iterator[list[int]]:
    if tokenizer is None:
        raise PromptError(f"The model has no tokenizer for the text {text!r:.40}: give token ids.")
    ids = tokenizer.encode(text, add_special_tokens=False)
    bos = getattr(tokenizer, "bos_token_id", None)
    head = [] if bos is None else [bos]
    step = max(1, cut - len(head))
    yield from (head + ids[first : first + step] for first in range(0, len(ids), step))


def _items(data: Data) -> Iterator[Any]:
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise PromptError(
            f"{type(data).__name__} {data!r:.60} is no token stream: give token ids of shape (prompt, position), texts "
            "or lists of token ids, or a datasets.Dataset."
        )
    for item in data:
        if not isinstance(item, Mapping):
            yield item
            continue
        name = next((name for name in COLUMNS if name in item), None)
        if name is None:
            raise PromptError(
                f"The data set has columns {', '.join(map(repr, item))}, but prompts are read from "
                f"{', '.join(map(repr, COLUMNS))}: rename one with dataset.rename_column(...)."
            )
        yield item[name]


def _side_by_side(model: Model, rows: list[list[int]], first: int) -> Pass:
    pad = getattr(model.tokenizer, "pad_token_id", None)
    tokens = torch.full((len(rows), max(map(len, rows))), 0 if pad is None else pad, dtype=torch.int64)
    there = torch.zeros_like(tokens, dtype=torch.bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
        there[place, : len(row)] = True
    low, high = (int(extreme) for extreme in tokens.aminmax())
    if low < 0 or high >= model.cfg.d_vocab:
        raise PromptError(
            f"Token id {high if high >= model.cfg.d_vocab else low} is not in the model's vocabulary of "
            f"{model.cfg.d_vocab} tokens (0 to {model.cfg.d_vocab - 1}): the data was made with another model's "
            "tokenizer."
        )
    kept = there & kept_tokens(tokens, model.tokenizer)
    # Once a stream; what the rest of it is like, the first prompts tell.
    if first == 0:
        warn_of_unknown_words(tokens[kept], model.tokenizer)
    return Pass(tokens, kept, first)
