"""A graph as a plot: tokens across, layers up, the strongest edges between."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import whole
from tl_circuits.graph.influence import Shares, counted_sources, edge_influence, target_shares
from tl_circuits.graph.views import label_of
from tl_circuits.nodes import Kind
from tl_circuits.pictures.canvas import BAND, FEATURE, INK, NEGATIVE, POSITIVE, SOFT, drawn, graph_of, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Places = Mapping[int, tuple[float, float]]
_MOST_TARGETS = 3
_SHOWN = (Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)


def plot(
    graph: AttributionGraph,
    ax: "Axes | None" = None,
    path: str | Path | None = None,
    *,
    max_edges: int = 300,
    n_labels: int = 6,
) -> "Axes":
    """Plot a graph: tokens across, layers up, features as dots by influence, errors as diamonds.

    Of the edges the `max_edges` that carry the most influence are drawn, blue and solid where they add, orange and
    dashed where they subtract; the `n_labels` most influential features that have labels are named. A graph that is not
    pruned shows all its nodes: prune it first. Drawn on `ax`, or on a new figure, which is also written to `path`
    (.png, .pdf, .svg) where one is given; it is never shown unasked. Returns the axes.

    Raises `SettingError` without matplotlib and for settings that cannot be, and `FileError` where the file cannot be
    written.
    """
    graph = graph_of(graph)
    for name, value in (("max_edges", max_edges), ("n_labels", n_labels)):
        if (whole(value) or 0) < 0 or whole(value) is None:
            raise SettingError(f"plot({name}={value!r:.80}): give a whole number from 0.")
    layout = _lay_out(graph)

    def draw(axes: "Axes") -> None:
        _grid(axes, graph, layout)
        _edges(axes, graph, layout.places, max_edges)
        _nodes(axes, graph, layout.places)
        _names(axes, graph, layout, n_labels)

    # matplotlib cannot write pictures of any size.
    size = (min(3.4 + 0.6 * layout.width, 60.0), min(1.4 + 0.6 * (graph.provenance.n_layers + 2), 60.0))
    return drawn(draw, ax, path, size)


@dataclass(frozen=True)
class _Layout:
    """Where each node stands, and where each token's column begins and how wide it is."""

    places: Mapping[int, tuple[float, float]]
    starts: Sequence[float]
    widths: Sequence[float]

    @property
    def width(self) -> float:
        return self.starts[-1] + self.widths[-1]


def _lay_out(graph: AttributionGraph) -> _Layout:
    """Columns are as wide as their fullest cell asks for; within a cell nodes stand side by side and in rows."""
    cells: dict[tuple[int, int], list[int]] = {}
    used = set(graph.edges.source.tolist())
    for row in range(len(graph.nodes)):
        node = graph.nodes[row]
        if node.kind in _SHOWN and (node.kind != Kind.ERROR or row in used):
            cells.setdefault((node.pos, _level(graph, row)), []).append(row)
    across = {cell: max(1, math.ceil(math.sqrt(len(rows) * 2))) for cell, rows in cells.items()}
    widths = [
        max(1.0, *(0.3 * across.get((pos, level), 0) + 0.2 for level in range(graph.provenance.n_layers + 2)))
        for pos in range(len(graph.tokens))
    ]
    starts = [sum(widths[:pos], 0.0) for pos in range(len(widths))]
    found: dict[int, tuple[float, float]] = {}
    for (pos, level), rows in cells.items():
        wide = across[pos, level]
        down = math.ceil(len(rows) / wide)
        for at, row in enumerate(rows):
            column, line = at % wide, at // wide
            in_line = wide if line < down - 1 else len(rows) - wide * (down - 1)
            x = starts[pos] + widths[pos] / 2 + (column - (in_line - 1) / 2) * 0.3
            found[row] = (x, level + (line - (down - 1) / 2) * min(0.28, 0.75 / down))
    return _Layout(found, starts, widths)


def _level(graph: AttributionGraph, row: int) -> int:
    node = graph.nodes[row]
    return (
        0 if node.kind == Kind.TOKEN else graph.provenance.n_layers + 1 if node.kind == Kind.TARGET else node.layer + 1
    )


