"""Whether a graph is of this prompt, model and transcoder, and whole."""

import math
from functools import partial

from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind
from tl_circuits.replacement import LocalReplacementModel


def check_same(graph: AttributionGraph, local: LocalReplacementModel, *, whole_graph: bool) -> None:
    """Raises `GraphError` where a graph is not of this prompt, model and transcoder, or (`whole_graph`) not whole."""
    if not isinstance(graph, AttributionGraph):
        raise SettingError(f"{type(graph).__name__} is no graph: give tlc.attribute(local), or leave it out.")
    _check_prompt(graph, local)
    _check_features(graph, local)
    if whole_graph and graph.pruned is not None:
        raise GraphError(
            f"The graph is pruned to {len(graph.nodes)} of {graph.pruned.nodes_before} nodes, so it cannot be held "
            "against what all features do: give the graph that it was cut from."
        )
    n_expanded, n_features = int(graph.expanded.sum()) - graph.nodes.count(Kind.TARGET), len(local.features)
    if whole_graph and n_expanded < n_features:
        raise GraphError(
            f"The graph is partial: {n_expanded} of {n_features} features have their inputs, coverage "
            f"{graph.coverage:.3f}. Attribute with coverage=1 and no limits."
        )


def _check_prompt(graph: AttributionGraph, local: LocalReplacementModel) -> None:
    tokens = graph.nodes.index[graph.nodes.span(Kind.TOKEN)]
    if tokens.tolist() != local.prompt.tokens.tolist():
        raise GraphError(
            f"The graph is of another prompt: {graph.provenance.prompt!r:.80} ({len(tokens)} tokens), not "
            f"{''.join(local.prompt.strings)!r:.80} ({local.n_pos} tokens). Give the graph of this one, or none."
        )


def _check_features(graph: AttributionGraph, local: LocalReplacementModel) -> None:
    span = graph.nodes.span(Kind.FEATURE)
    here = {feature: float(a) for feature, a in zip(local.active(), local.activations, strict=True)}
    theirs = dict(zip(graph.nodes.features(), graph.activations[span].tolist(), strict=True))
    # A graph keeps activations in its own dtype.
    close = partial(math.isclose, rel_tol=1e-3, abs_tol=1e-4 * float(local.activations.abs().max()) if here else 0.0)
    other = [feature for feature, a in theirs.items() if feature not in here or not close(a, here[feature])]
    missing = graph.pruned is None and len(here) != len(theirs)
    if other or missing or graph.provenance.n_layers != local.n_layers:
        raise GraphError(
            f"The graph is of another model or transcoder: {len(other)} of its {len(theirs)} features are not, or not "
            f"as active, among the {len(here)} of this prompt"
            f"{f', first {other[0]}' if other else ''}. It was made of {graph.provenance.model!r:.60} and a "
            f"{graph.provenance.transcoder_kind}: attribute this prompt again."
        )
