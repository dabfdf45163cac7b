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
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

import tl_circuits as tlc
from benchmarks.record import Record, add_options, numbers, say, settings
from benchmarks.training_presets import TRIALS, Case, recipe, sparsity
from tl_circuits.training.run import Run
from tl_circuits.zoo.measure import agreement
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.world import world

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
    parser.add_argument("--l0", type=int, default=8, help="features that λ is steered towards, per token and layer")
    parser.add_argument("--onto", type=Path, help="a result of the same schedule, whose readings are added to")
    parser.add_argument("--features", type=int, default=384, help="per layer")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--batch-tokens", type=int, default=512, help="a step")
    parser.add_argument("--finetune-steps", type=int, default=40, help="of fine-tuning")
    parser.add_argument("--finetune-prompts", type=int, default=48, help="a step of fine-tuning")
    add_options(parser, runs=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, plt = tlc.demo(transcoder="plt")
    case = Case(model, world(), plt)
    measured: dict[str, list[dict[str, float]]] = {}
    if arguments.onto is not None:
        measured = json.loads(arguments.onto.read_text(encoding="utf-8"))["measured"]
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
