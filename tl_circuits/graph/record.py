"""What an attribution graph holds, checked when it is made. The verbs on it are `AttributionGraph`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tl_circuits.errors import GraphError
from tl_circuits.graph.asked import feature_labels
from tl_circuits.graph.edges import Edges
from tl_circuits.nodes import Kind, Nodes

CONSTANTS = (Kind.POSITION, Kind.MASKED, Kind.B_DEC, Kind.BIAS)
"""The kinds that carry what does not depend on features, errors or tokens."""

LARGE = 1e290
"""Sums of larger numbers may overflow."""

MOST_LAYERS = 10_000
"""What is deeper is no model."""


@dataclass(frozen=True)
class Provenance:
    """What made a graph. Everything in it can be written as JSON (`GraphError` where it cannot)."""

    prompt: str = ""
    model: str = ""
    transcoder: str = ""
    n_layers: int = 0
    read: str = ""
    write: str = ""
    dtype: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked_positions: tuple[int, ...] = ()
    masked_why: str = ""
    transcoder_kind: str = "CLT"

    def __post_init__(self) -> None:
        try:
            json.dumps(self.to_dict(), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GraphError(
                f"What made the graph cannot be written as JSON: {error}. Give strings, finite numbers, lists and "
                f"dictionaries; the settings were {dict(self.settings)!r:.200}."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return plain | {
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "masked_positions": list(self.masked_positions),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Provenance":
        """The record that `to_dict` wrote. Raises `GraphError` where a field is missing, unknown or of another type."""
        expected = cls().to_dict()
        wrong = sorted(
            name
            for name in expected.keys() | plain.keys()
            if name not in plain or name not in expected or type(plain[name]) is not type(expected[name])
        )
        if wrong:
            raise GraphError(
                f"What made the graph is not recorded as expected: see {', '.join(wrong)}. Trace the prompt again."
            )
        if not 0 <= plain["n_layers"] <= MOST_LAYERS:
            raise GraphError(
                f"n_layers is {plain['n_layers']}; graphs have up to {MOST_LAYERS} layers. Trace the prompt again."
            )
        positions = plain["masked_positions"]
        if not all(isinstance(value, int) for value in positions):
            raise GraphError(f"Masked positions are whole numbers, not {positions!r:.100}. Trace the prompt again.")
        return cls(**{**plain, "masked_positions": tuple(positions)})


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a pruned graph remembers of the graph that it was cut from.

    What was cut off counts as error at its layer and position (Circuits Research Landscape, August 2025, appendix C),
    so its signed sum into each node is kept: `into` is one row per node of the graph, its sources are rows of `lost`.
    There an *error* row (layer, position) gathers features, errors and, at layer -1, tokens; a *bias* row gathers
    constants, which count only where constants do. `cumulative` places each node among all of the former graph's by
    influence (small is important), as viewers want it for their threshold.
    """

    node_threshold: float
    edge_threshold: float
    errors: bool
    constants: bool
    nodes_before: int
    edges_before: int
    cumulative: Float64[Tensor, " node"]
    lost: Nodes
    into: Edges

    def __post_init__(self) -> None:
        if self.into.n_rows != len(self.cumulative):
            raise GraphError(
                f"A pruned graph of {len(self.cumulative)} nodes remembers losses of {self.into.n_rows}. Prune the "
                "graph again."
            )
        if len(self.into) and int(self.into.source.max()) >= len(self.lost):
            raise GraphError(
                f"A loss is booked at place {int(self.into.source.max())} of {len(self.lost)}. Prune the graph again."
            )
        if not bool(self.lost.rows(Kind.ERROR, Kind.BIAS).all()):
            raise GraphError("Losses are booked as errors or as biases only. Prune the graph again.")
        if not bool(((self.cumulative >= 0) & (self.cumulative <= 1 + 1e-9)).all()):
            raise GraphError("The cumulative influence of a node lies between 0 and 1. Prune the graph again.")


