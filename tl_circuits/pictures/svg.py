"""A subgraph of supernodes as SVG for a paper: layered, labels as text, signs by colour and dash; needs no library."""

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import file_name, share
from tl_circuits.graph.files import write_whole
from tl_circuits.graph.views import NodeName
from tl_circuits.nodes import Kind
from tl_circuits.pictures.canvas import INK, NEGATIVE, POSITIVE, SOFT, graph_of
from tl_circuits.pictures.subgraph import Box, Subgraph, Tie, subgraph

HIGH, GAP, LEVEL, EDGE = 30.0, 22.0, 92.0, 14.0
_FONT = "Helvetica, Arial, sans-serif"
_MOST_LETTERS = 30


def subgraph_svg(
    graph: AttributionGraph,
    supernodes: Mapping[str, Sequence[NodeName]],
    path: str | Path | None = None,
    *,
    pinned: Sequence[NodeName] = (),
    least: float = 0.03,
    legend: bool = True,
) -> str:
    """Supernodes (label → nodes) and single nodes as an SVG picture: layers up, tokens across, links between.

    A link stands for the part of a box's inputs that comes from another, as a number beside it: blue and solid adds,
    orange and dashed subtracts; parts below `least` are left out. Outputs come along, and tokens that matter. Text is
    text, so that a paper's tools can set it anew. Returns the SVG, which is also written to `path` where one is given.

    Raises `SettingError` for supernodes and shares that cannot be, `GraphError` for nodes that the graph does not hold,
    and `FileError` where the file cannot be written.
    """
    graph = graph_of(graph)
    file = None if path is None else file_name(path)
    if share(least) is None:
        raise SettingError(
            f"subgraph_svg(least={least!r:.80}): the smallest part to draw lies above 0 and at most at 1."
        )
    if not isinstance(supernodes, Mapping) or not all(_is_list(names) for names in supernodes.values()):
        raise SettingError(f"supernodes={supernodes!r:.80}: give a label and a list of nodes for each.")
    if not _is_list(pinned):
        raise SettingError(f"pinned={pinned!r:.80}: give a list of nodes, say ['L1/386@-1'].")
    text = _Picture(graph, subgraph(graph, supernodes, pinned, float(least))).text(legend)
    if file is not None:
        write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return text


def _is_list(names: object) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str | bytes) and not hasattr(names, "_fields")


