"""How faithfully, and how sparsely, a transcoder stands for a model's MLPs: the figures, as values."""

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tl_circuits.graph.report import visible
from tl_circuits.intervention.bootstrap import Estimate

DENSITY_EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The bounds of a density histogram: the upper ones belong to what lies below them."""


@dataclass(frozen=True)
class Measure:
    """A figure of the transcoder, between that of mean-ablated MLPs (`floor`) and that of the model (`ceiling`)."""

    value: Estimate
    floor: Estimate
    ceiling: Estimate


@dataclass(frozen=True)
class LayerFidelity:
    """What the transcoder makes of one MLP, on the model's own pass: it reads what the MLPs below really wrote.

    With y what the MLP wrote, ŷ its reconstruction, and ȳ the mean of y, over the set's tokens and all of d_model:

    - `fvu`: Σ‖y − ŷ‖² / Σ‖y − ȳ‖², the fraction of variance unexplained (Gao et al. 2024, §2.1, who call it normalized
      MSE). Not defined where the MLP writes the same at every token.
    - `nmse`: Σ‖y − ŷ‖² / Σ‖y‖², the same without a mean. Papers call either of the two NMSE, so compare with care.
    - `l0`: features active (a ≠ 0) per token.
    - `dead`: how many of `n_features` were active at no token.
    - `density_histogram`: of the others, how many were active at a share of tokens between neighbouring
      `DENSITY_EDGES`.
    - `agreement`, `kl`: as those of `Fidelity`, with this MLP alone replaced; None unless asked for (`each_layer`).
    """

    layer: int
    fvu: Measure
    nmse: Measure
    l0: Estimate
    n_features: int
    dead: int
    density_histogram: tuple[int, ...]
    agreement: Estimate | None = None
    kl: Estimate | None = None

    @property
    def density(self) -> float:
        """The share of tokens at which a feature is active, on average over all features."""
        return self.l0.value / self.n_features

    @property
    def dead_share(self) -> float:
        """The share of features that were active at no token."""
        return self.dead / self.n_features


@dataclass(frozen=True)
class Fidelity:
    """What replacing every MLP does to the model's predictions on one set of prompts.

    All over the `n_tokens` tokens that are not masked. Attention and norms run, so errors compound.

    - `agreement`: the share of tokens after which the replacement model's likeliest next token is the model's own.
    - `kl`: KL(model ‖ replacement model) of the next token, in nats.
    - `last_agreement`, `last_kl`: the same after the last token of each prompt, which is what graphs explain.
    - `ce`: cross-entropy, in nats, of the `n_predicted` tokens that follow one that is not masked.
    - `ce_recovered`: (ce of the floor − ce) / (ce of the floor − ce of the model). Not defined where the model does no
      better than the floor. Mean ablation makes it smaller than zero ablation would.
    - `fvu`, `l0`: means over layers; FVU over those where it is defined.
    """

    n_prompts: int
    n_tokens: int
    n_predicted: int
    agreement: Measure
    kl: Measure
    last_agreement: Measure
    last_kl: Measure
    ce: Measure
    ce_recovered: Measure
    fvu: Measure
    l0: Estimate
    layers: tuple[LayerFidelity, ...]


@dataclass(frozen=True, repr=False)
class FidelityReport:
    """What `evaluate` found. `overall` is over all prompts, `sets` holds each set as if it were evaluated alone.

    Intervals are percentile bootstraps over prompts at `level`, from `resamples` samples seeded with `seed`; the means
    of the MLPs' writes, about which variance is counted and with which the floor is made, stay fixed.
    """

    model: str
    transcoder: str
    source: str | None
    overall: Fidelity
    sets: Mapping[str, Fidelity] = field(default_factory=dict)
    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is not defined is None."""
        return _plain(
            {
                "model": self.model,
                "transcoder": self.transcoder,
                "source": self.source,
                "intervals": {"resamples": self.resamples, "level": self.level, "seed": self.seed},
                "density_edges": list(DENSITY_EDGES),
                "overall": asdict(self.overall),
                "sets": {name: asdict(found) for name, found in self.sets.items()},
            }
        )

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def __str__(self) -> str:
        found = self.overall
        about = f"{visible(self.model)}, its MLPs replaced by {visible(self.source or self.transcoder)}"
        counted = f"{found.n_prompts} prompts, {found.n_tokens} tokens, {self.level:.0%} intervals over prompts"
        parts = [[textwrap.fill(about, WIDTH), counted], _aligned([_MEASURED, *_measured(found)])]
        if self.sets:
            parts += [_aligned([_SETS, *(_set_row(visible(name), one) for name, one in self.sets.items())])]
        layers = [(*_LAYERS, *([] if found.layers[0].agreement is None else ["alone"]))]
        parts += [_aligned(layers + [_layer_row(layer) for layer in found.layers])]
        return "\n\n".join("\n".join(part) for part in parts)

    __repr__ = __str__


WIDTH = 80
_MEASURED = ("", "transcoder", "floor", "model")
_SETS = ("set", "prompts", "agreement", "last", "KL", "CE recovered", "FVU", "L0")
_LAYERS = ("layer", "FVU", "NMSE", "L0", "features", "dead", "density")


def _measured(found: Fidelity) -> list[tuple[str, ...]]:
    named = {
        "agreement": found.agreement,
        "KL, nats": found.kl,
        "last agreement": found.last_agreement,
        "last KL, nats": found.last_kl,
        "CE, nats": found.ce,
        "CE recovered": found.ce_recovered,
        "mean FVU": found.fvu,
    }
    rows = [
        (name, _estimate(one.value), _number(one.floor.value), _number(one.ceiling.value))
        for name, one in named.items()
    ]
    return [*rows, ("mean L0", _estimate(found.l0), "", "")]


def _set_row(name: str, found: Fidelity) -> tuple[str, ...]:
    measures = (found.agreement, found.last_agreement, found.kl, found.ce_recovered, found.fvu)
    values = [_number(measure.value.value) for measure in measures]
    return (name, f"{found.n_prompts}", *values, _number(found.l0.value))


def _layer_row(layer: LayerFidelity) -> tuple[str, ...]:
    alone = () if layer.agreement is None else (_number(layer.agreement.value),)
    dead = f"{layer.dead} ({layer.dead_share:.1%})"
    numbers = (_number(layer.l0.value), f"{layer.n_features}", dead, _median_decade(layer.density_histogram))
    return (f"{layer.layer}", _estimate(layer.fvu.value), _number(layer.nmse.value.value), *numbers, *alone)


def _median_decade(histogram: tuple[int, ...]) -> str:
    """Where the density of the middle one of the features that are not dead lies."""
    before, half = 0, (sum(histogram) + 1) // 2
    for place, count in enumerate(histogram):
        before += count
        if count and before >= half:
            return f"{DENSITY_EDGES[place]:g}-{DENSITY_EDGES[place + 1]:g}"
    return "-"


def _estimate(estimate: Estimate) -> str:
    found = _number(estimate.value)
    return found if math.isnan(estimate.low) else f"{found} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return (
        f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
