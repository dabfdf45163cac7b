"""What sums a curve up: its mean over the logarithm of the size, on one axis for all curves, or over shares of units.

On the logarithm a curve goes straight from one measured size to the next, and stays as it ends beyond its last: all
units are all that there are.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from tl_circuits.errors import SettingError

REACH = 512
"""Units that areas go up to where nothing else is said, so that bases of any number of units are on one axis."""


def at_size(values: Float64[Tensor, "*draw size"], sizes: Sequence[int], size: int) -> Float64[Tensor, "*draw"]:
    """The curve at one size. Raises `SettingError` for a size below 0, or that is no whole number."""
    if not isinstance(size, int) or size < 0:
        raise SettingError(f"A circuit of {size} units is none: give 0 or more.")
    return _at(values, _log(sizes), _log([size]))[..., 0]


def mean_over_log(values: Float64[Tensor, "*draw size"], sizes: Sequence[int], to: int) -> Float64[Tensor, "*draw"]:
    """The mean of the curve over log2(1 + k), from 0 to `to`. Raises `SettingError` where that is no whole number."""
    if not isinstance(to, int) or to < 1:
        raise SettingError(f"An area to {to} units is none: give 1 or more.")
    at, end = _log(sizes), _log([to])
    grid = torch.cat([at[at < end], end])
    return torch.trapezoid(_at(values, at, grid), grid, dim=-1) / (grid[-1] - grid[0])


def mean_over_share(values: Float64[Tensor, "*draw size"], sizes: Sequence[int]) -> Float64[Tensor, "*draw"]:
    """The mean of the curve over the share of units, straight between sizes."""
    at = torch.tensor(sizes, dtype=torch.float64)
    return torch.trapezoid(values, at, dim=-1) / (at[-1] - at[0])


def _log(sizes: Sequence[int]) -> Float64[Tensor, " size"]:
    return torch.log2(1 + torch.tensor(sizes, dtype=torch.float64))


def _at(
    values: Float64[Tensor, "*draw size"], at: Float64[Tensor, " size"], wanted: Float64[Tensor, " wanted"]
) -> Float64[Tensor, "*draw wanted"]:
    after = torch.searchsorted(at, wanted).clamp(1, len(at) - 1)
    share = ((wanted - at[after - 1]) / (at[after] - at[after - 1])).clamp(0, 1)
    return values[..., after - 1] * (1 - share) + values[..., after] * share