class _Picture:
    """Boxes with places, and lines between them."""

    def __init__(self, graph: AttributionGraph, found: Subgraph) -> None:
        self._graph, self._found = graph, found
        self._wide = [max(44.0, _width(_short(box.label), 13.0) + 22) for box in found.boxes]
        self._levels = self._ordered()
        spans = [sum(self._wide[at] for at in level) + GAP * (len(level) - 1) for level in self._levels]
        self._width = max([*spans, 320.0]) + 2 * EDGE
        self._places: dict[int, tuple[float, float]] = {}
        for number, (level, span) in enumerate(zip(self._levels, spans, strict=True)):
            x = (self._width - span) / 2
            for at in level:
                self._places[at] = (x, EDGE + (len(self._levels) - 1 - number) * LEVEL)
                x += self._wide[at] + GAP
        self._height = (len(self._levels) - 1) * LEVEL + HIGH + 2 * EDGE

    def _ordered(self) -> list[list[int]]:
        boxes = self._found.boxes
        levels = [
            sorted((at for at, box in enumerate(boxes) if box.level == level), key=lambda at: boxes[at].middle)
            for level in sorted({box.level for box in boxes})
        ]
        # Tokens stay in the order of the prompt; above them, boxes stand over what feeds them.
        for below, level in pairwise(levels):
            x = {at: (place + 0.5) / len(below) for place, at in enumerate(below)}
            level.sort(key=lambda at, x=x: self._mean(at, x))
        return levels

    def _mean(self, box: int, x: Mapping[int, float]) -> float:
        fed = [(abs(tie.part), x[tie.source]) for tie in self._found.ties if tie.target == box and tie.source in x]
        whole = sum(part for part, _ in fed)
        return sum(part * at for part, at in fed) / whole if whole else 0.5 + self._found.boxes[box].middle * 1e-6

    def text(self, legend: bool) -> str:
        below = 34.0 if legend else 0.0
        size = f"{self._width:.0f} {self._height + below:.0f}"
        width, height = size.split()
        title = escape(_sound(self._graph.provenance.prompt or "".join(self._graph.tokens)))
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {size}" '
                f'font-family="{_FONT}" role="img">',
                f"<title>{title}</title>",
                f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
                *(self._tie(tie) for tie in self._found.ties),
                *(self._part(tie) for tie in self._found.ties),
                *(self._box(at, box) for at, box in enumerate(self._found.boxes)),
                *(self._legend() if legend else []),
                "</svg>",
                "",
            ]
        )

    def _ends(self, tie: Tie) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self._places[tie.source], self._places[tie.target]
        x0, x1 = x0 + self._wide[tie.source] / 2, x1 + self._wide[tie.target] / 2
        # Ends spread along a box by where the other end is, so that lines do not fall together.
        lean = (x1 - x0) / self._width
        x0 += lean * self._wide[tie.source] * 0.5
        x1 -= lean * self._wide[tie.target] * 0.5
        return (x0, y0, x1, y1 + HIGH) if y0 > y1 else (x0, y0 + HIGH / 2, x1, y1 + HIGH / 2)

    def _curve(self, tie: Tie) -> list[tuple[float, float]]:
        """Ends and handles of a curve that goes around the boxes between its own."""
        x0, y0, x1, y1 = self._ends(tie)
        bend, aside = (y0 - y1) * 0.45, 0.0
        for at, (left, top) in self._places.items():
            if y1 < top < y0 - HIGH and at not in (tie.source, tie.target):
                x = x0 + (x1 - x0) * (y0 - top) / max(y0 - y1, 1.0)
                right = left + self._wide[at]
                if left - 6 < x < right + 6:
                    ways = (left - 12 - x, right + 14 - x)
                    aside = max(aside, min(ways, key=abs) / 0.75, key=abs)
        return [(x0, y0), (x0 + aside, y0 - bend), (x1 + aside, y1 + bend), (x1, y1)]

    def _tie(self, tie: Tie) -> str:
        (x0, y0), (xa, ya), (xb, yb), (x1, y1) = self._curve(tie)
        colour, dash = (NEGATIVE, ' stroke-dasharray="6 4"') if tie.part < 0 else (POSITIVE, "")
        width = 1 + 7 * abs(tie.part)
        head = 4 + width
        return (
            f'<path d="M{x0:.1f} {y0:.1f}C{xa:.1f} {ya:.1f} {xb:.1f} {yb:.1f} {x1:.1f} {y1 + head:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="{width:.2f}"{dash}/>'
            f'<path d="M{x1:.1f} {y1 + 1:.1f}l{head * 0.6:.1f} {head:.1f}h{-head * 1.2:.1f}z" fill="{colour}"/>'
        )

    def _part(self, tie: Tie) -> str:
        # Near the source the lines of one target lie apart.
        t = 0.34
        parts = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        x, y = (sum(part * point[axis] for part, point in zip(parts, self._curve(tie), strict=True)) for axis in (0, 1))
        colour = NEGATIVE if tie.part < 0 else POSITIVE
        said = f"{'−' if tie.part < 0 else '+'}{abs(tie.part):.0%}"
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" dominant-baseline="central" font-size="11" '
            f'font-weight="bold" fill="{colour}" stroke="#ffffff" stroke-width="4" paint-order="stroke">{said}</text>'
        )

    def _box(self, at: int, box: Box) -> str:
        x, y = self._places[at]
        wide = self._wide[at]
        kind = self._graph.nodes[box.rows[0]].kind
        is_word = kind in (Kind.TOKEN, Kind.TARGET) and not box.is_supernode
        fill, stroke = ("#eef0f3", "#b7bec9") if is_word else ("#ffffff", INK)
        behind = (
            f'<rect x="{x + 4:.1f}" y="{y - 4:.1f}" width="{wide:.1f}" height="{HIGH:.1f}" rx="6" fill="#ffffff" '
            f'stroke="{SOFT}"/>'
            if box.is_supernode and len(box.rows) > 1
            else ""
        )
        weight = ' font-weight="bold"' if box.is_supernode else ""
        names = escape(_sound(", ".join(str(self._graph.nodes[row]) for row in box.rows)))
        return (
            f"<g><title>{names}</title>{behind}"
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{HIGH:.1f}" rx="6" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="1.2"/>'
            f'<text x="{x + wide / 2:.1f}" y="{y + HIGH / 2:.1f}" text-anchor="middle" dominant-baseline="central" '
            f'font-size="13"{weight} fill="{INK}">{escape(_sound(_short(box.label)))}</text></g>'
        )

    def _legend(self) -> list[str]:
        y = self._height + 14
        words = ((EDGE, POSITIVE, "", "adds"), (EDGE + 76, NEGATIVE, ' stroke-dasharray="6 4"', "subtracts"))
        found = [
            f'<path d="M{x:.0f} {y}h26" stroke="{colour}" stroke-width="2.5"{dash}/>'
            f'<text x="{x + 31:.0f}" y="{y}" dominant-baseline="central" font-size="11" fill="{SOFT}">{said}</text>'
            for x, colour, dash, said in words
        ]
        return [
            *found,
            f'<text x="{EDGE + 172:.0f}" y="{y}" dominant-baseline="central" font-size="11" fill="{SOFT}">'
            "%: part of what a box reads</text>",
        ]


def _short(label: str) -> str:
    shown = "".join(letter if letter.isprintable() else "␣" if letter.isspace() else "�" for letter in label)
    shown = shown.strip() or "␣"
    return shown if len(shown) <= _MOST_LETTERS else shown[: _MOST_LETTERS - 1] + "…"


def _width(text: str, size: float) -> float:
    # Helvetica's advance widths, by rough class: a little too wide does no harm.
    def advance(letter: str) -> float:
        if unicodedata.east_asian_width(letter) in "WF":
            return 1.0
        if letter in "iljtfI.,:;'|!()[] ":
            return 0.33
        return 0.9 if letter in "mwMW@%" else 0.7 if letter.isupper() else 0.58

    return size * sum(map(advance, text))


def _sound(text: str) -> str:
    # What XML cannot hold is replaced, and with it whatever else is not seen, or turns the direction of what follows.
    return "".join(letter if letter.isprintable() or letter in "\n\xa0" else "�" for letter in text)
