"""Which row is which node. The only file that knows the order.

Nodes of a graph stand in this order, which `Nodes` checks when made and every subset keeps:

    features (by layer, position, index) | errors (by layer, position) | tokens | positions | masked
    | b_dec | bias | targets

*Features, errors, tokens* and *targets* (logits, usually) are the paper's kinds (Ameisen et al. 2025, "Attribution
Graphs"). The others carry what the paper leaves out, so that the inputs of every node sum to its value: *position* is
the position embedding at one position, *masked* what an MLP writes at a position that the transcoder was not trained
on, *b_dec* the transcoder's bias into one layer, *bias* every other constant of one block (attention and norm biases).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from tl_circuits.errors import GraphError, SettingError, TargetError


class Kind(IntEnum):
    """The kinds of nodes, in the order in which they stand."""

    FEATURE = 0
    ERROR = 1
    TOKEN = 2
    POSITION = 3
    MASKED = 4
    B_DEC = 5
    BIAS = 6
    TARGET = 7


PAPER_SOURCES = (Kind.FEATURE, Kind.ERROR, Kind.TOKEN)
"""The kinds over which the paper normalises a node's inputs (its "Graph Pruning" appendix)."""

# Python reads no more than some 4,000 digits as a number.
_FEATURE_NAME = re.compile(r"L(?P<layer>\d{1,1000})/(?P<index>\d{1,1000})@(?P<pos>-?\d{1,1000})")
# No more digits than a 64-bit number is sure to hold.
_NODE_NAME = re.compile(r"(?P<kind>[a-z_]+)(?: (?:L(?P<layer>\d{1,18})|(?P<index>\d{1,18})))?(?:@(?P<pos>-?\d{1,18}))?")


class Feature(NamedTuple):
    """A transcoder feature at one position of a prompt: `Feature(layer=20, pos=-1, index=15589)` is `L20/15589@-1`.

    Negative positions count from the end of the prompt. `Feature.parse` reads the written form.
    """

    layer: int
    pos: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index is not missed)

    def __str__(self) -> str:
        return f"L{self.layer}/{self.index}@{self.pos}"

    @classmethod
    def names(cls, text: str) -> bool:
        """Whether a text is of the form `L20/15589@-1`."""
        return _FEATURE_NAME.fullmatch(text.strip()) is not None

    @classmethod
    def parse(cls, text: str) -> "Feature":
        """The feature that `L20/15589@-1` names. Raises `TargetError` where the text is not of that form."""
        match = _FEATURE_NAME.fullmatch(text.strip())
        if match is None:
            raise TargetError(
                f"{text!r} does not name a feature: write it as L<layer>/<index>@<position>, say L3/120@-1."
            )
        return cls(int(match["layer"]), int(match["pos"]), int(match["index"]))


