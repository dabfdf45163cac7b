"""A graph from the JSON of viewers: ours, circuit-tracer's, Neuronpedia's, Anthropic's and EleutherAI's.

What such a file does not hold stays unknown: constants, unless they are written as biases, and what the inputs of a
node sum to without pruning. A total is what the inputs in the file sum to.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.graph.asked import whole
from tl_circuits.graph.edges import Edges
from tl_circuits.graph.record import CONSTANTS, Provenance
from tl_circuits.graph.viewer_file import VIRTUAL, ViewerFile
from tl_circuits.nodes import Kind, NodeId, Nodes

_CHANCE = re.compile(r"\(p=([0-9.]{1,20})\)")
_QUOTED = re.compile(r'"([^"]*)"')
# What writers put where no label is known.
_NO_LABEL = re.compile(r"F#?\d*")


def read_viewer_graph(file: ViewerFile) -> tuple[dict[str, Any], list[str]]:
    """The fields of the graph in a file, of which the record that they make checks the rest; and what was mended.

    Raises `FileError` for what is no graph.
    """
    tokens = file.metadata.get("prompt_tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        file.refuse("metadata.prompt_tokens", tokens)
    found = _Read(file, len(tokens))
    weights, edges = found.target_weights(), found.edges
    expanded, activations = found.expanded(), found.activations()
    totals = torch.where(expanded, edges.sums(), math.nan)
    is_target = found.nodes.rows(Kind.TARGET)
    fields = {
        "nodes": found.nodes,
        "edges": edges,
        "activations": torch.where(is_target & activations.isnan(), totals, activations),
        "totals": totals,
        "expanded": expanded,
        "target_weights": weights,
        "target_labels": tuple(found.target_label(node) for node in found.targets),
        "target_probabilities": found.target_probabilities(),
        "tokens": tuple(tokens),
        "coverage": found.figure("coverage", 1.0),
        "conservation_error": found.figure("conservation_error", math.nan),
        "probe_error": found.figure("probe_error", math.nan),
        "labels": found.labels(),
        "provenance": found.provenance(),
    }
    return fields, found.mended


@dataclass(frozen=True)
class _Read:
    """The nodes of a file in the order of ours, and what belongs to each."""

    file: ViewerFile
    n_pos: int
    mended: list[str] = field(default_factory=list)

    @cached_property
    def ours(self) -> Mapping[str, Any]:
        """What we wrote beside the graph, if we did."""
        given = self.file.metadata.get("tl_circuits")
        return given if isinstance(given, dict) else {}

    @cached_property
    def rows(self) -> list[NodeId]:
        """Every node once, in order; every position has a token. Targets stand in the order of the file."""
        n_layers = self.file.n_layers
        places: dict[NodeId, NodeId] = {}
        for place in self.file.places:
            if place.kind != Kind.TARGET:
                places.setdefault(_once(place), place)
        for pos in range(self.n_pos):
            places.setdefault(NodeId(Kind.TOKEN, -1, pos, -1), NodeId(Kind.TOKEN, -1, pos, -1))
        targets = [place._replace(layer=n_layers) for place in self.file.places if place.kind == Kind.TARGET]
        return sorted(places.values()) + targets

    @cached_property
    def row_of_node(self) -> list[int]:
        """For each node of the file its row."""
        row_of = {_once(place): row for row, place in enumerate(self.rows)}
        target = iter(range(len(self.rows) - len(self.targets), len(self.rows)))
        found = [next(target) if place.kind == Kind.TARGET else row_of[_once(place)] for place in self.file.places]
        inner = [row for row in found if self.rows[row].kind not in CONSTANTS]
        if again := len(inner) - len(set(inner)):
            self.mended.append(f"{again} nodes stand for what another stands for already, and were joined with it")
        return found

    @cached_property
    def targets(self) -> list[Mapping[str, Any]]:
        return [
            node for node, place in zip(self.file.nodes, self.file.places, strict=True) if place.kind == Kind.TARGET
        ]

    @cached_property
    def nodes(self) -> Nodes:
        columns = torch.tensor([tuple(row) for row in self.rows], dtype=torch.int64).reshape(-1, 4).T.contiguous()
        index = columns[3].clone()
        tokens = [whole(number) for number in self._of_targets("target_tokens") or []]
        known = [number for number in tokens if number is not None and -1 <= number < VIRTUAL]
        if known and len(known) == len(self.targets):
            index[-len(known) :] = torch.tensor(known, dtype=torch.int64)
        return Nodes(columns[0], columns[1], columns[2], index)

    @cached_property
    def edges(self) -> Edges:
        lost: list[str] = []
        pairs: list[tuple[int, int, float]] = []
        ends = _Ends(self)
        for link in self.file.links:
            name, weight = self._link(link)
            ways = ends.of(*name)
            if ways is None:
                lost.append(f"{name[0]!r:.40} → {name[1]!r:.40}")
            else:
                pairs.append((*ways, weight))
        if lost:
            self.mended.append(
                f"{len(lost)} links lead to or from nodes that it lacks and were left out, first {lost[0]}"
            )
        if ends.ambiguous:
            self.mended.append(
                f"{len(ends.ambiguous)} links start at an id that is a feature's and an error's alike, first "
                f"{ends.ambiguous[0]!r:.40}, and were read as the feature's (convert circuit-tracer's .pt instead)"
            )
        if repeated := sum(times > 1 for times in Counter(pair[:2] for pair in pairs).values()):
            self.mended.append(f"{repeated} pairs of nodes are linked more than once, and their weights were added up")
        if left := sum("qk_tracing_results" in node for node in self.file.nodes):
            self.mended.append(f"what attention looks at (qk_tracing_results) was left out of {left} nodes")
        target, source, weight = zip(*pairs, strict=True) if pairs else ((), (), ())
        weights = torch.tensor(weight, dtype=torch.float64)
        single = weights.to(torch.float32)
        return Edges.from_pairs(
            len(self.rows),
            torch.tensor(target, dtype=torch.int64),
            torch.tensor(source, dtype=torch.int64),
            single if torch.equal(single.to(torch.float64), weights) else weights,
        )

    def _link(self, link: Any) -> tuple[tuple[str, str], float]:
        match link:
            case {"source": str() as source, "target": str() as target, "weight": given}:
                if (weight := _real(given)) is not None:
                    return (source, target), weight
        self.file.refuse("one of links", link)

    def expanded(self) -> Bool[Tensor, " node"]:
        expanded = self.nodes.rows(Kind.FEATURE, Kind.TARGET)
        unexpanded = self.ours.get("unexpanded")
        if isinstance(unexpanded, list):
            for name in unexpanded:
                for at in self.file.named.get(name, []) if isinstance(name, str) else []:
                    expanded[self.row_of_node[at]] = False
        return expanded

    def activations(self) -> Float64[Tensor, " node"]:
        found = torch.where(self.nodes.rows(Kind.FEATURE), 0.0, math.nan).to(torch.float64)
        missing = 0
        for node, row in zip(self.file.nodes, self.row_of_node, strict=True):
            if self.rows[row].kind not in (Kind.FEATURE, Kind.TARGET):
                continue
            given = node.get("activation")
            if (value := _real(given)) is not None:
                found[row] = value
            elif given is not None:
                self.file.refuse(f"the activation of {node.get('node_id')!r:.80}", given)
            else:
                missing += self.rows[row].kind == Kind.FEATURE
        if missing:
            self.mended.append(f"{missing} features have no activation and were given 0")
        return found

    def target_label(self, node: Mapping[str, Any]) -> str:
        token, clerp = node.get("token"), self._clerp(node)
        if isinstance(token, str):
            return token
        quoted = _QUOTED.search(clerp)
        return quoted[1] if quoted else clerp.partition("(p=")[0].strip()

    def target_probabilities(self) -> Float64[Tensor, " target"]:
        if (given := self._of_targets("target_probabilities")) is not None:
            return torch.tensor([_chance(value) for value in given], dtype=torch.float64)
        return torch.tensor([self._written_chance(node) for node in self.targets], dtype=torch.float64)

    def _written_chance(self, node: Mapping[str, Any]) -> float:
        if math.isfinite(found := _chance(node.get("token_prob"))) and found > 0:
            return found
        written = _CHANCE.search(self._clerp(node))
        try:
            return _chance(float(written[1])) if written else math.nan
        except ValueError:
            return math.nan

    def target_weights(self) -> Float64[Tensor, " target"]:
        weights, told = self._of_targets("target_weights"), self.ours.get("target_weights")
        given = [weight for weight in map(_real, weights or ()) if weight is not None]
        if weights is not None and len(given) == len(self.targets) and any(given):
            return torch.tensor(given, dtype=torch.float64)
        if told is not None and self.places_of_targets is not None:
            self.mended.append(
                f"the targets' weights {told!r:.60} are not {len(self.targets)} finite numbers of which one is not 0, "
                "and probability took their place"
            )
        chances = self.target_probabilities().nan_to_num(0.0)
        return chances if bool((chances != 0).any()) else torch.ones_like(chances)

    def figure(self, name: str, otherwise: float) -> float:
        """A figure that we wrote beside the graph."""
        given = _real(self.ours.get(name))
        return otherwise if given is None else given

    def labels(self) -> dict[tuple[int, int], str]:
        """The nodes' own labels, and over them those that people gave in the viewer."""
        found: dict[tuple[int, int], str] = {}
        which: dict[str, tuple[int, int]] = {}
        for node, place in zip(self.file.nodes, self.file.places, strict=True):
            if place.kind != Kind.FEATURE:
                continue
            key = (place.layer, place.index)
            clerp = self._clerp(node)
            if clerp and not _NO_LABEL.fullmatch(clerp):
                found.setdefault(key, clerp)
            number = node.get("feature")
            for name in (node.get("node_id"), number, f"{node.get('layer')}_{number}_{node.get('ctx_idx')}"):
                which.setdefault(str(name), key)
        given = {which[name]: label for name, label in self.file.names_given() if name in which}
        return found | given

    def _clerp(self, node: Mapping[str, Any]) -> str:
        given = node.get("clerp")
        if not isinstance(given, str | None):
            self.file.refuse(f"the clerp of {node.get('node_id')!r:.80}", given)
        return given or ""

    def provenance(self) -> Provenance:
        metadata, file = self.file.metadata, self.file
        read = {"file": file.path.name, "layers": "half blocks" if file.has_attention else "blocks"}
        read |= {"repairs": list(self.mended)} if self.mended else {}
        read |= {"pruned": True} if _is_pruned(metadata) else {}
        figures = {name: self.ours[name] for name in ("replacement", "completeness") if name in self.ours}
        if isinstance(self.ours.get("provenance"), dict):
            made = Provenance.from_dict(self.ours["provenance"])
            settings = {**made.settings, "read_from_json": read | figures}
            return Provenance(**{**made.to_dict(), "settings": settings, "masked_positions": made.masked_positions})
        listed = metadata.get("transcoder_list")
        scan = metadata.get("scan")
        details = metadata.get("feature_details")
        source_set = details.get("neuronpedia_source_set") if isinstance(details, dict) else None
        is_model = isinstance(source_set, str)
        return Provenance(
            prompt=_text(metadata.get("prompt")),
            model=_text(scan) if is_model else "",
            transcoder=_text(source_set) if is_model else ", ".join(map(str, listed)) if listed else _text(scan),
            transcoder_kind="transcoder",
            n_layers=file.n_layers,
            settings={
                "read_from_json": read,
                **{
                    name: metadata[name]
                    for name in ("scan", "slug", "schema_version", "info", "generation_settings", "pruning_settings")
                    if name in metadata
                },
            },
        )

    def _of_targets(self, name: str) -> list[Any] | None:
        """What we wrote of each target, in the order of the file; None where one is not told."""
        given = self.ours.get(name)
        places = self.places_of_targets
        if places is None or not isinstance(given, list) or max(places, default=-1) >= len(given):
            return None
        return [given[place] for place in places]

    @cached_property
    def places_of_targets(self) -> list[int] | None:
        """Where in our lists each target of the file stands: others put nodes into an order of their own."""
        ids = self.ours.get("target_nodes")
        names = [str(node.get("node_id")) for node in self.targets]
        if isinstance(ids, list):
            place = {which: at for at, which in enumerate(ids) if isinstance(which, str)}
            found = [place[which] for which in names if which in place]
            return found if len(found) == len(names) else self._untold()
        tokens = self.ours.get("target_tokens")
        if not isinstance(tokens, list):
            return None
        if len(tokens) != len(names):
            return self._untold()
        numbers = [whole(node.get("feature")) for node in self.targets]
        # A target that is no token's is numbered by its place.
        pairs = enumerate(zip(numbers, tokens, strict=True))
        same = all(number in (None, token, VIRTUAL + at) for at, (number, token) in pairs)
        return list(range(len(names))) if same else self._untold()

    def _untold(self) -> None:
        self.mended.append("the targets are not those that weights were written of, and were weighed by probability")


