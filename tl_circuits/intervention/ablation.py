"""What ablating features, one at a time, does to the targets and to the other features.

Ameisen et al. 2025, appendix "Validating the Replacement Model": constrained patching with attention held. Which layers
are held at what the feature writes, and which run on, decides what is measured (`Held`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import TargetError
from tl_circuits.graph import AttributionGraph
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.intervene import intervene
from tl_circuits.intervention.passes import Way, batch_size, run
from tl_circuits.intervention.result import InterventionResult
from tl_circuits.nodes import Feature, Intervention, Kind
from tl_circuits.replacement import LocalReplacementModel

REACH = 2
"""The paper holds the layers [i, i + 2] of an ablated feature of layer i."""


ROUNDING = 64
"""What differs by no more than so many units of rounding of float32, or float64, on the scale of its largest, is the
same: ranks would be those of the rounding. Where a pass of the same, unedited, differs by more, twice as much is: a
bridge's norms are in float32 whatever its dtype, and in 16 bits a unit is as large as many effects."""


class Held(Enum):
    """The layers that constrained patching holds, for a feature of layer i of n.

    - PAPER: [i, i + 2], but never the last layer too while i lies below it: on a shallow model nothing would run on,
      and the effect would be the direct one, which is no test of anything that the graph says of paths.
    - ALL: every layer. What is left is the direct effect, with norms running. With norms held too
      (`intervene(mode="direct")`) it is the graph's edge exactly.
    - OWN: [i]. All MLPs above are the model's own: what the feature writes itself above i is left to them.
    """

    PAPER = "paper"
    ALL = "all"
    OWN = "own"

    def layers(self, layer: int, n_layers: int) -> tuple[int, int]:
        """The first and the last layer that are held."""
        match self:
            case Held.PAPER:
                return layer, max(layer, min(layer + REACH, n_layers - 2))
            case Held.ALL:
                return 0, n_layers - 1
            case Held.OWN:
                return layer, layer


@dataclass(frozen=True, eq=False)
class Readout:
    """Tokens whose logits are watched: the graph's targets, and the two likeliest at the first target's position.

    `at`: the positions that are watched; what the verbs take are logits at these. `row`, `token`: of each target, its
    place among them and its id. `rivals`: the two likeliest.
    """

    at: Int64[Tensor, " watched"]
    row: Int64[Tensor, " target"]
    token: Int64[Tensor, " target"]
    rivals: tuple[int, int]

    @classmethod
    def of(cls, local: LocalReplacementModel, graph: AttributionGraph) -> "Readout":
        """The readout of a graph. Raises `TargetError` where a target is no token's logit."""
        rows = graph.nodes.span(Kind.TARGET)
        token, pos = graph.nodes.index[rows], graph.nodes.pos[rows]
        strange = (token < 0) | (graph.nodes.layer[rows] != local.n_layers)
        if bool(strange.any()):
            label = graph.target_labels[int(strange.nonzero()[0])]
            raise TargetError(
                f"The target {label!r} is no token's logit, so no effect on it can be read off the model's output: "
                "trace with tokens as targets."
            )
        first, second = local.logits[int(pos[0])].topk(2).indices.tolist()
        at, row = pos.unique(return_inverse=True)
        return cls(at, row, token, (first, second))

    @property
    def first_pos(self) -> int:
        """The position of the first target."""
        return int(self.at[self.row[0]])

    def values(self, logits: Tensor) -> Float64[Tensor, " target"]:
        """The centred logit of each target."""
        rows = logits.cpu().to(torch.float64)[self.row]
        return rows.gather(1, self.token[:, None])[:, 0] - rows.mean(-1)

    def difference(self, logits: Tensor) -> float:
        """The logit of the likeliest token less that of the second, at the first target's position."""
        row = logits[int(self.row[0])].to(torch.float64)
        return float(row[self.rivals[0]] - row[self.rivals[1]])

    def divergence(self, before: Tensor, after: Tensor) -> float:
        """KL(before ‖ after) of the next token, its mean over the targets' positions."""
        p, q = (logits.to(torch.float64).log_softmax(-1) for logits in (before, after))
        return float((p.exp() * (p - q)).sum(-1).clamp(min=0).mean())


