"""Many prompts: in a sequence, or in a file of one prompt a line."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_circuits.errors import FileError, PromptError
from tl_circuits.graph.asked import whole


def read_prompts(path: str | Path, *, corpus: bool = False) -> list[Any]:
    """The prompts of a file: texts, one a line (`.txt`), or JSON lines (`.jsonl`).

    A JSON line is a text, a list of token ids, a list of chat messages, or an object whose `prompt` is one of these;
    its other fields are left aside. Spaces count: a line is traced as it stands. Raises `FileError`, with the number of
    the line, where a line is empty or no prompt, and where the file cannot be read. Of a `corpus` to train on, empty
    lines are passed over, and an object's `text` counts as its `prompt` does.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise FileError(
            f"'{path}' is neither '.txt' (one prompt a line) nor '.jsonl' (one JSON value a line): write the prompts "
            "so, and name the file so."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read ({error}): give a file of prompts in UTF-8.") from error
    # Not splitlines(), which takes characters for line ends that a prompt may hold.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""] or (corpus and not text.strip()):
        raise FileError(f"'{path}' holds no prompts: write one a line.")
    parse = _from_json if path.suffix.lower() == ".jsonl" else _from_text
    keys = ("prompt", "text") if corpus else ("prompt",)
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip() or not corpus)
    return [parse(path, number, line, keys) for number, line in numbered]


def read_sets(paths: Sequence[str | Path]) -> dict[str, list[Any]]:
    """The prompts of several files, by the names of these, without what follows the dot.

    Raises `FileError` as `read_prompts` does, and where two files have one name.
    """
    names = [Path(path).stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FileError(
            f"Several files are called {twice[0]!r}, as their sets of prompts would be: rename all but one."
        )
    return {name: read_prompts(path) for name, path in zip(names, paths, strict=True)}


def many(prompts: Any, door: str = "trace_many", instead: str = ", or call trace") -> list[Any]:
    """The prompts one by one. Raises `PromptError` for what is one prompt, or none, in the name of this door."""
    if isinstance(prompts, Path):
        return read_prompts(prompts)
    one = isinstance(prompts, str | bytes | dict) or (isinstance(prompts, Tensor) and prompts.ndim < 2)
    if one or not isinstance(prompts, Iterable):
        raise PromptError(
            f"{door} takes a list of prompts, or the pathlib.Path of a file of them; {prompts!r:.80} was given. "
            f"Put one prompt in brackets{instead}."
        )
    found = list(prompts)
    if not found:
        raise PromptError(f"No prompts were given ({prompts!r:.80}): give at least one.")
    # A tensor of one token passes for its number.
    ids = (whole(prompt) is not None and not getattr(prompt, "ndim", 0) for prompt in found)
    if any(ids) or all(isinstance(prompt, dict) for prompt in found):
        raise PromptError(
            f"{found!r:.80} is one prompt, of token ids or chat messages, not a list of prompts: put it in brackets."
        )
    return found


def as_json(prompt: Any) -> Any:
    """A prompt as JSON values, by which it is known again; what is no prompt as what Python says of it."""
    if isinstance(prompt, Tensor):
        prompt = prompt.tolist()
    if isinstance(prompt, list | tuple | range):
        numbers = [whole(token) for token in prompt]
        prompt = numbers if None not in numbers else list(prompt)
    try:
        return json.loads(json.dumps(prompt, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return f"{prompt!r:.200}"


def _from_text(path: Path, number: int, line: str, _keys: Sequence[str]) -> str:
    if not line.strip():
        raise _empty(path, number)
    return line


def _from_json(path: Path, number: int, line: str, keys: Sequence[str]) -> Any:
    if not line.strip():
        raise _empty(path, number)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileError(f"Line {number} of '{path}' is no JSON ({error}): {line!r:.80}. Mend that line.") from error
    prompt = next((value[key] for key in keys if key in value), None) if isinstance(value, dict) else value
    if not isinstance(prompt, str | list) or not prompt:
        raise FileError(
            f"Line {number} of '{path}' is no prompt: {line!r:.80}. Write a text in quotes, a list of token ids or of "
            'chat messages, or {"prompt": ...} with one of these.'
        )
    return prompt


def _empty(path: Path, number: int) -> FileError:
    return FileError(f"Line {number} of '{path}' is empty: take it out, or write a prompt there.")
