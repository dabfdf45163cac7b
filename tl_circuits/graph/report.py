"""What a traced prompt has to say: printed by rich for people, as plain values for programs.

Tokens and labels are data. People see them as Python would write them, so that a newline, an escape sequence or a
"[red]" stays what it is; programs get them unchanged.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_circuits.graph.card import traced
from tl_circuits.graph.graph import AttributionGraph
from tl_circuits.graph.paths import Path
from tl_circuits.graph.views import NodeView
from tl_circuits.graph.visible import visible as visible
from tl_circuits.nodes import Kind


@dataclass(frozen=True)
class Output:
    """A token that the model may say next, and how likely it is."""

    token: str
    probability: float


@dataclass(frozen=True, eq=False)
class Report:
    """One graph, the model's own top outputs, and the files that were written of it, by what they are.

    Of the features the `n_features` of most influence are told, by layer and position; of the paths the `n_paths`
    strongest.
    """

    graph: AttributionGraph
    outputs: tuple[Output, ...]
    files: Mapping[str, FilePath] = field(default_factory=dict)
    n_features: int = 20
    n_paths: int = 5

    @cached_property
    def features(self) -> list[NodeView]:
        """The features that matter most, in the graph's order: by layer, position and index."""
        # Features stand first, so an index into the span is a row.
        influence = self.graph.influence()[self.graph.nodes.span(Kind.FEATURE)]
        rows = torch.topk(influence, min(self.n_features, len(influence))).indices.sort().values
        return [self.graph.node(row) for row in rows.tolist()]

    @cached_property
    def paths(self) -> list[Path]:
        """The paths that carry the most influence, from wherever it ends to any target."""
        return self.graph.paths(self.n_paths)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what was not measured is None."""
        graph = self.graph
        targets = zip(
            graph.target_labels, graph.target_probabilities.tolist(), graph.target_weights.tolist(), strict=True
        )
        return _json(
            {
                "provenance": graph.provenance.to_dict(),
                "tokens": list(graph.tokens),
                "outputs": [asdict(output) for output in self.outputs],
                "targets": [{"label": label, "probability": p, "weight": weight} for label, p, weight in targets],
                "nodes": {kind.name.lower(): graph.nodes.count(kind) for kind in Kind},
                "edges": len(graph.edges),
                "coverage": graph.coverage,
                "scores": asdict(graph.scores()),
                "checks": {"conservation_error": graph.conservation_error, "probe_error": graph.probe_error},
                "features": [self._feature(view) for view in self.features],
                "paths": [
                    {
                        "nodes": [{"node": str(view.id), "label": view.label} for view in path.nodes],
                        "share": path.share,
                        "effect": path.effect,
                    }
                    for path in self.paths
                ],
                "files": {what: str(path) for what, path in self.files.items()},
            }
        )

    def _feature(self, view: NodeView) -> dict[str, Any]:
        return {
            "feature": str(view.id),
            "layer": view.id.layer,
            "pos": view.id.pos,
            "index": view.id.index,
            "token": self.graph.tokens[view.id.pos],
            "activation": view.activation,
            "influence": view.influence,
            "label": view.label,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield section("Prompt", self._tokens())
        if self.outputs:
            yield section("Top outputs", self._outputs())
        yield section("Graph", self._counts())
        yield section("Scores", self._scores())
        yield section("Checks", self._checks())
        shown, total = len(self.features), self.graph.nodes.count(Kind.FEATURE)
        yield section(f"Features that matter ({shown} of {total})", self._features())
        yield section("Strongest paths, by their share of influence", self._paths())
        if self.files:
            rows = ((what, Text(visible(path), overflow="fold")) for what, path in self.files.items())
            yield section("Files", columns(*rows))

    def _tokens(self) -> RenderableType:
        numbered = (Text.assemble((f"{pos} ", "dim"), quoted(token)) for pos, token in enumerate(self.graph.tokens))
        return Columns(numbered, padding=(0, 2))

    def _outputs(self) -> RenderableType:
        return columns(
            *((Text(f"{output.probability:.2%}", justify="right"), quoted(output.token)) for output in self.outputs)
        )

    def _counts(self) -> RenderableType:
        graph = self.graph
        kinds = ", ".join(f"{graph.nodes.count(kind)} {kind.name.lower()}" for kind in Kind if graph.nodes.count(kind))
        rows = [
            ("model", Text(visible(graph.provenance.model or "unknown"))),
            ("transcoder", Text(visible(_transcoder(graph)))),
            ("targets", Text(", ").join(quoted(label) for label in graph.target_labels)),
            ("nodes", Text(kinds)),
            ("edges", Text(str(len(graph.edges)))),
        ]
        if graph.pruned is not None:
            before = f"{graph.pruned.nodes_before} nodes and {graph.pruned.edges_before} edges"
            kept = f"{graph.pruned.node_threshold:g} of nodes, {graph.pruned.edge_threshold:g} of edges, by influence"
            rows.append(("pruned", Text(f"to {kept}; from {before}")))
        if graph.coverage < 1:
            rows.append(("coverage", Text(traced(graph))))
        return columns(*rows)

    def _scores(self) -> RenderableType:
        scores = self.graph.scores()
        rows = [
            (_bounds(scores.replacement_bounds), Text("replacement: influence that ends in tokens, not in errors")),
            (
                _bounds(scores.completeness_bounds),
                Text("completeness: inputs that are no errors, over the nodes that have inputs (Ameisen et al. 2025)"),
            ),
            (
                _bounds(scores.completeness_circuit_tracer_bounds),
                Text("completeness as circuit-tracer takes it: over errors and tokens too, each counted as complete"),
            ),
        ]
        found = columns(*rows)
        return Group(found, Text(f"({scores.note})", style="dim")) if scores.note else found

    def _checks(self) -> RenderableType:
        return columns(
            (_size(self.graph.conservation_error), Text("conservation: a node's inputs against its value, at worst")),
            (_size(self.graph.probe_error), Text("probe: all edges against real forward passes, at worst")),
        )

    def _features(self) -> RenderableType:
        labelled = any(view.label for view in self.features)
        headings = ("feature", "token", "influence", "fires on") if labelled else ("feature", "token", "influence")
        table = Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.columns[0].no_wrap = table.columns[2].no_wrap = True
        table.columns[2].justify = "right"
        for column in table.columns:
            column.overflow = "fold"
        for view in self.features:
            cells = [Text(str(view.id)), quoted(self.graph.tokens[view.id.pos]), Text(f"{view.influence:.3f}")]
            table.add_row(*cells, *([Text(visible(view.label))] if labelled else []))
        return table

    def _paths(self) -> RenderableType:
        def step(view: NodeView) -> Text:
            spoken = view.id.kind in (Kind.TOKEN, Kind.TARGET)
            return quoted(view.label) if spoken else Text(str(view.id))

        return columns(
            *(
                (Text(f"{path.share:.1%}", justify="right"), Text(" → ").join(step(view) for view in path.nodes))
                for path in self.paths
            )
        )


def quoted(token: str) -> Text:
    """A token between quotes, which show where its spaces are."""
    return Text(repr(token), style="cyan", overflow="fold")


def section(title: str, body: RenderableType) -> RenderableType:
    """A part of a report under its title."""
    return Group(Text(title, style="bold"), Padding(body, (0, 0, 1, 2)))


def columns(*rows: tuple[str | Text, RenderableType]) -> Table:
    """Titles at the left, what they are of at the right."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, cell in rows:
        table.add_row(Text(title, style="dim") if isinstance(title, str) else title, cell)
    return table


def _transcoder(graph: AttributionGraph) -> str:
    origin = graph.provenance
    kind = {"CLT": "cross-layer transcoder (CLT)", "PLT": "per-layer transcoder (PLT)"}
    return f"{kind.get(origin.transcoder_kind, origin.transcoder_kind)}, {origin.read} -> {origin.write}"


def _bounds(bounds: tuple[float, float]) -> Text:
    low, high = bounds
    return Text(f"{low:.3f} to {high:.3f}" if high > low else f"{low:.3f}")


def _size(error: float) -> Text:
    return Text("not measured" if math.isnan(error) else f"{error:.1e}")


def _json(value: Any) -> Any:
    match value:
        case dict():
            return {name: _json(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_json(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
