"""The attribution graph: a value with verbs that take it to a graph, to numbers or to a file format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tl_circuits.errors import FileError, GraphError, SettingError, warn_once
from tl_circuits.graph.asked import feature_labels, file_name, number, share
from tl_circuits.graph.card import as_html, as_text, lines
from tl_circuits.graph.diff import GraphDiff, diff
from tl_circuits.graph.dot import to_dot
from tl_circuits.graph.export import ExportSettings, Preset, to_json
from tl_circuits.graph.files import read, save, write_whole
from tl_circuits.graph.influence import influence_by_length, node_influence, target_shares
from tl_circuits.graph.losses import with_losses_as_errors
from tl_circuits.graph.paths import Path, effect, strongest
from tl_circuits.graph.prune import prune
from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.scores import GraphScores, score
from tl_circuits.graph.suggest import as_features, suggest
from tl_circuits.graph.tables import GraphTables, to_networkx, to_pandas
from tl_circuits.graph.viewer_file import MOST_BYTES, ViewerFile, is_viewer_file
from tl_circuits.graph.viewer_graph import read_viewer_graph
from tl_circuits.graph.views import NodeName, NodeView, row_of, rows_found
from tl_circuits.nodes import Feature, Kind

if TYPE_CHECKING:
    import networkx
    from rich.console import RenderableType


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(GraphRecord):
    """The attribution graph of one prompt (see `GraphRecord` for what it holds and which laws it keeps)."""

    def adjacency(self, *, max_nodes: int = 10_000) -> Float[Tensor, "node node"]:
        """All edges as a matrix: row = target, column = source, in the order of `graph.nodes`.

        Raises `GraphError` for a graph of more than `max_nodes` nodes, whose matrix would mostly hold zeros.
        """
        max_nodes = number("adjacency", "max_nodes", max_nodes)
        n_nodes = len(self.nodes)
        if n_nodes > max_nodes:
            size = n_nodes**2 * self.edges.weight.element_size() / 2**30
            raise GraphError(
                f"The matrix of {n_nodes} × {n_nodes} nodes would take {size:.1f} GiB for {len(self.edges)} edges. "
                f"Prune the graph first, read graph.edges, or ask for adjacency(max_nodes={n_nodes})."
            )
        return self.edges.dense(n_nodes)

    def influence(self, *, constants: bool = False) -> Float64[Tensor, " node"]:
        """I = pᵀB, the share of the targets' weight that passes through each node (`tl_circuits.graph.influence`).

        Inputs are normalised over features, errors and tokens, with `constants` over all sources. In a pruned graph
        what was pruned counts as error at its layer and position.
        """
        shares, _ = with_losses_as_errors(self, constants=constants)
        p = target_shares(self.nodes, self.target_weights)
        return node_influence(shares, self.nodes, p)[: len(self.nodes)]

    def prune(
        self, nodes: float = 0.8, edges: float = 0.98, *, errors: bool = False, constants: bool = False
    ) -> "AttributionGraph":
        """The part of the graph that carries most of its influence (Ameisen et al. 2025, appendix "Graph Pruning").

        Keeps the smallest set of nodes with a share `nodes` of all influence, the node that crosses it included, then
        among them the smallest set of edges with a share `edges` of all edge influence Â_ts · (I_t + p_t). Tokens,
        errors, constants and targets stay. `errors=True` prunes errors too and then drops features and errors that hang
        loose, which is circuit-tracer's rule. What is cut off is remembered, and counts as error in `scores`.

        Raises `SettingError` where a share lies outside (0, 1].
        """
        return prune(self, nodes, edges, errors=errors, constants=constants)

    def scores(self, *, constants: bool = False) -> GraphScores:
        """Replacement and completeness of this graph, as `GraphScores` defines them."""
        return score(self, constants=constants)

    def find(self, what: str | int | Feature) -> list[NodeView]:
        """The nodes that a word, a token id or a feature names, the most influential first.

        A text is looked for in feature labels, tokens and targets, in any case; `L20/15589` finds the feature at every
        position. A number is a token id. Nothing found is an empty list. Raises `GraphError` for an empty text and
        `SettingError` for what is none of these.
        """
        found = [NodeView(self, row, self._influence) for row in rows_found(self, what)]
        return sorted(found, key=lambda view: -view.influence)

    def node(self, which: NodeName) -> NodeView:
        """One node: written as `L20/15589@-1` or `error L3@5`, by its coordinates, or by its row.

        Raises `GraphError` where the graph does not hold it and `SettingError` for what can be no node.
        """
        return NodeView(self, row_of(self, which), self._influence)

    def paths(
        self,
        k: int = 5,
        source: NodeName | Kind | None = None,
        target: NodeName | None = None,
        *,
        constants: bool = False,
    ) -> list[Path]:
        """The `k` paths that carry the most influence, from a node or a kind of nodes to a target or to all of them.

        Without a source, paths start wherever influence ends: at tokens, errors and features that were not expanded
        (with `constants`, at constants too). `Path.share` is the share of influence, `Path.effect` the signed effect.
        Any node may be the target; its share is then 1. Raises `GraphError` where the graph holds no such node and
        `SettingError` where `k` is no whole number or less than 1.
        """
        k = number("paths", "k", k)
        shares, _ = with_losses_as_errors(self, constants=constants)
        p = target_shares(self.nodes, self.target_weights)
        if target is not None:
            p = torch.zeros_like(p)
            p[row_of(self, target)] = 1.0
        sources = torch.zeros(len(shares.counted), dtype=torch.bool)
        sources[: len(self.nodes)] = self._starts(source)
        return [
            Path(tuple(self.node(row) for row in rows), share, effect(self, shares, rows))
            for share, rows in strongest(shares, self.nodes, p, sources, k)
        ]

    def _starts(self, source: NodeName | Kind | None) -> Bool[Tensor, " node"]:
        if source is None:
            return ~self.expanded
        if isinstance(source, Kind):
            return self.nodes.rows(source)
        starts = torch.zeros(len(self.nodes), dtype=torch.bool)
        starts[row_of(self, source)] = True
        return starts

    def path_lengths(self, *, constants: bool = False) -> Float64[Tensor, " length"]:
        """What share of influence reaches tokens in at most 1, 2, … steps (P_l of Ameisen et al. 2025).

        The last value is the tokens' whole influence; the paper divides by that of the unpruned graph.
        """
        shares, _ = with_losses_as_errors(self, constants=constants)
        ends = torch.zeros(len(shares.counted), dtype=torch.bool)
        ends[self.nodes.span(Kind.TOKEN)] = True
        return influence_by_length(shares, target_shares(self.nodes, self.target_weights), ends)

    def suggest_supernodes(
        self, features: Sequence[NodeName] | None = None, *, alike: float = 0.75
    ) -> dict[str, tuple[Feature, ...]]:
        """Features that could stand together, by a name for them: a start for `save_page` and `tlc.Intervention`.

        Together are features at one position whose value comes from the same tokens, with the same signs, through all
        features in between: their average cosine is at least `alike`. What they are called is the word of their labels
        that tells them from the others. Only groups of two and more, the most influential first. `features` are those
        to look at (default: all; of each position the 200 most influential). Whether a group means one thing is for
        you to find out: look at its cards, or act on it.

        Raises `GraphError` for features that the graph does not hold, and `SettingError` for what is no list of them,
        and where `alike` is no share.
        """
        if share(alike) is None:
            raise SettingError(f"alike={alike!r:.80} is no likeness: give 0 < alike <= 1, say 0.75.")
        # A feature is a tuple, and so a sequence, itself.
        if not isinstance(features, Sequence | None) or isinstance(features, str | Feature):
            raise SettingError(f"features={features!r:.80}: give a list of features, say ['L20/15589@-1'].")
        span = self.nodes.span(Kind.FEATURE)
        rows = range(span.start, span.stop) if features is None else sorted({row_of(self, one) for one in features})
        others = [row for row in rows if row >= span.stop]
        if others:
            raise GraphError(f"{self.nodes[others[0]]} is no feature: supernodes are suggested of features alone.")
        return as_features(self, suggest(self, self._influence, rows, float(alike)))

    def diff(self, other: "AttributionGraph") -> GraphDiff:
        """This graph and another of the same transcoder side by side: which nodes and edges came, went and changed.

        Prompts may differ: positions are matched by their tokens. Prune both alike first, or neither. Raises
        `GraphError` for graphs of two transcoders and `SettingError` for what is no graph.
        """
        if not isinstance(other, AttributionGraph):
            raise SettingError(f"diff({other!r:.80}): give the graph to compare with.")
        return diff(self, self._influence, other, other._influence)

    def with_labels(self, labels: Mapping[tuple[int, int], str]) -> "AttributionGraph":
        """The same graph with these names for features, by (layer, index), added to those it has.

        Raises `GraphError` where a key is no (layer, index) or a label no text.
        """
        return replace(self, labels={**self.labels, **feature_labels(labels)})

    def save(self, path: str | FilePath) -> FilePath:
        """Write the graph as one safetensors file, whole or not at all; `load_graph` gives it back bit by bit.

        Raises `FileError` where the file cannot be written.
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | FilePath) -> "AttributionGraph":
        """The graph in a file that `save` wrote. Nothing in the file is executed.

        Raises `FileError` where the file is missing, damaged, of another format, or holds no lawful graph.
        """
        fields = read(path)
        try:
            return cls(**fields)
        except GraphError as error:
            raise FileError(f"'{path}' does not hold a graph: {error}") from error

    def to_pandas(self) -> GraphTables:
        """Two frames: `.nodes`, one row per node in order, and `.edges`, with weights and shares Â."""
        return to_pandas(self, self._influence)

    def to_dot(self) -> str:
        """The graph as Graphviz's DOT: layers as ranks, negative edges dashed. Prune first; labels stay text."""
        return to_dot(self)

    def to_networkx(self) -> "networkx.DiGraph[str]":
        """The graph for networkx: nodes are named as they are written here, edges run from source to target."""
        return to_networkx(self, self._influence)

    def to_json(
        self,
        path: str | FilePath | None = None,
        *,
        preset: Preset = "local",
        slug: str | None = None,
        scan: str | None = None,
        source_set: str | None = None,
        node_threshold: float | None = None,
        constants: bool = False,
        pinned: Sequence[NodeName] = (),
        supernodes: Mapping[str, Sequence[NodeName]] | None = None,
    ) -> str:
        """The graph as JSON for Neuronpedia and circuit-tracer's viewers; also written to `path` where one is given.

        `preset="neuronpedia"` also holds it to what an upload there must be. `slug` names the graph (from the prompt
        where nothing is said), `scan` the model as Neuronpedia calls it, or for local viewers the transcoder's
        repository or path; `source_set` is Neuronpedia's name for the features. `node_threshold` is the largest
        cumulative influence that viewers show. Pinned nodes and supernodes (label → nodes) that the graph does not hold
        are left out. Constants, which those viewers do not know, are left out unless asked for.

        Raises `SettingError` for a preset, name, threshold or pin that cannot be, `GraphError` where the graph is too
        large, too small or too shallow for the preset, and `FileError` where the file cannot be written.
        """
        file = None if path is None else file_name(path)
        settings = ExportSettings(preset, slug, scan, source_set, node_threshold, constants, pinned, supernodes)
        text = to_json(self, self._influence, self.scores(), settings)
        if file is not None:
            write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))
        return text

    @cached_property
    def _influence(self) -> Float64[Tensor, " node"]:
        return self.influence()

    def _introduction(self) -> tuple[str, list[tuple[str, str]]]:
        return type(self).__name__, lines(self, self.scores(), self._influence)

    def __repr__(self) -> str:
        return as_text(*self._introduction())

    def __rich__(self) -> "RenderableType":
        # Loaded by name, since a report is of a graph and imports this file.
        return import_module("tl_circuits.graph.report").Report(self, ())

    def _repr_html_(self) -> str:
        return as_html(*self._introduction())


