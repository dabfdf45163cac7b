"""Where an attribution stops: at a share of influence, a number of features, a time, or the end of memory."""

import time
from dataclasses import dataclass

from tl_circuits.attribution.expansion import SMALLEST_ROUND, Expansion
from tl_circuits.attribution.planner import COPIES, default_memory_budget
from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import positive, share, whole


@dataclass(frozen=True)
class Limits:
    """Where to stop. `since` is when it began, on a monotonic clock."""

    coverage: float
    max_features: int | None
    time_budget: float | None
    memory_budget: int
    since: float

    @classmethod
    def of(
        cls, coverage: float, max_features: int | None, time_budget: float | int | None, memory_budget: int | None
    ) -> "Limits":
        """As plain numbers, because a file of the graph holds them so. Raises `SettingError` for what is no limit."""
        explained, features, bytes_ = share(coverage), whole(max_features), whole(memory_budget)
        if explained is None:
            raise SettingError(
                f"coverage={coverage!r} is outside (0, 1]: it is the share of the targets' influence to explain; 1 is "
                "the full graph."
            )
        if max_features is not None and (features is None or features < 1):
            raise SettingError(
                f"max_features={max_features!r} expands nothing: give a whole number from 1, or None for no limit."
            )
        seconds = positive(time_budget)
        if time_budget is not None and seconds is None:
            raise SettingError(
                f"time_budget={time_budget!r:.80} is no time: give seconds, a number above 0, or None for no limit."
            )
        if memory_budget is not None and (bytes_ is None or bytes_ < 1):
            raise SettingError(
                f"memory_budget={memory_budget!r} is no memory: give a whole number of bytes, such as 8 * 10**9, or "
                "None for half of what the machine has to spare."
            )
        memory = default_memory_budget() if bytes_ is None else bytes_
        return cls(explained, features, seconds, memory, time.monotonic())

    @property
    def everything(self) -> bool:
        """Whether the full graph is asked for, whatever time it takes."""
        return self.coverage == 1 and self.max_features is None and self.time_budget is None

    def affordable(self, expansion: Expansion) -> int:
        """How many features can be expanded in the time that is left, at the pace so far; a smallest round always."""
        if self.time_budget is None:
            return expansion.n_features
        elapsed = time.monotonic() - self.since
        pace = elapsed / expansion.n_rows
        return max(SMALLEST_ROUND, int((self.time_budget - elapsed) / pace)) if pace > 0 else expansion.n_features

    def reached(self, expansion: Expansion) -> str | None:
        """What stops the expansion now, by its name, if anything does."""
        n_expanded = expansion.n_expanded
        if n_expanded == expansion.n_features:
            return "everything"
        if self.max_features is not None and n_expanded >= self.max_features:
            return "max_features"
        if self.time_budget is not None and time.monotonic() - self.since >= self.time_budget:
            return "time_budget"
        if COPIES * expansion.bytes + expansion.sweep.bytes >= self.memory_budget:
            return "memory_budget"
        return "coverage" if self.coverage < 1 and expansion.coverage() >= self.coverage else None
