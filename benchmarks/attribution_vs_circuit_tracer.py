"""How much faster is a full attribution graph here than in circuit-tracer, and is it the same graph?

    python -m benchmarks.attribution_vs_circuit_tracer                                   # CLT, 16 tokens
    python -m benchmarks.attribution_vs_circuit_tracer --kind plt
    python -m benchmarks.attribution_vs_circuit_tracer --n-tokens 64 --peer-stride 63    # the peer sampled

The peer (`benchmarks.workers` says which) gets the same weights, tokens and transcoder by file. Each measurement is a
fresh process on one thread, our self-checks included; rounds go ours, peer, ours, peer, so that a busy machine hits
both alike. Graphs are compared before times. The peer's best batch size is compared: one that took over 1.5 times the
best of the first round is not run again. A batch size that needs more memory than allowed is recorded as failed.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import tl_circuits as tlc
from benchmarks.case import Case, write
from benchmarks.gemm_share import shares
from benchmarks.record import Record, add_options, median, numbers, say, settings
from benchmarks.workers import PEER_IS, WorkerError, add_peer_options, ours, peer, peer_python
from tl_circuits.nodes import Kind

QUESTION = (__doc__ or "").splitlines()[0]
HOPELESS = 1.5
TOLERANCE = 1e-5
"""Edges may differ by this share of the largest: float32, summed in another order."""


def main(argv: list[str] | None = None) -> None:
    """Writes the case, runs both on it in turn, compares and stores the result."""
    arguments = _arguments(argv)
    case = Case.of(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        mine, theirs, agreement = _rounds(folder, arguments)
        phases = [ours(folder, share=True, count=run == 0)["feature_phase"] for run in range(arguments.share_runs)]
    record = Record(
        question=QUESTION,
        script="attribution_vs_circuit_tracer",
        case=asdict(case),
        settings=settings(arguments, *asdict(case)),
        figures=figures(mine, theirs, agreement, shares(phases) if phases else {}),
        measured={"ours": mine, "peer": theirs, "feature_phase": phases},
        seed=case.seed,
        peer={} if arguments.no_peer else PEER_IS,
    )
    record.write(arguments.out, f"attribution_vs_circuit_tracer-{case.kind}-{case.n_tokens}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    Case.add_options(parser)
    add_options(parser)
    add_peer_options(parser, batch_sizes="16,64,0")
    parser.add_argument("--share-runs", type=int, default=3, help="runs that time the feature phase alone; 0: none")
    return parser.parse_args(argv)


def _rounds(
    folder: Path, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    mine, theirs, agreement = [], [], {}
    python = None if arguments.no_peer else peer_python(arguments)
    batch_sizes = [] if python is None else numbers(arguments.batch_sizes)
    for number in range(arguments.runs):
        graph = folder / "ours.graph"
        mine.append(ours(folder, warm=True, **({"graph": str(graph)} if number == 0 else {})))
        say(f"ours: {mine[-1]['reading']['cpu_s']:.1f} CPU s")
        for batch_size in batch_sizes:
            assert python is not None
            job = {
                "warm": True,
                "batch_size": batch_size,
                "stride": arguments.peer_stride,
                "memory_gib": arguments.peer_memory_gib,
            }
            rows = folder / "peer.safetensors"
            try:
                theirs.append(peer(python, folder, **job, **({"out": str(rows)} if number == 0 else {})))
            except WorkerError as error:
                theirs.append({"batch_size": batch_size, "failed": str(error)})
                say(f"peer, batch size {batch_size}: {error}")
                continue
            say(f"peer, batch size {theirs[-1]['batch_size']}: {theirs[-1]['seconds']:.1f} CPU s")
            if number == 0:
                found = compare(tlc.load_graph(graph), load_file(rows))
                agreement = {name: max(value, agreement.get(name, 0)) for name, value in found.items()}
        if number == 0:
            batch_sizes = _worth_repeating(theirs)
    return mine, theirs, agreement


def _worth_repeating(first: list[dict[str, Any]]) -> list[int]:
    seconds = {run["batch_size"]: run["seconds"] for run in first if "failed" not in run}
    return [size for size, taken in seconds.items() if taken <= HOPELESS * min(seconds.values())]


def compare(graph: tlc.AttributionGraph, peer: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference of an edge between our graph and the rows that the peer computed.

    Ends the script where the features are not the same or an edge differs by more than rounding: no times are compared
    then.
    """
    nodes, features = graph.nodes, graph.nodes.span(Kind.FEATURE)
    mine = torch.stack([nodes.layer, nodes.pos, nodes.index], dim=1)[features]
    if not torch.equal(mine, peer["active"]):
        raise SystemExit(
            f"The active features differ: {len(mine)} here, {len(peer['active'])} there. No times are compared."
        )
    # The peer's columns: features, errors and tokens, which stand first here too, then its targets.
    rest = torch.arange(features.stop, nodes.span(Kind.TOKEN).stop)
    columns = torch.cat([peer["selected"], rest])
    targets = torch.arange(nodes.span(Kind.TARGET).start, nodes.span(Kind.TARGET).stop)
    rows = torch.cat([peer["computed"], targets])
    theirs = torch.cat([peer["rows"], peer["target_rows"]])[:, : len(columns)]
    worst = largest = 0.0
    for row, expected in zip(rows.tolist(), theirs, strict=True):
        found = torch.zeros(len(nodes))
        run = graph.edges.into(row)
        found[graph.edges.source[run].long()] = graph.edges.weight[run].float()
        worst = max(worst, float((found[columns] - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    if worst > TOLERANCE * largest:
        raise SystemExit(f"Edges differ by up to {worst:.1e} of a largest of {largest:.1f}. No times are compared.")
    return {"features": len(mine), "rows": len(rows), "max_abs_difference": worst, "max_abs_edge": largest}


def figures(
    mine: list[dict[str, Any]], theirs: list[dict[str, Any]], agreement: dict[str, float], share: dict[str, float]
) -> dict[str, Any]:
    """Medians of ours and of the peer's best batch size, and what they make."""
    found: dict[str, Any] = {
        "features": mine[0]["graph"]["features"],
        "ours_cpu_s": median(run["reading"]["cpu_s"] for run in mine),
        "ours_first_cpu_s": median(run["first"]["cpu_s"] for run in mine),
        "ours_above_weights_mib": median(run["first"]["above_mib"] for run in mine),
        "ours_runs": len(mine),
    }
    if share:
        found |= {"gemm_share_executed": share["executed_share"], "gemm_share_needed": share["needed_share"]}
    by_size: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in theirs:
        if "failed" not in run:
            by_size[run["batch_size"]].append(run)
    if by_size:
        best = min(by_size, key=lambda size: median(run["seconds"] for run in by_size[size]))
        seconds = median(run["seconds"] for run in by_size[best])
        # Each at its best: the batch that takes the least memory may not be the fastest.
        above = min(median(run["above_mib"] for run in runs) for runs in by_size.values())
        found |= {
            "peer_cpu_s": seconds,
            "peer_estimated": any(run["estimated"] for run in by_size[best]),
            "peer_batch_size": best,
            "peer_batch_sizes_tried": sorted({run["batch_size"] for run in theirs}),
            "peer_runs": len(by_size[best]),
            "peer_above_weights_mib": median(run["above_mib"] for run in by_size[best]),
            "peer_least_above_weights_mib": above,
            "ratio": seconds / found["ours_cpu_s"],
            "memory_ratio": found["ours_above_weights_mib"] / median(run["above_mib"] for run in by_size[best]),
            "agreement": agreement,
        }
    return found


if __name__ == "__main__":
    main()
