"""Which recipes make a cross-layer transcoder write a two-step chain as one step?

    python -m benchmarks.hop_collapse --seeds 0,1,2

Trains on compiled models (`benchmarks/chains.py`), where layer-0 features should write no answers. With --amplified,
layer 1 truly writes states once more, and layer-0 features that write them into both layers are a true and short way
of saying so; with --apart it does so for half of the states, and answers to the other half only. Given are, of what is
explained of layer 1's MLP, the share of all of it, of answers (truth 0), and of states, that layer-0 features write;
FVU; and active features that write something. Means over seeds; all readings lie beside them.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.chains import Chain, chain
from benchmarks.record import Record, add_options, numbers, say, settings
from tl_circuits.harvest import Prompts
from tl_circuits.training import TrainingSettings
from tl_circuits.training.report import write_shares_of
from tl_circuits.training.run import Run
from tl_circuits.training.settings import PRESETS
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, source
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.measure import Sparsity

QUESTION = "Which recipes make a cross-layer transcoder write a two-step chain as one step?"


def trained(model: Chain, how: TrainingSettings) -> dict[str, Any]:
    """A transcoder of the chain's last tokens, and what it says of them."""
    prompts = Prompts(model.tokens, model.last)
    data = Data(prompts, model.last, None)
    borrowed: Any = model.model
    began = time.process_time()
    run = Run.begin(borrowed, data, source(borrowed, data, how), how, Shards())
    while run.step < how.all_steps:
        run.advance()
    seconds = time.process_time() - began
    found = run.transcoder()
    shares = write_shares_of(borrowed, found, prompts)
    held = _measured(run)
    return {
        "written into layer 1 by layer 0": float(shares[0, 1]),
        "answers written by layer 0": _written_before(run, found, model.answers),
        "states written again by layer 0": _written_before(run, found, model.states),
        "FVU": list(held.fvu),
        "L0": list(held.l0),
        "processor seconds": round(seconds, 1),
    }


def _written_before(run: Run, found: CrossLayerTranscoder, axes: slice) -> float | None:
    """Of what is explained of layer 1's MLP along these axes, the share that layer-0 features write."""
    active = [found.encode(x, layer) for layer, x in enumerate(run.source.sample.reads)]
    before = active[0] @ found.W_dec[0][:, 1, axes] if found.span > 1 else torch.zeros(())
    there = active[1] @ found.W_dec[1][:, 0, axes]
    whole = before + there
    size = float(whole.square().sum())
    return float((before * whole).sum()) / size if size > 1e-6 else None


def _measured(run: Run) -> Sparsity:
    found, sample = run.transcoder(), run.source.sample
    active = [found.encode(x, layer) for layer, x in enumerate(sample.reads)]
    l0, fvu, silent = [], [], []
    for layer, wrote in enumerate(sample.writes):
        error = found.decode(active, layer) - wrote
        fvu.append(float(error.square().sum() / (wrote - wrote.mean(0)).square().sum()))
        # Features that hardly write anything are not what a reader would count.
        norms = found.W_dec[layer].flatten(1).norm(dim=1) / run.units.write_scale[layer]
        l0.append(float((active[layer] * norms > 0.05).sum(-1).float().mean()))
        silent.append(int((~(active[layer] > 0).any(0)).sum()))
    return Sparsity(tuple(l0), tuple(fvu), tuple(silent))


def _shares(rows: list[dict[str, Any]]) -> list[str]:
    return [key for key in rows[0] if "by layer 0" in key and all(row[key] is not None for row in rows)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop_collapse", description=__doc__)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="of training")
    parser.add_argument("--presets", default="paper,per-write,per-direction", help=f"some of {','.join(PRESETS)}")
    parser.add_argument("--sparsities", default="0.01,0.03", help="λ")
    parser.add_argument("--relations", type=numbers, default=[1, 4], help="1: a pure chain; more: a second input")
    parser.add_argument("--features", type=int, default=320, help="per layer")
    parser.add_argument("--steps", type=int, default=1200, help="of training")
    parser.add_argument("--amplified", action="store_true", help="layer 1 truly writes states once more")
    parser.add_argument("--apart", action="store_true", help="half of the states once more, and answers to the others")
    add_options(parser, runs=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shown, measured = {}, {}
    for relations in arguments.relations:
        model = chain(relations, amplified=arguments.amplified or arguments.apart, apart=arguments.apart)
        for preset in arguments.presets.split(","):
            for weight in (float(part) for part in arguments.sparsities.split(",")):
                how = TrainingSettings.preset(
                    preset, features=arguments.features, steps=arguments.steps, batch_tokens=len(model.tokens),
                    read="hook_resid_mid", sparsity=weight, dead_after=100,
                )  # fmt: skip
                rows = [trained(model, replace(how, seed=seed)) for seed in arguments.seeds]
                name = f"{relations} relations, {preset}, λ {weight}"
                say(f"{name}: {rows}")
                measured[name] = rows
                shown[name] = {
                    **{key: statistics.mean(row[key] for row in rows) for key in _shares(rows)},
                    "FVU": [statistics.mean(row["FVU"][layer] for row in rows) for layer in range(2)],
                    "L0": [statistics.mean(row["L0"][layer] for row in rows) for layer in range(2)],
                }
    kind = "apart" if arguments.apart else "amplified" if arguments.amplified else "plain"
    case = {"chain": kind}
    record = Record(QUESTION, "hop_collapse", case, settings(arguments), shown, measured, seed=arguments.seeds[0])
    record.write(arguments.out, "hop_collapse" if kind == "plain" else f"hop_collapse-{kind}")


if __name__ == "__main__":
    main()
