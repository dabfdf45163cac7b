"""How good is a transcoder of the shipped model after minutes on a processor, and what is written across layers?

    python -m benchmarks.training_quality --seeds 0,1,2
    python -m benchmarks.training_quality --presets paper,per-write --seeds 0,1,2
    python -m benchmarks.training_quality --presets topk --k 5

Trains on the demo's training prompts by the settings that the package's own transcoders were built with, and asks the
full replacement model the questions that neither the model nor the transcoder was trained on. Intervals over seeds are
95 % t-intervals. Times are of training alone, by the processor and by the clock: for that
of the clock leave the machine idle.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.record import Machine, Record, add_options, numbers, say, settings
from tl_circuits.intervention.write_shares import write_shares
from tl_circuits.training import TrainingSettings
from tl_circuits.training.settings import PRESETS
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.demo_recipe import TRANSCODER, _weights
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.tokenizer import IGNORED, encode
from tl_circuits.zoo.world import World, world

QUESTION = "How good is a transcoder of the shipped model after minutes on a processor?"
# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
PROMPTS_OF_SHARES = 20


def told(preset: str, seed: int, given: argparse.Namespace) -> TrainingSettings:
    """The build's settings, changed as the preset and the options say."""
    found = replace(TRANSCODER, **PRESETS[preset], seed=seed, cross_layer=not given.plt)
    if given.sparsity is not None:
        found = replace(found, sparsity=given.sparsity)
    if given.k is not None:
        found = replace(found, k=given.k)
    if given.steps is not None:
        found = replace(found, steps=given.steps, finetune_steps=found.finetune_steps * given.steps // found.steps)
    return found


def trained(model: Any, facts: World, how: TrainingSettings) -> tuple[CrossLayerTranscoder, float, float]:
    """A transcoder of the training prompts, and the processor and wall seconds it took."""
    tokens, targets = encode(facts.trained, model.tokenizer)
    processor, wall = time.process_time(), time.perf_counter()
    found = tlc.train(model, tokens, how, weights=_weights(facts.trained), scored=targets != IGNORED)
    return found, time.process_time() - processor, time.perf_counter() - wall


def figures(model: Any, found: CrossLayerTranscoder, facts: World) -> dict[str, float]:
    """Agreement of the replacement model, sparsity, the state swap, and cross-layer write shares."""
    held = sparsity(model, found, facts.trained)
    swap = state_swap(model, found, facts)
    said = {
        "agreement, trained on": agreement(model, found, facts.trained),
        "agreement, two-hop held out": agreement(model, found, facts.of("two-hop", held_out=True)),
        "agreement, addition held out": agreement(model, found, facts.of("addition", held_out=True)),
        "mean L0": statistics.mean(held.l0),
        "mean FVU": statistics.mean(held.fvu),
        "state swap": swap.turned,
        "state swap, random features": swap.control,
    }
    unseen = facts.of("two-hop", held_out=True)[:PROMPTS_OF_SHARES]
    shares = [write_shares(tlc.localize(model, found, prompt.text)).across for prompt in unseen]
    for layer, values in enumerate(zip(*shares, strict=True)):
        if layer:
            said[f"written across layers into layer {layer}"] = statistics.mean(values)
    return said


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the 95 % t-interval over seeds where there are several."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return {"mean": round(mean, 4)}
    spread = statistics.stdev(values) / math.sqrt(len(values))
    reach = T95.get(len(values) - 1, 1.96) * spread
    return {"mean": round(mean, 4), "low": round(mean - reach, 4), "high": round(mean + reach, 4)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_quality", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="of training, one run each")
    parser.add_argument("--presets", default="paper", help=f"some of {','.join(PRESETS)}")
    parser.add_argument("--plt", action="store_true", help="per-layer transcoders instead of cross-layer ones")
    parser.add_argument("--sparsity", type=float, help="λ, instead of the preset's")
    parser.add_argument("--steps", type=int, help="instead of the build's, fine-tuning in proportion")
    parser.add_argument("--k", type=int, help="features on per token and layer, of topk and batch-topk")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    add_options(parser, runs=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts, (model, _) = world(), tlc.demo()
    shown, measured = {}, {}
    for preset in arguments.presets.split(","):
        rows = []
        for seed in arguments.seeds:
            how = told(preset, seed, arguments)
            found, processor, wall = trained(model, facts, how)
            rows.append(figures(model, found, facts) | {"processor seconds": processor, "wall seconds": wall})
            say(f"{preset}, seed {seed}: {rows[-1]}")
        measured[preset] = {"seeds": rows, "settings": asdict(told(preset, 0, arguments))}
        shown[preset] = {name: interval([row[name] for row in rows]) for name in rows[0]}
    kind = "plt" if arguments.plt else "clt"
    record = Record(
        QUESTION, "training_quality", {"model": "demo", "kind": kind}, settings(arguments), shown, measured,
        seed=arguments.seeds[0], machine=Machine.here(threads=arguments.threads),
    )  # fmt: skip
    record.write(arguments.out, f"training_quality-{kind}-{arguments.presets.replace(',', '-')}")


if __name__ == "__main__":
    main()
