"""What curves sum up to, with intervals: a bootstrap over seeds and prompts at once, drawn with replacement.

What has one figure a seed has an interval by Student's t: percentiles of so few draws are too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from scipy.stats import t as student_t
from torch import Tensor

from tl_circuits.comparison.areas import REACH, at_size, mean_over_log, mean_over_share

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Readings:
    """The curves of one basis and task from several dictionaries: m by (seed, size, prompt), and of ∅ and the model.

    `sizes` are the same for all seeds but for the last, all units, whose number depends on the dictionary.
    """

    sizes: tuple[int, ...]
    faithful: Float64[Tensor, "seed size prompt"]
    complete: Float64[Tensor, "seed size prompt"]
    answered: Float64[Tensor, "seed size prompt"]
    empty: Float64[Tensor, "seed prompt"]
    whole: Float64[Tensor, "seed prompt"]
    divergence: Float64[Tensor, "seed size prompt"] | None = None

    @classmethod
    def of(cls, curves: Sequence[Mapping[str, Any]]) -> "Readings":
        """From what `measure.curve` writes down, one for each seed."""

        def stacked(name: str) -> Tensor:
            return torch.tensor([curve[name] for curve in curves], dtype=torch.float64)

        names = ("faithful", "complete", "answered", "empty", "whole", "divergence")
        return cls(tuple(curves[0]["sizes"]), **{name: stacked(name) for name in names if name in curves[0]})

    def drawn(self, n_draws: int, seed: int, reach: int = REACH) -> "Drawn":
        """F, C and accuracy of all readings, and of so many samples of seeds and prompts."""
        draw = torch.Generator().manual_seed(seed)
        n_seeds, n_prompts = self.empty.shape
        seeds = torch.ones(1, n_seeds, dtype=torch.float64)
        prompts = torch.ones(1, n_prompts, dtype=torch.float64)
        if n_draws:
            seeds, prompts = (torch.cat([ones, _times(n_draws, ones.shape[1], draw)]) for ones in (seeds, prompts))
        empty, whole = (torch.einsum("ds,sp,dp->d", seeds, part, prompts) for part in (self.empty, self.whole))
        means = [
            torch.einsum("ds,skp,dp->dk", seeds, part, prompts)
            for part in (self.faithful, self.complete, self.answered)
        ]
        shares = [(mean - empty[:, None]) / (whole - empty)[:, None] for mean in means[:2]]
        recovered = None
        if self.divergence is not None:
            diverged = torch.einsum("ds,skp,dp->dk", seeds, self.divergence, prompts)
            recovered = 1 - diverged / diverged[:, :1]
        return Drawn(self.sizes, shares[0], shares[1], means[2] / (n_seeds * n_prompts), recovered, reach)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Curves by sample; the first row is of everything. Areas over the logarithm go up to `reach` units."""

    sizes: tuple[int, ...]
    faithfulness: Float64[Tensor, "draw size"]
    completeness: Float64[Tensor, "draw size"]
    accuracy: Float64[Tensor, "draw size"]
    recovered: Float64[Tensor, "draw size"] | None = None
    reach: int = REACH

    @property
    def cpr(self) -> Float64[Tensor, " draw"]:
        """As `CircuitCurve.cpr`."""
        return mean_over_log(self.faithfulness, self.sizes, self.reach)

    @property
    def cmd(self) -> Float64[Tensor, " draw"]:
        """As `CircuitCurve.cmd`."""
        return mean_over_log((1 - self.faithfulness).abs(), self.sizes, self.reach)

    @property
    def kl(self) -> Float64[Tensor, " draw"]:
        """The mean over log2(1 + k) of the divergence that is made good, as `CircuitCurve.recovered`."""
        assert self.recovered is not None
        return mean_over_log(self.recovered, self.sizes, self.reach)

    @property
    def left(self) -> Float64[Tensor, " draw"]:
        """The mean of C over log2(1 + k): low where what is left soon does nothing."""
        return mean_over_log(self.completeness, self.sizes, self.reach)

    @property
    def cpr_linear(self) -> Float64[Tensor, " draw"]:
        """As `CircuitCurve.cpr_linear`."""
        return mean_over_share(self.faithfulness, self.sizes)

    @property
    def cmd_linear(self) -> Float64[Tensor, " draw"]:
        """As `CircuitCurve.cmd_linear`."""
        return mean_over_share((1 - self.faithfulness).abs(), self.sizes)

    def at(self, size: int) -> Float64[Tensor, " draw"]:
        """F of a size, straight between sizes on log2(1 + k); that of all where there are no more."""
        return at_size(self.faithfulness, self.sizes, size)

    def k80(self) -> int | None:
        """The least measured size at which F of everything reaches .8."""
        reached = (self.faithfulness[0] >= 0.8).tolist()
        return next((size for size, is_it in zip(self.sizes, reached, strict=True) if is_it), None)

    def kc20(self) -> int | None:
        """The least measured size without which C of everything is at most .2."""
        reached = (self.completeness[0] <= 0.2).tolist()
        return next((size for size, is_it in zip(self.sizes, reached, strict=True) if is_it), None)


def estimate(values: Float64[Tensor, " draw"]) -> dict[str, float]:
    """The figure of everything, and where there are samples its percentile interval."""
    value = round(float(values[0]), 4)
    if len(values) == 1:
        return {"value": value}
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = values[1:].quantile(tails).tolist()
    return {"value": value, "low": round(min(low, value), 4), "high": round(max(high, value), 4)}


def of_seeds(values: Sequence[float]) -> dict[str, float]:
    """The mean of one reading a seed, with its interval by Student's t over seeds."""
    column = torch.tensor(values, dtype=torch.float64)
    column = column[~column.isnan()]
    if not len(column):
        return {}
    if len(column) == 1:
        return {"value": round(float(column[0]), 4)}
    value, n = float(column.mean()), len(column)
    half = float(student_t.ppf((1 + LEVEL) / 2, n - 1)) * float(column.std()) / n**0.5
    return {"value": round(value, 4), "low": round(value - half, 4), "high": round(value + half, 4)}


def _times(n_draws: int, n: int, draw: torch.Generator) -> Float64[Tensor, "draw item"]:
    drawn = torch.randint(n, (n_draws, n), generator=draw)
    times = torch.zeros(n_draws, n, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))
