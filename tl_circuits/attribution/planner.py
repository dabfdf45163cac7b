"""What a graph will take, in memory and in time: reckoned before it is begun, and said where it is much."""

import math
import time
import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import SettingError, TLCircuitsWarning
from tl_circuits.machine import available_memory
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.sweep import Sweep

LONG = 120.0
"""Seconds from which on a graph is announced as long."""
CLEAR = 3.0
"""After so many seconds it is said how long all will take: a first batch alone, small or cold, would mislead."""
SAMPLED = 1.0
"""For so many seconds a plan traces rows, to tell the time of all."""
# Rows are kept as they come, then put together, then checked with the row of each edge: all lie in memory for a while.
COPIES = 3
SWEEPS = 8
"""The memory budget in budgets of a sweep: rows take the most of it."""
BATCHES = 4
"""What a batch takes at its height, in batches as they are planned: autograd's own, and the rows made of it."""


@dataclass(frozen=True)
class Plan:
    """What the full graph of a prompt takes: at most so many `edges`, and `bytes` while it is put together.

    `edges` is every source that causality allows. `work` is blocks walked down times positions, over all rows;
    `seconds` is judged by rows that have been traced, nan where none have.
    """

    n_features: int
    edges: int
    bytes: int
    memory_budget: int
    work: float
    seconds: float = math.nan

    @property
    def fits(self) -> bool:
        """Whether the memory budget holds the full graph."""
        return self.bytes <= self.memory_budget

    @property
    def max_features(self) -> int:
        """Of how many features the rows fit the memory budget, about."""
        return min(self.n_features, max(1, int(self.n_features * self.memory_budget / self.bytes)))

    def __str__(self) -> str:
        takes = f"about {_duration(self.seconds)} and {_size(self.bytes)}"
        full = f"The full graph of {self.n_features:,} features has up to {self.edges:,} edges: {takes}"
        less = f"coverage=0.95 takes about {_duration(self.seconds / 7)} to {_duration(self.seconds / 2)} of it."
        if not self.fits:
            return f"{full}, but may take {_size(self.memory_budget)}: at most {self.max_features:,} features fit."
        return f"{full}, and may take {_size(self.memory_budget)}. {less}"

    def __rich__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, float | int | bool]:
        """The plan for a machine to read."""
        found = {name: getattr(self, name) for name in ("n_features", "edges", "bytes", "memory_budget", "seconds")}
        return found | {"fits": self.fits, "max_features": self.max_features}


def default_memory_budget() -> int:
    """Half of what the machine, or the container, has to spare now, in bytes."""
    return available_memory() // 2


def reckoned(local: LocalReplacementModel, sweep: Sweep, memory_budget: int) -> Plan:
    """What the full graph of a local replacement model takes beside its targets, from shapes."""
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
    return Plan(len(layer), edges, n_bytes, memory_budget, float(row_work(sweep, layer, pos).sum()))


def row_work(sweep: Sweep, layer: Int64[Tensor, " row"], pos: Int64[Tensor, " row"]) -> Float64[Tensor, " row"]:
    """Blocks walked down times positions: what the time of a row is proportional to."""
    return (layer + 1).double() * sweep.prefix_lengths(pos)


def check_memory(planned: Plan) -> None:
    """Raises `SettingError`, with the numbers, where the full graph does not fit."""
    if not planned.fits:
        raise SettingError(
            f"The full graph of {planned.n_features:,} features has up to {planned.edges:,} edges, which take "
            f"{_size(planned.bytes)} while it is put together, and the memory budget is "
            f"{_size(planned.memory_budget)}: give coverage=0.95 or less, max_features={planned.max_features} or "
            "fewer, or a larger memory_budget in bytes."
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


def timed(planned: Plan, sweep: Sweep) -> Plan:
    """The plan with the seconds that some rows let expect, of batches from the middle of the prompt outwards."""
    batches = list(sweep.batches(torch.arange(planned.n_features)))
    pace = Pace.of(planned, sweep)
    for number in sorted(range(len(batches)), key=lambda number: abs(number - len(batches) // 2)):
        sweep.rows(sweep.feature_readouts(batches[number]))
        pace.count(batches[number])
        if pace.elapsed > SAMPLED:
            break
    return replace(planned, seconds=pace.expected)


@dataclass(eq=False)
class Pace:
    """How fast rows come, and how long all will take at that."""

    planned: Plan
    sweep: Sweep
    since: float
    done: float = 0.0
    announced: bool = False

    @classmethod
    def of(cls, planned: Plan, sweep: Sweep) -> "Pace":
        """From now on."""
        return cls(planned, sweep, time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.since

    @property
    def expected(self) -> float:
        """Seconds for all rows at the pace so far."""
        return self.elapsed * self.planned.work / self.done if self.done else 0.0

    def count(self, batch: Int64[Tensor, " batch"]) -> None:
        """These features' rows have come."""
        layer, pos = self.sweep.local.features[batch, 0].cpu(), self.sweep.local.features[batch, 1].cpu()
        self.done += float(row_work(self.sweep, layer, pos).sum())

    def announce_if_long(self, batch: Int64[Tensor, " batch"]) -> None:
        """Counts a batch and, once it is clear that all will take long, warns: what it takes, and what less would."""
        self.count(batch)
        if self.announced or self.elapsed < CLEAR:
            return
        self.announced = True
        seconds = self.expected
        if seconds > LONG:
            warnings.warn(
                f"The full graph of {self.planned.n_features:,} features will take about {_duration(seconds)} and "
                f"{_size(self.planned.bytes)}. coverage=0.95 traces 95% of the targets' influence, and takes a seventh "
                f"to a half of that where it was measured: about {_duration(seconds / 7)} to {_duration(seconds / 2)} "
                "here. time_budget= stops in time.",
                TLCircuitsWarning,
                stacklevel=4,
            )


def _size(n_bytes: int) -> str:
    if n_bytes < 1e5:
        return f"{n_bytes:,} bytes"
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
