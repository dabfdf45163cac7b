"""Which recipe for a transcoder: what does each make of the shipped model, at the same sparsity?

    python -m benchmarks.training_presets --seeds 0,1 --l0 8

Every preset, and the paper's as a per-layer transcoder, is trained on the demo's training prompts by one short
schedule, batch size and learning rate. Sparsity is matched: k is set where the activation has one, elsewhere λ is
steered while it trains, up when more than `--l0` features are on and down when fewer. It ends below what was asked
for, since λ hardly moves what a falling learning rate does: `--k` then sets the others to the same. Then are asked, of
questions that nobody was trained on:

- agreement: the share that the full replacement model answers as the model does (two-hop questions, sums).
- of graphs of two-hop questions: replacement score; path length (mean number of steps over influence that reaches
  tokens); written across layers: the share of layer 1's and 2's explained output that lower layers' features write.
- mediated: of the effect that layer-0 features at the last token have on the answer, the share that passes layer 1 at
  that token, in the graph (through its features) and in the model (measured with the shipped per-layer transcoder);
  collapse is how far the two differ. Shares are of the effect over all questions, each with the sign of its whole: of
  one question where effects cancel, a share can be anything.
- swap: how often the other state's answer comes, once the state's features are swapped at double strength, and once as
  many random ones are.

Means over seeds; all readings lie beside them. Times are processor seconds of one thread.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.mediation import mean_path_length, mediation, through_layer_1
from benchmarks.record import Record, add_options, numbers, say, settings
from tl_circuits.harvest import Prompts
from tl_circuits.intervention.write_shares import write_shares
from tl_circuits.training import TrainingSettings
from tl_circuits.training.run import Run
from tl_circuits.training.settings import PRESETS
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, source
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.demo_recipe import TRANSCODER, _weights
from tl_circuits.zoo.measure import agreement
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.tokenizer import IGNORED, encode
from tl_circuits.zoo.world import Prompt, World, world

QUESTION = (__doc__ or "").splitlines()[0]
PER_LAYER = "paper, per layer"
RECIPES: dict[str, Mapping[str, Any]] = {**PRESETS, PER_LAYER: {"cross_layer": False}}
GAIN = 0.05
"""How far a step moves the logarithm of λ, by the logarithm of how far L0 is off."""
SETTLED = 0.3
"""The share of the steps before λ is steered: L0 falls by itself at first."""
TRIALS = 250


@dataclass(frozen=True, eq=False)
class Case:
    """The model, its prompts, and the per-layer transcoder that steps are measured with."""

    model: Any
    facts: World
    plt: CrossLayerTranscoder

    def trained(self, how: TrainingSettings, l0: int) -> Run:
        """A run to its end, λ steered."""
        prompts = self.facts.trained
        tokens, targets = encode(prompts, self.model.tokenizer)
        data = Data(Prompts.of(self.model, tokens), targets != IGNORED, _weights(prompts))
        run = Run.begin(self.model, data, source(self.model, data, how), how, Shards())
        while run.step < how.all_steps:
            done = run.advance()
            if SETTLED * how.steps < run.step and how.sparsity:
                # Fine-tuning counts no features.
                found = statistics.mean(done.l0) if done.l0 else sparsity(run, run.transcoder(), 1000)["L0"]
                steered = run.settings.sparsity * steering(found, l0)
                run.settings = replace(run.settings, sparsity=steered)
        return run


def steering(found: float, l0: int) -> float:
    """What λ is multiplied by where `found` features are on instead of `l0`; at most e times as many count."""
    return math.exp(GAIN * max(-1.0, min(1.0, math.log(max(found, 1e-3) / l0))))


def recipe(name: str, arguments: argparse.Namespace) -> TrainingSettings:
    """A preset on the schedule that all share."""
    shared = {"batch_tokens": arguments.batch_tokens, "lr": TRANSCODER.lr, "revival": TRANSCODER.revival}
    shared |= {
        "finetune_prompts": arguments.finetune_prompts,
        "features": arguments.features,
        "steps": arguments.steps,
        "finetune_steps": arguments.finetune_steps,
    }
    told = TrainingSettings.of({**RECIPES[name], **shared})
    return replace(told, k=arguments.k or arguments.l0) if "topk" in told.activation else told


def figures(case: Case, run: Run, n_graphs: int) -> dict[str, float]:
    """What a transcoder says of the model."""
    found = run.transcoder()
    swap = state_swap(case.model, found, case.facts, trials=TRIALS)
    unseen = {kind: case.facts.of(kind, held_out=True) for kind in ("two-hop", "addition")}
    said = {f"agreement, {kind}": agreement(case.model, found, prompts) for kind, prompts in unseen.items()}
    said |= {"swap": swap.turned, "swap, random features": swap.control} | sparsity(run, found)
    return said | of_graphs(case, found, unseen["two-hop"][:: len(unseen["two-hop"]) // n_graphs][:n_graphs])


@torch.no_grad()
def sparsity(run: Run, found: CrossLayerTranscoder, tokens: int = 10_000) -> dict[str, float]:
    """Features on per token and layer, and the variance unexplained, of tokens as they were trained on."""
    reads, writes = run.source.sample.reads[:, :tokens], run.source.sample.writes[:, :tokens]
    active = [found.encode(x, layer) for layer, x in enumerate(reads)]
    l0 = statistics.mean(float((a > 0).sum(-1).float().mean()) for a in active)
    errors = [found.decode(active, layer) - wrote for layer, wrote in enumerate(writes)]
    fvu = [float(e.square().sum() / (y - y.mean(0)).square().sum()) for e, y in zip(errors, writes, strict=True)]
    return {"L0": l0, "FVU": statistics.mean(fvu)}


def of_graphs(case: Case, found: CrossLayerTranscoder, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Means over graphs, and shares of what their effects sum to."""
    graphs = [_of_graph(case, found, prompt.text) for prompt in prompts]
    rows = [row for row, _ in graphs]
    means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    return means | mediation([passed for _, passed in graphs])


