"""A data set of the hub, or of a folder, as a stream of rows."""

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
        reason = " ".join(str(error).split())
        cut = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
        raise FileError(
            f"The data set {name!r} could not be opened at its part {split!r} ({type(error).__name__}: {cut}). Check "
            "its name, its part and your connection, or write its texts into a .txt or .jsonl file and give that."
        ) from error
