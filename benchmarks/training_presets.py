"""Which recipe for a transcoder: what does each make of the shipped model, at the same sparsity?

    python -m benchmarks.training_presets --seeds 0,1 --l0 8

Every preset, and the paper's as a per-layer transcoder, is trained on the demo's training prompts by one short
schedule, batch size and learning rate. Sparsity is matched: k is set where the activation has one, elsewhere λ is
searched, with the first seed, until the mean L0 is within a tenth of `--l0` before fine-tuning. Then are asked, of
questions that nobody was trained on:

- agreement: the share that the full replacement model answers as the model does (two-hop questions, sums).
- of graphs of two-hop questions: replacement score; path length (mean number of steps over influence that reaches
  tokens); written across layers: the share of layer 1's and 2's explained output that lower layers' features write.
- mediated: of the effect that layer-0 features at the last token have on the answer, the share that passes layer 1 at
  that token, in the graph (through its features) and in the model (measured with the shipped per-layer transcoder);
  over all questions together, weighted by effect. Mediated collapse is how far the two differ.
- swap: how often the other state's answer comes, once the state's features are swapped at double strength, and once as
  many random ones are.

Means over seeds; all readings lie beside them. Times are processor seconds of one thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.record import Record, add_options, numbers, say, settings
from tl_circuits.intervention.write_shares import write_shares
from tl_circuits.training import TrainingSettings
from tl_circuits.training.settings import PRESETS
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.build import TRANSCODER, _weights
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.tokenizer import IGNORED, encode
from tl_circuits.zoo.world import Prompt, World, world

QUESTION = (__doc__ or "").splitlines()[0]
PER_LAYER = "paper, per layer"
RECIPES: dict[str, Mapping[str, Any]] = {**PRESETS, PER_LAYER: {"cross_layer": False}}
CLOSE = 0.1
"""How near to the wanted L0 a search ends, as a share of it."""
TRIES = 4
# So many of the trained prompts tell the sparsity.
EVERY = 7


@dataclass(frozen=True, eq=False)
class Case:
    """The model, its prompts, the per-layer transcoder that measures steps, and a folder for what is trained."""

    model: Any
    facts: World
    plt: CrossLayerTranscoder
    folder: Path

    def trained(self, how: TrainingSettings) -> CrossLayerTranscoder:
        """A transcoder of the training prompts. Fine-tuning takes up what was trained without it."""
        prompts = self.facts.trained
        tokens, targets = encode(prompts, self.model.tokenizer)
        folder = self.folder / f"{how.activation}-{how.charge}-{how.cross_layer}-{how.sparsity}-{how.seed}"
        return tlc.train(
            self.model, tokens, how, weights=_weights(prompts), scored=targets != IGNORED, folder=folder,
            checkpoint_every=how.steps,
        )  # fmt: skip

    def l0(self, found: CrossLayerTranscoder) -> float:
        """Features on per token and layer."""
        return statistics.mean(sparsity(self.model, found, self.facts.trained[::EVERY]).l0)


def recipe(name: str, arguments: argparse.Namespace) -> TrainingSettings:
    """A preset on the schedule that all share, without fine-tuning."""
    shared = {"batch_tokens": arguments.batch_tokens, "lr": TRANSCODER.lr, "revival": TRANSCODER.revival}
    told = TrainingSettings.of({"features": arguments.features, "steps": arguments.steps, **RECIPES[name], **shared})
    if "topk" in told.activation:
        return replace(told, k=arguments.l0)
    # The search begins higher, since few steps need a larger λ than many.
    return replace(told, sparsity=told.sparsity * TRANSCODER.steps / told.steps)


def matched(case: Case, how: TrainingSettings, l0: int) -> tuple[TrainingSettings, list[tuple[float, float]]]:
    """λ by which the mean L0 is what was asked for, and what was tried: λ and the L0 that it gave."""
    if "topk" in how.activation:
        return how, []
    tried: list[tuple[float, float]] = []
    while len(tried) < TRIES:
        tried.append((how.sparsity, case.l0(case.trained(how))))
        say(f"  λ {tried[-1][0]:.2e}: L0 {tried[-1][1]:.2f}")
        if abs(tried[-1][1] / l0 - 1) <= CLOSE:
            break
        how = replace(how, sparsity=_next(tried, l0))
    best, _ = min(tried, key=lambda pair: abs(pair[1] / l0 - 1))
    return replace(how, sparsity=best), tried


def _next(tried: Sequence[tuple[float, float]], l0: int) -> float:
    """Where L0 would be met if it were a power of λ: through the last two tries, or L0 ~ λ^(−1/2) from one."""
    log = [tuple(torch.tensor(pair).log().tolist()) for pair in tried[-2:]]
    slope = -0.5
    if len(log) == 2 and log[1][0] != log[0][0]:
        slope = min(-0.2, max(-2.0, (log[1][1] - log[0][1]) / (log[1][0] - log[0][0])))
    step = (torch.tensor(float(l0)).log().item() - log[-1][1]) / slope
    return tried[-1][0] * 2.718281828 ** max(-3.0, min(3.0, step))


def figures(case: Case, found: CrossLayerTranscoder, n_graphs: int) -> dict[str, float]:
    """What a transcoder says of the model."""
    held = sparsity(case.model, found, case.facts.trained[::EVERY])
    swap = state_swap(case.model, found, case.facts)
    unseen = {kind: case.facts.of(kind, held_out=True) for kind in ("two-hop", "addition")}
    said = {f"agreement, {kind}": agreement(case.model, found, prompts) for kind, prompts in unseen.items()}
    said |= {"L0": statistics.mean(held.l0), "FVU": statistics.mean(held.fvu)}
    said |= {"swap": swap.turned, "swap, random features": swap.control}
    return said | of_graphs(case, found, unseen["two-hop"][:: len(unseen["two-hop"]) // n_graphs][:n_graphs])


def of_graphs(case: Case, found: CrossLayerTranscoder, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Means over graphs, and shares of all effects together."""
    rows = [_of_graph(case, found, prompt.text) for prompt in prompts]
    said = {name: statistics.mean(row[name] for row in rows) for name in rows[0] if not name.startswith("effect")}
    for where in ("graph", "model"):
        whole = sum(row[f"effect, {where}"] for row in rows)
        said[f"mediated, {where}"] = sum(row[f"effect mediated, {where}"] for row in rows) / whole
    return said | {"mediated collapse": abs(said["mediated, graph"] - said["mediated, model"])}