def _grid(axes: "Axes", graph: AttributionGraph, layout: _Layout) -> None:
    n_layers = graph.provenance.n_layers
    for level in range(0, n_layers + 2, 2):
        axes.axhspan(level - 0.5, level + 0.5, color=BAND, zorder=0, linewidth=0)
    axes.set_xlim(0, layout.width)
    axes.set_ylim(-0.5, n_layers + 1.5)
    middles = [start + width / 2 for start, width in zip(layout.starts, layout.widths, strict=True)]
    axes.set_xticks(middles, [plain(token) for token in graph.tokens], rotation=40, ha="right", fontsize=9)
    axes.set_yticks(range(n_layers + 2), ["tokens", *(f"L{layer}" for layer in range(n_layers)), "output"], fontsize=9)
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _edges(axes: "Axes", graph: AttributionGraph, places: Places, most: int) -> None:
    from matplotlib.collections import LineCollection

    p = target_shares(graph.nodes, graph.target_weights)
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
    carried = edge_influence(shares, graph.influence(), p)
    order = torch.argsort(carried, descending=True, stable=True)[:most]
    order = order[carried[order] > 0].flip(0)
    ends = zip(graph.edges.source[order].tolist(), graph.edges.target[order].tolist(), strict=True)
    lines = [[places[source], places[target]] if source in places else [] for source, target in ends]
    largest = float(carried[order].max()) if len(order) else 1.0
    widths = (0.4 + 2.6 * (carried[order] / largest).sqrt()).tolist()
    negative = (graph.edges.weight[order] < 0).tolist()
    for is_negative, colour, style in ((False, POSITIVE, "solid"), (True, NEGATIVE, (0, (3, 2)))):
        mine = [at for at, sign in enumerate(negative) if sign == is_negative and lines[at]]
        axes.add_collection(
            LineCollection(
                [lines[at] for at in mine],
                colors=colour,
                linewidths=[widths[at] for at in mine],
                linestyles=[style],
                alpha=0.55,
                zorder=2,
                capstyle="butt",
            )
        )


def _nodes(axes: "Axes", graph: AttributionGraph, places: Places) -> None:
    influence = graph.influence()
    largest = max(
        float(influence[graph.nodes.span(Kind.FEATURE)].max()) if graph.nodes.count(Kind.FEATURE) else 0, 1e-9
    )
    looks = {
        Kind.FEATURE: ("o", FEATURE, INK),
        Kind.ERROR: ("D", "white", SOFT),
        Kind.TOKEN: ("s", INK, INK),
        Kind.TARGET: ("s", INK, INK),
    }
    for kind, (marker, face, edge) in looks.items():
        rows = [row for row in places if graph.nodes[row].kind == kind]
        if rows:
            sizes = [14 + 60 * min(float(influence[row]) / largest, 1) ** 0.5 for row in rows]
            sizes = [14.0] * len(rows) if kind == Kind.ERROR else sizes if kind == Kind.FEATURE else [24.0] * len(rows)
            x, y = zip(*(places[row] for row in rows), strict=True)
            axes.scatter(x, y, s=sizes, marker=marker, facecolors=face, edgecolors=edge, linewidths=0.8, zorder=3)


def _names(axes: "Axes", graph: AttributionGraph, layout: _Layout, n_labels: int) -> None:
    """What outputs and the most influential features are called, under each other at the right edge."""
    influence, places = graph.influence(), layout.places
    named = [row for row in places if graph.nodes[row].kind == Kind.FEATURE and label_of(graph, row)]
    rows = sorted(named, key=lambda row: -float(influence[row]))[:n_labels]
    rows += [row for row in places if graph.nodes[row].kind == Kind.TARGET][:_MOST_TARGETS]
    rows.sort(key=lambda row: (places[row][1], places[row][0]))
    top = graph.provenance.n_layers + 1.4
    heights = _apart([places[row][1] for row in rows], 0.34, top)
    for row, height in zip(rows, heights, strict=True):
        axes.annotate(
            _called(graph, row),
            places[row],
            xytext=(layout.width + 0.25, height),
            annotation_clip=False,
            va="center",
            fontsize=8,
            fontweight="bold" if graph.nodes[row].kind == Kind.TARGET else "normal",
            color=INK,
            zorder=4,
            arrowprops={
                "arrowstyle": "-",
                "color": SOFT,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def _called(graph: AttributionGraph, row: int) -> str:
    said = plain(label_of(graph, row), 34).strip()
    if graph.nodes[row].kind != Kind.TARGET:
        return said
    chance = float(graph.target_probabilities[row - graph.nodes.span(Kind.TARGET).start])
    return said if math.isnan(chance) else f"{said} {chance:.0%}"


def _apart(heights: list[float], gap: float, top: float) -> list[float]:
    """Rising heights at least a gap apart, near those given and below the top."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + gap) if found else height)
    for at in reversed(range(len(found))):
        found[at] = min(found[at], top if at == len(found) - 1 else found[at + 1] - gap)
    return found
