"""How faithfully do the demo's transcoders stand for its MLPs, CLT and PLT side by side, and what does it take to know?

    python -m benchmarks.fidelity                    # 1,000 prompts held out of training
    python -m benchmarks.fidelity --trained --runs 1

The prompts are questions and sums without their answers; cross-entropy recovered is taken on the same with their
answers, since nothing but answers was the model trained to say. Timed is `tlc.evaluate` on the questions, by the clock,
on one thread. The model and its transcoders are toys, and so are the figures.
"""

import argparse
import random
import time
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.record import Record, add_options, median, say, settings
from tl_circuits.zoo.world import Prompt, world

QUESTION = (__doc__ or "").splitlines()[0]
KINDS = ("clt", "plt")


def main(argv: list[str] | None = None) -> None:
    """Measures both transcoders and stores the result."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    prompts = _prompts(arguments)
    found = {kind: _measured(kind, prompts, arguments.runs) for kind in KINDS}
    record = Record(
        question=QUESTION,
        script="fidelity",
        case={"model": "demo", "prompts": len(prompts), "held_out": not arguments.trained},
        settings=settings(arguments),
        figures={kind: _figures(found[kind]) for kind in KINDS},
        measured=found,
        seed=arguments.seed,
    )
    record.write(arguments.out, "fidelity-demo")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    add_options(parser)
    parser.add_argument("--prompts", type=int, default=1000, help="how many prompts")
    parser.add_argument("--trained", action="store_true", help="take prompts that were trained on")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _prompts(arguments: argparse.Namespace) -> list[Prompt]:
    everything = world()
    return random.Random(arguments.seed).sample(
        everything.trained if arguments.trained else everything.held_out, arguments.prompts
    )


def _measured(kind: str, prompts: list[Prompt], runs: int) -> dict[str, Any]:
    model, transcoder = tlc.demo("bridge", kind)
    questions = _by_kind(prompts, answered=False)
    seconds = [_seconds(model, transcoder, questions) for _ in range(runs)]
    say(f"{kind}: {', '.join(f'{one:.2f} s' for one in seconds)}")
    asked = tlc.evaluate(model, transcoder, questions, each_layer=True, progress=False)
    answered = tlc.evaluate(model, transcoder, _by_kind(prompts, answered=True), progress=False)
    return {"seconds": seconds, "questions": asked.to_dict(), "answered": answered.to_dict()}


def _seconds(model: Any, transcoder: tlc.CrossLayerTranscoder, questions: dict[str, list[str]]) -> float:
    start = time.perf_counter()
    tlc.evaluate(model, transcoder, questions, progress=False)
    return time.perf_counter() - start


def _by_kind(prompts: list[Prompt], *, answered: bool) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for prompt in prompts:
        sets.setdefault(prompt.kind, []).append(prompt.text + (prompt.answer if answered else ""))
    return sets


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    names = ("agreement", "kl", "last_agreement", "last_kl", "fvu")
    by_set = {"overall": found["questions"]["overall"], **found["questions"]["sets"]}
    answered = {"overall": found["answered"]["overall"], **found["answered"]["sets"]}
    return {
        "seconds": median(found["seconds"]),
        **{
            name: {
                **{what: _short(one[what]) for what in names},
                "ce_recovered": _short(answered[name]["ce_recovered"]),
                "l0": one["l0"]["value"],
                "dead_share": [layer["dead"] / layer["n_features"] for layer in one["layers"]],
            }
            for name, one in by_set.items()
        },
    }


def _short(measure: dict[str, Any]) -> dict[str, Any]:
    value = measure["value"]
    return {**value, "floor": measure["floor"]["value"], "ceiling": measure["ceiling"]["value"]}


if __name__ == "__main__":
    main()
