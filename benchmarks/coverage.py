"""What does a share of the influence cost, and from which share on is the pruned graph that of the full graph?

    python -m benchmarks.coverage                                             # random CLT, 64 tokens, and the peer
    python -m benchmarks.coverage --n-tokens 16 --no-peer
    python -m benchmarks.coverage --of demo --runs 1

Two tables. *Levels*: rows, CPU seconds and likeness at coverages .5 to .99. *Like the full graph*: the least coverage
here, and the least `max_feature_nodes` of circuit-tracer, whose pruned graph has a Jaccard index with the full graph's
of at least `--jaccard`, both for features and for edges, pruned at 0.8 and 0.98 by circuit-tracer's rule on both sides;
then the CPU seconds of each at that setting. The peer's graphs are taken from our full one, whose rows are its own up
to rounding, in the order in which it would visit them; what it takes is measured (`--peer-stride`: estimated from every
n-th batch).
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import tl_circuits as tlc
from benchmarks.attribution_vs_circuit_tracer import compare
from benchmarks.case import Case, Loaded, read_case, write, write_demo
from benchmarks.likeness import Kept, Likeness, capped, least_count, least_coverage, peers_order
from benchmarks.record import Record, add_options, median, numbers, say, settings
from benchmarks.workers import PEER_IS, add_peer_options, ours, peer, peer_python
from tl_circuits.nodes import Kind
from tl_circuits.zoo.world import world

QUESTION = (__doc__ or "").splitlines()[0]
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


def main(argv: list[str] | None = None) -> None:
    """Measures one kind of case and stores the result."""
    arguments = _arguments(argv)
    if arguments.of == "random":
        case = Case.of(arguments)
        found, name = _random(case, arguments), f"coverage-{case.kind}-{case.n_tokens}"
        about = asdict(case)
    else:
        prompts = _prompts(arguments.prompts, arguments.seed)
        found, name = _demo(prompts, arguments), f"coverage-demo-{arguments.kind}"
        about = {"model": "demo", "kind": arguments.kind, "prompts": len(prompts)}
    record = Record(
        question=QUESTION,
        script="coverage",
        case=about,
        settings=settings(arguments, *asdict(Case())),
        figures=found["figures"],
        measured=found["measured"],
        seed=arguments.seed,
        peer={} if arguments.no_peer else PEER_IS,
    )
    record.write(arguments.out, name)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    Case.add_options(parser, n_tokens=64)
    add_options(parser)
    add_peer_options(parser, batch_sizes="16,64")
    parser.add_argument("--of", choices=("random", "demo"), default="random", help="what is traced")
    parser.add_argument("--levels", type=lambda text: list(map(float, text.split(","))), default=list(LEVELS))
    parser.add_argument("--prompts", type=int, default=20, help="two-hop questions for the demo, held out of training")
    parser.add_argument("--peer-prompts", type=int, default=3, help="of which so many are given to the peer")
    parser.add_argument("--jaccard", type=float, default=0.95, help="how alike is alike enough")
    return parser.parse_args(argv)


def _random(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        path = folder / "full.graph"
        full_runs = [ours(folder, graph=str(path)) for _ in range(arguments.runs)]
        full = tlc.load_graph(path)
        levels = _levels(folder, full, full_runs, arguments.runs, arguments.levels)
        against = None if arguments.no_peer else _against(folder, full, arguments)
    figures = {"levels": [_level_figures(level) for level in levels]}
    if against is not None:
        figures |= {"like_the_full_graph": against["figures"]}
    return {"figures": figures, "measured": {"full": full_runs, "levels": levels, "against": against}}


def _levels(
    folder: Path, full: tlc.AttributionGraph, full_runs: list[dict[str, Any]], runs: int, levels: Sequence[float]
) -> list[dict[str, Any]]:
    whole = Kept.of(full.prune())
    cpu_s = median(run["reading"]["cpu_s"] for run in full_runs)
    found = []
    for level in levels:
        path = folder / f"{level}.graph"
        measured = [ours(folder, coverage=level, graph=str(path)) for _ in range(runs)]
        likeness = whole.like(Kept.of(tlc.load_graph(path).prune()))
        found.append({"coverage": level, "full_cpu_s": cpu_s, "likeness": asdict(likeness), "runs": measured})
        say(f"coverage {level}: {median(run['reading']['cpu_s'] for run in measured):.2f} CPU s, {likeness}")
    return found


def _level_figures(level: dict[str, Any]) -> dict[str, Any]:
    graph = level["runs"][0]["graph"]
    seconds = median(run["reading"]["cpu_s"] for run in level["runs"])
    return {
        "coverage": level["coverage"],
        "reached": graph["coverage"],
        "rows_share": graph["expanded"] / graph["features"],
        "cpu_s": seconds,
        "times_faster_than_full": level["full_cpu_s"] / seconds,
        "jaccard_nodes": level["likeness"]["nodes"],
        "jaccard_edges": level["likeness"]["edges"],
    }


def _against(folder: Path, full: tlc.AttributionGraph, arguments: argparse.Namespace) -> dict[str, Any]:
    """The least setting of each that gives the full graph's pruned graph, and what each takes there."""
    case, transcoder = read_case(folder), tlc.load_transcoder(str(folder / "transcoder"))
    settings = {"ours": _least_coverage(case, transcoder, full, arguments.jaccard)}
    batch_sizes = numbers(arguments.batch_sizes)
    for batch_size in batch_sizes:
        settings[str(batch_size)] = _least_count(full, batch_size, arguments.jaccard)
        say(f"peer, batch size {batch_size}: {settings[str(batch_size)]}")
    runs = _timed(folder, full, settings, arguments)
    figures: dict[str, Any] = {"jaccard": arguments.jaccard, "settings": settings}
    figures |= {f"{name}_cpu_s": median(times) for name, times in runs["seconds"].items() if times}
    theirs = [figures[f"{size}_cpu_s"] for size in batch_sizes if f"{size}_cpu_s" in figures]
    if theirs and "ours_cpu_s" in figures:
        figures |= {"peer_cpu_s": min(theirs), "ratio": min(theirs) / figures["ours_cpu_s"]}
        figures["peer_estimated"] = any(run.get("estimated", False) for run in runs["peer"])
    return {"figures": figures, "runs": runs}


