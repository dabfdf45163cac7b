"""Training data of any kind as one matrix of token ids."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_circuits.errors import PromptError, warn_once
from tl_circuits.graph.asked import whole
from tl_circuits.harvest.dataset import rows_of
from tl_circuits.harvest.identity import digest_of
from tl_circuits.hooks import Model
from tl_circuits.machine import available_memory

COLUMNS = ("tokens", "input_ids", "text")
# Rows that have both token ids and the text they are of, compared before anything runs.
COMPARED = 4
# Token ids, and two marks of each.
BYTES_OF_POSITION = 10
# Padding is worth a word where it takes so many times what tokens do, of so many positions.
WASTED, MANY = 4, 2**22


def kept_tokens(tokens: Int64[Tensor, "prompt pos"], tokenizer) -> Bool[Tensor, "prompt pos"]:
    """All tokens but the beginning-of-sequence tokens a prompt starts with and the padding it ends in.

    The first token attends only to itself and is an outlier in every model; replacement models leave it alone too.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    kept = ~_padding(tokens, tokenizer)
    if bos is not None:
        kept &= ~(tokens == bos).cumprod(-1).bool()
    return kept


def _padding(tokens: Tensor, tokenizer: Any) -> Tensor:
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return (tokens == pad).flip(-1).cumprod(-1).bool().flip(-1)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts side by side, padded on the right, and which of their tokens count."""

    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]

    @classmethod
    def of(cls, model: Model, data: Any, context: int | None = None, most_tokens: int | None = None) -> "Prompts":
        """Prompts from token ids, texts, or a dataset.

        `data` are a matrix of token ids, a list of texts or of lists of token ids, a `datasets.Dataset`, or a stream
        (`datasets.IterableDataset`, or what else can be iterated over), which is read from its beginning until it has
        given `most_tokens` tokens. Datasets are read by their column "tokens", "input_ids" or "text". Texts are cut
        into prompts of at most `context` tokens (default: the model's context), each beginning with the tokenizer's
        beginning-of-sequence token. Sequences shorter than two tokens count nowhere, with a warning; another
        says how many tokens the tokenizer reads as unknown.

        Raises `PromptError` for data that is empty, of another kind, too short, or of another tokenizer.
        """
        cut = min(context or model.cfg.n_ctx, model.cfg.n_ctx)
        if isinstance(data, Tensor):
            tokens = _matrix(data)
            there = ~_padding(tokens, model.tokenizer)
            _warn_of_padding_on_the_left(tokens, there, model.tokenizer)
        else:
            items = enumerate(_items(model, data))
            cut_up = (row for number, item in items for row in _rows(model, item, number, cut))
            rows = list(cut_up if hasattr(data, "__len__") else _until(cut_up, most_tokens))
            if not rows:
                raise PromptError(f"The data ({type(data).__name__} {data!r:.60}) holds no prompt: give at least one.")
            tokens, there = _side_by_side(rows, model.tokenizer)
            _warn_of_unlike_lengths(rows, tokens.shape[1])
        kept = there & kept_tokens(tokens, model.tokenizer) & _long_enough(there)[:, None]
        _refuse_other_vocabulary(tokens, model)
        if tokens.shape[1] > cut:
            holds = "the model's context holds" if cut == model.cfg.n_ctx else "context is to be"
            raise PromptError(
                f"Prompts have {tokens.shape[1]} tokens, but {holds} {cut}: cut them, tokens[:, :{cut}], or give "
                "texts, which are cut here."
            )
        if not bool(kept.any()):
            raise PromptError(
                f"None of the {tokens.numel()} tokens is left to train on: all are padding or beginnings of sequence."
            )
        warn_of_unknown_words(tokens[kept], model.tokenizer)
        return cls(tokens, kept)

    @property
    def n_kept(self) -> int:
        """How many tokens count."""
        return int(self.kept.sum())

    def fingerprint(self) -> int:
        """A number by which the same prompts are known again."""
        return int(digest_of((self.tokens + 1) * self.kept)[:14], 16)


def _long_enough(there: Tensor) -> Tensor:
    lengths = there.sum(1)
    enough = lengths >= 2
    if not bool(enough.any()):
        raise PromptError(
            f"All {len(there)} sequences are shorter than two tokens (the longest has {int(lengths.max())}): a first "
            "token attends to nothing but itself, so give longer ones."
        )
    if not bool(enough.all()):
        short = (~enough).nonzero()[:, 0]
        warn_once(
            f"{len(short)} of {len(there)} sequences are shorter than two tokens, number {int(short[0])} first: "
            "nothing is trained on them.",
            stacklevel=4,
        )
    return enough


def _warn_of_padding_on_the_left(tokens: Tensor, there: Tensor, tokenizer: Any) -> None:
    pad = getattr(tokenizer, "pad_token_id", None)
    # One such token may stand for the beginning of a text, two do not.
    if pad is None or tokens.shape[1] < 2:
        return
    n = int(((tokens[:, :2] == pad).all(1) & there.any(1)).sum())
    if n:
        warn_once(
            f"{n} of {len(tokens)} prompts begin with padding (id {pad}), which the model reads as tokens: give "
            "prompts padded on the right, or as lists without padding.",
            stacklevel=4,
        )


def warn_of_unknown_words(kept: Int64[Tensor, " token"], tokenizer: Any) -> None:
    """Says once how many tokens the tokenizer reads as unknown, if it has such a token."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    # GPT-2's tokenizer gives the unknown the id of its end of text.
    if unknown is None or unknown in (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")):
        return
    n = int((kept == unknown).sum())
    if n:
        warn_once(
            f"{n} of {len(kept)} tokens ({n / len(kept):.1%}) of the data are unknown to the model's tokenizer: what "
            "is made of them is no word's. Mind case and spaces, or give texts of the model's own vocabulary.",
            stacklevel=4,
        )


def _matrix(data: Tensor) -> Int64[Tensor, "prompt pos"]:
    kind = data.dtype
    numbers = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    if data.ndim != 2 or not numbers or not data.numel() or data.is_meta or data.layout != torch.strided:
        raise PromptError(
            f"Training data of shape {tuple(data.shape)} and {data.dtype} was given: token ids are integers of shape "
            "(prompt, position), with at least one prompt."
        )
    return data.to(torch.int64)


def _items(model: Model, data: Any) -> Iterable[Any]:
    if isinstance(data, Mapping) and data and all(hasattr(part, "column_names") for part in data.values()):
        raise PromptError(
            f"The data has the splits {', '.join(map(repr, data))}: give one, data[{next(iter(data))!r}]."
        )
    columns = getattr(data, "column_names", None)
    # Iterating over a table of pandas gives the names of its columns.
    table = getattr(data, "columns", None)
    if columns is None and table is not None:
        raise PromptError(
            f"A {type(data).__name__} with columns {', '.join(f'{name!r:.40}' for name in table)} is "
            "no training data: give datasets.Dataset.from_pandas(data), or one column of texts as a list."
        )
    # An array of no dimensions has an iterator in name only.
    if isinstance(data, str | bytes | Mapping) or not hasattr(data, "__iter__") or getattr(data, "shape", None) == ():
        raise PromptError(
            f"{type(data).__name__} {data!r:.60} is no training data: give a list of texts, token ids of shape "
            "(prompt, position), or a dataset of the package datasets, streamed or not."
        )
    if columns is not None and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        name = _column(columns)
        _refuse_other_tokenizer(model, [data[row] for row in range(min(COMPARED, len(data)))])
        return data[name]
    if isinstance(data, Sequence):
        return data
    return _streamed(model, iter(data) if not hasattr(data, "column_names") else rows_of(data))


def _streamed(model: Model, items: Iterator[Any]) -> Iterator[Any]:
    first = list(islice(items, COMPARED))
    if not all(isinstance(item, Mapping) for item in first):
        yield from chain(first, items)
        return
    _refuse_other_tokenizer(model, first)
    for item in chain(first, items):
        yield item[_column(list(item))]


def _column(columns: Sequence[str]) -> str:
    name = next((name for name in COLUMNS if name in columns), None)
    if name is None:
        raise PromptError(
            f"The dataset has columns {', '.join(map(repr, columns))}, but prompts are read from "
            f"{', '.join(map(repr, COLUMNS))}: rename one with dataset.rename_column(...)."
        )
    return name


def _until(rows: Iterator[list[int]], most_tokens: int | None) -> Iterator[list[int]]:
    n_tokens = 0
    for row in rows:
        yield row
        n_tokens += len(row)
        if most_tokens is not None and n_tokens >= most_tokens:
            return


def _rows(model: Model, item: Any, number: int, context: int) -> Iterator[list[int]]:
    tokenizer = model.tokenizer
    head: list[int] = []
    if isinstance(item, str):
        if tokenizer is None:
            raise PromptError(f"The model has no tokenizer for the text {item!r:.40}: give token ids.")
        bos = getattr(tokenizer, "bos_token_id", None)
        head = [] if bos is None else [bos]
        ids = tokenizer.encode(_unicode(item, number), add_special_tokens=False)
    else:
        ids = _listed(item)
        if not isinstance(ids, list | tuple) or any(whole(token) is None for token in ids):
            raise PromptError(
                f"Row {number}, {item!r:.60}, is no prompt to train on: give texts, or lists of token ids."
            )
        worst = max(ids, key=abs, default=0)
        if abs(worst) >= 2**63:
            raise _of_other_vocabulary(worst, model)
    each = max(1, context - len(head))
    for first in range(0, max(1, len(ids)), each):
        row = head + [int(token) for token in ids[first : first + each]]
        # What is left over of a long text is no sequence of its own.
        if not first or len(row) > 1:
            yield row


def _unicode(text: str, number: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Row {number} holds {text[error.start]!r} at place {error.start}, which is half a character and no text: "
            "leave it out, or decode the text anew with the right encoding."
        ) from error
    return text


def _listed(item: Any) -> Any:
    return item.tolist() if hasattr(item, "tolist") else item


def _warn_of_unlike_lengths(rows: list[list[int]], width: int) -> None:
    n_tokens = sum(map(len, rows))
    if len(rows) * width > max(MANY, WASTED * n_tokens):
        warn_once(
            f"{len(rows)} prompts of {n_tokens / len(rows):.0f} tokens on average are padded to the {width} of the "
            f"longest, and the model runs over {len(rows) * width / n_tokens:.0f} times as many positions as there are "
            "tokens: cut them (context=...), or leave the longest out.",
            stacklevel=4,
        )


def _side_by_side(rows: list[list[int]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    needed, free = BYTES_OF_POSITION * len(rows) * width, available_memory()
    if needed > free:
        raise PromptError(
            f"{len(rows)} prompts padded to the {width} tokens of the longest take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: cut them (context=...), leave the longest out, or give fewer."
        )
    pad = getattr(tokenizer, "pad_token_id", None)
    tokens = torch.full((len(rows), width), 0 if pad is None else pad, dtype=torch.int64)
    there = torch.zeros_like(tokens, dtype=torch.bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        there[place, : len(row)] = True
    return tokens, there


def _refuse_other_vocabulary(tokens: Tensor, model: Model) -> None:
    low, high = (int(extreme) for extreme in tokens.aminmax())
    if low < 0 or high >= model.cfg.d_vocab:
        raise _of_other_vocabulary(high if high >= model.cfg.d_vocab else low, model)


def _of_other_vocabulary(token: int, model: Model) -> PromptError:
    return PromptError(
        f"Token id {token} is not in the model's vocabulary of {model.cfg.d_vocab} tokens (0 to "
        f"{model.cfg.d_vocab - 1}): the data was made with another model's tokenizer."
    )


def _refuse_other_tokenizer(model: Model, rows: Sequence[Mapping[str, Any]]) -> None:
    # Ids of another tokenizer may all be in the vocabulary. Where the text is there too, they can be told.
    tokenizer, name = model.tokenizer, _column(list(rows[0])) if rows else "text"
    if tokenizer is None or name == "text" or any(not isinstance(row.get("text"), str) for row in rows):
        return
    special = set(getattr(tokenizer, "all_special_ids", ()))
    same, most = 0, 0
    for number, row in enumerate(rows):
        ids = _listed(row[name])
        # Words are told by what they are not; what else is no prompt is refused with its number where prompts are made.
        if not isinstance(ids, list | tuple) or any(whole(i) is None and not isinstance(i, str) for i in ids):
            return
        own = tokenizer.encode(_unicode(row["text"], number), add_special_tokens=False)
        given = [token for token in ids if token not in special]
        same += (Counter(own) & Counter(given)).total()
        most += min(len(own), len(given))
    if 2 * same < most:
        raise PromptError(
            f"In the first {len(rows)} rows {same} of {most} ids in {name!r} are those of the text beside them by this "
            f"model's tokenizer: the data was made with another one. Remove the column {name!r} to have the text cut "
            "here, or 'text' where it is of something else."
        )
