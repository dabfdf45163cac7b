"""Cards on disk: one safetensors file, whose words are JSON. Nothing in it is ever executed."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError, SettingError
from tl_circuits.features.contexts import Contexts
from tl_circuits.features.table import COLUMNS, PIECES, CardTable
from tl_circuits.graph.asked import file_name
from tl_circuits.graph.files import write_whole

FORMAT, VERSION = "tl_circuits.cards", "1"
WORDS, CONTEXT_BOUNDS, CONTEXT_WORDS, ACTIVE = "words", "contexts.bounds", "contexts.word", "contexts.active"
_EXTRA = {WORDS: torch.uint8, CONTEXT_BOUNDS: torch.int64, CONTEXT_WORDS: torch.int32, ACTIVE: torch.bool}
_AGAIN = "Save the cards again."


def save(table: CardTable, contexts: Contexts, made_by: Mapping[str, Any], path: str | Path) -> Path:
    """Writes cards as one file, whole or not at all. Raises `FileError` where it cannot be written."""
    words = {word: place for place, word in enumerate(table.words)}
    texts = [[words.setdefault(word, len(words)) for word in text] for text in contexts.texts]
    lengths = torch.tensor([0, *map(len, texts)], dtype=torch.int64)
    columns: dict[str, Tensor] = {
        **table.columns,
        WORDS: torch.frombuffer(bytearray(json.dumps(list(words)).encode()), dtype=torch.uint8),
        CONTEXT_BOUNDS: lengths.cumsum(0),
        CONTEXT_WORDS: torch.tensor([word for text in texts for word in text], dtype=torch.int32),
        ACTIVE: contexts.active if len(texts) else torch.zeros(len(table), 0, dtype=torch.bool),
    }
    said = {
        "labels": [[row, label] for row, label in table.labels.items()],
        "axes": table.axes,
        "n_tokens": contexts.n_tokens,
        "made_by": dict(made_by),
    }
    metadata = {"format": FORMAT, "version": VERSION, "cards": json.dumps(said, allow_nan=False)}
    owned = {name: column.contiguous().clone() for name, column in columns.items()}
    return write_whole(file_name(path), lambda partial: save_file(owned, partial, metadata))


def is_cards(path: Path) -> bool:
    """Whether a file says that it holds cards of ours, of any version."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read(path: str | Path) -> tuple[CardTable, Contexts, Mapping[str, Any]]:
    """What `save` wrote. Raises `FileError` for any other file, and for one that is damaged."""
    path = file_name(path)
    if not path.is_file():
        raise FileError(f"There is no file '{path}': give the path that cards.save(...) returned.")
    try:
        with safe_open(path, "pt") as file:
            said = _said(path, file.metadata() or {})
            columns = {name: file.get_tensor(name) for name in file.keys() if name in COLUMNS | _EXTRA}
    except (SafetensorError, OSError) as error:
        raise FileError(f"'{path}' is not a whole safetensors file ({error}). {_AGAIN}") from error
    _check(path, columns)
    words = _words(path, columns)
    _check_words(path, columns, len(words))
    n_rows = len(columns["layer"])
    axes = _axes(path, said["axes"], columns)
    bounds, inside = columns[CONTEXT_BOUNDS].tolist(), columns[CONTEXT_WORDS].tolist()
    texts = tuple(tuple(words[word] for word in inside[first:last]) for first, last in itertools.pairwise(bounds))
    found = tuple(columns[ACTIVE].shape)
    if found != (n_rows, len(texts)):
        raise FileError(f"In '{path}', {ACTIVE} is {found}, not {(n_rows, len(texts))}. {_AGAIN}")
    try:
        table = CardTable({name: columns[name] for name in COLUMNS}, words, _labels(path, said["labels"], n_rows), axes)
        # A card checks itself when it is made.
        for row in range(len(table)):
            table.card(row)
    except SettingError as error:
        raise FileError(f"'{path}' does not hold lawful cards: {error} {_AGAIN}") from error
    return table, Contexts(texts, columns[ACTIVE], said["n_tokens"]), said["made_by"]


