"""Supernodes and what runs between them, as boxes and ties: what `subgraph_svg` draws, and the page's subgraph too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import Shares, counted_sources, target_shares
from tl_circuits.graph.views import NodeName, label_of, row_of
from tl_circuits.nodes import Kind

LEAST_TOKEN_PART = 0.02
"""A token comes along where it makes up so much of what some box reads."""


@dataclass(frozen=True)
class Box:
    """A supernode or one node: what it is called, its rows, and on which level it stands (0 tokens, 1 layer 0, …)."""

    label: str
    rows: tuple[int, ...]
    level: int
    middle: float
    is_supernode: bool = False


@dataclass(frozen=True)
class Tie:
    """Between two boxes, by number: the signed part of the target's inputs that comes from the source.

    A mean over the target's nodes, weighted by their influence.
    """

    source: int
    target: int
    part: float


@dataclass(frozen=True)
class Subgraph:
    """The boxes, and the ties between them."""

    boxes: tuple[Box, ...]
    ties: tuple[Tie, ...]


def subgraph(
    graph: AttributionGraph, supernodes: Mapping[str, Sequence[NodeName]], pinned: Sequence[NodeName], least: float
) -> Subgraph:
    """Boxes for these supernodes and nodes, for the targets, and for the tokens that matter to one of them.

    Raises `SettingError` where there is none, or a node is in two of them, and `GraphError` for nodes that the graph
    lacks.
    """
    asked = _asked(graph, supernodes, pinned)
    taken = {row for box in asked for row in box.rows}
    around = [row for row in range(len(graph.nodes)) if graph.nodes[row].kind in (Kind.TOKEN, Kind.TARGET)]
    boxes = asked + [_box(graph, label_of(graph, row), (row,)) for row in around if row not in taken]
    ties = _ties(graph, boxes)
    matter = {tie.source for tie in ties if abs(tie.part) >= max(LEAST_TOKEN_PART, least) and tie.target < len(asked)}
    kept = [
        at
        for at, box in enumerate(boxes)
        if at < len(asked) or at in matter or graph.nodes[box.rows[0]].kind == Kind.TARGET
    ]
    number = {at: new for new, at in enumerate(kept)}
    return Subgraph(
        tuple(boxes[at] for at in kept),
        tuple(
            replace(tie, source=number[tie.source], target=number[tie.target])
            for tie in ties
            if tie.source in number and tie.target in number and abs(tie.part) >= least
        ),
    )


def _asked(
    graph: AttributionGraph, supernodes: Mapping[str, Sequence[NodeName]], pinned: Sequence[NodeName]
) -> list[Box]:
    groups = {label: tuple(dict.fromkeys(row_of(graph, name) for name in names)) for label, names in supernodes.items()}
    grouped: dict[int, str] = {}
    for label, rows in groups.items():
        for row in rows:
            if row in grouped:
                raise SettingError(
                    f"{graph.nodes[row]} is in the supernodes {grouped[row]!r:.40} and {label!r:.40}: put it into one."
                )
            grouped[row] = label
    boxes = [_box(graph, label, rows, is_supernode=True) for label, rows in groups.items() if rows]
    alone = dict.fromkeys(row_of(graph, name) for name in pinned)
    boxes += [_box(graph, label_of(graph, row) or str(graph.nodes[row]), (row,)) for row in alone if row not in grouped]
    if not boxes:
        raise SettingError("There is nothing to draw: give supernodes={'Texas': ['L1/386@-1', ...]} or pinned=[...].")
    return boxes


def _box(graph: AttributionGraph, label: str, rows: tuple[int, ...], *, is_supernode: bool = False) -> Box:
    levels = sorted(_level(graph, row) for row in rows)
    middle = sum(int(graph.nodes.pos[row]) for row in rows) / len(rows)
    return Box(label, rows, levels[len(levels) // 2], middle, is_supernode)


def _level(graph: AttributionGraph, row: int) -> int:
    node = graph.nodes[row]
    return graph.provenance.n_layers + 1 if node.kind == Kind.TARGET else node.layer + 1


def _ties(graph: AttributionGraph, boxes: Sequence[Box]) -> list[Tie]:
    box_of = torch.full((len(graph.nodes),), -1)
    for number, box in enumerate(boxes):
        box_of[list(box.rows)] = number
    flow = graph.influence() + target_shares(graph.nodes, graph.target_weights)
    weight = torch.zeros_like(flow)
    for box in boxes:
        rows = list(box.rows)
        whole = flow[rows].sum()
        weight[rows] = flow[rows] / whole if float(whole) > 0 else 1 / len(rows)
    source, target = box_of[graph.edges.source.long()], box_of[graph.edges.target]
    inner = (source >= 0) & (target >= 0) & (source != target)
    share = Shares(graph.edges, counted_sources(graph.nodes, constants=False)).all()
    part = (share * graph.edges.weight.sign().to(share) * weight[graph.edges.target])[inner]
    key, place = torch.unique(target[inner] * len(boxes) + source[inner], return_inverse=True)
    sums = torch.zeros(len(key), dtype=part.dtype).index_add_(0, place, part)
    found = [
        Tie(pair % len(boxes), pair // len(boxes), total)
        for pair, total in zip(key.tolist(), sums.tolist(), strict=True)
    ]
    return sorted(found, key=lambda tie: abs(tie.part))
