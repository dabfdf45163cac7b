"""How a graph introduces itself: a few lines in a terminal, a small card in a notebook."""

import math
from html import escape

import torch
from jaxtyping import Float64
from torch import Tensor

from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.scores import GraphScores
from tl_circuits.graph.views import label_of
from tl_circuits.graph.visible import visible
from tl_circuits.nodes import Kind

_STYLE = "border-collapse:collapse;font:13px system-ui,sans-serif;max-width:48em"


def lines(graph: GraphRecord, scores: GraphScores, influence: Float64[Tensor, " node"]) -> list[tuple[str, str]]:
    """(name, text) of everything worth a line."""
    counts = [(graph.nodes.count(kind), kind.name.lower()) for kind in Kind]
    found = [
        ("prompt", repr(graph.provenance.prompt or "".join(graph.tokens))),
        (
            "made of",
            visible(
                f"{graph.provenance.model or 'unknown model'}, "
                f"{graph.provenance.transcoder_kind} of {graph.provenance.transcoder or 'unknown origin'}"
            ),
        ),
        ("targets", _targets(graph)),
        ("nodes", ", ".join(f"{number} {name}" for number, name in counts if number)),
        ("edges", f"{len(graph.edges)}"),
    ]
    if graph.pruned is not None:
        before = f"{graph.pruned.nodes_before} nodes and {graph.pruned.edges_before} edges"
        found.append(("pruned", f"to {graph.pruned.node_threshold} / {graph.pruned.edge_threshold}, from {before}"))
    if graph.cut_before:
        found.append(("pruned", "before it was written as JSON; scores are of what the file holds alone"))
    found.append(("replacement", _share(scores.replacement_bounds)))
    found.append(("completeness", _share(scores.completeness_bounds)))
    if graph.coverage < 1:
        found.append(("coverage", traced(graph)))
    found.append(("checks", f"conservation {_error(graph.conservation_error)}, probe {_error(graph.probe_error)}"))
    found.extend(("top feature", text) for text in _top_features(graph, influence))
    return found


def traced(graph: GraphRecord) -> str:
    """How much of the targets' influence a partial graph traces, and the limit that kept it from more, if one did."""
    stopped_by = graph.provenance.settings.get("stopped_by")
    limit = f"; {stopped_by} stopped it" if stopped_by in ("max_features", "time_budget", "memory_budget") else ""
    return f"{graph.coverage:.3f} of the targets' influence is traced to its end{limit}"


def as_text(name: str, found: list[tuple[str, str]]) -> str:
    """The lines under each other."""
    return "\n".join([name, *(f"  {title:<12} {text}" for title, text in found)])


def as_html(name: str, found: list[tuple[str, str]]) -> str:
    """The lines as a table. Labels and tokens are escaped: they are data."""
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top;padding:2px 12px 2px 0">{escape(title)}</th>'
        f'<td style="text-align:left;overflow-wrap:anywhere">{escape(text)}</td></tr>'
        for title, text in found
    )
    return f'<table style="{_STYLE}"><caption style="text-align:left">{escape(name)}</caption>{rows}</table>'


def _targets(graph: GraphRecord) -> str:
    shown = [
        repr(label) + ("" if math.isnan(probability) else f" p={probability:.3f}")
        for label, probability in zip(graph.target_labels, graph.target_probabilities.tolist(), strict=True)
    ]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _top_features(graph: GraphRecord, influence: Float64[Tensor, " node"], k: int = 5) -> list[str]:
    # Features stand first, so an index into the span is a row.
    features = influence[graph.nodes.span(Kind.FEATURE)]
    top = torch.topk(features, min(k, len(features)))
    return [
        f"{graph.nodes[row]} {share:.3f}" + (f" {label!r}" if (label := label_of(graph, row)) else "")
        for share, row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def _share(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:.3f}" if not high > low else f"{low:.3f} to {high:.3f}"


def _error(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.1e}"
