"""Graphs as JSON that other people's viewers read: Neuronpedia, circuit-tracer's and the original frontend.

The format is Neuronpedia's graph schema 1.0.0 and what its readers expect beyond it: unique node ids that serve as
`jsNodeId` too, features numbered by Cantor's pairing of (layer, index), errors as `L_-1_pos`, targets labelled
`Output "…" (p=0.410)`, and on every node its *cumulative* influence, on which the viewers' threshold acts. Everything
of ours stands under `metadata.tl_circuits`. Labels and tokens are data and stay as they are, but for quotes and line
breaks inside a target's quotes.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph.asked import flag, share, text
from tl_circuits.graph.influence import counted_sources, cumulative, target_shares
from tl_circuits.graph.record import CONSTANTS, GraphRecord
from tl_circuits.graph.scores import GraphScores
from tl_circuits.graph.views import NodeName, label_of, row_of
from tl_circuits.nodes import Kind

Preset = Literal["neuronpedia", "local"]

_SAFE = re.compile(r"[a-zA-Z0-9_.-]+")
_NEURONPEDIA_BYTES = (1024, 100 * 2**20)
# JavaScript holds whole numbers exactly up to here.
_LARGEST_NUMBER = 2**53 - 1
# A target that is no token takes a number beyond any vocabulary, which readers know as a virtual target.
_FIRST_VIRTUAL = 10**9


@dataclass(frozen=True)
class ExportSettings:
    """How a graph is written for other viewers; `AttributionGraph.to_json` says what each field means."""

    preset: Preset = "local"
    slug: str | None = None
    scan: str | None = None
    source_set: str | None = None
    node_threshold: float | None = None
    constants: bool = False
    pinned: Sequence[NodeName] = ()
    supernodes: Mapping[str, Sequence[NodeName]] | None = None

    def __post_init__(self) -> None:
        if self.preset not in ("neuronpedia", "local"):
            raise SettingError(f"preset={self.preset!r:.80} is not known: write 'neuronpedia' or 'local'.")
        for name in ("slug", "scan", "source_set"):
            text(name, getattr(self, name))
        if self.node_threshold is not None and share(self.node_threshold) is None:
            raise SettingError(
                f"node_threshold={self.node_threshold!r:.80} is no share of influence: it lies above 0 and at most at "
                "1, say 0.8."
            )
        flag("constants", self.constants)
        if not _is_list(self.pinned):
            raise SettingError(f"pinned={self.pinned!r:.80}: give a list of nodes, say ['L20/15589@-1'].")
        if self.supernodes is not None and not (
            isinstance(self.supernodes, Mapping)
            and all(isinstance(label, str) and _is_list(names) for label, names in self.supernodes.items())
        ):
            raise SettingError(
                f"supernodes={self.supernodes!r:.80}: give a label and a list of nodes for each, say "
                "{'Texas': ['L20/15589@-1']}."
            )


def to_json(
    graph: GraphRecord, influence: Float64[Tensor, " node"], scores: GraphScores, settings: ExportSettings
) -> str:
    """The text that `AttributionGraph.to_json` promises."""
    _has_whole_blocks(graph)
    slug, scan = _addresses(graph, settings)
    shown = torch.ones(len(graph.nodes), dtype=torch.bool) if settings.constants else ~graph.nodes.rows(*CONSTANTS)
    ids = _node_ids(graph)
    whole = {
        "metadata": _metadata(graph, scores, settings, slug, scan, ids, shown),
        "qParams": _view_state(graph, settings, ids, shown),
        "nodes": _nodes(graph, influence, ids, shown),
        "links": _links(graph, ids, shown),
    }
    text = json.dumps(whole, allow_nan=False)
    if settings.preset == "neuronpedia":
        _fits_neuronpedia(graph, text)
    return text


def cantor(layer: int, index: int) -> int:
    """The number of a feature: Cantor's pairing of its layer and index. Raises `GraphError` beyond 2⁵³ − 1."""
    number = (layer + index) * (layer + index + 1) // 2 + index
    if number > _LARGEST_NUMBER:
        raise GraphError(
            f"Feature L{layer}/{index} would be number {number}, beyond the {_LARGEST_NUMBER} that viewers hold "
            "exactly. Write it with graph.save(...) instead."
        )
    return number


def _addresses(graph: GraphRecord, settings: ExportSettings) -> tuple[str, str]:
    words = re.findall(r"[a-zA-Z0-9_.-]+", graph.provenance.prompt)
    slug = settings.slug if settings.slug is not None else "-".join(words)[:60].strip("-") or "graph"
    scan = settings.scan
    if scan is None:
        scan = graph.provenance.model if settings.preset == "neuronpedia" else graph.provenance.transcoder
    if settings.preset == "neuronpedia":
        for name, value in (("slug", slug), ("scan", scan)):
            if not _SAFE.fullmatch(value):
                raise SettingError(
                    f"Neuronpedia takes letters, digits and _ . - in a {name}, not {value!r}. Give {name}=..., "
                    + ("say 'dallas-austin'." if name == "slug" else "the name it has for the model, say 'gemma-2-2b'.")
                )
    return slug, scan