def _of_graph(case: Case, found: CrossLayerTranscoder, text: str) -> dict[str, float]:
    local, by_layer = (tlc.localize(case.model, each, text) for each in (found, case.plt))
    graph = tlc.attribute(local, progress=False)
    reached = graph.path_lengths()
    steps = reached.diff(prepend=reached.new_zeros(1))
    across = write_shares(local).across
    said = {
        "replacement score": graph.scores().replacement,
        "path length": float((steps * torch.arange(1, len(steps) + 1)).sum() / reached[-1]),
        **{f"written across into layer {layer}": across[layer] for layer in range(1, local.n_layers)},
    }
    first, second, step = (
        [f for f in of.active() if f.layer == layer and f.pos == of.n_pos - 1]
        for of, layer in ((local, 0), (local, 1), (by_layer, 1))
    )
    if first and step:
        passed = tlc.hop_collapse(graph, local, first, step, mediator_of=by_layer, stands_for=second)
        for where, share, effect in (
            ("graph", passed.graph, passed.graph_effect), ("model", passed.model, passed.model_effect)
        ):  # fmt: skip
            said |= {f"effect, {where}": effect, f"effect mediated, {where}": share * effect if effect else 0.0}
    else:
        said |= dict.fromkeys((f"effect{of}, {where}" for of in ("", " mediated") for where in ("graph", "model")), 0.0)
    return said


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_presets", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=[0, 1], help="of training, one run each")
    parser.add_argument("--presets", default=";".join(RECIPES), help="some of these, with ; between them")
    parser.add_argument("--l0", type=int, default=8, help="features on per token and layer")
    parser.add_argument("--features", type=int, default=384, help="per layer")
    parser.add_argument("--steps", type=int, default=250, help="of training, the same for all")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="a step, the same for all")
    parser.add_argument("--finetune-steps", type=int, default=50, help="of fine-tuning, the same for all")
    parser.add_argument("--graphs", type=int, default=20, help="of held-out two-hop questions")
    add_options(parser, runs=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, plt = tlc.demo(transcoder="plt")
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        case = Case(model, world(), plt, Path(scratch))
        for name in arguments.presets.split(";"):
            say(name)
            measured[name] = of_preset(case, name, arguments)
            _record(arguments, measured).write(arguments.out, "training_presets")


def of_preset(case: Case, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that matched L0, and the figures of every seed."""
    first, *others = arguments.seeds
    how, tried = matched(case, replace(recipe(name, arguments), seed=first), arguments.l0)
    rows = []
    for seed in (first, *others):
        began = time.process_time()
        found = case.trained(replace(how, seed=seed, finetune_steps=arguments.finetune_steps))
        seconds = time.process_time() - began
        rows.append(figures(case, found, arguments.graphs) | {"processor seconds": seconds})
        say(f"  seed {seed}: {rows[-1]}")
    return {"sparsity": how.sparsity, "k": how.k, "tried": tried, "seeds": rows}


def _record(arguments: argparse.Namespace, measured: dict[str, Any]) -> Record:
    shown = {
        name: {key: statistics.mean(row[key] for row in of["seeds"]) for key in of["seeds"][0]}
        for name, of in measured.items()
    }
    case = {"model": "demo", "features": arguments.features, "wanted_l0": arguments.l0}
    return Record(QUESTION, "training_presets", case, settings(arguments), shown, measured, seed=arguments.seeds[0])


if __name__ == "__main__":
    main()