def _of_graph(case: Case, found: CrossLayerTranscoder, text: str) -> tuple[dict[str, float], tlc.HopCollapse | None]:
    local, by_layer = (tlc.localize(case.model, each, text) for each in (found, case.plt))
    graph = tlc.attribute(local, progress=False)
    across = write_shares(local).across
    said = {
        "replacement score": graph.scores().replacement,
        "path length": mean_path_length(graph),
        **{f"written across into layer {layer}": across[layer] for layer in range(1, local.n_layers)},
    }
    return said, through_layer_1(graph, local, by_layer)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """The options of the short schedule, the same for all that is compared."""
    parser.add_argument("--l0", type=int, default=8, help="features that λ is steered towards, per token and layer")
    parser.add_argument("--onto", type=Path, help="a result of the same schedule, whose readings are added to")
    parser.add_argument("--features", type=int, default=384, help="per layer")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--batch-tokens", type=int, default=512, help="a step")
    parser.add_argument("--finetune-steps", type=int, default=40, help="of fine-tuning")
    parser.add_argument("--finetune-prompts", type=int, default=48, help="a step of fine-tuning")
    add_options(parser, runs=1)


def begun(arguments: argparse.Namespace) -> tuple[Case, dict[str, list[dict[str, float]]]]:
    """The demo to train on, on one thread, and the readings that are added to."""
    torch.set_num_threads(1)
    model, plt = tlc.demo(transcoder="plt")
    onto = arguments.onto
    return Case(model, world(), plt), json.loads(onto.read_text(encoding="utf-8"))["measured"] if onto else {}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_presets", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=[0, 1], help="of training, one run each")
    parser.add_argument("--presets", default=";".join(RECIPES), help="some of these, with ; between them")
    parser.add_argument("--k", type=int, help="of TopK's, where steering ends at another L0 than it was asked for")
    parser.add_argument("--graphs", type=int, default=12, help="of held-out two-hop questions")
    add_schedule(parser)
    arguments = parser.parse_args()
    case, measured = begun(arguments)
    for seed in arguments.seeds:
        for name in arguments.presets.split(";"):
            began = time.process_time()
            run = case.trained(replace(recipe(name, arguments), seed=seed), arguments.l0)
            seconds = time.process_time() - began
            found = figures(case, run, arguments.graphs)
            say(f"{name}, seed {seed}: {found}")
            found |= {"processor seconds": seconds, "λ": run.settings.sparsity, "seed": seed}
            measured.setdefault(name, []).append(found)
            _record(arguments, measured).write(arguments.out, "training_presets")


def _record(arguments: argparse.Namespace, measured: dict[str, list[dict[str, float]]]) -> Record:
    shown = {
        name: {key: statistics.mean(row[key] for row in rows if key in row) for key in rows[-1] if key != "seed"}
        for name, rows in measured.items()
    }
    case = {"model": "demo", "features": arguments.features, "wanted_l0": arguments.l0}
    return Record(
        QUESTION, "training_presets", case, settings(arguments, "onto"), shown, measured, seed=arguments.seeds[0]
    )


if __name__ == "__main__":
    main()
