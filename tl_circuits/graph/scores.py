"""How much of a graph runs through features and not through errors: replacement and completeness scores."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.graph.influence import Shares, node_influence, target_shares
from tl_circuits.graph.losses import with_losses_as_errors
from tl_circuits.graph.record import GraphRecord
from tl_circuits.nodes import Kind

Bounds = tuple[float, float]


@dataclass(frozen=True, repr=False)
class GraphScores:
    """The scores of one graph, each a share between 0 and 1 (nan where the targets have no counted inputs).

    `replacement` is the share of influence that ends in tokens and not in errors, ΣI_token / (ΣI_token + ΣI_error).
    `completeness` is the mean share of a node's inputs that are no errors, weighted by the node's influence, over the
    nodes that have inputs (Ameisen et al. 2025, "Graph Scores"). `completeness_circuit_tracer` is the same mean as
    circuit-tracer takes it: over errors and tokens too, each counted as complete, which makes it larger; use it only to
    compare with circuit-tracer's numbers.

    In a partial graph the features that were not expanded may lead anywhere. The bounds hold whatever is behind them,
    and the scores are the lower bounds, since the paper counts what was not explored as error. In a full graph the
    bounds are the score itself. `note` says what else the numbers rest on.
    """

    replacement: float
    completeness: float
    completeness_circuit_tracer: float
    replacement_bounds: Bounds
    completeness_bounds: Bounds
    completeness_circuit_tracer_bounds: Bounds
    constants: bool = False
    note: str = ""

    def __repr__(self) -> str:
        named = {
            "replacement": self.replacement_bounds,
            "completeness": self.completeness_bounds,
            "completeness_circuit_tracer": self.completeness_circuit_tracer_bounds,
        }
        shown = [
            f"{name}={low:.3f}" + (f" (at most {high:.3f})" if high > low else "")
            for name, (low, high) in named.items()
        ]
        return f"GraphScores({', '.join(shown)}{', ' + self.note if self.note else ''})"


def score(graph: GraphRecord, *, constants: bool) -> GraphScores:
    """The scores that `AttributionGraph.scores` promises."""
    shares, is_error = with_losses_as_errors(graph, constants=constants)
    p = target_shares(graph.nodes, graph.target_weights)
    influence = node_influence(shares, graph.nodes, p)
    replacement = _replacement(graph, influence, is_error)
    completeness = _completeness(graph, shares, influence, is_error, p)
    everywhere = _completeness_circuit_tracer(graph, shares, influence, is_error, p)
    return GraphScores(
        replacement[0], completeness[0], everywhere[0], replacement, completeness, everywhere, constants, _note(graph)
    )


def _replacement(
    graph: GraphRecord, influence: Float64[Tensor, " source"], is_error: Bool[Tensor, " source"]
) -> Bounds:
    tokens, errors = influence[graph.nodes.span(Kind.TOKEN)].sum(), influence[is_error].sum()
    pending = influence[: len(graph.nodes)][_pending(graph)].sum()
    return _ratio(tokens, tokens + errors + pending), _ratio(tokens + pending, tokens + errors + pending)


def _completeness(
    graph: GraphRecord,
    shares: Shares,
    influence: Float64[Tensor, " source"],
    is_error: Bool[Tensor, " source"],
    p: Float64[Tensor, " node"],
) -> Bounds:
    weight = influence[: len(p)] + p
    has_inputs = shares.denominator > 0
    total = weight[has_inputs].sum()
    explained = (weight * (1 - _error_share(shares, is_error)))[has_inputs].sum()
    # Behind a pending feature there is at worst an error at once, at best a feature in every layer below and a token.
    pending = _pending(graph)
    worst = weight[pending].sum()
    best = (weight * (graph.nodes.layer + 1))[pending].sum()
    return _ratio(explained, total + worst), _ratio(explained + best, total + best)


def _completeness_circuit_tracer(
    graph: GraphRecord,
    shares: Shares,
    influence: Float64[Tensor, " source"],
    is_error: Bool[Tensor, " source"],
    p: Float64[Tensor, " node"],
) -> Bounds:
    weight, pending = influence[: len(p)] + p, _pending(graph)
    mass = weight[pending].sum()
    total = weight.sum() - mass + influence[len(p) :].sum()
    explained = total - (weight * _error_share(shares, is_error)).sum()
    best = (weight * (graph.nodes.layer + 2))[pending].sum()
    # At worst the pending feature is fed by an error alone, which counts as one complete node with the same weight.
    return _ratio(explained + mass, total + 2 * mass), _ratio(explained + best, total + best)


def _error_share(shares: Shares, is_error: Bool[Tensor, " source"]) -> Float64[Tensor, " node"]:
    share = shares.all() * is_error[shares.edges.source]
    return torch.zeros(shares.edges.n_rows, dtype=torch.float64).index_add_(0, shares.edges.target, share)


def _pending(graph: GraphRecord) -> Bool[Tensor, " node"]:
    return graph.nodes.rows(Kind.FEATURE) & ~graph.expanded


def _ratio(part: Float64[Tensor, ""], whole: Float64[Tensor, ""]) -> float:
    return float(part / whole) if float(whole) > 0 else float("nan")


def _note(graph: GraphRecord) -> str:
    notes = []
    if bool((graph.target_weights < 0).any()):
        notes.append("targets of negative weight count by its size")
    if bool(_pending(graph).any()):
        notes.append(f"partial graph, coverage {graph.coverage:.3f}")
    if graph.pruned is not None:
        notes.append("what was pruned counts as error")
    if graph.cut_before:
        notes.append("of what the file holds alone: what was pruned before is not counted")
    return "; ".join(notes)