class _Ends:
    """Which rows a link connects, also where an id stands for two nodes."""

    def __init__(self, read: _Read) -> None:
        self._read, self._seen = read, defaultdict(int)
        self._times = Counter(_pair(link) for link in read.file.links)
        self.ambiguous: list[str] = []

    def of(self, source: str, target: str) -> tuple[int, int] | None:
        """(row of the target, row of the source), None where the file lacks one of the two."""
        into = [row for row in self._rows(target) if self._read.rows[row].kind in (Kind.FEATURE, Kind.TARGET)]
        rows = into or self._rows(target)
        if not rows:
            return None
        reader = self._read.rows[rows[0]]
        sources = self._rows(source)
        possible = [row for row in sources if _may_feed(self._read.rows[row], reader)] or sources
        if not possible:
            return None
        place = self._seen[source, target]
        self._seen[source, target] += 1
        if len(possible) > 1 and self._times[source, target] != len(possible):
            self.ambiguous.append(source)
            place = 0
        # Writers go through their nodes in order, features before errors.
        return rows[0], possible[min(place, len(possible) - 1)]

    def _rows(self, name: str) -> list[int]:
        return sorted({self._read.row_of_node[at] for at in self._read.file.named.get(name, [])})


def _once(place: NodeId) -> NodeId:
    # What tells nodes apart: of a token its position does, whatever id it is given.
    return place._replace(index=-1) if place.kind == Kind.TOKEN else place


def _may_feed(source: NodeId, reader: NodeId) -> bool:
    inner = source.kind in (Kind.FEATURE, Kind.ERROR) and reader.kind == Kind.FEATURE
    return source.kind != Kind.TARGET and not (inner and source.layer >= reader.layer)


def _pair(link: Any) -> tuple[str, str]:
    return (str(link.get("source")), str(link.get("target"))) if isinstance(link, dict) else ("", "")


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _chance(value: object) -> float:
    found = _real(value)
    return found if found is not None and 0 <= found <= 1 else math.nan


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _is_pruned(metadata: Mapping[str, Any]) -> bool:
    """Whether the file says that it holds a part of a graph, as nearly every viewer's does."""
    said = metadata.get("pruning_settings")
    told = [metadata.get("node_threshold"), *(said.values() if isinstance(said, dict) else ())]
    return any(isinstance(share, int | float) and 0 < share < 1 for share in told)
