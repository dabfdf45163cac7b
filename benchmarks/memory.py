"""How much memory does a graph take above the weights, and do long prompts fit?

    python -m benchmarks.memory                                # tokens and features one at a time, each way to stop
    python -m benchmarks.memory --case best-512                # CLT, 512 tokens, the 512 most influential features
    python -m benchmarks.memory --case tokens-2000             # to coverage .5, or half an hour
    python -m benchmarks.memory --case gemma-2-2b              # 26 layers, 2304 wide, 16k features, 1,000 tokens

Each measurement is a process of its own, whose peak is counted from when the weights are read. Of a transcoder that is
mapped from disk and larger than memory (gemma-2-2b) what is read of it counts in the peak: `peak_gb` is all in all.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.case import Case, write
from benchmarks.record import Record, add_options, median, numbers, say, settings
from benchmarks.workers import WorkerError, ours

QUESTION = (__doc__ or "").splitlines()[0]
GB = 2**20 / 1e9
"""A MiB in GB."""


@dataclass(frozen=True)
class Named:
    """A case by name, and how it is traced."""

    case: dict[str, Any]
    job: dict[str, Any] = field(default_factory=dict)


NAMED = {
    "best-512": Named({"n_tokens": 512}, {"max_features": 512}),
    "tokens-2000": Named({"n_tokens": 2000}, {"coverage": 0.5, "time_budget": 1800.0}),
    "gemma-2-2b": Named(
        {
            "shape": "gemma2",
            "n_tokens": 1000,
            "n_layers": 26,
            "d_model": 2304,
            "n_heads": 8,
            "n_features": 16_384,
            "d_vocab": 256_000,
        },
        # Said, and not half of what is to spare, which differs from machine to machine.
        {"coverage": 0.5, "time_budget": 1800.0, "memory_budget": 8 * 10**9},
    ),
}
WAYS: dict[str, dict[str, Any]] = {"full": {}, "coverage .95": {"coverage": 0.95}, "256 best": {"max_features": 256}}


def main(argv: list[str] | None = None) -> None:
    """Measures the sweep, or the case that is named."""
    arguments = _arguments(argv)
    case = Case.of(arguments)
    if arguments.case == "sweep":
        runs = [run for varied in _varied(case, arguments) for run in _measured(varied, WAYS, arguments)]
    else:
        job = NAMED[arguments.case].job | ({"time_budget": arguments.time_budget} if arguments.time_budget else {})
        if "time_budget" not in NAMED[arguments.case].job:
            job.pop("time_budget", None)
        runs = list(_measured(case, {arguments.case: job}, arguments))
    record = Record(
        question=QUESTION,
        script="memory",
        case=asdict(case),
        settings=settings(arguments, *asdict(case)),
        figures={"case": arguments.case, "rows": [_figures(run) for run in runs]},
        measured={"rows": runs},
        seed=case.seed,
    )
    record.write(arguments.out, f"memory-{arguments.case}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--case", choices=("sweep", *NAMED), default="sweep", help="one by name, or a sweep")
    name = first.parse_known_args(argv)[0].case
    parser = argparse.ArgumentParser(description=QUESTION, parents=[first])
    # A named case brings its own shape; any part of it may be given otherwise.
    Case.add_options(parser, **(NAMED[name].case if name in NAMED else {}))
    add_options(parser, runs=3 if name == "best-512" else 1)
    parser.add_argument("--tokens", type=numbers, default=[16, 64, 256, 512, 1024, 2000], help="of the sweep")
    parser.add_argument("--features", type=numbers, default=[512, 2048, 8192], help="features a layer, of the sweep")
    parser.add_argument("--full-up-to", type=int, default=64, help="tokens up to which the full graph is traced too")
    parser.add_argument("--coverage-up-to", type=int, default=256, help="and to which the graph of coverage .95 is")
    parser.add_argument("--time-budget", type=float, help="seconds after which a named case stops, instead of its own")
    return parser.parse_args(argv)


def _varied(case: Case, arguments: argparse.Namespace) -> Iterator[Case]:
    for n_tokens in arguments.tokens:
        yield replace(case, n_tokens=n_tokens)
    for n_features in arguments.features:
        if n_features != case.n_features:
            yield replace(case, n_features=n_features)


def _measured(case: Case, ways: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    limits = {"full": arguments.full_up_to, "coverage .95": arguments.coverage_up_to}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        for way, job in ways.items():
            if case.n_tokens > limits.get(way, case.n_tokens):
                continue
            found: dict[str, Any] = {"case": asdict(case), "way": way, "job": job, "runs": []}
            try:
                found["runs"] = [ours(folder, **job) for _ in range(arguments.runs)]
            except WorkerError as error:
                found["failed"] = str(error)
            say(f"{case.n_tokens} tokens, {case.n_features} features a layer, {way}: {_figures(found)}")
            yield found


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    about = {name: found["case"][name] for name in ("kind", "n_tokens", "n_features", "n_layers", "d_model")}
    about |= {"way": found["way"]}
    if "failed" in found:
        return about | {"failed": found["failed"]}
    graph, readings = found["runs"][0]["graph"], [run["reading"] for run in found["runs"]]
    return about | {
        "features": graph["features"],
        "expanded": graph["expanded"],
        "edges": graph["edges"],
        "coverage": graph["coverage"],
        "stopped_by": graph["stopped_by"],
        "cpu_s": median(reading["cpu_s"] for reading in readings),
        "wall_s": median(reading["wall_s"] for reading in readings),
        "above_weights_gb": median(reading["above_mib"] for reading in readings) * GB,
        "peak_gb": median(reading["peak_mib"] for reading in readings) * GB,
        "conservation_error": graph["conservation_error"],
        "runs": len(readings),
    }


if __name__ == "__main__":
    main()