def _pruned(graph: tlc.AttributionGraph) -> Kept:
    return Kept.of(graph.prune(errors=True))


def _least_coverage(
    case: Loaded, transcoder: tlc.CrossLayerTranscoder, full: tlc.AttributionGraph, wanted: float
) -> dict[str, float] | None:
    local = tlc.localize(case.model, transcoder, case.tokens, masked_positions=case.masked)
    whole = _pruned(full)

    def alike(coverage: float) -> Likeness:
        found = whole.like(_pruned(tlc.attribute(local, coverage=max(coverage, 0.01), progress=False)))
        say(f"ours, coverage {coverage}: {found}")
        return found

    found = least_coverage(alike, wanted)
    return None if found is None else {"coverage": found[0], **asdict(found[1])}


def _least_count(full: tlc.AttributionGraph, batch_size: int, wanted: float) -> dict[str, float] | None:
    whole = _pruned(full)
    n_features = full.nodes.count(Kind.FEATURE)

    def alike(features: torch.Tensor) -> Likeness:
        return whole.like(_pruned(capped(full, features)))

    found = least_count(peers_order(full, batch_size), n_features, alike, wanted)
    return None if found is None else {"max_feature_nodes": found[0], **asdict(found[1])}


def _timed(
    folder: Path, full: tlc.AttributionGraph, settings: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    python, rows, out = peer_python(arguments), folder / "rows.safetensors", folder / "peer.safetensors"
    _write_rows(full, rows)
    found: dict[str, Any] = {"ours": [], "peer": [], "seconds": {name: [] for name in settings}}
    for number in range(arguments.runs):
        if settings["ours"] is not None:
            found["ours"].append(ours(folder, coverage=max(settings["ours"]["coverage"], 0.01)))
            found["seconds"]["ours"].append(found["ours"][-1]["reading"]["cpu_s"])
        for batch_size in numbers(arguments.batch_sizes):
            setting = settings[str(batch_size)]
            if setting is None:
                continue
            job = {"batch_size": batch_size, "max_feature_nodes": setting["max_feature_nodes"], "rows": str(rows)}
            job |= {"stride": arguments.peer_stride, "memory_gib": arguments.peer_memory_gib, "out": str(out)}
            found["peer"].append(peer(python, folder, **job))
            found["seconds"][str(batch_size)].append(found["peer"][-1]["seconds"])
            if number == 0:
                found["peer"][-1]["agreement"] = compare(full, load_file(out))
    return found


def _write_rows(graph: tlc.AttributionGraph, path: Path) -> None:
    """The rows of all features with the columns that circuit-tracer has: features, errors and tokens."""
    stop = graph.nodes.span(Kind.FEATURE).stop
    inner = graph.edges.source < graph.nodes.span(Kind.TOKEN).stop
    edges = graph.edges.keep(inner)
    end = int(edges.indptr[stop])
    kept = {"indptr": edges.indptr[: stop + 1], "source": edges.source[:end], "weight": edges.weight[:end].float()}
    save_file({name: value.contiguous() for name, value in kept.items()}, path)


def _prompts(count: int, seed: int) -> list[str]:
    questions = [prompt.text for prompt in world().of("two-hop", held_out=True)]
    return random.Random(seed).sample(questions, count)


def _demo(prompts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    per_prompt = []
    for number, prompt in enumerate(prompts):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_demo(folder, prompt, arguments.kind)
            full_runs = [ours(folder, graph=str(folder / "full.graph")) for _ in range(arguments.runs)]
            full = tlc.load_graph(folder / "full.graph")
            levels = _levels(folder, full, full_runs, arguments.runs, arguments.levels)
            asked = not arguments.no_peer and number < arguments.peer_prompts
            against = _against(folder, full, arguments) if asked else None
        per_prompt.append({"prompt": prompt, "full": full_runs, "levels": levels, "against": against})
    figures: dict[str, Any] = {"levels": _means([[_level_figures(level) for level in p["levels"]] for p in per_prompt])}
    ratios = [
        p["against"]["figures"]["ratio"] for p in per_prompt if p["against"] and "ratio" in p["against"]["figures"]
    ]
    if ratios:
        figures["like_the_full_graph"] = {"jaccard": arguments.jaccard, "ratio": median(ratios), "prompts": len(ratios)}
    return {"figures": figures, "measured": {"prompts": per_prompt}}


def _means(tables: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """The mean table of several of the same rows."""
    return [
        {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} for rows in zip(*tables, strict=True)
    ]


if __name__ == "__main__":
    main()
