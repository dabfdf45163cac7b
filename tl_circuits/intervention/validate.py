"""The strongest paths of a graph, tested by ablating their features in the model: a verdict for each.

Ameisen et al. 2025, "Validating Attribution Graph Hypotheses with Interventions".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import number, share
from tl_circuits.graph.paths import Path
from tl_circuits.intervention.ablation import Ablating, Ablations, Held, Readout
from tl_circuits.intervention.correlation import as_seed
from tl_circuits.intervention.graph_of import check_same
from tl_circuits.intervention.prediction import Prediction
from tl_circuits.nodes import Feature, Kind
from tl_circuits.progress import stage
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import check_unhooked_since, refuse_replaced

Verdict: TypeAlias = Literal["confirmed", "wrong sign", "no effect beyond control"]

SEARCHED = 10
"""So many times more paths are searched as are asked for: many lead from a token or an error straight to a target."""


@dataclass(frozen=True)
class Effect:
    """What ablating one feature does to one node further on its path.

    - `ablated`, `on`: the feature, and the next node of the path or its target.
    - `predicted`: the change that the graph says, over all its paths from the one to the other; `by_path`: by this path
      alone. `measured`: that of the model, where all paths act at once, the MLPs above the feature running on.
      Pre-activations of features, centred logits of targets.
    - `control`: the size that a share `level` of random features reaches there; `n_control` of them were ablated.
    - `forced`: whether nothing but attention and norms lies between, so that only the norms could have differed.
    - `verdict` on this effect alone.
    """

    ablated: str
    on: str
    predicted: float
    by_path: float
    measured: float
    control: float
    n_control: int
    forced: bool

    @property
    def verdict(self) -> Verdict:
        """Whether the node moved more than under the control, and the way that the graph says."""
        if not abs(self.measured) > self.control:
            return "no effect beyond control"
        return "confirmed" if self.measured * self.predicted > 0 else "wrong sign"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class PathVerdict:
    """One path, and what came of ablating each of its features: the effects on the next node, and on the target."""

    nodes: tuple[str, ...]
    labels: tuple[str, ...]
    share: float
    effect: float
    effects: tuple[Effect, ...]

    @property
    def verdict(self) -> Verdict:
        """ "confirmed" where all effects are; else "wrong sign" where one has it; else "no effect beyond control"."""
        found = {effect.verdict for effect in self.effects}
        if found == {"confirmed"}:
            return "confirmed"
        return "wrong sign" if "wrong sign" in found else "no effect beyond control"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict as JSON values."""
        return {
            "nodes": list(self.nodes),
            "labels": list(self.labels),
            "share": self.share,
            "effect": self.effect,
            "effects": [effect.to_dict() for effect in self.effects],
            "verdict": self.verdict,
        }

    def __repr__(self) -> str:
        on_target = self.effects[-1]
        steps = " → ".join(self.nodes)
        return (
            f"<{steps}: {self.verdict}; without {on_target.ablated} the target moves {on_target.measured:+.3g}, the "
            f"graph says {on_target.predicted:+.3g}, control {on_target.control:.3g}>"
        )


@dataclass(frozen=True)
class Validation:
    """Verdicts on the strongest paths of a graph that lead through a feature, the strongest first."""

    prompt: str
    paths: tuple[PathVerdict, ...]
    level: float
    seed: int

    def count(self, verdict: Verdict) -> int:
        """How many paths have this verdict."""
        return sum(path.verdict == verdict for path in self.paths)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        paths = [path.to_dict() for path in self.paths]
        return {"prompt": self.prompt, "level": self.level, "seed": self.seed, "paths": paths}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def __repr__(self) -> str:
        head = f"Validation({self.count('confirmed')} of {len(self.paths)} paths confirmed)"
        return "\n".join([head] + [f"  {path!r}" for path in self.paths])


def validate(
    graph: AttributionGraph,
    local: LocalReplacementModel,
    *,
    n_paths: int = 5,
    n_controls: int = 20,
    level: float | int = 0.1,
    seed: int = 0,
    progress: bool | None = None,
) -> Validation:
    """Tests the `n_paths` strongest paths that lead through a feature: a verdict on each, with the sizes of effects.

    Each feature of a path is ablated on its own, by constrained patching at its layer, attention patterns held and the
    MLPs above running on. The next node of the path and its target should then change the way the graph says, and more
    than they do for all but a share `level` of the control: up to `n_controls` active features of the same layer, on
    none of these paths, drawn at random; with more paths fewer are left to draw from, and a verdict near the control
    can change. An effect on a node that reads the very next layer is nearly forced (`Effect.forced`). Sizes are given,
    and not judged: a feature far above its threshold moves less than in proportion.
    A decoder that stands, above its feature's layer, for what the model computes without that feature is held against
    the feature: ablated, the model's MLPs go on writing it, and the path can have the wrong sign.
    The graph may be pruned; it then says what is left of it.

    Raises `GraphError` for a graph of another prompt, model or transcoder, `TargetError` for targets that are no
    tokens, and `SettingError` for settings that cannot be and for a graph without any path through a feature.
    """
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"{type(local).__name__} is no local replacement model: give tlc.localize(model, clt, prompt)."
        )
    n_paths, n_controls = number("validate", "n_paths", n_paths), number("validate", "n_controls", n_controls)
    seed, wanted = as_seed(seed), share(level)
    if wanted is None:
        raise SettingError(f"level={level!r:.80} is no share: give one above 0 and at most 1, such as 0.1.")
    check_unhooked_since(local)
    refuse_replaced(local.model)
    check_same(graph, local, whole_graph=False)
    readout = Readout.of(local, graph)
    paths = [path for path in graph.paths(n_paths * SEARCHED) if _features(path)][:n_paths]
    if not paths:
        raise SettingError(
            f"None of the {n_paths * SEARCHED} strongest paths of this graph leads through a feature, so there is "
            "nothing to ablate: graph.paths() lists them."
        )
    with torch.inference_mode(False), torch.no_grad():
        tests = _Tests.of(local, readout, paths, n_controls, seed, progress)
        says = Prediction.of(graph)
        verdicts = tuple(_verdict(graph, says, tests, path, wanted) for path in paths)
    return Validation("".join(local.prompt.strings), verdicts, wanted, seed)


