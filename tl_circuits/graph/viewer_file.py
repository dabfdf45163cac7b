"""The JSON that viewers of attribution graphs read and save, opened as plain data that is checked as it is asked for.

Written by `AttributionGraph.to_json`, circuit-tracer, Neuronpedia, Anthropic's and EleutherAI's tools, and by the Save
buttons of their viewers, which put texts where lists belong.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, NoReturn

from tl_circuits.errors import FileError
from tl_circuits.graph.asked import whole
from tl_circuits.graph.record import MOST_LAYERS
from tl_circuits.nodes import Feature, Kind, NodeId

MOST_BYTES = 2**29
"""The largest file that is read unasked: as Python's values a JSON file takes about ten times its size."""

VIRTUAL = 10**9
"""From here on a target's number is no token's id."""

_FEATURE_ID = re.compile(r"(\d{1,9})_(?:(?:cro|lor)_)?(\d{1,15})_(\d{1,9})")
_TOKEN_ID = re.compile(r"E_(\d{1,15})_\d{1,9}")
_TARGET_ID = re.compile(r"-?\d{1,9}_(\d{1,15})_\d{1,9}")
_BIAS_ID = re.compile(r"(?:E|\d{1,9})_bias_([A-Za-z_]{1,20})_\d{1,9}")
_CONSTANT = {kind.name.lower(): kind for kind in (Kind.POSITION, Kind.MASKED, Kind.B_DEC, Kind.BIAS)}


