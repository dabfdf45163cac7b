"""Two graphs side by side: the same features at the same places of two prompts, or before and after something."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from jaxtyping import Float64
from torch import Tensor

from tl_circuits.errors import GraphError, warn_once
from tl_circuits.graph.asked import number
from tl_circuits.graph.record import GraphRecord, Provenance
from tl_circuits.graph.views import NodeView, label_of
from tl_circuits.nodes import Kind, NodeId

Place = tuple[int, int, int, int]
WEIGHTS = "transcoder_weights"
"""Among the settings of a graph: the fingerprint of its transcoder's weights."""


@dataclass(frozen=True)
class NodeChange:
    """One node in two graphs, None where one lacks it; influence is 0 there, and the activation nan."""

    here: NodeId | None
    there: NodeId | None
    label: str
    influence_here: float
    influence_there: float
    activation_here: float
    activation_there: float

    @property
    def change(self) -> float:
        """Influence there, less influence here."""
        return self.influence_there - self.influence_here


@dataclass(frozen=True)
class EdgeChange:
    """One edge in two graphs, its ends as they are written here, or there where only that has it; 0 where it is not."""

    source: str
    target: str
    weight_here: float
    weight_there: float

    @property
    def change(self) -> float:
        """The weight there, less the weight here."""
        return self.weight_there - self.weight_here


@dataclass(frozen=True)
class GraphDiff:
    """What tells two graphs apart, the largest change first.

    `positions` says which position here stands for which there: tokens that both prompts have, in order, and as many
    others as lie between the same. A feature is the same where layer, index and position are.
    """

    positions: dict[int, int]
    nodes: tuple[NodeChange, ...]
    edges: tuple[EdgeChange, ...]

    def only_here(self, k: int = 10) -> list[NodeChange]:
        """The k most influential nodes that only the first graph has."""
        return [one for one in self.nodes if one.there is None][: number("only_here", "k", k)]

    def only_there(self, k: int = 10) -> list[NodeChange]:
        """The k most influential nodes that only the other graph has."""
        return [one for one in self.nodes if one.here is None][: number("only_there", "k", k)]

    def moved(self, k: int = 10) -> list[NodeChange]:
        """The k nodes of both whose influence differs the most."""
        both = [one for one in self.nodes if one.here is not None and one.there is not None]
        return [one for one in both if one.change][: number("moved", "k", k)]

    def __repr__(self) -> str:
        here, there = (sum(getattr(one, name) is None for one in self.nodes) for name in ("there", "here"))
        shown = ", ".join(f"{_named(one)} {one.change:+.3f}" for one in self.nodes[:5])
        return (
            f"GraphDiff({len(self.nodes) - here - there} nodes in both, {here} only here, {there} only there; most "
            f"influence changes at {shown or 'none'})"
        )


def diff(
    first: GraphRecord, influence: Float64[Tensor, " node"], second: GraphRecord, other: Float64[Tensor, " other"]
) -> GraphDiff:
    """The difference that `AttributionGraph.diff` promises."""
    _check_same_features(first, second)
    here = [NodeView(first, row, influence) for row in range(len(first.nodes))]
    there = [NodeView(second, row, other) for row in range(len(second.nodes))]
    positions = aligned(first.tokens, second.tokens)
    back = {other: own for own, other in positions.items()}
    ours = {_place(first, view, None): view for view in here}
    theirs = {_place(second, view, back): view for view in there}
    nodes = [_change(ours.get(place), theirs.get(place)) for place in dict.fromkeys([*ours, *theirs])]
    return GraphDiff(
        positions,
        tuple(sorted(nodes, key=lambda one: -abs(one.change))),
        tuple(sorted(_edges(first, ours, second, theirs), key=lambda one: -abs(one.change))),
    )


def aligned(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """Which position of one prompt stands for which of the other."""
    found: dict[int, int] = {}
    for _, start, stop, other, end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if stop - start == end - other:
            found.update(zip(range(start, stop), range(other, end), strict=True))
    return found


def _check_same_features(first: GraphRecord, second: GraphRecord) -> None:
    made, other = first.provenance, second.provenance
    known = [(made.transcoder, other.transcoder), (made.transcoder_kind, other.transcoder_kind)]
    if made.n_layers != other.n_layers or any(one and another and one != another for one, another in known):
        raise GraphError(
            f"These graphs have features of two transcoders: {_transcoder(made)}, and {_transcoder(other)}. Compare "
            "graphs of one transcoder."
        )
    weights = [made.settings.get(WEIGHTS), other.settings.get(WEIGHTS)]
    if all(weights) and weights[0] != weights[1]:
        warn_once(
            f"The transcoders of these graphs have one name, {made.transcoder!r:.60}, and other weights "
            f"({weights[0]!s:.20} and {weights[1]!s:.20}): features of one number may have nothing in common.",
            stacklevel=4,
        )


def _transcoder(made: Provenance) -> str:
    return f"the {made.transcoder_kind} {made.transcoder!r:.60} of {made.n_layers} layers"


def _place(graph: GraphRecord, view: NodeView, back: dict[int, int] | None) -> Place | str:
    node = view.id
    # A position that the other prompt lacks keeps apart from all of this one's.
    pos = node.pos if back is None or node.pos < 0 else back.get(node.pos, -2 - node.pos)
    index = -1 if node.kind == Kind.TOKEN else node.index
    if node.kind == Kind.TARGET and index < 0:
        return f"{pos} {label_of(graph, view.row)}"
    return (int(node.kind), node.layer, pos, index)


def _change(here: NodeView | None, there: NodeView | None) -> NodeChange:
    labels = [view.label for view in (here, there) if view is not None and view.label]
    return NodeChange(
        here.id if here else None,
        there.id if there else None,
        " → ".join(dict.fromkeys(labels)),
        _influence(here),
        _influence(there),
        here.activation if here else math.nan,
        there.activation if there else math.nan,
    )


def _influence(view: NodeView | None) -> float:
    # A target's own weight is not in its influence.
    return view.influence if view is not None else 0.0


def _edges(
    first: GraphRecord,
    ours: dict[Place | str, NodeView],
    second: GraphRecord,
    theirs: dict[Place | str, NodeView],
) -> list[EdgeChange]:
    here, there = _weights(first, ours), _weights(second, theirs)
    named = {place: str(view.id) for place, view in (theirs | ours).items()}
    return [
        EdgeChange(named[pair[0]], named[pair[1]], here.get(pair, 0.0), there.get(pair, 0.0))
        for pair in dict.fromkeys([*here, *there])
    ]


def _weights(graph: GraphRecord, views: dict[Place | str, NodeView]) -> dict[tuple[Place | str, Place | str], float]:
    place = {view.row: where for where, view in views.items()}
    columns = (graph.edges.source.tolist(), graph.edges.target.tolist(), graph.edges.weight.tolist())
    return {
        (place[source], place[target]): weight
        for source, target, weight in zip(*columns, strict=True)
        if source in place and target in place
    }


def _named(one: NodeChange) -> str:
    return str(one.here if one.here is not None else one.there)