def _has_whole_blocks(graph: GraphRecord) -> None:
    read = graph.provenance.settings.get("read_from_json")
    if isinstance(read, Mapping) and read.get("layers") == "half blocks":
        raise GraphError(
            f"This graph was read from {str(read.get('file'))!r:.80}, where attention is replaced too, so its "
            f"{graph.provenance.n_layers} layers are half blocks, which viewers do not know. Give them that file; "
            "graph.save(...) and save_page keep this one."
        )


def _fits_neuronpedia(graph: GraphRecord, text: str) -> None:
    low, high = _NEURONPEDIA_BYTES
    if not low <= len(text) <= high:
        raise GraphError(
            f"The graph is {len(text)} bytes of JSON, Neuronpedia takes {low} to {high}. "
            + ("Prune it further first." if len(text) > high else "Keep more of it: prune less.")
        )
    span = graph.nodes.span(Kind.ERROR)
    if int(graph.nodes.layer[: span.stop].max() if span.stop else 0) < 1:
        raise GraphError(
            "Neuronpedia's viewer fails on graphs whose nodes all lie in layer 0, as these do "
            f"({graph.provenance.n_layers} layers). Write preset='local' and use another viewer."
        )


def _node_ids(graph: GraphRecord) -> list[str]:
    nodes, last = graph.nodes, graph.provenance.n_layers + 1
    ids = []
    for row in range(len(nodes)):
        kind, layer, pos, index = nodes[row]
        match kind:
            case Kind.FEATURE:
                ids.append(f"{layer}_{index}_{pos}")
            case Kind.ERROR:
                ids.append(f"{layer}_-1_{pos}")
            case Kind.TOKEN:
                ids.append(f"E_{index}_{pos}")
            case Kind.TARGET:
                ids.append(f"{last}_{_target_number(graph, row)}_{pos}")
            case _:
                ids.append(f"{'E' if layer < 0 else layer}_bias_{kind.name.lower()}_{max(pos, 0)}")
    if repeated := [name for name, times in Counter(ids).items() if times > 1]:
        raise GraphError(
            f"{len(repeated)} node ids would stand for several nodes, first {repeated[0]!r}. Report this graph."
        )
    return ids


def _target_number(graph: GraphRecord, row: int) -> int:
    # A token's id where the target is one; a number of its own where it is not, or where the token is a target twice.
    first = graph.nodes.span(Kind.TARGET).start
    index, pos = graph.nodes.index, graph.nodes.pos
    repeated = bool(((index[first:row] == index[row]) & (pos[first:row] == pos[row])).any())
    return int(index[row]) if int(index[row]) >= 0 and not repeated else _FIRST_VIRTUAL + row - first


def _nodes(
    graph: GraphRecord, influence: Float64[Tensor, " node"], ids: list[str], shown: Bool[Tensor, " node"]
) -> list[dict[str, Any]]:
    places = graph.pruned.cumulative if graph.pruned is not None else cumulative(influence)
    chances, first = _target_chances(graph), graph.nodes.span(Kind.TARGET).start
    found = []
    for row in shown.nonzero().squeeze(1).tolist():
        activation = float(graph.activations[row])
        found.append(
            {
                "node_id": ids[row],
                "jsNodeId": ids[row],
                "ctx_idx": max(int(graph.nodes.pos[row]), 0),
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "influence": min(float(places[row]), 1.0),
                "activation": None if math.isnan(activation) else activation,
                "token_prob": chances[row - first] if row >= first else 0.0,
                "is_target_logit": row == first,
                **_what_it_is(graph, row, chances),
            }
        )
    return found


def _target_chances(graph: GraphRecord) -> list[float]:
    # Viewers weigh targets by this number, so a target that has no probability of its own stands with its weight.
    weights = target_shares(graph.nodes, graph.target_weights)[graph.nodes.span(Kind.TARGET)].tolist()
    probabilities = graph.target_probabilities.tolist()
    return [weight if math.isnan(chance) else chance for chance, weight in zip(probabilities, weights, strict=True)]