@dataclass(frozen=True, eq=False)
class _Tests:
    """The ablations of the features of all paths, and of each layer's control."""

    rows: dict[Feature, int]
    own: dict[Feature, tuple[Tensor, Tensor]]
    controls: dict[int, Ablations]

    @classmethod
    def of(
        cls,
        local: LocalReplacementModel,
        readout: Readout,
        paths: Sequence[Path],
        n_controls: int,
        seed: int,
        progress: bool | None,
    ) -> "_Tests":
        active, ablating = local.active(), Ablating(local, readout)
        ours = sorted({feature for path in paths for feature in _features(path)})
        generator = torch.Generator().manual_seed(seed)
        controls = {}
        for layer in sorted({feature.layer for feature in ours}):
            others = [feature for feature in active if feature.layer == layer and feature not in ours]
            chosen = torch.randperm(len(others), generator=generator)[:n_controls].tolist()
            controls[layer] = [others[row] for row in chosen]
        everything = ours + [feature for drawn in controls.values() for feature in drawn]
        with stage("testing paths", len(everything), show=progress) as bar:
            for done in ablating.effects(everything, Held.OWN):
                bar.update(done)
        found = ablating.of(ours, Held.OWN)
        columns = zip(found.preactivations.unbind(1), found.targets.unbind(1), strict=True)
        return cls(
            {feature: row for row, feature in enumerate(active)},
            dict(zip(ours, columns, strict=True)),
            {layer: ablating.of(drawn, Held.OWN) for layer, drawn in controls.items()},
        )

    def measured(self, ablated: Feature, on: Feature | int) -> tuple[float, Tensor]:
        """What a feature, and each of its control, does to a feature or to a target of that number."""
        preactivations, targets = self.own[ablated]
        control = self.controls[ablated.layer]
        if isinstance(on, int):
            return float(targets[on]), control.targets[on]
        return float(preactivations[self.rows[on]]), control.preactivations[self.rows[on]]


def _verdict(graph: AttributionGraph, says: Prediction, tests: _Tests, path: Path, level: float) -> PathVerdict:
    rows = [view.row for view in path.nodes]
    effects = []
    for at, view in enumerate(path.nodes[:-1]):
        if view.id.kind != Kind.FEATURE:
            continue
        # The next node first, then the target, where that is another.
        for end in dict.fromkeys((at + 1, len(rows) - 1)):
            effects.append(_effect(graph, says, tests, rows[at : end + 1], level))
    # The first feature's effect on the target stands last: it is what the path is about.
    first = next(at for at, view in enumerate(path.nodes) if view.id.kind == Kind.FEATURE)
    effects.sort(key=lambda effect: (effect.ablated, effect.on) == (str(path.nodes[first].id), str(path.nodes[-1].id)))
    names = tuple(str(view.id) for view in path.nodes)
    labels = tuple(view.label for view in path.nodes)
    return PathVerdict(names, labels, path.share, path.effect, tuple(effects))


def _effect(graph: AttributionGraph, says: Prediction, tests: _Tests, rows: Sequence[int], level: float) -> Effect:
    source, end = (graph.nodes[row] for row in (rows[0], rows[-1]))
    ablated = Feature(source.layer, source.pos, source.index)
    first_target = graph.nodes.span(Kind.TARGET).start
    on = rows[-1] - first_target if end.kind == Kind.TARGET else Feature(end.layer, end.pos, end.index)
    measured, control = tests.measured(ablated, on)
    reached = float(control.abs().quantile(1 - level)) if len(control) else 0.0
    total = says.total_on_targets[on] if isinstance(on, int) else says.total[rows[-1]]
    forced = end.layer == source.layer + 1
    return Effect(
        ablated=str(source),
        on=str(end),
        predicted=float(total[rows[0]]),
        by_path=-_passed(graph, rows),
        measured=measured,
        control=reached,
        n_control=len(control),
        forced=forced,
    )


def _passed(graph: AttributionGraph, rows: Sequence[int]) -> float:
    """What a feature does to the end of a path by this path: Π A / Π a over the features between."""
    steps = [_weight(graph, source, target) for source, target in pairwise(rows)]
    return math.prod(steps) / math.prod(float(graph.activations[row]) for row in rows[1:-1])


def _weight(graph: AttributionGraph, source: int, target: int) -> float:
    run = graph.edges.into(target)
    return float(graph.edges.weight[run][graph.edges.source[run] == source].sum())


def _features(path: Path) -> list[Feature]:
    ids = [view.id for view in path.nodes[:-1] if view.id.kind == Kind.FEATURE]
    return [Feature(node.layer, node.pos, node.index) for node in ids]