def _said(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        found = f"{metadata.get('format')!r} version {metadata.get('version')!r}"
        raise FileError(
            f"'{path}' says it is {found}, this version reads {FORMAT!r} version {VERSION!r}. Give a file that "
            "cards.save(...) wrote."
        )
    said = loaded(metadata.get("cards", ""), f"The metadata of '{path}'")
    kinds = {"labels": list, "axes": (list, type(None)), "n_tokens": int, "made_by": dict}
    fields = said if isinstance(said, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(fields.get(name, 0.5), kind)]
    if wrong:
        raise FileError(f"The metadata of '{path}' is not that of cards: see {', '.join(wrong)}. {_AGAIN}")
    return said


def loaded(text: str | bytes, what: str) -> Any:
    """JSON, or a `FileError` that says what is none. NaN and infinity are no JSON."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{what} is no JSON ({str(error)[:120]}): write or fetch it again.") from error


def _check(path: Path, columns: Mapping[str, Tensor]) -> None:
    expected = COLUMNS | _EXTRA
    if missing := sorted(expected.keys() - columns.keys()):
        raise FileError(f"'{path}' lacks {', '.join(missing)}. {_AGAIN}")
    for name, dtype in expected.items():
        if columns[name].dtype != dtype or columns[name].ndim != (2 if name == ACTIVE else 1):
            raise FileError(
                f"In '{path}', {name} is {columns[name].dtype} of {columns[name].ndim} axes, not {dtype}. {_AGAIN}"
            )
    n = len(columns["layer"])
    for name in ("index", "density", "n_tokens", "maximum", "histogram.low", "histogram.high", "operands.at"):
        if len(columns[name]) != n:
            raise FileError(f"In '{path}', {name} has {len(columns[name])} rows, not {n}. {_AGAIN}")
    pieces = {
        **PIECES, CONTEXT_BOUNDS: (CONTEXT_WORDS,),
    }  # fmt: skip
    cut = {
        "effects.bounds": 3 * n, "histogram.bounds": n, "groups.bounds": n,
        "examples.bounds": len(columns["groups.word"]), "tokens.bounds": len(columns["examples.peak"]),
    }  # fmt: skip
    for name, held in pieces.items():
        bounds = columns[name]
        n_pieces = cut.get(name, len(bounds) - 1)
        right = len(bounds) == n_pieces + 1 > 0 and int(bounds[0]) == 0 and bool((bounds.diff() >= 0).all())
        if not right or any(len(columns[each]) != int(bounds[-1]) for each in held):
            raise FileError(f"In '{path}', {name} does not cut {', '.join(held)} into {n_pieces} pieces. {_AGAIN}")
    if n and int(columns["groups.bounds"].diff().min()) < 1:
        raise FileError(f"In '{path}', a feature lacks its group of top examples. {_AGAIN}")


def _words(path: Path, columns: Mapping[str, Tensor]) -> list[str]:
    words = loaded(columns[WORDS].numpy().tobytes(), f"What {WORDS} of '{path}' hold")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise FileError(f"The words of '{path}' are not a list of texts. {_AGAIN}")
    return words


def _check_words(path: Path, columns: Mapping[str, Tensor], n_words: int) -> None:
    for name in ("effects.word", "groups.word", "tokens.word", CONTEXT_WORDS):
        if len(columns[name]) and not 0 <= int(columns[name].min()) <= int(columns[name].max()) < n_words:
            raise FileError(f"In '{path}', {name} goes beyond its {n_words} words. {_AGAIN}")


def _labels(path: Path, rows: list[Any], n_rows: int) -> dict[int, str]:
    for entry in rows:
        if not (isinstance(entry, list) and [type(part) for part in entry] == [int, str] and 0 <= entry[0] < n_rows):
            raise FileError(f"In '{path}', {entry!r:.60} is no label of one of {n_rows} cards. {_AGAIN}")
    return dict(map(tuple, rows))


def _axes(path: Path, axes: Any, columns: Mapping[str, Tensor]) -> Any:
    at = columns["operands.at"]
    n_grids = int(at.max()) + 1 if len(at) else 0
    match axes:
        case None if n_grids == 0:
            return None
        case [str(template), [*a], [*b]] if all(type(number) is int for number in (*a, *b)):
            if len(columns["operands.activation"]) == n_grids * len(a) * len(b):
                return template, tuple(a), tuple(b)
    raise FileError(
        f"In '{path}', the grids of operands do not fit their axes: {n_grids} grids, "
        f"{len(columns['operands.activation'])} numbers. {_AGAIN}"
    )
