"""Draws `docs/images/circuits.png` from the newest result of the `cpu` tier: python -m benchmarks.circuits.plots"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.circuits.tables import UNITS, newest
from benchmarks.record import ROOT

PLACE = ROOT / "docs" / "images" / "circuits.png"
COLOURS = {"CLT": "C0", "PLT": "C1", "skip PLT": "C2", "SAE": "C3", "neurons": "0.4"}
COLUMNS = 5


def draw(result: Mapping[str, Any], place: Path) -> Path:
    """F by size of every task and unit; dashed, what is left without the circuit."""
    from matplotlib import pyplot

    tasks = [(task, of) for figures in result["figures"].values() for task, of in figures["curves"].items()]
    n_rows = -(-len(tasks) // COLUMNS)
    figure, axes = pyplot.subplots(
        n_rows, COLUMNS, figsize=(3 * COLUMNS, 2.5 * n_rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis, (task, of) in zip(axes.flat, tasks, strict=False):
        for basis in UNITS:
            if basis in of:
                at = [1 + size for size in of[basis]["sizes"]]
                axis.plot(at, of[basis]["F"], color=COLOURS[basis], label=basis)
                axis.plot(at, of[basis]["C"], color=COLOURS[basis], linestyle=":", linewidth=0.8)
        axis.set(title=task, xscale="log", ylim=(-0.15, 1.15))
        axis.axhline(1, color="0.85", linewidth=0.8)
    lines, names = axes[0][0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=len(names))
    figure.supxlabel("1 + units in the circuit")
    figure.supylabel("faithfulness; dotted: of all but the circuit")
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=80)
    pyplot.close(figure)
    return place


def main() -> None:
    """The command."""
    result = newest(report.newest())
    if result is None:
        raise SystemExit(
            "No result of the cpu tier is in benchmarks/results: run python -m benchmarks.circuits --tier cpu"
        )
    print(f"drawn to {draw(result, PLACE)}")


if __name__ == "__main__":
    main()
