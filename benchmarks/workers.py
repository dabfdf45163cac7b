"""Measurements in processes of their own, ours and the peer's, so that no peak of memory is another's.

The peer is `circuit-tracer==0.5.0` from the package index: a third party's republication of upstream 0.4.1 with the
same algorithm and, as measured, speed. It has an environment of its own, because it pins older libraries than ours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import ROOT, say

PEER = "circuit-tracer==0.5.0"
PEER_IS = {
    "name": PEER,
    "is": "a third party's republication of upstream circuit-tracer 0.4.1, same algorithm and, as measured, speed",
}
ENVIRONMENT = ROOT / ".cache" / "peer"


class WorkerError(RuntimeError):
    """A process that measured did not end well."""


def add_peer_options(parser: argparse.ArgumentParser, *, batch_sizes: str) -> None:
    """The options of scripts that run the peer too."""
    parser.add_argument(
        "--peer-python", type=Path, help=f"a Python that has {PEER}; made in .cache where none is given"
    )
    parser.add_argument("--no-peer", action="store_true", help="measure ours only")
    parser.add_argument("--batch-sizes", default=batch_sizes, help="the peer's; its best is compared. 0: its default")
    parser.add_argument(
        "--peer-stride",
        type=int,
        default=1,
        help="compute only every n-th of the peer's feature batches, and scale their time: an estimate, marked so",
    )
    parser.add_argument("--peer-memory-gib", type=float, default=12.0, help="where the peer is stopped for want of it")


def ours(folder: Path, **job: Any) -> dict[str, Any]:
    """Traces a case in a fresh process (`benchmarks.ours` says what a job is)."""
    return _run(Path(sys.executable), "benchmarks.ours", folder, job)


def peer(python: Path, folder: Path, **job: Any) -> dict[str, Any]:
    """The same in the peer's environment (`benchmarks.peer`)."""
    return _run(python, "benchmarks.peer", folder, job)


def peer_python(arguments: argparse.Namespace) -> Path:
    """The Python that has the peer: the one that is given, or that of an environment, which is made if need be."""
    if arguments.peer_python is not None:
        return arguments.peer_python.absolute()
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".made").exists():
        say(f"making an environment for {PEER} in {ENVIRONMENT} (once; minutes)")
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        for package in (f"torch=={torch.__version__.split('+')[0]}", PEER):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        (ENVIRONMENT / ".made").touch()
    return python


def _run(python: Path, module: str, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        command = [python, "-m", module, folder, json.dumps(job), out]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run(list(map(str, command)), env=environment, check=False, **pipes)
        if done.returncode != 0 or not out.exists():
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise WorkerError(f"{module} ended with {done.returncode}: {last}")
        return json.loads(out.read_text())
