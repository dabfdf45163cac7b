"""Is the graph the same on a GPU, and how long does it take there, here and in circuit-tracer?

    python -m benchmarks.gpu                       # on a machine with CUDA; elsewhere it says so and ends well
    python -m benchmarks.gpu --tf32                # matrix products in TF32: faster, and less exact

Exactness first: float32 with TF32 off, the edges on the GPU against those on the CPU. Then seconds on the clock, the
device's peak memory above nothing, the share of its own matrix-product speed, and what was launched: `kernels` on the
device and the seconds they take, beside the seconds on the clock. Where kernels take much less than the clock says, the
time goes into launching them.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import tl_circuits as tlc
from benchmarks.attribution_vs_circuit_tracer import compare
from benchmarks.case import Case, write
from benchmarks.gemm_share import shares
from benchmarks.record import Machine, Record, add_options, median, numbers, say, settings
from benchmarks.workers import PEER_IS, WorkerError, add_peer_options, ours, peer, peer_python

QUESTION = (__doc__ or "").splitlines()[0]
TOLERANCE = {False: 1e-5, True: 5e-3}
"""By TF32 on or off: the share of the largest edge by which edges may differ from the CPU's."""


def main(argv: list[str] | None = None) -> None:
    """Measures where there is CUDA."""
    arguments = _arguments(argv)
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing is measured.")
        return
    case = Case.of(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        on_cpu = ours(folder, graph=str(folder / "cpu.graph"))
        say(f"CPU: {on_cpu['reading']['wall_s']:.1f} s")
        device = {"device": "cuda", "tf32": arguments.tf32}
        on_gpu = [ours(folder, **device, graph=str(folder / "gpu.graph")) for _ in range(arguments.runs)]
        cpu, gpu = tlc.load_graph(folder / "cpu.graph"), tlc.load_graph(folder / "gpu.graph")
        agreement = difference(cpu, gpu, TOLERANCE[arguments.tf32])
        say(f"GPU: {median(run['reading']['wall_s'] for run in on_gpu):.2f} s, {agreement}")
        profile = ours(folder, **device, launches=True)["launches"]
        phases = [ours(folder, **device, share=True, count=run == 0)["feature_phase"] for run in range(arguments.runs)]
        theirs = [] if arguments.no_peer else _peer(folder, cpu, arguments)
    record = Record(
        question=QUESTION,
        script="gpu",
        case=asdict(case),
        settings=settings(arguments, *asdict(case)),
        figures=_figures(on_cpu, on_gpu, theirs, profile, agreement, shares(phases)),
        measured={"cpu": on_cpu, "gpu": on_gpu, "peer": theirs, "profile": profile, "feature_phase": phases},
        seed=case.seed,
        peer={} if arguments.no_peer else PEER_IS,
        machine=Machine.here(gpu=torch.cuda.get_device_name()),
    )
    record.write(arguments.out, f"gpu-{case.kind}-{case.n_tokens}{'-tf32' if arguments.tf32 else ''}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    Case.add_options(parser)
    add_options(parser)
    add_peer_options(parser, batch_sizes="16,64,256,0")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in our matrix products; the peer's stay as is")
    return parser.parse_args(argv)


def difference(one: tlc.AttributionGraph, other: tlc.AttributionGraph, tolerance: float) -> dict[str, float]:
    """The largest difference of an edge. Ends the script where nodes differ, or edges by more than is allowed."""
    columns = ("kind", "layer", "pos", "index")
    if not all(torch.equal(getattr(one.nodes, name), getattr(other.nodes, name)) for name in columns):
        raise SystemExit(f"The nodes differ: {len(one.nodes)} and {len(other.nodes)}. No times are compared.")
    worst = largest = 0.0
    for row in range(one.edges.n_rows):
        rows = torch.zeros(2, len(one.nodes))
        for number, edges in enumerate((one.edges, other.edges)):
            run = edges.into(row)
            rows[number, edges.source[run].long()] = edges.weight[run].float()
        worst = max(worst, float((rows[0] - rows[1]).abs().max()))
        largest = max(largest, float(rows[0].abs().max()))
    if worst > tolerance * largest:
        raise SystemExit(f"Edges differ by up to {worst:.1e} of a largest of {largest:.1f}. No times are compared.")
    return {"max_abs_difference": worst, "max_abs_edge": largest}


def _peer(folder: Path, graph: tlc.AttributionGraph, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    python, found = peer_python(arguments), []
    for number in range(arguments.runs):
        for batch_size in numbers(arguments.batch_sizes):
            out = folder / "peer.safetensors"
            job = {"device": "cuda", "batch_size": batch_size, "stride": arguments.peer_stride}
            try:
                found.append(peer(python, folder, **job, **({"out": str(out)} if number == 0 else {})))
            except WorkerError as error:
                found.append({"batch_size": batch_size, "failed": str(error)})
                continue
            say(f"peer, batch size {found[-1]['batch_size']}: {found[-1]['seconds']:.2f} s")
            if number == 0:
                found[-1]["agreement"] = compare(graph, load_file(out))
    return found


def _figures(
    on_cpu: dict[str, Any],
    on_gpu: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    profile: dict[str, Any],
    agreement: dict[str, float],
    share: dict[str, float],
) -> dict[str, Any]:
    seconds = median(run["reading"]["wall_s"] for run in on_gpu)
    found = {
        "features": on_cpu["graph"]["features"],
        "cpu_one_thread_s": on_cpu["reading"]["wall_s"],
        "gpu_s": seconds,
        "gpu_times_faster_than_cpu": on_cpu["reading"]["wall_s"] / seconds,
        "gpu_peak_mib": median(run["reading"]["device_peak_mib"] for run in on_gpu),
        "gemm_share_executed": share["executed_share"],
        "kernels": profile["kernels"],
        "kernel_s": profile["kernel_s"],
        "agreement": agreement,
    }
    sizes = {run["batch_size"] for run in theirs if "failed" not in run}
    if sizes:
        by_size = {
            size: median(run["seconds"] for run in theirs if run["batch_size"] == size and "failed" not in run)
            for size in sizes
        }
        best = min(by_size, key=lambda size: by_size[size])
        found |= {"peer_s": by_size[best], "peer_batch_size": best, "ratio": by_size[best] / seconds}
    return found


if __name__ == "__main__":
    main()
