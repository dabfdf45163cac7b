"""Figures that are ratios of sums over prompts, each with a bootstrap interval over the prompts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float64
from torch import Tensor

Sums: TypeAlias = Mapping[str, Tensor]
"""Sums by name: (row,), or (row, layer), in float64. A row is a prompt, or a resample of all of them."""

BLOCK = 2**22
"""The most weights, resamples times prompts, that are made at a time."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; nan where it is not defined, and without an interval where there is one prompt."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Estimate":
        """What holds by definition."""
        return cls(value, value, value)


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Sums over all prompts (one row), and over samples of as many prompts, drawn with replacement (a row each).

    Figures get the intervals of the percentile bootstrap (Efron and Tibshirani 1993, ch. 13), widened to the figure
    itself where they would miss it. Of one prompt there are no samples: they would all be the same.
    """

    total: Sums
    draws: Sums | None
    level: float

    @classmethod
    def of(cls, sums: Sums, *, resamples: int, level: float, seed: int) -> "Bootstrap":
        """Draws the samples. The same prompts in the same order and the same seed give the same ones."""
        total = {name: column.sum(0, keepdim=True) for name, column in sums.items()}
        n_prompts = len(next(iter(sums.values())))
        if n_prompts == 1:
            return cls(total, None, level)
        generator = torch.Generator().manual_seed(seed)
        size = max(1, BLOCK // n_prompts)
        parts = [_drawn(generator, min(size, resamples - at), sums) for at in range(0, resamples, size)]
        return cls(total, {name: torch.cat([part[name] for part in parts]) for name in sums}, level)

    def estimates(self, figure: Callable[[Sums], Tensor]) -> list[Estimate]:
        """The figure, a function of sums row by row, of each layer; one of a figure that is of no layer."""
        values = figure(self.total)[0].reshape(-1)
        if self.draws is None:
            nan = float("nan")
            return [Estimate(value, nan, nan) for value in values.tolist()]
        tails = torch.tensor([(1 - self.level) / 2, (1 + self.level) / 2], dtype=torch.float64)
        low, high = figure(self.draws).quantile(tails, dim=0)
        low, high = torch.minimum(low.reshape(-1), values), torch.maximum(high.reshape(-1), values)
        return [Estimate(*row) for row in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]

    def estimate(self, figure: Callable[[Sums], Tensor]) -> Estimate:
        """The figure, where it is of no layer."""
        (found,) = self.estimates(figure)
        return found


def ratio(part: Float64[Tensor, "..."], whole: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
    """part / whole; nan where the whole is not positive."""
    return torch.where(whole > 0, part / whole, torch.nan)


def _drawn(generator: torch.Generator, n_draws: int, sums: Sums) -> dict[str, Tensor]:
    n_prompts = len(next(iter(sums.values())))
    drawn = torch.randint(n_prompts, (n_draws, n_prompts), generator=generator)
    times = torch.zeros(n_draws, n_prompts, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    return {name: times @ column for name, column in sums.items()}
