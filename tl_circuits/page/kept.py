"""What a person did on a page, as the page sends it: checked before anybody keeps or shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import share
from tl_circuits.graph.tables import unique_names

MOST_WORDS = 10_000
"""Labels, supernodes and pins of one page, each."""


def sound_work(graph: AttributionGraph, given: object) -> dict[str, Any]:
    """Pins, supernodes, labels and sliders that are of this graph. Raises `SettingError` for anything else."""
    if not isinstance(given, Mapping):
        raise SettingError(f"What was done on a page is a table, not {given!r:.60}.")
    known = set(unique_names(graph))
    pins, groups, labels = given.get("pins", []), given.get("supernodes", []), given.get("labels", {})
    _check("pins", isinstance(pins, list) and _all_known(pins, known), pins)
    _check("supernodes", isinstance(groups, list) and all(_is_group(one, known) for one in groups), groups)
    _check("labels", isinstance(labels, Mapping) and all(_is_label(*entry) for entry in labels.items()), labels)
    for name, part in (("pins", pins), ("supernodes", groups), ("labels", labels)):
        _check(name, len(part) <= MOST_WORDS, f"{len(part)} of them, more than {MOST_WORDS}")
    found: dict[str, Any] = {
        "pins": list(pins),
        "supernodes": [{"label": one["label"], "members": list(one["members"])} for one in groups],
        "labels": dict(labels),
    }
    for name in ("nodes", "edges"):
        part = share(given.get(name, 1.0))
        _check(name, part is not None, given.get(name))
        found |= {name: part} if name in given else {}
    return found


def labels_in(work: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """The labels of checked work, by (layer, index)."""
    return {(int(key.split("/")[0]), int(key.split("/")[1])): text for key, text in work.get("labels", {}).items()}


def _check(name: str, holds: bool, given: object) -> None:
    if not holds:
        raise SettingError(
            f"{name} of a page's work is {given!r:.80}, which is none of this graph: load the page anew."
        )


def _all_known(names: Sequence[Any], known: set[str]) -> bool:
    return all(isinstance(name, str) and name in known for name in names)


def _is_group(one: object, known: set[str]) -> bool:
    match one:
        case {"label": str(), "members": [_, *_] as members}:
            return _all_known(members, known)
    return False


def _is_label(key: object, text: object) -> bool:
    parts = key.split("/") if isinstance(key, str) else []
    return len(parts) == 2 and all(part.isdecimal() and len(part) < 16 for part in parts) and isinstance(text, str)