@dataclass(frozen=True)
class ViewerFile:
    """One such file. Raises `FileError` for whatever in it is not what its readers expect."""

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    view: Mapping[str, Any] = field(repr=False)
    nodes: Sequence[Mapping[str, Any]] = field(repr=False)
    links: Sequence[Any] = field(repr=False)

    @classmethod
    def of(cls, path: Path, *, max_bytes: int = MOST_BYTES) -> "ViewerFile":
        """Opens a file of at most so many bytes."""
        whole = _read(path, max_bytes)
        parts = {"metadata": {}, "qParams": {}, "nodes": None, "links": []}
        found = {name: otherwise if whole.get(name) is None else whole[name] for name, otherwise in parts.items()}
        metadata, view, nodes, links = found.values()
        for name, kind in (("metadata", dict), ("qParams", dict), ("nodes", list), ("links", list)):
            if not isinstance(found[name], kind):
                _wrong(path, name, found[name])
        for node in nodes:
            if not isinstance(node, dict):
                _wrong(path, "nodes", nodes)
        return cls(path, metadata, view, nodes, links)

    def refuse(self, name: str, given: object) -> NoReturn:
        """Raises `FileError`: this part of the file is not what it should be."""
        _wrong(self.path, name, given)

    def supernodes(self) -> list[tuple[str, list[str]]]:
        """Each label and its members' ids."""
        given = self._listed("supernodes")
        for group in given:
            if not isinstance(group, list) or not group or not all(isinstance(name, str) for name in group):
                self.refuse("supernodes", group)
        return [(group[0], group[1:]) for group in given]

    def pinned(self) -> list[str]:
        """The ids of what is pinned."""
        given = self.view.get("pinnedIds") or []
        ids = [name for name in given.split(",") if name] if isinstance(given, str) else given
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            self.refuse("pinnedIds", ids)
        return ids

    def names_given(self) -> list[tuple[str, str]]:
        """(which feature, label) as people named them in a viewer, beside the nodes' own labels."""
        given = self._listed("clerps")
        for entry in given:
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
                self.refuse("clerps", entry)
        return [(str(which), label) for which, label in given]

    def _listed(self, name: str) -> list[Any]:
        given = self.view.get(name) or []
        given = _json(self.path, given) if isinstance(given, str) else given
        if not isinstance(given, list):
            self.refuse(name, given)
        return given

    @cached_property
    def places(self) -> list[NodeId]:
        """What each node is. Where a file has features of attention too, layers are half blocks (`has_attention`)."""
        return [self._place(node) for node in self.nodes]

    @cached_property
    def has_attention(self) -> bool:
        """Whether attention is replaced too: then layer 2l is block l's attention and layer 2l + 1 its MLP."""
        return any(kind.startswith("lorsa") for kind in map(_type, self.nodes))

    @cached_property
    def n_layers(self) -> int:
        """How many layers there are. Raises `FileError` beyond 10,000."""
        known = [whole(self.metadata.get("n_layers"))]
        known += [place.layer + 1 for place in self.places if place.kind not in (Kind.TARGET, Kind.BIAS)]
        most = max((number for number in known if number is not None), default=1)
        # circuit-tracer and we number the outputs n_layers + 1, others n_layers.
        outputs = [_number(node.get("layer")) for node in self.nodes if _type(node) == "logit"]
        beyond = max((number for number in outputs if number is not None), default=0) - 1
        n_layers = max(most, beyond * (2 if self.has_attention else 1), 1)
        if n_layers > MOST_LAYERS:
            self.refuse("n_layers", n_layers)
        return n_layers

    def _place(self, node: Mapping[str, Any]) -> NodeId:
        name, kind = str(node.get("node_id")), _type(node)
        match kind:
            case "logit":
                found = _TARGET_ID.fullmatch(name)
                number = whole(node.get("feature"))
                number = int(found[1]) if number is None and found else number
                is_token = number is not None and 0 <= number < VIRTUAL
                return NodeId(Kind.TARGET, -1, self._pos(node), number if is_token and number is not None else -1)
            case "embedding":
                found = _TOKEN_ID.fullmatch(name)
                return NodeId(Kind.TOKEN, -1, self._pos(node), int(found[1]) if found else -1)
            case "mlp reconstruction error" | "lorsa error":
                return NodeId(Kind.ERROR, self._layer(node), self._pos(node), -1)
            case "bias" | "unknown":
                return self._constant(node, name)
            case "lorsa" | "unexplored node":
                return self._feature(node, name)
        if kind.endswith("transcoder"):
            return self._feature(node, name)
        self.refuse(f"the feature_type of {name!r:.80}", node.get("feature_type"))

    def _feature(self, node: Mapping[str, Any], name: str) -> NodeId:
        found = _FEATURE_ID.fullmatch(name)
        layer, pos = _number(node.get("layer")), _number(node.get("ctx_idx"))
        if found and layer in (None, int(found[1])) and pos in (None, int(found[3])):
            return NodeId(Kind.FEATURE, self._half(node, int(found[1])), int(found[3]), int(found[2]))
        number = _number(node.get("feature"))
        if layer is None or pos is None or number is None or min(layer, pos, number) < 0:
            raise FileError(
                f"The feature {name!r:.80} in '{self.path}' is not named layer_index_position, as tl_circuits, "
                f"circuit-tracer and Neuronpedia name features, and neither is its place written beside it (layer "
                f"{node.get('layer')!r:.20}, ctx_idx {node.get('ctx_idx')!r:.20}, feature {node.get('feature')!r:.20}):"
                " write the graph anew with one of them."
            )
        return NodeId(Kind.FEATURE, self._half(node, layer), pos, self._index(number, layer))

    def _constant(self, node: Mapping[str, Any], name: str) -> NodeId:
        found = _BIAS_ID.fullmatch(name)
        kind = _CONSTANT.get(found[1].lower(), Kind.BIAS) if found else Kind.BIAS
        placed = kind in (Kind.POSITION, Kind.MASKED)
        return NodeId(kind, self._layer(node), self._pos(node) if placed else -1, -1)

    def _layer(self, node: Mapping[str, Any]) -> int:
        given = node.get("layer")
        layer = -1 if given == "E" else _number(given)
        if layer is None or layer < -1:
            self.refuse(f"the layer of {node.get('node_id')!r:.80}", given)
        return layer if layer < 0 else self._half(node, layer)

    def _half(self, node: Mapping[str, Any], layer: int) -> int:
        if not self.has_attention:
            return layer
        is_attention = _type(node).startswith("lorsa") or "_bias_attn" in str(node.get("node_id"))
        return 2 * layer + (0 if is_attention or "_bias_lorsa" in str(node.get("node_id")) else 1)

    def _pos(self, node: Mapping[str, Any]) -> int:
        pos = _number(node.get("ctx_idx"))
        if pos is None:
            self.refuse(f"the ctx_idx of {node.get('node_id')!r:.80}", node.get("ctx_idx"))
        return pos

    def _index(self, number: int, layer: int) -> int:
        match self._numbering:
            case "cantor":
                return _taken_apart(number)[1]
            case "gemma":
                return number % 100_000
            case _:
                return number

    @cached_property
    def _numbering(self) -> str:
        # Files from before schema_version numbered features in other ways, and do not say in which.
        kinds = [(_number(n.get("feature")), _number(n.get("layer"))) for n in self.nodes if _is_feature(n)]
        numbers = [(number, layer) for number, layer in kinds if number is not None and layer is not None]
        if all(number >= 0 and _taken_apart(number)[0] == layer for number, layer in numbers):
            return "cantor"
        if self.metadata.get("schema_version") is not None:
            number, layer = next(pair for pair in numbers if pair[0] < 0 or _taken_apart(pair[0])[0] != pair[1])
            self.refuse(f"the feature of a node in layer {layer}", number)
        return "gemma" if all(number // 100_000 == layer for number, layer in numbers) else "plain"

    @cached_property
    def named(self) -> dict[str, list[int]]:
        """The places in `nodes` of each node id, and of each jsNodeId that is nobody's node id."""
        found: dict[str, list[int]] = {}
        for name in ("node_id", "jsNodeId"):
            taken = set(found) if name == "jsNodeId" else set()
            for at, node in enumerate(self.nodes):
                given = node.get(name)
                if isinstance(given, str) and given not in taken:
                    found.setdefault(given, []).append(at)
        return found

    def features(self, ids: Sequence[str]) -> list[Feature]:
        """Those of these nodes that are features. Raises `FileError` for an id that is no node's."""
        found = []
        for name in ids:
            if name not in self.named:
                raise FileError(
                    f"'{self.path}' puts {name!r:.80} into a supernode or pins it, but it is none of its "
                    f"{len(self.nodes)} node ids: write the graph anew with what belongs to it."
                )
            # Older circuit-tracer gave errors the names of features; a person can have meant the feature only.
            features = [at for at in self.named[name] if _is_feature(self.nodes[at])]
            found += [_feature_at(self._place(self.nodes[at])) for at in features[:1]]
        return found


def is_viewer_file(path: Path) -> bool:
    """Whether a file begins as JSON does, and not as safetensors."""
    try:
        with path.open("rb") as file:
            head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    # safetensors begins with a length in eight bytes, of which the upper ones are zero.
    return head.startswith(b"{") and b"\0" not in head[:8]


def _read(path: Path, max_bytes: int) -> Mapping[str, Any]:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise FileError(
                f"'{path}' has {size} bytes, more than the {max_bytes} that are read of a graph's JSON: prune the "
                f"graph where it was made, or ask for max_bytes={size}, which takes about ten times as much memory."
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read: {error}. Give the JSON file of a graph.") from error
    whole = _json(path, text)
    if not isinstance(whole, dict):
        raise FileError(f"'{path}' holds {text!r:.40} and no graph: give the JSON that graph.to_json writes.")
    return whole


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is no JSON ({error}): give the file that graph.to_json writes.") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _wrong(path: Path, name: str, given: object) -> NoReturn:
    raise FileError(
        f"'{path}' is no graph of a viewer: {name} is {_shown(given)}. Give the JSON that graph.to_json, "
        "circuit-tracer or Neuronpedia writes."
    )


def _shown(given: object) -> str:
    # Lists inside lists can be deeper than Python writes them.
    try:
        return f"{given!r:.80}"
    except (RecursionError, ValueError):
        return f"a {type(given).__name__}"


def _type(node: Mapping[str, Any]) -> str:
    kind = node.get("feature_type")
    return kind if isinstance(kind, str) else ""


def _is_feature(node: Mapping[str, Any]) -> bool:
    kind = _type(node)
    return kind.endswith("transcoder") or kind in ("lorsa", "unexplored node")


def _feature_at(place: NodeId) -> Feature:
    return Feature(place.layer, place.pos, place.index)


def _number(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,15}", value) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = whole(value)
    return found if found is not None and abs(found) < 2**53 else None


def _taken_apart(number: int) -> tuple[int, int]:
    # The inverse of Cantor's pairing of (layer, index).
    diagonal = (isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index
