"""How much faster is a full attribution graph here than in circuit-tracer, and is it the same graph?

The peer is `circuit-tracer==0.5.0` from the package index: a third party's republication of upstream 0.4.1 with the
same algorithm. It runs in an environment of its own (`--peer-python`; made by this script where none is given), on the
same weights, tokens and transcoder, handed over by file. Graphs are compared before times. CPU seconds, one thread, the
peer's best of the batch sizes tried.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from case import Case, read_model, write
from safetensors.torch import load_file

import tl_circuits as tlc
from tl_circuits.nodes import Kind

HERE = Path(__file__).parent
PEER = "circuit-tracer==0.5.0"


def main() -> None:
    """Writes the case, runs both on it, compares and stores the result."""
    arguments = _arguments()
    case = Case.of(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        python = arguments.peer_python or _peer_environment(HERE / ".peer")
        peer = _run_peer(python, folder, arguments.batch_sizes, arguments.runs)
        ours, graph = _run_ours(folder, arguments.runs)
        agreement = _compare(graph, load_file(folder / "peer.safetensors"))
    result = _result(case, ours, peer, agreement)
    path = HERE / "results" / f"attribution_vs_circuit_tracer-{case.kind}-{case.n_tokens}-{date.today()}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("ours_cpu_s", "peer_cpu_s", "ratio", "agreement")}, indent=2))
    print(f"written to {path.relative_to(HERE.parent)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    Case.add_arguments(parser)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-sizes", default="16", help="the peer's, separated by commas; its best is compared")
    parser.add_argument("--peer-python", type=Path, help=f"a Python that has {PEER}")
    return parser.parse_args()


def _peer_environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        for package in (f"torch=={torch.__version__.split('+')[0]}", PEER):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return python


def _run_peer(python: Path, folder: Path, batch_sizes: str, runs: int) -> dict[str, Any]:
    command = [python, HERE / "peer.py", folder, batch_sizes, folder / "peer.json", str(runs)]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return json.loads((folder / "peer.json").read_text())


def _run_ours(folder: Path, runs: int) -> tuple[list[dict[str, float]], tlc.AttributionGraph]:
    torch.set_num_threads(1)
    model, tokens = read_model(folder)
    transcoder = tlc.load_transcoder(str(folder / "transcoder"))
    timings = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start, cpu = time.perf_counter(), time.process_time()
        graph = tlc.trace(model, transcoder, tokens, masked_positions=(0,), progress=False)
        timing = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        timings.append(timing | {"peak_mib": peak, "peak_before_mib": before, "gemm_gflops": _gemm_gflops()})
        print(json.dumps(timings[-1]), file=sys.stderr, flush=True)
    return timings, graph


def _gemm_gflops(size: int = 1536) -> float:
    matrix = torch.randn(size, size)
    start = time.process_time()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * size**3 / (time.process_time() - start) / 1e9


def _compare(graph: tlc.AttributionGraph, peer: dict[str, torch.Tensor]) -> dict[str, float]:
    paper = graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)
    ours = graph.adjacency(max_nodes=50_000)[paper][:, paper]
    mine = torch.stack([graph.nodes.layer, graph.nodes.pos, graph.nodes.index], dim=1)[graph.nodes.span(Kind.FEATURE)]
    if not torch.equal(mine, peer["features"]):
        raise SystemExit(
            f"The active features differ: {len(mine)} here, {len(peer['features'])} there. No times are compared."
        )
    worst = float((ours - peer["adjacency"]).abs().max())
    return {"features": len(mine), "max_abs_difference": worst, "max_abs_edge": float(peer["adjacency"].abs().max())}


def _result(
    case: Case, ours: list[dict[str, float]], peer: dict[str, Any], agreement: dict[str, float]
) -> dict[str, Any]:
    by_batch: dict[int, list[float]] = {}
    for timing in peer["timings"]:
        by_batch.setdefault(timing["batch_size"], []).append(timing["cpu_s"])
    best = min(statistics.median(times) for times in by_batch.values())
    mine = statistics.median(timing["cpu_s"] for timing in ours)
    return {
        "question": __doc__.splitlines()[0],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": 1, "python": platform.python_version()},
        "versions": {name: version(name) for name in ("tl-circuits", "transformer-lens", "torch")}
        | {"peer": PEER, "peer_torch": peer["torch"]},
        "peer_is": "a third party's republication of upstream circuit-tracer 0.4.1, same algorithm",
        "case": vars(case),
        "agreement": agreement,
        "ours": ours,
        "peer": peer["timings"],
        "ours_cpu_s": mine,
        "peer_cpu_s": best,
        "ratio": best / mine,
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HookedTransformer.*", category=DeprecationWarning)
        main()