@dataclass(frozen=True, eq=False)
class Ablations:
    """What each ablated feature (a column) does: after less before.

    - `divergence`: KL(before ‖ after) of the next token. `targets`: the targets' centred logits. `difference`: the
      likeliest token's logit less the second's.
    - `preactivations`, `activations`: of every feature that is active on the prompt, in the order of `local.features`.
    """

    features: tuple[Feature, ...]
    held: Held
    divergence: Float64[Tensor, " ablated"]
    targets: Float64[Tensor, "target ablated"]
    difference: Float64[Tensor, " ablated"]
    preactivations: Float64[Tensor, "feature ablated"]
    activations: Float64[Tensor, "feature ablated"]


@dataclass(frozen=True, eq=False)
class Ablating:
    """Ablates features of a prompt as they are asked for; what two ways have in common runs once."""

    local: LocalReplacementModel
    readout: Readout
    _known: dict[tuple[Feature, tuple[int, int]], tuple[Tensor, ...]] = field(default_factory=dict)

    def passes(self, features: Sequence[Feature], *ways: Held) -> int:
        """How many features, each as often as it is ablated in a way of its own."""
        return len({(feature, way.layers(feature.layer, self.local.n_layers)) for way in ways for feature in features})

    def effects(self, features: Sequence[Feature], held: Held) -> Iterator[int]:
        """Ablates these features, and says after each batch how many are done."""
        by_layer = groupby(sorted(set(features)), key=lambda feature: feature.layer)
        for layer, group in by_layer:
            layers = held.layers(layer, self.local.n_layers)
            todo = [feature for feature in group if (feature, layers) not in self._known]
            size = batch_size(self.local)
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                results = intervene(self.local, [[Intervention(f, scale=0)] for f in batch], layers)
                self._known.update({(f, layers): self._read(r) for f, r in zip(batch, results, strict=True)})
                yield len(batch)

    def of(self, features: Sequence[Feature], held: Held) -> Ablations:
        """The effects of these features."""
        for _ in self.effects(features, held):
            pass
        keys = [(feature, held.layers(feature.layer, self.local.n_layers)) for feature in features]
        n_features, n_targets = len(self.local.features), len(self.readout.token)
        empty = [torch.zeros(n, 0, dtype=torch.float64) for n in (1, n_targets, 1, n_features, n_features)]
        columns = zip(*(self._known[key] for key in keys), strict=True)
        parts = [torch.stack(column, dim=1) for column in columns] if keys else empty
        return Ablations(tuple(features), held, parts[0][0], parts[1], parts[2][0], parts[3], parts[4])

    @cached_property
    def _rounding(self) -> tuple[float, float]:
        """The changes of logits, and of what features read, that may be nothing but rounding."""
        local, layers = self.local, range(self.local.n_layers)
        again = run(local, Edits.of(local, [[]] * min(2, batch_size(local)), layers), Way("added", layers, "frozen"))
        own = again.before != 0
        moved = (again.preactivations_after - again.preactivations_before)[own]
        return _least(again.logits - local.logits, local.logits), _least(moved, again.preactivations_before[own])

    def _read(self, result: InterventionResult) -> tuple[Tensor, ...]:
        readout, changes = self.readout, result.changes
        of_logits, of_features = self._rounding
        before = result.logits_before[readout.at]
        after = before + _beyond(of_logits, result.logits[readout.at] - before)
        # Features that were active, which are the prompt's own, in their order.
        own = changes.before != 0
        moved = _beyond(of_features, (changes.preactivations_after - changes.preactivations_before)[own])
        return (
            torch.tensor([readout.divergence(before, after)], dtype=torch.float64),
            readout.values(after) - readout.values(before),
            torch.tensor([readout.difference(after) - readout.difference(before)], dtype=torch.float64),
            moved.to(torch.float64).cpu(),
            _beyond(of_features, changes.change[own]).to(torch.float64).cpu(),
        )


def _least(noise: Tensor, of: Tensor) -> float:
    if not of.numel():
        return 0.0
    unit = min(torch.finfo(of.dtype).eps, torch.finfo(torch.float32).eps)
    return max(ROUNDING * unit * float(of.abs().max()), 2 * float(noise.abs().max()))


def _beyond(rounding: float, change: Tensor) -> Tensor:
    return torch.where(change.abs() > rounding, change, 0)
