"""Features that people put together in a viewer, from the JSON that it or `AttributionGraph.to_json` writes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError
from tl_circuits.graph.asked import file_name
from tl_circuits.nodes import Feature

# As circuit-tracer and we write a feature; "cro" stands in those of Neuronpedia's own converter.
_FEATURE_ID = re.compile(r"(\d{1,9})_(?:cro_)?(\d{1,15})_(\d{1,9})")


def load_supernodes(path: str | Path) -> dict[str, tuple[Feature, ...]]:
    """The supernodes of a graph's JSON by label, and what is pinned outside of them, each feature by its own name.

    Reads what `AttributionGraph.to_json`, circuit-tracer and Neuronpedia write, pins and supernodes as lists or as the
    texts that circuit-tracer's viewer saves. `tlc.Intervention(load_supernodes(path)["Texas"], scale=0)` acts on one.
    Tokens, errors and outputs among them are left out, since they are no features; supernodes of one label are one.
    Raises `FileError` for what is no such file, and for members that the graph does not hold.
    """
    path = file_name(path)
    graph = _Saved(path, _read(path))
    found: dict[str, tuple[Feature, ...]] = {}
    for label, members in graph.supernodes():
        found[label] = tuple(dict.fromkeys((*found.get(label, ()), *graph.features(members))))
    grouped = {feature for features in found.values() for feature in features}
    alone = [feature for feature in graph.features(graph.pinned()) if feature not in grouped]
    return {label: features for label, features in found.items() if features} | {str(one): (one,) for one in alone}


class _Saved:
    """What a graph's JSON says of its nodes and of what a viewer showed."""

    def __init__(self, path: Path, whole: Mapping[str, Any]) -> None:
        self._path = path
        self._view = self._table(whole.get("qParams", {}), "qParams")
        nodes = whole.get("nodes")
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise self._wrong("nodes", nodes)
        # Pins go by either name of a node. Older circuit-tracer gave errors names of features, which come last.
        ordered = sorted(nodes, key=_is_feature)
        self._nodes = {node.get(name): node for name in ("jsNodeId", "node_id") for node in ordered}

    def supernodes(self) -> Iterator[tuple[str, list[str]]]:
        """Each label and its members' ids."""
        given = self._view.get("supernodes") or []
        if isinstance(given, str):
            given = _json(self._path, given)
        if not isinstance(given, list):
            raise self._wrong("supernodes", given)
        for group in given:
            if not isinstance(group, list) or not group or not all(isinstance(name, str) for name in group):
                raise self._wrong("supernodes", group)
            yield group[0], group[1:]

    def pinned(self) -> list[str]:
        """The ids of what is pinned."""
        given = self._view.get("pinnedIds") or []
        ids = given.split(",") if isinstance(given, str) else given
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise self._wrong("pinnedIds", ids)
        return ids

    def features(self, ids: list[str]) -> Iterator[Feature]:
        """Those of these nodes that are features."""
        for name in ids:
            node = self._nodes.get(name)
            if node is None:
                raise FileError(
                    f"'{self._path}' puts {name!r:.80} into a supernode or pins it, but it is none of its "
                    f"{len(self._nodes)} node ids: write the graph anew with what belongs to it."
                )
            if not _is_feature(node):
                continue
            match = _FEATURE_ID.fullmatch(str(node.get("node_id")))
            if match is None:
                raise FileError(
                    f"The feature {node.get('node_id')!r:.80} in '{self._path}' is not named layer_index_position, as "
                    "tl_circuits, circuit-tracer and Neuronpedia name features: write the graph anew with one of them."
                )
            layer, index, pos = map(int, match.groups())
            yield Feature(layer, pos, index)

    def _table(self, given: Any, name: str) -> Mapping[str, Any]:
        if not isinstance(given, dict):
            raise self._wrong(name, given)
        return given

    def _wrong(self, name: str, given: object) -> FileError:
        return FileError(
            f"'{self._path}' is no graph of a viewer: {name} is {given!r:.80}. Give the JSON that graph.to_json, "
            "circuit-tracer or Neuronpedia writes."
        )


def _is_feature(node: Mapping[str, Any]) -> bool:
    kind = node.get("feature_type")
    return isinstance(kind, str) and kind.endswith("transcoder")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read: {error}. Give the JSON file of a graph.") from error
    whole = _json(path, text)
    if not isinstance(whole, dict):
        raise FileError(f"'{path}' holds {text!r:.40} and no graph: give the JSON that graph.to_json writes.")
    return whole


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is no JSON ({error}): give the file that graph.to_json writes.") from error
