"""Pruning: the smallest part of a graph that carries most of its influence.

Ameisen et al. 2025 ("Circuit Tracing", appendix "Graph Pruning"): keep the nodes that carry a share of all influence,
weigh the edges anew on what is left, and keep those that carry a share of it. Tokens, errors and targets stay.
circuit-tracer prunes errors too and then drops what hangs loose; `errors=True` does the same, mask for mask.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import flag, share
from tl_circuits.graph.influence import (
    Shares,
    counted_sources,
    cumulative,
    edge_influence,
    least_kept,
    node_influence,
    reaching,
    target_shares,
)
from tl_circuits.graph.losses import book
from tl_circuits.graph.record import G, GraphRecord, Pruned
from tl_circuits.nodes import Kind


def prune(graph: G, nodes: float, edges: float, *, errors: bool, constants: bool) -> G:
    """The graph that `AttributionGraph.prune` promises."""
    for name, threshold in (("nodes", nodes), ("edges", edges)):
        if share(threshold) is None:
            raise SettingError(
                f"prune({name}={threshold!r:.80}): the share of influence to keep lies above 0 and at most at 1, say "
                f"{name}=0.8."
            )
    # As plain numbers, because a file of the graph holds them so.
    nodes, edges, errors = float(nodes), float(edges), flag("errors", errors)
    counted = counted_sources(graph.nodes, constants=constants)
    p = target_shares(graph.nodes, graph.target_weights)
    influence = node_influence(Shares(graph.edges, counted), graph.nodes, p)
    kept = reaching(influence, nodes) | never_pruned(graph, errors=errors)
    kept_edges = important_edges(graph, kept, counted, p, edges)
    if errors:
        kept, kept_edges = without_dangling(graph, kept, kept_edges, counted)
    losses = book(graph, kept, kept_edges)
    return dataclasses.replace(
        graph,
        nodes=graph.nodes.subset(kept),
        edges=graph.edges.keep(kept_edges).renumber(kept),
        activations=graph.activations[kept],
        totals=graph.totals[kept],
        expanded=graph.expanded[kept],
        pruned=Pruned(
            node_threshold=nodes,
            edge_threshold=edges,
            errors=errors,
            constants=constants,
            nodes_before=graph.pruned.nodes_before if graph.pruned else len(graph.nodes),
            edges_before=graph.pruned.edges_before if graph.pruned else len(graph.edges),
            cumulative=cumulative(influence)[kept],
            lost=losses.lost,
            into=losses.into,
        ),
    )


def never_pruned(graph: GraphRecord, *, errors: bool) -> Bool[Tensor, " node"]:
    """The nodes that stay whatever their influence: all but features, and but errors where those are pruned too.

    Constants stay because they are few; their edges do not.
    """
    return ~graph.nodes.rows(Kind.FEATURE, Kind.ERROR) if errors else ~graph.nodes.rows(Kind.FEATURE)


def important_edges(
    graph: GraphRecord,
    kept: Bool[Tensor, " node"],
    counted: Bool[Tensor, " node"],
    p: Float64[Tensor, " node"],
    threshold: float,
) -> Bool[Tensor, " edge"]:
    """The edges among the kept nodes that carry `threshold` of the influence of all edges there.

    Rows are normalised anew over the kept nodes, and a target counts with its own weight: Â_ts · (I_t + p_t). An edge
    from a source that takes no share (a constant) is held to the same cut.
    """
    among = kept[graph.edges.source] & kept[graph.edges.target]
    shares = Shares(graph.edges.keep(among), counted)
    influence = node_influence(shares, graph.nodes, p)
    carried = edge_influence(shares, influence, p)
    important = reaching(carried, threshold)
    uncounted = ~counted[shares.edges.source]
    if bool(uncounted.any()):
        target, weight = shares.edges.target, shares.edges.weight.to(torch.float64).abs()
        would_carry = weight * (influence + p)[target] / shares.denominator[target]
        important |= uncounted & (would_carry > 0) & (would_carry >= least_kept(carried, threshold))
    return among.masked_scatter(among, important)


def without_dangling(
    graph: GraphRecord, kept: Bool[Tensor, " node"], kept_edges: Bool[Tensor, " edge"], counted: Bool[Tensor, " node"]
) -> tuple[Bool[Tensor, " node"], Bool[Tensor, " edge"]]:
    """Drops features and errors that feed nothing and features that nothing feeds, until none is left.

    A feature that was not expanded has no inputs yet, which is no reason to drop it.
    """
    source, target = graph.edges.source.long(), graph.edges.target
    inner = graph.nodes.rows(Kind.FEATURE, Kind.ERROR)
    reads = graph.nodes.rows(Kind.FEATURE) & graph.expanded
    while True:
        live = kept_edges & kept[source] & kept[target]
        feeds, is_fed = torch.zeros_like(kept), torch.zeros_like(kept)
        feeds[source[live]] = True
        is_fed[target[live & counted[source]]] = True
        left = kept & (feeds | ~inner) & (is_fed | ~reads)
        if torch.equal(left, kept):
            return kept, live
        kept = left