@dataclass(frozen=True)
class Intervention:
    """What is done to a feature, or alike to each of several (a supernode): `Intervention("L2/623@-1", scale=0)`.

    Features are named, or given as they are, or as nodes of a graph: `Intervention(graph.find("Texas"), scale=0)`.
    One of `scale` (its activation times that: 1 changes nothing, 0 ablates, -1 flips), `value` (its activation is that)
    and `add` (its activation plus that), a finite number. Features at their own position, or, with `positions`, at that
    one, at several or at a slice of the prompt instead; negative ones count from the end. Raises `SettingError` for
    anything else, and `TargetError` for a text that names no feature.
    """

    feature: "FeatureLike | Sequence[FeatureLike]"
    scale: float | int | None = None
    value: float | int | None = field(default=None, kw_only=True)
    add: float | int | None = field(default=None, kw_only=True)
    positions: int | slice | Sequence[int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("scale", "value", "add") if getattr(self, name) is not None}
        said = ", ".join(f"{name}={value!r:.40}" for name, value in given.items()) or "nothing"
        if len(given) != 1:
            raise SettingError(
                f"An intervention on {self.feature!s:.80} was given {said} to do: give one of scale, value and add; "
                "scale=0 ablates."
            )
        if not all(_is_finite(value) for value in given.values()):
            raise SettingError(f"An intervention on {self.feature!s:.80} was given {said}: give a finite number.")
        if not self.features:
            raise SettingError("An intervention on no feature was given: name at least one, such as 'L3/120@-1'.")

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features that it is on, as they were given."""
        given: Any = self.feature
        several = isinstance(given, Sequence) and not isinstance(given, str | Feature | NodeId)
        return tuple(_as_feature(item) for item in (given if several else [given]))

    @property
    def affine(self) -> tuple[float, float]:
        """(factor, offset): an activation a becomes factor · a + offset."""
        if self.scale is not None:
            return float(self.scale), 0.0
        return (0.0, float(self.value)) if self.value is not None else (1.0, float(self.add or 0))

    def __str__(self) -> str:
        names = [str(feature) for feature in self.features]
        what = names[0] if len(names) == 1 else f"{len(names)} features ({names[0]}, ...)"
        verb = next(name for name in ("scale", "value", "add") if getattr(self, name) is not None)
        where = "" if self.positions is None else f" at {_written(self.positions)}"
        return f"{what}{where} {verb}={float(getattr(self, verb)):g}"


class NodeId(NamedTuple):
    """One node: its kind, and where it stands. Coordinates that a kind does not have are -1.

    `layer` is the layer that a feature reads, an error, masked, b_dec or bias node writes, and a target is read at
    (`n_layers` for logits). `index` is the feature, the token id (tokens and logits), or -1.
    """

    kind: Kind
    layer: int
    pos: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index is not missed)

    def __str__(self) -> str:
        match self.kind:
            case Kind.FEATURE:
                return str(Feature(self.layer, self.pos, self.index))
            case Kind.TARGET:
                return f"target {self.index}@{self.pos}" if self.index >= 0 else f"target L{self.layer}@{self.pos}"
            case Kind.TOKEN | Kind.POSITION:
                return f"{self.kind.name.lower()}@{self.pos}"
            case Kind.B_DEC | Kind.BIAS:
                return f"{self.kind.name.lower()} L{self.layer}"
            case _:
                return f"{self.kind.name.lower()} L{self.layer}@{self.pos}"


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of one graph as columns of equal length, in the order above. Immutable; `subset` keeps the order."""

    kind: Int64[Tensor, " node"]
    layer: Int64[Tensor, " node"]
    pos: Int64[Tensor, " node"]
    index: Int64[Tensor, " node"]

    def __post_init__(self) -> None:
        sizes = {len(self.kind), len(self.layer), len(self.pos), len(self.index)}
        if len(sizes) != 1:
            raise GraphError(
                f"The columns of the nodes differ in length: {sorted(sizes)}. Give four columns of equal length."
            )
        if bool((self.kind.diff() < 0).any()):
            raise GraphError(
                "The nodes are out of order: features, errors, tokens, positions, masked, b_dec, bias, targets."
            )

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, row: int) -> NodeId:
        return NodeId(Kind(int(self.kind[row])), int(self.layer[row]), int(self.pos[row]), int(self.index[row]))

    def rows(self, *kinds: Kind) -> Bool[Tensor, " node"]:
        """True at the nodes of these kinds."""
        return torch.isin(self.kind, torch.tensor([int(kind) for kind in kinds]))

    def span(self, kind: Kind) -> slice:
        """The rows of one kind: they stand together."""
        bounds = torch.searchsorted(self.kind, torch.tensor([int(kind), int(kind) + 1]))
        return slice(int(bounds[0]), int(bounds[1]))

    def count(self, kind: Kind) -> int:
        """How many nodes there are of this kind."""
        span = self.span(kind)
        return span.stop - span.start

    @cached_property
    def _row_of(self) -> dict[NodeId, int]:
        # Targets may repeat a coordinate (two directions at one position): the first one is found by coordinate.
        found: dict[NodeId, int] = {}
        for row in range(len(self)):
            found.setdefault(self[row], row)
        return found

    def row(self, node: NodeId) -> int:
        """The row of a node. Raises `GraphError` where the graph does not hold it."""
        try:
            return self._row_of[node]
        except KeyError:
            raise GraphError(
                f"This graph has no node {node}. It holds {len(self)} nodes; graph.find(...) lists those near a token, "
                "and a pruned graph holds fewer than the graph it came from."
            ) from None

    def row_named(self, name: str) -> int:
        """The row of the node that is written so: `L20/15589@-1`, `error L3@5`, `token@-2`, `target 42@7`, `bias L0`.

        Negative positions count from the last token. Raises `GraphError` where the text names no node of this graph.
        """
        if _FEATURE_NAME.fullmatch(name.strip()):
            feature = Feature.parse(name)
            return self.row(NodeId(Kind.FEATURE, feature.layer, self.absolute(feature.pos), feature.index))
        match = _NODE_NAME.fullmatch(name.strip())
        if match is None or match["kind"].upper() not in Kind.__members__ or match["kind"] == "feature":
            raise GraphError(
                f"{name!r} names no node. Write a feature as L20/15589@-1, others as error L3@5, token@-2, target "
                "42@7, bias L0; graph.find(...) searches by label or token."
            )
        found = self.rows(Kind[match["kind"].upper()])
        for column in ("layer", "index", "pos"):
            if match[column] is not None:
                value = int(match[column])
                found &= getattr(self, column) == (self.absolute(value) if column == "pos" else value)
        rows = found.nonzero().squeeze(1).tolist()
        if not rows:
            raise GraphError(
                f"This graph has no node {name!r} among its {len(self)}; graph.find(...) lists what it has."
            )
        # Two targets may stand at one place; the first is meant, as in `row`.
        if self[rows[0]] != self[rows[-1]]:
            raise GraphError(
                f"{name!r} names {len(rows)} nodes, first {self[rows[0]]} and {self[rows[-1]]}: say which."
            )
        return rows[0]

    def absolute(self, pos: int) -> int:
        """A position that counts from the end, counted from the start; every position of a prompt has a token node."""
        return pos + self.count(Kind.TOKEN) if pos < 0 else pos

    def features(self) -> list[Feature]:
        """The feature nodes, in order."""
        span = self.span(Kind.FEATURE)
        columns = torch.stack([self.layer[span], self.pos[span], self.index[span]], dim=1)
        return [Feature(*row) for row in columns.tolist()]

    def subset(self, keep: Bool[Tensor, " node"]) -> "Nodes":
        """The nodes where `keep` is true, in the same order."""
        return Nodes(self.kind[keep], self.layer[keep], self.pos[keep], self.index[keep])