@dataclass(frozen=True, eq=False)
class GraphRecord:
    """The nodes and edges of one prompt's attribution graph, and what they mean. A value: nothing in it changes.

    Laws, checked when it is made (`GraphError` with the numbers): features stand in order and are named once; only
    expanded features and targets have inputs; a feature reads features of lower layers only, and nobody reads a target;
    all targets are expanded. `activations` are feature activations and the targets' values (centred logits), nan
    elsewhere. `totals` are what the inputs of an expanded node sum to where nothing was pruned (pre-activation − b_enc,
    or the target's value), nan elsewhere. `target_probabilities` are nan where a target is not a token's.
    `conservation_error` and `probe_error` are relative to a row's Σ|edges|; `coverage` is the share of the targets'
    influence that is traced to its end. `labels` names features of the transcoder by (layer, index).
    """

    nodes: Nodes
    edges: Edges
    activations: Float[Tensor, " node"]
    totals: Float[Tensor, " node"]
    expanded: Bool[Tensor, " node"]
    target_weights: Float[Tensor, " target"]
    target_labels: tuple[str, ...]
    target_probabilities: Float[Tensor, " target"]
    tokens: tuple[str, ...]
    conservation_error: float = math.nan
    probe_error: float = math.nan
    coverage: float = 1.0
    provenance: Provenance = field(default_factory=Provenance)
    labels: Mapping[tuple[int, int], str] = field(default_factory=dict)
    pruned: Pruned | None = None

    @property
    def cut_before(self) -> bool:
        """Whether it was read from JSON that holds the rest of a pruned graph, without what was pruned."""
        read = self.provenance.settings.get("read_from_json")
        return self.pruned is None and isinstance(read, Mapping) and bool(read.get("pruned"))

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_coordinates()
        self._check_edges()
        self._check_values()
        # A copy, so that nobody's dictionary changes the graph.
        object.__setattr__(self, "labels", feature_labels(self.labels))

    def _check_lengths(self) -> None:
        per_node = {
            "edges": self.edges.n_rows,
            "activations": len(self.activations),
            "totals": len(self.totals),
            "expanded": len(self.expanded),
        } | ({"pruned": self.pruned.into.n_rows} if self.pruned else {})
        if set(per_node.values()) != {len(self.nodes)}:
            raise GraphError(f"The graph has {len(self.nodes)} nodes, but {per_node}. Give one row or value per node.")
        per_target = {
            "target_weights": len(self.target_weights),
            "target_labels": len(self.target_labels),
            "target_probabilities": len(self.target_probabilities),
        }
        if set(per_target.values()) != {self.nodes.count(Kind.TARGET)}:
            raise GraphError(
                f"The graph has {self.nodes.count(Kind.TARGET)} targets, but {per_target}. Give one value per target."
            )
        if not self.target_labels:
            raise GraphError("The graph has 0 targets, so there is nothing to explain. Attribute at least one target.")

    def _check_coordinates(self) -> None:
        nodes, n_layers, n_pos = self.nodes, self.provenance.n_layers, len(self.tokens)
        placed = nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.POSITION, Kind.MASKED, Kind.TARGET)
        layered = nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.MASKED, Kind.B_DEC)
        outside = (placed & ((nodes.pos < 0) | (nodes.pos >= n_pos))) | (
            layered & ((nodes.layer < 0) | (nodes.layer >= n_layers))
        )
        outside |= (nodes.layer < -1) | (nodes.layer > n_layers) | (nodes.pos < -1) | (nodes.pos >= n_pos)
        if bool(outside.any()):
            raise GraphError(
                f"Node {nodes[int(outside.nonzero()[0])]} lies outside {n_layers} layers and {n_pos} tokens. Check "
                "provenance.n_layers and tokens."
            )
        lost = self.pruned.lost if self.pruned else nodes.subset(torch.zeros(len(nodes), dtype=torch.bool))
        astray = (lost.layer < -1) | (lost.layer > n_layers) | (lost.pos < -1) | (lost.pos >= n_pos)
        if bool(astray.any()):
            raise GraphError(
                f"A loss is booked at {lost[int(astray.nonzero()[0])]}, outside {n_layers} layers and {n_pos} tokens. "
                "Prune the graph again."
            )
        span = nodes.span(Kind.FEATURE)
        if bool((nodes.index[span] < 0).any()):
            raise GraphError(f"A feature has index {int(nodes.index[span].min())}. Features are counted from 0.")
        # Lexicographic order, column by column: a row may fall in a column only where an earlier column rose.
        columns = (nodes.layer[span].diff(), nodes.pos[span].diff(), nodes.index[span].diff())
        rising = (columns[0] > 0) | ((columns[0] == 0) & ((columns[1] > 0) | ((columns[1] == 0) & (columns[2] > 0))))
        if not bool(rising.all()):
            row = int((~rising).nonzero()[0])
            raise GraphError(
                f"Feature {nodes[row + 1]} stands after {nodes[row]}. Features are sorted by layer, position and "
                "index, each named once."
            )

    def _check_edges(self) -> None:
        nodes, source = self.nodes, self.edges.source
        if len(source) and int(source.max()) >= len(nodes):
            raise GraphError(
                f"An edge starts at node {int(source.max())} of {len(nodes)}. Sources are rows of graph.nodes."
            )
        readers = nodes.rows(Kind.FEATURE, Kind.TARGET)
        if bool((self.expanded & ~readers).any()) or not bool(self.expanded[nodes.span(Kind.TARGET)].all()):
            raise GraphError("Targets are always expanded, and besides them only features can be. Check `expanded`.")
        closed = ~self.expanded & (self.edges.indptr.diff() > 0)
        if bool(closed.any()):
            raise GraphError(
                f"{int(closed.sum())} nodes have inputs but are not expanded, first "
                f"{nodes[int(closed.nonzero()[0])]}. Mark them expanded or leave their inputs out."
            )
        if bool((source >= nodes.span(Kind.TARGET).start).any()):
            raise GraphError("An edge starts at a target. Targets are read by nobody.")
        features = nodes.span(Kind.FEATURE)
        inner = slice(0, int(self.edges.indptr[features.stop]))
        # A feature reads before its own layer writes; this is also what makes the graph free of cycles.
        start, layer = self.edges.source[inner], nodes.layer[features].contiguous()
        # Features are sorted by layer: those that a row may have as sources are the first so many.
        lower = torch.searchsorted(layer, layer, out_int32=True)
        lower = torch.repeat_interleave(lower, self.edges.indptr[: features.stop + 1].diff())
        backward = (start >= lower) & (start < features.stop)
        if bool(backward.any()):
            edge = int(backward.nonzero()[0])
            raise GraphError(
                f"{nodes[int(start[edge])]} feeds {nodes[int(self.edges.target[edge])]}, which reads at the same "
                "layer or lower. Features feed higher layers only."
            )

    def _check_values(self) -> None:
        read = self.nodes.rows(Kind.FEATURE, Kind.TARGET)
        if not bool(torch.isfinite(self.activations[read]).all()) or not bool(
            torch.isfinite(self.totals[self.expanded]).all()
        ):
            raise GraphError(
                "A feature or a target has no finite activation, or an expanded node no finite total. Run the model "
                "in float32 or float64, where activations do not overflow."
            )
        weights = self.target_weights
        if not bool(torch.isfinite(weights).all()) or not bool((weights != 0).any()):
            raise GraphError(f"The target weights are {weights.tolist()}. They must be finite and not all 0.")
        # Shares are of sums of magnitudes; where these overflow, all shares would be 0 unsaid.
        if not bool(torch.isfinite(weights.to(torch.float64).abs().sum())):
            raise GraphError(
                f"The target weights {weights.tolist()} add up to more than a number can hold. Divide them by the "
                "largest: only their proportions count."
            )
        edges = self.edges.weight
        if len(edges) and float(edges.abs().max()) > LARGE:
            over = ~torch.isfinite(self.edges.sums(magnitude=True))
            if bool(over.any()):
                row = int(over.nonzero()[0])
                raise GraphError(
                    f"The inputs of {self.nodes[row]} add up to more than a number can hold; the largest is "
                    f"{float(edges[self.edges.into(row)].abs().max()):.3g}. Check who wrote the graph, and in what "
                    "units."
                )
        if not 0 <= self.coverage <= 1 + 1e-9:
            raise GraphError(f"A coverage of {self.coverage} is no share. It lies between 0 and 1.")
        if self.conservation_error < 0 or self.probe_error < 0:
            raise GraphError(
                f"Errors are magnitudes: conservation {self.conservation_error}, probe {self.probe_error} were given."
            )


G = TypeVar("G", bound=GraphRecord)
"""Whatever kind of graph goes into a stage comes out of it."""
