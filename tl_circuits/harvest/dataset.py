"""A data set of the hub, or of a folder, as a stream of rows."""

from collections.abc import Iterable, Iterator
from typing import Any

from tl_circuits.errors import FileError

LONGEST_REASON = 200


def streamed(name: str, split: str, config: str | None = None) -> Any:
    """The rows of this part of a data set, as they come. Raises `FileError` where `datasets` cannot open it."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise FileError(
            f"The data set {name!r} needs the library datasets, which is not installed ({error}): pip install datasets."
        ) from error
    try:
        return load_dataset(name, config, split=split, streaming=True)
    # The hub, fsspec and datasets raise a dozen kinds of errors, each of them about this name.
    except Exception as error:
        raise FileError(
            f"The data set {name!r} could not be opened at its part {split!r} ({_in_short(error)}). Check "
            "its name, its part and your connection, or write its texts into a .txt or .jsonl file and give that."
        ) from error


def rows_of(stream: Iterable[Any]) -> Iterator[Any]:
    """The rows of a stream. Raises `FileError`, with its number, where one does not come."""
    number = 0
    try:
        for row in stream:
            yield row
            number += 1
    # Files of another form than the first, and connections that end, raise as many kinds of errors.
    except Exception as error:
        raise FileError(
            f"Row {number} of the data set could not be read ({_in_short(error)}). Check its files and your "
            "connection: the same call reads it again; or write its texts into a .txt or .jsonl file and give that."
        ) from error


def _in_short(error: Exception) -> str:
    reason = " ".join(str(error).split())
    cut = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
    return f"{type(error).__name__}: {cut}"
