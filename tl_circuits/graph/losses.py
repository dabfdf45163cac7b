"""What pruning cuts off is not forgotten: it counts as error at its layer and position.

Circuits Research Landscape (August 2025), appendix C: before rows are normalised, the signed contribution of what was
removed is added to the edge of the error at the same layer and position. Two losses of opposite sign may so cancel, as
they do in the model.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_circuits.graph.edges import Edges
from tl_circuits.graph.influence import Shares, counted_sources
from tl_circuits.graph.record import CONSTANTS, GraphRecord
from tl_circuits.nodes import Kind, Nodes


@dataclass(frozen=True, eq=False)
class Losses:
    """Sums that were cut off: row = node of the pruned graph, source = the place in `lost` where they are booked."""

    lost: Nodes
    into: Edges


def book(graph: GraphRecord, nodes: Bool[Tensor, " node"], edges: Bool[Tensor, " edge"]) -> Losses:
    """What the nodes that stay lose when only these edges stay, on top of what they had lost before.

    Features, errors and tokens are booked as errors at their layer and position, a token at layer -1. Constants are
    booked as biases, because they count only where constants do.
    """
    cut = ~edges & nodes[graph.edges.target]
    source = graph.edges.source[cut].long()
    kind = torch.where(graph.nodes.rows(*CONSTANTS)[source], int(Kind.BIAS), int(Kind.ERROR))
    place = torch.stack([kind, graph.nodes.layer[source], graph.nodes.pos[source]], dim=1)
    target, weight = graph.edges.target[cut], graph.edges.weight[cut].to(torch.float64)
    if graph.pruned is not None:
        lost, into = graph.pruned.lost, graph.pruned.into
        still = nodes[into.target]
        former = torch.stack([lost.kind, lost.layer, lost.pos], dim=1)[into.source[still].long()]
        place = torch.cat([place, former])
        target = torch.cat([target, into.target[still]])
        weight = torch.cat([weight, into.weight[still].to(torch.float64)])
    lost, slot = _places(place)
    number = torch.cumsum(nodes, 0) - 1
    return Losses(lost, Edges.from_pairs(int(nodes.sum()), number[target], slot, weight))


def _places(place: Int64[Tensor, "edge 3"]) -> tuple[Nodes, Int64[Tensor, " edge"]]:
    # One integer per (kind, layer, position), because sorting integers is much quicker than sorting rows.
    kind, layer, pos = place.unbind(1)
    n_layers, n_pos = (int(column.max()) + 2 if len(place) else 1 for column in (layer, pos))
    key, slot = torch.unique((kind * n_layers + layer + 1) * n_pos + pos + 1, return_inverse=True)
    layer = key // n_pos % n_layers - 1
    lost = Nodes(key // n_pos // n_layers, layer, key % n_pos - 1, torch.full_like(key, -1))
    return lost, slot


def with_losses_as_errors(graph: GraphRecord, *, constants: bool) -> tuple[Shares, Bool[Tensor, " source"]]:
    """The shares of a graph's edges in which losses are errors, and which of their sources are errors.

    A loss is added to the edge of the error node at its place, where the graph has that node; otherwise it is a source
    of its own, after the nodes.
    """
    counted, is_error = counted_sources(graph.nodes, constants=constants), graph.nodes.rows(Kind.ERROR)
    if graph.pruned is None or not len(graph.pruned.into):
        return Shares(graph.edges, counted), is_error
    lost, into = graph.pruned.lost, graph.pruned.into
    column = _columns(graph.nodes, lost)
    n_sources = max(len(graph.nodes), int(column.max()) + 1)
    merged = Edges.from_pairs(
        len(graph.nodes),
        torch.cat([graph.edges.target, into.target]),
        torch.cat([graph.edges.source.long(), column[into.source.long()]]),
        torch.cat([graph.edges.weight.to(torch.float64), into.weight.to(torch.float64)]),
    )
    is_error = _extend(is_error, n_sources, column, torch.ones_like(column, dtype=torch.bool))
    counted = _extend(counted, n_sources, column, lost.rows(Kind.ERROR) | torch.tensor(constants))
    return Shares(merged, counted), is_error


def _columns(nodes: Nodes, lost: Nodes) -> Int64[Tensor, " place"]:
    errors = nodes.span(Kind.ERROR)
    row_at = {
        place: errors.start + offset
        for offset, place in enumerate(zip(nodes.layer[errors].tolist(), nodes.pos[errors].tolist(), strict=True))
    }
    columns, free = [], len(nodes)
    for kind, layer, pos in zip(lost.kind.tolist(), lost.layer.tolist(), lost.pos.tolist(), strict=True):
        row = row_at.get((layer, pos)) if kind == Kind.ERROR else None
        columns.append(free if row is None else row)
        free += row is None
    return torch.tensor(columns, dtype=torch.int64)


def _extend(
    flags: Bool[Tensor, " node"], size: int, places: Int64[Tensor, " place"], values: Bool[Tensor, " place"]
) -> Bool[Tensor, " source"]:
    longer = torch.zeros(size, dtype=torch.bool)
    longer[: len(flags)] = flags
    longer[places] = values
    return longer
