"""Labels of features in a file, as the page writes and reads them."""

import json
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError
from tl_circuits.graph.asked import file_name

FORMAT, VERSION = "tl_circuits.labels", "1"


def load_labels(path: str | Path) -> dict[tuple[int, int], str]:
    """The labels that a page wrote, by (layer, index), for `graph.with_labels` on any graph of the same transcoder.

    Raises `FileError` where the file is missing or holds anything else; the message quotes the first five bad rows.
    """
    path = file_name(path)
    try:
        whole: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"'{path}' cannot be read as JSON ({error}): give the labels.json that a page wrote."
        ) from error
    if not isinstance(whole, dict) or (whole.get("format"), whole.get("version")) != (FORMAT, VERSION):
        raise FileError(f"'{path}' is no file of labels of version {VERSION}: give the labels.json that a page wrote.")
    rows: list[Any] = whole["labels"] if isinstance(whole.get("labels"), list) else [whole.get("labels")]
    wrong = [f"row {number} is {row!r:.60}" for number, row in enumerate(rows) if not _is_label(row)]
    if wrong:
        raise FileError(
            f"{len(wrong)} labels in '{path}' are not [layer, index, text]: {'; '.join(wrong[:5])}. Mend them, or "
            "write the labels anew."
        )
    return {(layer, index): text for layer, index, text in rows}


def _is_label(row: object) -> bool:
    return isinstance(row, list) and [type(part) for part in row] == [int, int, str]
