"""What a graph will take, in memory and in time: reckoned before it is begun, and said where it is much."""

import warnings
from dataclasses import dataclass

import psutil
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import SettingError, TLCircuitsWarning
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.sweep import Sweep

LONG = 120.0
"""Seconds from which on a graph is announced as long."""
# Rows are kept as they come, then put together, then checked with the row of each edge: all lie in memory for a while.
COPIES = 3
SWEEPS = 8
"""The memory budget in budgets of a sweep: rows take the most of it."""
BATCHES = 4
"""What a batch takes at its height, in batches as they are planned: autograd's own, and the rows made of it."""


@dataclass(frozen=True)
class Plan:
    """What the rows of all features would take. `edges` is an upper bound: every source that causality allows."""

    n_features: int
    edges: int
    bytes: int
    work: Float64[Tensor, " feature"]
    """Of each feature's row: blocks walked down, times positions."""


def default_memory_budget() -> int:
    """Half of what the machine has to spare now, in bytes."""
    return psutil.virtual_memory().available // 2


def plan(local: LocalReplacementModel, sweep: Sweep) -> Plan:
    """What the full graph of a local replacement model takes beside its targets."""
    layer, pos = local.features[:, 0].cpu(), local.features[:, 1].cpu()
    n_layers, n_pos = local.n_layers, local.n_pos
    cell = torch.bincount(layer * n_pos + pos, minlength=n_layers * n_pos).view(n_layers, n_pos)
    # Features that a row can have as sources: of lower layers, and no later positions.
    below = cell.cumsum(0).cumsum(1) - cell.cumsum(1)
    embeddings = 1 if local.position_vectors is None else 2
    edges = int((below[layer, pos] + (pos + 1) * (layer + embeddings) + 2 * layer + 1).sum())
    rows = edges * (local.activations.element_size() + torch.int32.itemsize)
    # Rows that are on their way have gone when those that are there are put together.
    n_bytes = rows + max((COPIES - 1) * rows, BATCHES * sweep.batch_bytes) + sweep.bytes
    return Plan(len(layer), edges, n_bytes, row_work(sweep, layer, pos))


def row_work(sweep: Sweep, layer: Int64[Tensor, " row"], pos: Int64[Tensor, " row"]) -> Float64[Tensor, " row"]:
    """Blocks walked down times positions: what the time of a row is proportional to."""
    return (layer + 1).double() * sweep.prefix_lengths(pos)


def check_memory(planned: Plan, memory_budget: int) -> None:
    """Raises `SettingError`, with the numbers, where the full graph does not fit."""
    if planned.bytes > memory_budget:
        fitting = int(planned.n_features * memory_budget / planned.bytes)
        raise SettingError(
            f"The full graph of {planned.n_features:,} features has up to {planned.edges:,} edges, which take "
            f"{_size(planned.bytes)} while it is put together, and the memory budget is {_size(memory_budget)}: give "
            f"coverage=0.95 or less, max_features={max(1, fitting)} or fewer, or a larger memory_budget in bytes."
        )


def check_batch(sweep: Sweep, memory_budget: int) -> None:
    """Raises `SettingError`, with the minimum, where not even one target fits."""
    least = int(sweep.bytes_per_target(torch.tensor([sweep.local.n_pos - 1])).max()) * SWEEPS
    if memory_budget < least:
        raise SettingError(
            f"memory_budget={memory_budget} is too little for this prompt of {sweep.local.n_pos} tokens and "
            f"{len(sweep.local.features):,} features, which needs {least} bytes at least: give more, or a shorter "
            "prompt."
        )


def announce(planned: Plan, seconds: float, done: float) -> None:
    """Warns where the full graph will take long, judged by the `seconds` that the targets' rows took for their work.

    `done` is that work, in the same units as `planned.work`.
    """
    expected = seconds / done * float(planned.work.sum()) if done else 0.0
    if expected > LONG:
        warnings.warn(
            f"The full graph of {planned.n_features:,} features will take about {_duration(expected)} and "
            f"{_size(planned.bytes)}. "
            f"coverage=0.95 traces 95% of the targets' influence, and takes a seventh to a half of that where it was "
            f"measured: about {_duration(expected / 7)} to {_duration(expected / 2)} here. time_budget= stops in time.",
            TLCircuitsWarning,
            stacklevel=3,
        )


def _size(n_bytes: int) -> str:
    if n_bytes < 1e5:
        return f"{n_bytes:,} bytes"
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
