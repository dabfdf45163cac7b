"""How wide should the band be in which a JumpReLU's threshold learns: what does each width make of the shipped model?

    python -m benchmarks.training_bandwidth --seeds 0
    python -m benchmarks.training_bandwidth --seeds 1 --onto benchmarks/results/training_bandwidth-DATE.json

A threshold has a gradient from pre-activations that are within half the bandwidth of it. Public trainers take 0.01 to 1
in normalised units, where inputs and outputs are centred and of unit mean square. The paper's recipe is trained with
each width by the short schedule of `training_presets`, λ steered towards the same number of active features, and the
full replacement model is asked what nobody was trained on.

Means over seeds; all readings lie beside them. Times are processor seconds of one thread.
"""

import argparse
import statistics
import time
from dataclasses import replace

from benchmarks.record import Record, numbers, say, settings
from benchmarks.training_presets import TRIALS, Case, add_schedule, begun, recipe, sparsity
from tl_circuits.training.run import Run
from tl_circuits.zoo.measure import agreement
from tl_circuits.zoo.swap import state_swap

QUESTION = (__doc__ or "").splitlines()[0]
WIDTHS = "0.01;0.1;0.5;1;2;4"


def figures(case: Case, run: Run) -> dict[str, float]:
    """Fit, fidelity, swap, and what became of thresholds and features."""
    found = run.transcoder()
    swap = state_swap(case.model, found, case.facts, trials=TRIALS)
    thresholds = run.weights.stacked_thresholds()
    said = {f"agreement, {kind}": agreement(case.model, found, case.facts.of(kind, held_out=True)) for kind in
            ("two-hop", "addition")}  # fmt: skip
    return said | {
        "swap": swap.turned,
        **sparsity(run, found),
        "dead": int((run.silent > run.settings.dead_after).sum()) / run.silent.numel(),
        "mean threshold": float(thresholds.mean()),
        "λ": run.settings.sparsity,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_bandwidth", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="of training, one run each")
    parser.add_argument("--widths", default=WIDTHS, help="bandwidths, with ; between them")
    add_schedule(parser)
    arguments = parser.parse_args()
    case, measured = begun(arguments)
    for seed in arguments.seeds:
        for width in arguments.widths.split(";"):
            began = time.process_time()
            how = replace(recipe("paper", arguments), seed=seed, bandwidth=float(width))
            run = case.trained(how, arguments.l0)
            seconds = time.process_time() - began
            found = figures(case, run) | {"processor seconds": seconds, "seed": seed}
            say(f"{width}, seed {seed}: {found}")
            measured.setdefault(width, []).append(found)
    shown = {
        width: {name: statistics.mean(row[name] for row in rows) for name in rows[0] if name != "seed"}
        for width, rows in measured.items()
    }
    told = {"model": "demo", "features": arguments.features, "wanted_l0": arguments.l0}
    record = Record(
        QUESTION, "training_bandwidth", told, settings(arguments, "onto"), shown, measured, seed=arguments.seeds[0]
    )
    record.write(arguments.out, "training_bandwidth")


if __name__ == "__main__":
    main()
