"""What every benchmark writes down: the question, the case, the machine, the figures and all that was measured."""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Machine:
    """Where it was measured. `load` is the system's load average when the record was made."""

    cpu: str
    cores: int
    threads: int
    python: str
    load: float
    gpu: str = ""

    @classmethod
    def here(cls, *, threads: int = 1, gpu: str = "") -> "Machine":
        """This machine."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        return cls(_cpu_name(), os.cpu_count() or 1, threads, platform.python_version(), round(load, 2), gpu)


@dataclass(frozen=True)
class Record:
    """One result. `figures` are what a reader wants, medians over runs; `measured` is every single reading."""

    question: str
    script: str
    case: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any]
    measured: dict[str, Any]
    seed: int
    peer: dict[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine.here)
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("tl-circuits", "transformer-lens", "torch")}
    )
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, out: Path | None, name: str) -> Path:
        """To `out`, or under `name` and today's date to the results. Says where, and prints the figures."""
        path = RESULTS / f"{name}-{date.today()}.json" if out is None else out
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        print(json.dumps(self.figures, indent=2))
        print(f"written to {path}")
        return path


def add_options(parser: argparse.ArgumentParser, *, runs: int = 3) -> None:
    """The options that every script has."""
    parser.add_argument(
        "--runs", type=int, default=runs, help="how often each figure is measured; medians are given (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file to write instead of a dated one in benchmarks/results")


def settings(arguments: argparse.Namespace, *without: str) -> dict[str, Any]:
    """The options as they were given, for the record."""
    left_out = {"out", "peer_python", *without}
    return {name: value for name, value in vars(arguments).items() if name not in left_out}


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def numbers(text: str) -> list[int]:
    """`8,16,32` as numbers; nothing as none."""
    return [int(part) for part in text.split(",") if part]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
