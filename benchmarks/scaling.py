"""How does the time of a full graph grow with tokens, features, layers and width?

    python -m benchmarks.scaling                     # minutes, around a case of six layers
    python -m benchmarks.scaling --d-model 768 --n-heads 12 --widths 384,768 --n-layers 12 --layers 6,12

One is varied at a time, the others held. An exponent e says that time goes as (what is varied)^e, fitted by least
squares in logarithms over the medians; rows of the graph (active features) are given their own exponent, because more
tokens, layers or active features are more rows too. `features` is the size of the dictionary at a fixed number of
active ones, `active` that number.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.case import Case, write
from benchmarks.record import Record, add_options, median, numbers, say, settings
from benchmarks.workers import ours

QUESTION = (__doc__ or "").splitlines()[0]
AXES = {"tokens": "n_tokens", "features": "n_features", "active": "l0", "layers": "n_layers", "widths": "d_model"}


def main(argv: list[str] | None = None) -> None:
    """Measures every axis and fits its exponents."""
    arguments = _arguments(argv)
    case = Case.of(arguments)
    points = {
        axis: [_point(replace(case, **{name: value}), value, arguments.runs) for value in getattr(arguments, axis)]
        for axis, name in AXES.items()
    }
    record = Record(
        question=QUESTION,
        script="scaling",
        case=asdict(case),
        settings=settings(arguments, *asdict(case)),
        figures={axis: _exponents(found) for axis, found in points.items()},
        measured=points,
        seed=case.seed,
    )
    record.write(arguments.out, f"scaling-{case.kind}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    Case.add_options(parser, n_layers=6, d_model=256, n_heads=4, n_features=1024, d_vocab=1000)
    add_options(parser)
    parser.add_argument("--tokens", type=numbers, default=[8, 16, 32, 64])
    parser.add_argument("--features", type=numbers, default=[512, 1024, 2048, 4096])
    parser.add_argument("--active", type=numbers, default=[5, 10, 20, 40], help="active features a layer and token")
    parser.add_argument("--layers", type=numbers, default=[3, 6, 12])
    parser.add_argument("--widths", type=numbers, default=[128, 256, 512])
    return parser.parse_args(argv)


def _point(case: Case, value: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        write(case, Path(scratch))
        found = [ours(Path(scratch)) for _ in range(runs)]
    say(f"{asdict(case)}: {median(run['reading']['cpu_s'] for run in found):.2f} CPU s")
    return {"value": value, "runs": found}


def _exponents(points: list[dict[str, Any]]) -> dict[str, Any]:
    values = [point["value"] for point in points]
    seconds = [median(run["reading"]["cpu_s"] for run in point["runs"]) for point in points]
    memory = [median(run["reading"]["above_mib"] for run in point["runs"]) for point in points]
    rows = [point["runs"][0]["graph"]["features"] for point in points]
    return {
        "values": values,
        "cpu_s": seconds,
        "above_weights_mib": memory,
        "rows": rows,
        "time_exponent": exponent(values, seconds),
        "rows_exponent": exponent(values, rows),
        "memory_exponent": exponent(values, memory),
    }


def exponent(values: Sequence[float], measured: Sequence[float]) -> float | None:
    """The slope of log(measured) over log(values) by least squares; None where there is none."""
    pairs = [(math.log(x), math.log(y)) for x, y in zip(values, measured, strict=True) if x > 0 and y > 0]
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread else None


if __name__ == "__main__":
    main()
