"""Below which density does a sparse training step cost less than a dense one?

    python -m benchmarks.training_crossover --size A

The steps of `training_step`, at more and more features on. What decides is the density: the share of entries that are
on or have a gradient, which are more than those that are on where thresholds learn from a band around them. Programs
take turns, each turn in a process of its own; times are processor seconds of one thread, medians over all steps but the
first of each turn.
"""

import argparse

import torch

from benchmarks.record import Record, add_options, median, numbers, say, settings
from benchmarks.training_step import SIZES, alone, data, random_weights, turn
from tl_circuits.training.codes import Backend
from tl_circuits.training.rules import Rule
from tl_circuits.training.step import Costs, passed

QUESTION = (__doc__ or "").splitlines()[0]
BACKENDS: tuple[Backend, Backend] = ("sparse", "dense")


def density(size: str, l0: int, bandwidth: float, tokens: int) -> float:
    """The share of entries that are on or have a gradient in the first step."""
    torch.set_num_threads(1)
    shape = SIZES[size]
    x, y = data(shape, tokens)
    rule = Rule("jump_relu", bandwidth=bandwidth)
    with torch.no_grad():
        return passed(random_weights(shape, l0, seed=0), x, y, rule, "sparse", costs=Costs()).density()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_crossover", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="A", help="as of training_step (%(default)s)")
    parser.add_argument("--shares", type=numbers, default=[1, 5, 10, 15, 20, 30], help="per cent of features on")
    parser.add_argument("--bandwidth", type=float, default=0.2, help="of the thresholds' estimate (%(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="per step (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="timed in each of the --runs turns (%(default)s)")
    add_options(parser, runs=2)
    given = parser.parse_args()
    figures, measured = {}, {}
    for share in given.shares:
        l0 = max(1, round(SIZES[given.size].features * share / 100))
        how = argparse.Namespace(**vars(given), malloc=False, l0=l0)
        turns = {backend: [alone(turn, f"ours, {backend}", "", how) for _ in range(given.runs)] for backend in BACKENDS}
        sparse, dense = (median(s for one in turns[b] for s in one["seconds_per_1k_tokens"]) for b in BACKENDS)
        figures[str(share)] = {
            "on": turns["sparse"][0]["l0"] / SIZES[given.size].features,
            "density": alone(density, given.size, l0, given.bandwidth, given.tokens),
            "sparse": sparse,
            "dense": dense,
            "dense over sparse": dense / sparse,
        }
        measured[str(share)] = turns
        say(f"{share} %: {figures[str(share)]}")
    case, seen = vars(SIZES[given.size]), settings(given)
    record = Record(QUESTION, "training_crossover", case, seen, figures, measured, seed=0)
    record.write(given.out, f"training_crossover-{given.size}")


if __name__ == "__main__":
    main()
