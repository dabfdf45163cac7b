"""What users ask of a graph, checked at its doors: whoever runs without type checks learns here what a door takes."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError, GraphError, SettingError


def number(door: str, name: str, value: object) -> int:
    """How many of something. Raises `SettingError` for what is no whole number, and below 1."""
    found = whole(value)
    if found is None or found < 1:
        raise SettingError(f"{door}({name}={value!r:.80}): ask for at least 1, as a whole number.")
    return found


def whole(value: Any) -> int | None:
    """A whole number of any library, or None where the value is none: True is no number here."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def positive(value: Any) -> float | None:
    """A finite number above 0, of any library, or None where the value is none."""
    try:
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    except OverflowError:
        return None
    return found if 0 < found < math.inf else None


def share(value: Any) -> float | None:
    """A number above 0 and at most 1, or None where the value is none."""
    found = positive(value)
    return found if found is not None and found <= 1 else None


def flag(name: str, value: object) -> bool:
    """Raises `SettingError` for what is neither True nor False, such as the text 'no'."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r:.80} is neither True nor False: write {name}=True or leave it out.")
    return value


def text(name: str, value: object) -> None:
    """Raises `SettingError` for what is neither a text nor None."""
    if not isinstance(value, str | None):
        raise SettingError(f"{name}={value!r:.80} is no text: write it in quotation marks, or leave it out.")


def file_name(value: Any, what: str = "file", example: str = "dallas.graph") -> Path:
    """A path on this machine. Raises `FileError` for what names no file."""
    if not isinstance(value, str | PathLike) or not Path(value).name or "\0" in str(value):
        raise FileError(f"{value!r:.80} names no {what}: give a text such as {example!r}, or a pathlib.Path.")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise FileError(f"'{value}' names no {what}: {error} Write the folder out.") from error


def folder_name(value: Any) -> Path:
    """A folder's path on this machine. Raises `FileError` for what names none."""
    return file_name(value, "folder", "runs/mine")


def feature_labels(labels: Any) -> dict[tuple[int, int], str]:
    """Labels by (layer, index). Raises `GraphError` for other keys, and for labels that are no text."""
    if not isinstance(labels, Mapping):
        raise GraphError(f"Labels {labels!r:.80} were given: write them as {{(layer, index): 'what it stands for'}}.")
    found = {}
    for key, label in labels.items():
        numbers = [whole(part) for part in key] if isinstance(key, tuple) else []
        match numbers, label:
            case [int(layer), int(index)], str():
                found[layer, index] = label
            case _:
                raise GraphError(
                    f"The label {label!r:.80} of {key!r:.80} was given: name features by (layer, index) and label "
                    "them with text, say {(3, 120): 'capitals'}."
                )
    return found
