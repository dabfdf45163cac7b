"""Traces a case from files in a process of its own, and writes what it took: `python -m benchmarks.ours CASE JOB OUT`.

A job is a JSON object: keywords of `tlc.attribute` by name, and `device`, `tf32`, `warm` (whether to trace once before
what is measured, as is always done on other devices), `graph` (a file to keep the graph in), `share` (whether to
measure the feature phase by itself), `count` (its matrix products too) and `launches` (whether to count what runs on
the device).
"""

import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.case import read_case
from benchmarks.gemm_share import feature_phase
from benchmarks.measure import gemm_gflops, measured
from tl_circuits.nodes import Kind

NOT_OF_ATTRIBUTE = ("device", "tf32", "warm", "graph", "share", "count", "launches")


def main(folder: Path, job: dict[str, Any], out: Path) -> None:
    """Does the job on the case in the folder."""
    torch.set_num_threads(1)
    device = job.get("device", "cpu")
    # Off by default in torch for matrix products; said here so that it is on record.
    torch.backends.cuda.matmul.allow_tf32 = bool(job.get("tf32", False))
    case = read_case(folder)
    model = case.model.to(device)
    transcoder = tlc.load_transcoder(str(folder / "transcoder")).to(device)
    if case.touch:
        _touch(transcoder)
    keywords = {name: value for name, value in job.items() if name not in NOT_OF_ATTRIBUTE}
    parts: dict[str, float] = {}

    def trace() -> tlc.AttributionGraph:
        start = time.process_time()
        local = tlc.localize(model, transcoder, case.tokens.to(device), masked_positions=case.masked)
        parts["localize_cpu_s"] = time.process_time() - start
        return tlc.attribute(local, progress=False, **keywords)

    first = {}
    if device != "cpu" or job.get("warm"):
        # The first call pays for the device's start and its kernels, or for memory that the system hands out.
        first = {"first": asdict(measured(trace)[1])}
    gemm = gemm_gflops(device)
    graph, reading = measured(trace, warm=bool(first))
    found = {"reading": asdict(reading) | parts, "gemm_gflops": gemm, "graph": about(graph), **first}
    if job.get("share"):
        local = tlc.localize(model, transcoder, case.tokens.to(device), masked_positions=case.masked)
        found["feature_phase"] = feature_phase(local, device, count=bool(job.get("count")))
    if job.get("launches"):
        found["launches"] = _launches(trace)
    if job.get("graph"):
        graph.save(job["graph"])
    out.write_text(json.dumps(found))


def about(graph: tlc.AttributionGraph) -> dict[str, Any]:
    """The graph in numbers."""
    features = graph.nodes.span(Kind.FEATURE)
    return {
        "features": graph.nodes.count(Kind.FEATURE),
        "expanded": int(graph.expanded[features].sum()),
        "edges": len(graph.edges),
        "coverage": graph.coverage,
        "conservation_error": graph.conservation_error,
        "probe_error": graph.probe_error,
        "stopped_by": graph.provenance.settings.get("stopped_by"),
    }


def _touch(transcoder: tlc.CrossLayerTranscoder) -> None:
    """Reads all weights once: files are mapped, and memory above weights begins where all of them lie in it."""
    for tensor in (*transcoder.W_dec, *transcoder.W_enc):
        float(tensor.detach().sum())


def _launches(trace: Any) -> dict[str, Any]:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        _, reading = measured(trace)
    events = profile.key_averages()
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    top = sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]
    return {
        "kernels": sum(event.count for event in kernels),
        "kernel_s": sum(event.self_device_time_total for event in kernels) / 1e6,
        "wall_s": reading.wall_s,
        "launches": sum(event.count for event in events if "LaunchKernel" in event.key),
        "top": [
            {"kernel": event.key[:120], "count": event.count, "s": event.self_device_time_total / 1e6} for event in top
        ],
    }


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HookedTransformer.*", category=DeprecationWarning)
        main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
