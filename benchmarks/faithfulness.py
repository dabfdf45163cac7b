"""Does the graph of the shipped model say what the model does, and more than its baselines and controls?

    python -m benchmarks.faithfulness
    python -m benchmarks.faithfulness --prompts 3 --sums 2

The demo's cross-layer and per-layer transcoder, on two-hop questions and sums held out of training: a toy model, whose
figures say nothing of large ones. `figures.targets` holds what was aimed at beside what was reached, `figures.summary`
means with their intervals over all prompts, questions and sums, `figures.verdicts` what `tlc.validate` says of each
prompt's strongest paths, and `figures.towards_another` how well the local replacement model follows pushes of the last
position a tenth of the way, half way and all the way to another question: moves between what the transcoder was trained
on. `measured` has every figure of `tlc.faithfulness`, and the rankings' prompt by prompt.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.record import Record, add_options, say, settings
from tl_circuits.intervention import Interval
from tl_circuits.intervention.perturbation import Push, agreements
from tl_circuits.zoo.world import world

QUESTION = (__doc__ or "").splitlines()[0]
RANKINGS = ("influence", "activation", "direct_edge", "random_in_layer", "shuffled_graph")
# How far towards another question.
WAYS = (0.1, 0.5, 1.0)
# What was aimed at: the figure, the least value, and what it has to be above.
TARGETS = (
    *(
        (
            f"{among}.kl.influence.spearman",
            0.85,
            tuple(f"{among}.kl.{ranking}.spearman" for ranking in RANKINGS[1:]),
        )
        for among in ("nodes", "reaching")
    ),
    *(
        (f"push.{kind}.hop_1.replacement.residual_cosine", 0.9, (f"push.{kind}.hop_1.no_mlps.residual_cosine",))
        for kind in ("encoder", "decoder", "random")
    ),
)
SUMMARY = (
    *(f"nodes.kl.{ranking}.{statistic}" for ranking in RANKINGS for statistic in ("spearman", "log_pearson", "top_5")),
    *(f"reaching.kl.{ranking}.spearman" for ranking in RANKINGS),
    *(f"nodes.target.{ranking}.spearman" for ranking in RANKINGS),
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
            "towards_another": {kind: one["towards_another"] for kind, one in found.items()},
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
        "towards_another": _towards_another(local[: arguments.prompts], arguments.seed),
        "all": {name: report[name].to_dict() for name in report.values},
        "by_prompt": {name: report.to_dict()["values"][name] for name in SUMMARY[:20] if name in report.values},
    }


def _towards_another(local: Sequence[tlc.LocalReplacementModel], seed: int) -> dict[str, dict[str, str]]:
    """One block after a push at the last position towards each question's next one, in each layer but the first."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for one, other in zip(local, [*local[1:], *local[:1]], strict=True):
        ends = zip(one.pieces.block_in, other.pieces.block_in, strict=True)
        gaps = [(b[0, -1] - a[0, -1]).detach() for a, b in ends]
        for way in WAYS:
            pushes = [Push("other", layer, one.n_pos - 1, way * gaps[layer]) for layer in range(1, one.n_layers)]
            first = [agreement for agreement in agreements(one, pushes) if agreement.hop == 1]
            for model in ("replacement", "no_mlps"):
                for measure in ("residual_cosine", "residual_nmse", "mlp_cosine"):
                    values = [getattr(agreement, measure) for agreement in first if agreement.model == model]
                    found.setdefault(f"{way:g}.{model}", {}).setdefault(measure, []).append(values)
    return {
        name: {measure: str(Interval.of([fmean(values) for values in each], seed)) for measure, each in by.items()}
        for name, by in found.items()
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
