"""Features that could stand together as a supernode: those at one position whose value comes from the same tokens.

Where a feature's value comes from is followed through the features in between, with signs:

    o_f = Σ_s (A_fs / Σ_s |A_fs|) · o_s,

over its counted inputs s, where o of a token or an error is 1 at its own position. Features whose o point the same way
are put together by average linkage. What they feed is left out: features of several layers that say the same thing feed
different readers.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.graph.influence import Shares, counted_sources, top_down
from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.views import label_of
from tl_circuits.nodes import Feature, Kind

MOST_FEATURES = 200
"""Of each position, the most influential that are looked at."""
GRID = 1e9
"""Cosines are taken as whole billionths, so that sums of them are exact and ties are ties."""
LEAST_NAMED = 2 / 3
"""A word names a group where members of at least so much of its influence have it in their labels."""

_WORD = re.compile(r"[^\W\d_][\w'-]{2,}")


@dataclass(frozen=True)
class Group:
    """Rows of a graph that could be one supernode, in the graph's order, and what that could be called."""

    label: str
    rows: tuple[int, ...]


def origins(graph: GraphRecord) -> Float64[Tensor, "feature origin"]:
    """What part of each feature's inputs comes from each position's token, and, behind those, from its errors.

    Signed, through all features in between; zero for a feature without inputs.
    """
    nodes, n_pos = graph.nodes, len(graph.tokens)
    shares = Shares(graph.edges, counted_sources(nodes, constants=False))
    found = torch.zeros(len(nodes), 2 * n_pos, dtype=torch.float64)
    for kind, first in ((Kind.TOKEN, 0), (Kind.ERROR, n_pos)):
        span = nodes.span(kind)
        found[torch.arange(span.start, span.stop), first + nodes.pos[span].long()] = 1.0
    for rows in [*top_down(nodes)][:0:-1]:
        row, source, share = shares.block(rows)
        run = slice(int(graph.edges.indptr[rows.start]), int(graph.edges.indptr[rows.stop]))
        signed = (share * graph.edges.weight[run].sign())[:, None] * found[source]
        found[rows] = torch.zeros(rows.stop - rows.start, 2 * n_pos, dtype=torch.float64).index_add_(0, row, signed)
    return found[nodes.span(Kind.FEATURE)]


def suggest(graph: GraphRecord, influence: Float64[Tensor, " node"], rows: Sequence[int], alike: float) -> list[Group]:
    """Groups of at least two of these features, each at one position, the most influential group first."""
    whence = origins(graph)
    found: list[list[int]] = []
    at, weight = graph.nodes.pos.tolist(), influence.tolist()
    for pos in sorted({at[row] for row in rows}):
        here = sorted((row for row in rows if at[row] == pos), key=lambda row: -weight[row])
        here = sorted(here[:MOST_FEATURES])
        found += [[here[place] for place in group] for group in linked(_cosines(whence[here]), alike)]
    found = [group for group in found if len(group) > 1]
    found.sort(key=lambda group: (-float(influence[group].sum()), group))
    words = _Words.of(graph, influence, rows)
    names = distinct(_named(graph, words, group) for group in found)
    return [Group(name, tuple(group)) for name, group in zip(names, found, strict=True)]


def _cosines(vectors: Float64[Tensor, "row origin"]) -> Int64[Tensor, "row row"]:
    length = vectors.norm(dim=1, keepdim=True)
    unit = vectors / torch.where(length > 0, length, 1.0)
    return (unit @ unit.T * GRID).round().long()


def linked(likeness: Int64[Tensor, "row row"], alike: float) -> list[list[int]]:
    """Average linkage: the two groups whose members are most alike on average are joined, while that is `alike`.

    `likeness` is in billionths. Of equal pairs the first is taken. Groups are in the order of their first members.
    """
    groups = [[place] for place in range(len(likeness))]
    sums = likeness.to(torch.float64)
    while len(groups) > 1:
        sizes = torch.tensor([len(group) for group in groups], dtype=torch.float64)
        means = (sums / (sizes[:, None] * sizes)).triu(1) + torch.full_like(sums, -torch.inf).tril()
        best = int(means.argmax())
        first, second = divmod(best, len(groups))
        if means[first, second] < alike * GRID:
            break
        sums[first] += sums[second]
        sums[:, first] += sums[:, second]
        left = [place for place in range(len(groups)) if place != second]
        groups[first] = sorted([*groups[first], *groups.pop(second)])
        sums = sums[left][:, left]
    return groups


@dataclass(frozen=True, eq=False)
class _Words:
    """Which words stand in the labels of some features, and how much influence the features with each of them have."""

    weight: Mapping[int, float]
    said: Mapping[int, Mapping[str, str]]
    having: Mapping[str, float]

    @classmethod
    def of(cls, graph: GraphRecord, influence: Float64[Tensor, " node"], rows: Sequence[int]) -> "_Words":
        weight = {row: float(influence[row]) for row in rows}
        said = {row: _words(label_of(graph, row)) for row in rows}
        having: dict[str, float] = defaultdict(float)
        for row, words in said.items():
            for word in words:
                having[word] += weight[row]
        return cls(weight, said, having)

    def telling(self, order: Sequence[int]) -> str:
        """The word that most of a group has in its labels, and others have not; empty where there is none."""
        inside = sum(self.weight[row] for row in order)
        outside = sum(self.weight.values()) - inside
        best, most = "", -1.0
        for word in dict.fromkeys(word for row in order for word in self.said[row]):
            own = sum(self.weight[row] for row in order if word in self.said[row])
            here, there = _part(own, inside), _part(self.having[word] - own, outside)
            tells = round((here - there) * GRID)
            if here >= LEAST_NAMED and tells > most:
                best, most = next(self.said[row][word] for row in order if word in self.said[row]), tells
        return best


def _named(graph: GraphRecord, words: _Words, group: Sequence[int]) -> str:
    """The word that tells a group from others; else what its first member is called."""
    order = sorted(group, key=lambda row: (-words.weight[row], row))
    first = label_of(graph, order[0])[:40].strip()
    return words.telling(order) or first or f"{graph.nodes[order[0]]} and {len(group) - 1} more"


def _part(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _words(label: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in _WORD.findall(label):
        found.setdefault(word.lower(), word)
    return found


def distinct(names: Iterable[str]) -> list[str]:
    """The names, with a number behind those that were there before."""
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found:
            number, free = number + 1, f"{name} {number}"
        found.append(free)
    return found


def as_features(graph: GraphRecord, groups: Iterable[Group]) -> dict[str, tuple[Feature, ...]]:
    """The groups by name, as features."""
    named = {}
    for group in groups:
        nodes = [graph.nodes[row] for row in group.rows]
        named[group.label] = tuple(Feature(node.layer, node.pos, node.index) for node in nodes)
    return named
