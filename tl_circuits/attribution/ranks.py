"""Several processes, started by torchrun or by hand with `torch.distributed`, that share one piece of work.

Process 0 decides, the others learn what it decided. Whoever ends early closes its connections, so nobody waits for it.
Only JSON passes between them: torch's own way of sending objects is pickle.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tl_circuits.errors import TLCircuitsError
from tl_circuits.machine import local_processes


@dataclass(eq=False)
class Ranks:
    """This process among those that work together; `size` 1 where it is alone."""

    rank: int
    size: int
    group: Any = None

    @property
    def local_size(self) -> int:
        """How many of them are on this machine, as far as is known: torchrun says it."""
        return local_processes(self.size)

    def agree(self, decide: Callable[[], Any]) -> Any:
        """What process 0 decides (JSON values), in each of them; an error of ours there is raised in each of them."""
        if self.size == 1:
            return decide()
        if self.rank == 0:
            try:
                decided = decide()
            except TLCircuitsError as error:
                self._broadcast({"error": type(error).__name__, "says": str(error)})
                raise
            return self._broadcast({"decided": decided})["decided"]
        told = self._broadcast(None)
        if "error" in told:
            kinds = {kind.__name__: kind for kind in TLCircuitsError.__subclasses__()}
            raise kinds.get(told["error"], TLCircuitsError)(told["says"])
        return told["decided"]

    def finish(self, conclude: Callable[[], None], patience: float) -> tuple[int, ...]:
        """Waits for all; then process 0 concludes, and lets the others go. Returns the processes that did not come.

        Whoever has ended is not waited for, and whoever hangs for `patience` seconds, at most twice.
        """
        if self.rank > 0:
            arrived = self._passed(0, dist.isend, patience) and self._passed(0, dist.irecv, 2 * patience)
            return () if arrived else (0,)
        others = range(1, self.size)
        absent = tuple(rank for rank in others if not self._passed(rank, dist.irecv, patience))
        conclude()
        for rank in others:
            self._passed(rank, dist.isend, patience)
        return absent

    def _passed(self, rank: int, pass_on: Callable[..., Any], patience: float) -> bool:
        try:
            return pass_on(torch.zeros(1), rank, group=self.group).wait(timedelta(seconds=patience))
        except RuntimeError:
            return False

    def _broadcast(self, message: dict[str, Any] | None) -> dict[str, Any]:
        letters = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8)
        size = torch.tensor([len(letters)])
        try:
            dist.broadcast(size, 0, group=self.group)
            letters = letters if self.rank == 0 else torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(letters, 0, group=self.group)
        except RuntimeError as error:
            raise TLCircuitsError(
                f"A process of the {self.size} that trace together ended before they began: look at what the others "
                "say, and start them again."
            ) from error
        return json.loads(bytes(letters.tolist()))


@contextmanager
def together() -> Iterator[Ranks]:
    """The processes of `torch.distributed` where that is initialised, else this one alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        yield Ranks(0, 1)
        return
    # Of our own, so that what others send does not get between; and on processors, whatever the models run on.
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
    except RuntimeError as error:
        raise TLCircuitsError(
            f"Not all of the {dist.get_world_size()} processes of torch.distributed came to trace together "
            f"({error!s:.200}): call trace_many in each of them."
        ) from error
    try:
        yield ranks
    finally:
        dist.destroy_process_group(ranks.group)
        # Connections close when nobody holds the group any more, not even a traceback.
        ranks.group = None


@contextmanager
def as_launched() -> Iterator[bool]:
    """Joins the processes that torchrun started, where it did. Yields whether this one speaks for all."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield True
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def shares(costs: Sequence[int], n_shares: int) -> list[list[int]]:
    """Places in `costs`, shared out so that the sums come out nearly alike: the largest first, to whoever has least.

    The largest sum is at most 4/3 of the least possible (Graham 1969, "Bounds on Multiprocessing Timing Anomalies").
    """
    found: list[list[int]] = [[] for _ in range(n_shares)]
    sums = [0] * n_shares
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        least = min(range(n_shares), key=lambda share: (sums[share], len(found[share])))
        found[least].append(place)
        sums[least] += costs[place]
    return [sorted(places) for places in found]