def _what_it_is(graph: GraphRecord, row: int, chances: list[float]) -> dict[str, Any]:
    kind, layer, pos, index = graph.nodes[row]
    label = label_of(graph, row)
    match kind:
        case Kind.FEATURE:
            return _typed("cross layer transcoder", str(layer), cantor(layer, index), label)
        case Kind.ERROR:
            return _typed(
                "mlp reconstruction error", str(layer), -1, f"Error of layer {layer} at “{_plain(graph.tokens[pos])}”"
            )
        case Kind.TOKEN:
            return _typed("embedding", "E", pos, f"Token “{_plain(label)}”") | {"token": label}
        case Kind.TARGET:
            chance = chances[row - graph.nodes.span(Kind.TARGET).start]
            number, last = _target_number(graph, row), str(graph.provenance.n_layers + 1)
            return _typed("logit", last, number, f'Output "{_plain(label)}" (p={chance:.3f})') | {"token": label}
        case _:
            return _typed("bias", "E" if layer < 0 else str(layer), None, str(graph.nodes[row]))


def _typed(feature_type: str, layer: str, feature: int | None, clerp: str) -> dict[str, Any]:
    return {"feature_type": feature_type, "layer": layer, "feature": feature, "clerp": clerp}


def _plain(token: str) -> str:
    # Readers take the token from between the first two quotes, and split at "(p=".
    return token.replace('"', "”").replace("'", "’").replace("\n", "⏎").replace("\r", "↵").replace("(p=", "(p =")


def _links(graph: GraphRecord, ids: list[str], shown: Bool[Tensor, " node"]) -> list[dict[str, Any]]:
    both = shown[graph.edges.source] & shown[graph.edges.target]
    columns = (graph.edges.source[both].tolist(), graph.edges.target[both].tolist(), graph.edges.weight[both].tolist())
    return [
        {"source": ids[source], "target": ids[target], "weight": weight}
        for source, target, weight in zip(*columns, strict=True)
    ]


def _is_list(names: object) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str | bytes)


def _view_state(
    graph: GraphRecord, settings: ExportSettings, ids: list[str], shown: Bool[Tensor, " node"]
) -> dict[str, Any]:
    def present(names: Sequence[NodeName]) -> list[str]:
        # A pin may name what pruning took away: viewers stumble over it, so it is left out.
        found = []
        for name in names:
            try:
                row = row_of(graph, name)
            except GraphError:
                continue
            found += [ids[row]] if bool(shown[row]) else []
        return found

    groups = {label: present(names) for label, names in (settings.supernodes or {}).items()}
    return {
        "linkType": "both",
        "pinnedIds": present(settings.pinned),
        "supernodes": [[label, *members] for label, members in groups.items() if members],
    }


def _metadata(
    graph: GraphRecord,
    scores: GraphScores,
    settings: ExportSettings,
    slug: str,
    scan: str,
    ids: list[str],
    shown: Bool[Tensor, " node"],
) -> dict[str, Any]:
    pruned, origin = graph.pruned, graph.provenance
    found: dict[str, Any] = {
        "slug": slug,
        "scan": scan,
        "schema_version": 1,
        "prompt": origin.prompt or "".join(graph.tokens),
        "prompt_tokens": list(graph.tokens),
        "transcoder_list": [],
        "node_threshold": share(settings.node_threshold) or (pruned.node_threshold if pruned else 1.0),
        "info": {"generator": {"name": "tl_circuits", "version": _version(), "url": ""}},
        "generation_settings": dict(origin.settings),
        "tl_circuits": _our_extras(graph, scores, ids, shown),
    }
    if pruned is not None:
        found["pruning_settings"] = {"node_threshold": pruned.node_threshold, "edge_threshold": pruned.edge_threshold}
    if settings.source_set is not None:
        found["feature_details"] = {"neuronpedia_source_set": settings.source_set}
        found["info"]["neuronpedia_source_set"] = settings.source_set
    return found


def _our_extras(
    graph: GraphRecord, scores: GraphScores, ids: list[str], shown: Bool[Tensor, " node"]
) -> dict[str, Any]:
    figures = {
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "completeness_circuit_tracer": scores.completeness_circuit_tracer,
        "conservation_error": graph.conservation_error,
        "probe_error": graph.probe_error,
        "coverage": graph.coverage,
    }
    counted = counted_sources(graph.nodes, constants=False) | graph.nodes.rows(Kind.TARGET)
    unread = graph.nodes.rows(Kind.FEATURE) & ~graph.expanded
    return {
        "version": _version(),
        **{name: None if math.isnan(value) else value for name, value in figures.items()},
        "scores_note": scores.note,
        "constants_left_out": int((~counted & ~shown).sum()),
        "provenance": graph.provenance.to_dict(),
        "target_nodes": ids[graph.nodes.span(Kind.TARGET).start :],
        "target_weights": graph.target_weights.tolist(),
        "target_tokens": graph.nodes.index[graph.nodes.span(Kind.TARGET)].tolist(),
        "target_probabilities": [None if math.isnan(p) else p for p in graph.target_probabilities.tolist()],
        "unexpanded": [ids[row] for row in (unread & shown).nonzero().squeeze(1).tolist()],
    }


def _version() -> str:
    try:
        return version("tl-circuits")
    except PackageNotFoundError:
        return "0"
