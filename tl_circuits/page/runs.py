"""What a page tells beyond its graph: interventions on the prompt, and how another graph differs."""

import json
import math
from collections.abc import Mapping
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.diff import NodeChange
from tl_circuits.graph.tables import unique_names
from tl_circuits.intervention.report import InterventionReport
from tl_circuits.intervention.result import InterventionResult
from tl_circuits.nodes import NodeId

MOST_CHANGES = 300
"""Nodes and edges of a comparison that go into a page, each."""

_RUN: dict[str, type | tuple[type, ...]] = {
    "interventions": list,
    "mode": str,
    "layers": list,
    "tokens": list,
    "before": list,
    "after": list,
    "moved": list,
}
_MORE = ("attention", "continuation")


def runs_of(graph: AttributionGraph, interventions: object) -> list[dict[str, Any]]:
    """Interventions by name as JSON values. Raises `SettingError` for others than those of this graph's prompt."""
    if interventions is None:
        return []
    if not isinstance(interventions, Mapping) or not all(isinstance(name, str) for name in interventions):
        raise SettingError(
            f"interventions={interventions!r:.80}: give a name and what tlc.intervene returned for each, say "
            "{'Texas off': result}."
        )
    return [{"name": name, **_run(graph, name, run)} for name, run in interventions.items()]


def _run(graph: AttributionGraph, name: str, run: object) -> dict[str, Any]:
    plain = InterventionReport(run).to_dict() if isinstance(run, InterventionResult) else run
    if not isinstance(plain, Mapping):
        raise SettingError(f"interventions[{name!r:.40}]={run!r:.80}: give what tlc.intervene returned.")
    wrong = [part for part, kind in _RUN.items() if not isinstance(plain.get(part), kind)]
    if not wrong:
        wrong += [part for part in ("before", "after") if not all(_is_token(token) for token in plain[part])]
        wrong += [] if all(_is_move(move) for move in plain["moved"]) else ["moved"]
        wrong += [] if all(isinstance(text, str) for text in plain["interventions"]) else ["interventions"]
        wrong += [part for part in ("layers", "tokens", *_MORE) if not _is_json(plain.get(part))]
    if wrong:
        raise SettingError(
            f"interventions[{name!r:.40}] is no intervention: see {', '.join(wrong)}. Give what tlc.intervene "
            "returned, or what `tl-circuits intervene --json` printed."
        )
    if list(plain["tokens"]) != list(graph.tokens):
        raise SettingError(
            f"interventions[{name!r:.40}] is of another prompt: {''.join(map(str, plain['tokens']))!r:.80}, not "
            f"{''.join(graph.tokens)!r:.80}. Give interventions on the graph's own."
        )
    return {part: plain[part] for part in (*_RUN, *_MORE) if part in plain}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _is_token(token: object) -> bool:
    match token:
        case {"text": str(), "probability": int() | float() as chance}:
            return _finite(chance)
    return False


def _is_move(move: object) -> bool:
    match move:
        case {"feature": str(), "before": int() | float() as before, "after": int() | float() as after}:
            return _finite(before) and _finite(after)
    return False


def difference(graph: AttributionGraph, other: AttributionGraph | None) -> dict[str, Any] | None:
    """How another graph differs from this one, as JSON values; nodes of this one by their names on the page."""
    if other is None:
        return None
    found = graph.diff(other)
    names = unique_names(graph)
    name_of = {graph.nodes[row]: names[row] for row in reversed(range(len(names)))}
    same = sum(one.here is not None and one.there is not None for one in found.nodes)
    return {
        "title": other.provenance.prompt or "".join(other.tokens),
        "tokens": list(other.tokens),
        "both": same,
        "only_here": sum(one.there is None for one in found.nodes),
        "only_there": sum(one.here is None for one in found.nodes),
        "nodes": [_node(one, name_of) for one in found.nodes if one.change][:MOST_CHANGES],
        "edges": [
            [one.source, one.target, one.weight_here, one.weight_there]
            for one in found.edges[:MOST_CHANGES]
            if one.change
        ],
    }


def _node(one: NodeChange, name_of: Mapping[NodeId, str]) -> dict[str, Any]:
    return {
        "here": None if one.here is None else name_of[one.here],
        "there": None if one.there is None else str(one.there),
        "label": one.label,
        "influence": [one.influence_here, one.influence_there],
        "activation": [_or_none(one.activation_here), _or_none(one.activation_there)],
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
