"""Does the graph of the shipped model say what the model does, and more than its baselines and controls?

    python -m benchmarks.faithfulness
    python -m benchmarks.faithfulness --prompts 3 --sums 2

The demo's cross-layer and per-layer transcoder, on two-hop questions and sums held out of training: a toy model, whose
figures say nothing of large ones. `figures.targets` holds what was aimed at beside what was reached, `figures.summary`
means with their intervals over all prompts, questions and sums, `figures.verdicts` what `tlc.validate` says of each
prompt's strongest paths. `measured` has every figure of `tlc.faithfulness`, and the rankings' prompt by prompt.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.record import Record, add_options, say, settings
from tl_circuits.intervention import Interval
from tl_circuits.zoo.world import world

QUESTION = (__doc__ or "").splitlines()[0]
RANKINGS = ("influence", "activation", "direct_edge", "random_in_layer", "shuffled_graph")
# What was aimed at: the figure, the least value, and what it has to be above.
TARGETS = (
    (
        "nodes.kl.influence.spearman",
        0.85,
        tuple(f"nodes.kl.{ranking}.spearman" for ranking in RANKINGS[1:]),
    ),
    *(
        (f"push.{kind}.hop_1.replacement.residual_cosine", 0.9, (f"push.{kind}.hop_1.no_mlps.residual_cosine",))
        for kind in ("encoder", "decoder", "random")
    ),
)
SUMMARY = (
    *(f"nodes.kl.{ranking}.{statistic}" for ranking in RANKINGS for statistic in ("spearman", "log_pearson", "top_5")),
    *(f"features.{ranking}.spearman" for ranking in RANKINGS),
    *(f"{effect}.target.{by}.sign" for effect in ("direct", "total", "knock_on") for by in ("graph", "shuffled_graph")),
    "difference.graph.sign",
    "difference.shuffled_graph.sign",
    *(
        f"push.{kind}.hop_{hop}.{model}.{measure}"
        for kind in ("encoder", "decoder", "random")
        for hop in (1, 2)
        for model in ("replacement", "no_mlps")
        for measure in ("residual_cosine", "residual_nmse")
    ),
    *(f"push.{kind}.hop_1.replacement.mlp_cosine" for kind in ("encoder", "decoder", "random")),
    "jacobian.replacement.cosine",
    "jacobian.no_mlps.cosine",
    *(f"writes.layer_{layer}.across" for layer in range(3)),
)


def main(argv: list[str] | None = None) -> None:
    """Measures both transcoders of the demo and stores the result."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    prompts = _prompts(arguments)
    found = {kind: _of_transcoder(kind, prompts, arguments) for kind in ("clt", "plt")}
    record = Record(
        question=QUESTION,
        script="faithfulness",
        case={"model": "demo, a toy of 3 layers", "two_hop": arguments.prompts, "sums": arguments.sums},
        settings=settings(arguments),
        figures={
            "targets": {kind: one["targets"] for kind, one in found.items()},
            "summary": {kind: one["summary"] for kind, one in found.items()},
            "verdicts": {kind: one["verdicts"] for kind, one in found.items()},
        },
        measured={kind: {"all": one["all"], "by_prompt": one["by_prompt"]} for kind, one in found.items()}
        | {"prompts": prompts},
        seed=arguments.seed,
    )
    record.write(arguments.out, "faithfulness-demo")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=QUESTION)
    add_options(parser, runs=1)
    parser.add_argument("--prompts", type=int, default=40, help="two-hop questions held out of training")
    parser.add_argument("--sums", type=int, default=20, help="sums held out of training")
    parser.add_argument("--pushes", type=int, default=8, help="of each kind, into each layer")
    parser.add_argument("--controls", type=int, default=5, help="how often each control is drawn")
    parser.add_argument("--paths", type=int, default=5, help="how many of each prompt's paths are tested")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _prompts(arguments: argparse.Namespace) -> list[str]:
    draw, known = random.Random(arguments.seed), world()
    questions = [prompt.text for prompt in known.of("two-hop", held_out=True)]
    sums = [prompt.text for prompt in known.of("addition", held_out=True)]
    return draw.sample(questions, arguments.prompts) + draw.sample(sums, arguments.sums)


def _of_transcoder(kind: str, prompts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    model, transcoder = tlc.demo(transcoder=kind)
    local = [tlc.localize(model, transcoder, prompt) for prompt in prompts]
    graphs = [tlc.attribute(one) for one in local]
    report = tlc.faithfulness(
        local, graphs, n_pushes=arguments.pushes, n_controls=arguments.controls, seed=arguments.seed
    )
    say(f"{kind}: {report}")
    verdicts: Counter[str] = Counter()
    for one, graph in zip(local, graphs, strict=True):
        found = tlc.validate(graph, one, n_paths=arguments.paths, seed=arguments.seed)
        verdicts.update(path.verdict for path in found.paths)
    return {
        "targets": [_target(report, *target) for target in TARGETS],
        "summary": {name: _by_set(report, name, arguments) for name in SUMMARY if name in report.values},
        "verdicts": dict(verdicts),
        "all": {name: report[name].to_dict() for name in report.values},
        "by_prompt": {name: report.to_dict()["values"][name] for name in SUMMARY[:15] if name in report.values},
    }


def _target(report: tlc.FaithfulnessReport, name: str, aimed: float, above: Sequence[str]) -> dict[str, Any]:
    """What was reached, and by how much it exceeds each baseline and control: the mean of differences on one prompt."""
    reached = report[name]
    return {
        "figure": name,
        "aimed": aimed,
        "reached": reached.to_dict(),
        "met": reached.mean is not None and reached.mean >= aimed,
        "above": {
            other: Interval.of(
                [a - b for a, b in zip(report.values[name], report.values[other], strict=True)],
                report.settings["seed"],
            ).to_dict()
            for other in above
        },
    }


def _by_set(report: tlc.FaithfulnessReport, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    values, seed = report.values[name], report.settings["seed"]
    sets = {"questions": values[: arguments.prompts], "sums": values[arguments.prompts :]}
    return {"all": str(report[name])} | {of: str(Interval.of(part, seed)) for of, part in sets.items()}


if __name__ == "__main__":
    main()
