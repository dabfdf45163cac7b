"""Labels of features in a file, as the page writes and reads them: JSON, or CSV for a spreadsheet."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError
from tl_circuits.graph.asked import file_name

FORMAT, VERSION = "tl_circuits.labels", "1"
_HEADER = ["layer", "index", "label"]
_FORMULA = re.compile(r"^'(?='*[=+\-@\t\r])")


def load_labels(path: str | Path) -> dict[tuple[int, int], str]:
    """The labels that a page wrote, by (layer, index), for `graph.with_labels` on any graph of the same transcoder.

    A file whose name ends in .csv is read as the table that a page writes. Raises `FileError` where the file is missing
    or holds anything else; the message quotes the first five bad rows.
    """
    path = file_name(path)
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    wrong = [f"row {number} is {row!r:.60}" for number, row in enumerate(rows) if not _is_label(row)]
    if wrong:
        raise FileError(
            f"{len(wrong)} labels in '{path}' are not [layer, index, text]: {'; '.join(wrong[:5])}. Mend them, or "
            "write the labels anew."
        )
    return {(layer, index): text for layer, index, text in rows}


def _json_rows(path: Path) -> list[Any]:
    try:
        whole: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"'{path}' cannot be read as JSON ({error}): give the labels.json that a page wrote."
        ) from error
    if not isinstance(whole, dict) or (whole.get("format"), whole.get("version")) != (FORMAT, VERSION):
        raise FileError(f"'{path}' is no file of labels of version {VERSION}: give the labels.json that a page wrote.")
    return whole["labels"] if isinstance(whole.get("labels"), list) else [whole.get("labels")]


def _csv_rows(path: Path) -> list[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(csv.reader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(f"'{path}' cannot be read as CSV ({error}): give the labels.csv that a page wrote.") from error
    if not found or found[0] != _HEADER:
        raise FileError(f"'{path}' does not begin with {','.join(_HEADER)}: give the labels.csv that a page wrote.")
    # The apostrophe keeps spreadsheets from taking a label for a formula.
    return [[*map(_whole, row[:2]), *(_FORMULA.sub("", text) for text in row[2:])] for row in found[1:]]


def _whole(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 16 else text


def _is_label(row: object) -> bool:
    return isinstance(row, list) and [type(part) for part in row] == [int, int, str]
