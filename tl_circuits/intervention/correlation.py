"""How alike two lists of numbers are, and how sure that is over prompts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import whole

# Two numbers are always in a line.
FEWEST = 3
DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over prompts, and the bounds between which 95 % of the means of as many prompts, drawn again, lie.

    `prompts` counts those on which there is a number. Of one there are no bounds, of none no mean: they are None.
    """

    mean: float | None
    low: float | None
    high: float | None
    prompts: int

    @classmethod
    def of(cls, values: Sequence[float], seed: int) -> "Interval":
        """The mean of what is a number among these, and its bootstrap interval (percentiles of 2,000 draws)."""
        known = torch.tensor([value for value in values if math.isfinite(value)], dtype=torch.float64)
        if len(known) < 2:
            return cls(float(known) if len(known) else None, None, None, len(known))
        draw = torch.randint(len(known), (DRAWS, len(known)), generator=torch.Generator().manual_seed(seed))
        tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
        low, high = known[draw].mean(1).quantile(tails).tolist()
        return cls(float(known.mean()), low, high, len(known))

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"


def as_seed(value: Any) -> int:
    """Raises `SettingError` for what cannot seed a generator."""
    seed = whole(value)
    if seed is None or not 0 <= seed < 2**63:
        raise SettingError(f"seed={value!r:.80} is no seed: give a whole number from 0 to {2**63 - 1}.")
    return seed


def spearman(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """The correlation of ranks, equal numbers at their mean rank; NaN where `pearson` is."""
    return pearson(_ranks(x), _ranks(y))


def pearson(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """The linear correlation; NaN for fewer than 3 numbers, or where one side is constant."""
    if len(x) < FEWEST:
        return math.nan
    x, y = (side.to(torch.float64) - side.to(torch.float64).mean() for side in (x, y))
    scale = x.norm() * y.norm()
    return float(x @ y / scale) if scale > 0 else math.nan


def log_pearson(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """The linear correlation of the logarithms of |x| and |y|, where neither is 0."""
    some = (x != 0) & (y != 0)
    return pearson(x[some].to(torch.float64).abs().log(), y[some].to(torch.float64).abs().log())


def sign_agreement(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """The share of the pairs, where neither is 0, that have the same sign; NaN where there is none."""
    some = (x != 0) & (y != 0)
    return float((x[some].sign() == y[some].sign()).double().mean()) if bool(some.any()) else math.nan


def cosine(x: Float[Tensor, " *n"], y: Float[Tensor, " *n"]) -> float:
    """The cosine of two tensors as vectors; NaN where one is 0."""
    x, y = x.flatten().to(torch.float64), y.flatten().to(torch.float64)
    scale = x.norm() * y.norm()
    return float(x @ y / scale) if scale > 0 else math.nan


def nmse(x: Float[Tensor, " *n"], of: Float[Tensor, " *n"]) -> float:
    """‖x − of‖² / ‖of‖²; NaN where `of` is 0."""
    total = of.to(torch.float64).square().sum()
    return float((x - of).to(torch.float64).square().sum() / total) if total > 0 else math.nan


def _ranks(values: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
    _, place, counts = values.unique(sorted=True, return_inverse=True, return_counts=True)
    upto = counts.cumsum(0).to(torch.float64)
    return (upto - (counts - 1) / 2)[place]