def load_graph(path: str | FilePath, *, max_bytes: int = MOST_BYTES) -> AttributionGraph:
    """The graph in a file that `AttributionGraph.save` wrote, or in the JSON of a viewer.

    The JSON is what `to_json`, circuit-tracer, Neuronpedia, Anthropic's and EleutherAI's tools write, and what their
    viewers save. It holds no totals, and constants only as biases. Where attention is replaced too (`lorsa`), layer 2l
    is block l's attention and 2l + 1 its MLP. What had to be mended or left out is said in a
    `TLCircuitsWarning` and kept in `provenance.settings`. `load_supernodes` reads the supernodes of the same file.

    Nothing in the file is executed. Raises `FileError` where the file is missing, damaged, of another format, JSON of
    more than `max_bytes` bytes, or holds no lawful graph.
    """
    file = file_name(path)
    max_bytes = number("load_graph", "max_bytes", max_bytes)
    if not is_viewer_file(file):
        return AttributionGraph.load(file)
    try:
        fields, mended = read_viewer_graph(ViewerFile.of(file, max_bytes=max_bytes))
        graph = AttributionGraph(**fields)
    except GraphError as error:
        raise FileError(f"'{file}' does not hold a graph: {error}") from error
    if mended:
        warn_once(f"'{file}' was read with repairs: {'; '.join(mended)}.", stacklevel=2)
    return graph
