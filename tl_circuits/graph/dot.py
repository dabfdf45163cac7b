"""Graphs as DOT, the language of Graphviz."""

from tl_circuits.graph.influence import Shares, counted_sources
from tl_circuits.graph.record import CONSTANTS, GraphRecord
from tl_circuits.graph.tables import unique_names
from tl_circuits.graph.views import label_of
from tl_circuits.nodes import Kind

POSITIVE, NEGATIVE = "#1a63b0", "#b34d00"
_SHAPES = {Kind.FEATURE: "ellipse", Kind.ERROR: "diamond", Kind.TOKEN: "box", Kind.TARGET: "box"}


def to_dot(graph: GraphRecord) -> str:
    """The text that `AttributionGraph.to_dot` promises. Constants are left out."""
    names, nodes = unique_names(graph), graph.nodes
    shown = (~nodes.rows(*CONSTANTS)).nonzero()[:, 0].tolist()
    share = Shares(graph.edges, counted_sources(nodes, constants=False)).all().tolist()
    columns = (graph.edges.source.tolist(), graph.edges.target.tolist(), graph.edges.weight.tolist(), share)
    kept, ranks = set(shown), dict[int, list[str]]()
    lines = ["digraph {", "  rankdir=BT; node [fontname=Helvetica, fontsize=10]; edge [arrowsize=0.5];"]
    for row in shown:
        kind, layer, *_ = nodes[row]
        label = label_of(graph, row) or names[row]
        level = graph.provenance.n_layers if kind == Kind.TARGET else layer
        ranks.setdefault(level, []).append(quoted(names[row]))
        lines.append(f"  {quoted(names[row])} [label={quoted(label)}, shape={_SHAPES[kind]}];")
    lines += [f"  {{ rank=same; {'; '.join(found)}; }}" for _, found in sorted(ranks.items())]
    for source, target, weight, part in zip(*columns, strict=True):
        if source in kept and target in kept:
            look = f"color={quoted(NEGATIVE)}, style=dashed" if weight < 0 else f"color={quoted(POSITIVE)}"
            ends = f"{quoted(names[source])} -> {quoted(names[target])}"
            lines.append(f"  {ends} [weight={max(1, round(100 * part))}, penwidth={0.3 + 4 * part:.2f}, {look}];")
    return "\n".join([*lines, "}", ""])


def quoted(text: str) -> str:
    """A text as DOT quotes it. Whatever a backslash would start is text too."""
    plain = "".join(letter if letter.isprintable() else "␤" if letter == "\n" else "�" for letter in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
