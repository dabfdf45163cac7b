"""How time and memory are read, here and in the peer's process: this file needs torch and nothing of ours.

CPU seconds of one thread are what is compared: another program on the machine hardly moves them. Memory is what the
process holds at most, above what it held when the work began, weights read and freed memory given back.
"""

import contextlib
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

GEMMS = ((1536, 1536, 1536), (2048, 768, 768))
"""Products whose speed stands for the machine's: m × k times k × n."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """What one piece of work took. `peak_is_own` is false where the peak may be older than the work."""

    cpu_s: float
    wall_s: float
    start_mib: float
    peak_mib: float
    above_mib: float
    peak_is_own: bool
    device_peak_mib: float = 0.0


def measured(work: Callable[[], T], *, warm: bool = False) -> tuple[T, Reading]:
    """The result of some work, and what it took; `warm`: memory that was freed before is not given back first."""
    peak_is_own = _forget_peak(give_back=not warm)
    start = resident_mib()
    _wait()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    _wait()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_mib()
    device_peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return result, Reading(cpu, wall, start, peak, peak - start, peak_is_own, device_peak)


def resident_mib() -> float:
    """What this process holds in memory now; its peak where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_mib()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def peak_mib() -> float:
    """What it has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def limit_memory(gib: float) -> None:
    """From here on, an allocation beyond this fails in this process instead of exhausting the machine."""
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def gemm_gflops(device: str = "cpu", repeats: int = 7) -> dict[str, float]:
    """The best speed of each product of `GEMMS`, in float32."""
    found = {}
    for m, k, n in GEMMS:
        left, right = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        best = float("inf")
        for _ in range(repeats + 1):
            best = min(best, seconds(lambda left=left, right=right: left @ right, device)[1])
        found[f"{m}x{k}x{n}"] = 2 * m * k * n / best / 1e9
    return found


def seconds(work: Callable[[], T], device: str = "cpu") -> tuple[T, float]:
    """The result of some work, and the CPU seconds that it took; on another device, those on the clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    _wait()
    start = clock()
    result = work()
    _wait()
    return result, clock() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _forget_peak(*, give_back: bool) -> bool:
    """Gives freed memory back, and has the system count the peak from here on. Linux only."""
    gc.collect()
    if give_back:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