def lay_out(
    features: Int64[Tensor, "feature 3"],
    n_layers: int,
    token_ids: Int64[Tensor, " pos"],
    *,
    learned_positions: bool,
    masked_positions: Sequence[int],
    targets: Int64[Tensor, "target 3"],
) -> Nodes:
    """All nodes of a prompt's graph, in order.

    `features` and `targets` hold (layer, position, index) rows, the features sorted. Errors stand at every layer and
    position, position nodes only where the model learns position embeddings, masked nodes at every layer of the masked
    positions, b_dec nodes at every layer, bias nodes at every layer and at `n_layers` (the last norm and the
    unembedding).
    """
    n_pos = len(token_ids)
    layers, positions = torch.arange(n_layers), torch.arange(n_pos)
    masked = torch.tensor(sorted(masked_positions), dtype=torch.int64)
    none = torch.tensor([-1])
    return _stack(
        (Kind.FEATURE, features),
        (Kind.ERROR, torch.cartesian_prod(layers, positions, none)),
        (Kind.TOKEN, torch.stack([none.expand(n_pos), positions, token_ids], dim=1)),
        (Kind.POSITION, torch.cartesian_prod(none, positions if learned_positions else positions[:0], none)),
        (Kind.MASKED, torch.cartesian_prod(layers, masked, none)),
        (Kind.B_DEC, torch.cartesian_prod(layers, none, none)),
        (Kind.BIAS, torch.cartesian_prod(torch.arange(n_layers + 1), none, none)),
        (Kind.TARGET, targets),
    )


def _stack(*blocks: tuple[Kind, Int[Tensor, "_ 3"]]) -> Nodes:
    kind = torch.cat([torch.full((len(rows),), int(kind)) for kind, rows in blocks])
    layer, pos, index = torch.cat([rows.to(torch.int64).reshape(-1, 3) for _, rows in blocks]).unbind(1)
    return Nodes(kind, layer, pos, index)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


class _Node(Protocol):
    @property
    def id(self) -> NodeId: ...


FeatureLike = Feature | NodeId | _Node | str
"""What names a feature: itself, "L3/120@-1", or a node of a graph."""


def _as_feature(given: object) -> Feature:
    if isinstance(given, str):
        return Feature.parse(given)
    if isinstance(given, Feature):
        return given
    node = getattr(given, "id", given)
    if isinstance(node, NodeId):
        if node.kind is Kind.FEATURE:
            return Feature(node.layer, node.pos, node.index)
        raise SettingError(
            f"{node} is a node of a graph, but no feature, and only features are changed: leave it out, say by "
            "[node for node in graph.find(...) if node.id.kind.name == 'FEATURE']."
        )
    raise SettingError(
        f"{given!r:.80} is no feature: write 'L3/120@-1', or tlc.Feature(layer=3, pos=-1, index=120); a list of them "
        "is a supernode. Of a graph's node, str(node.id) is the name."
    )


def _written(positions: object) -> str:
    if not isinstance(positions, slice):
        return str(positions)
    bounds = [positions.start, positions.stop] + ([] if positions.step is None else [positions.step])
    return ":".join("" if bound is None else str(bound) for bound in bounds)
