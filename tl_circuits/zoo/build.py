"""Trains the demo from nothing, measures it, and saves it if it is good enough: `python -m tl_circuits.zoo.build`.

Deterministic by seed on one thread. Figures go to standard output and to `figures.json` beside the weights.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel

from tl_circuits.errors import TLCircuitsError
from tl_circuits.sites import Model
from tl_circuits.training import TrainingSettings, train
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.files import load_folder, save_transcoder
from tl_circuits.zoo.demo import ASSETS, bridge, load_language_model
from tl_circuits.zoo.language_model import ModelSettings, accuracy, train_language_model
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.tokenizer import IGNORED, encode, save_tokenizer
from tl_circuits.zoo.world import Prompt, World, world

Figures = Mapping[str, float]

# Of the tokens a transcoder is trained on, the share from sums: they vary at every token, facts only in their names.
SUMS = 0.3
TRANSCODER = TrainingSettings(features=768, sparsity=2e-3, finetune_steps=600)


@dataclass(frozen=True)
class Bound:
    """What a figure has to be: at least, or at most, this."""

    limit: float
    at_least: bool = True

    def met(self, figure: float) -> bool:
        """Whether a figure keeps to it."""
        return figure >= self.limit if self.at_least else figure <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


BOUNDS = {
    "model: two-hop held out": Bound(0.99),
    "model: addition held out": Bound(0.99),
    "clt: agreement, trained on": Bound(0.99),
    "clt: agreement, two-hop held out": Bound(0.93),
    "clt: mean L0": Bound(12.0, at_least=False),
    "clt: state swap": Bound(0.6),
    "clt: state swap, random features": Bound(0.05, at_least=False),
}


class BelowTarget(TLCircuitsError):
    """A trained demo misses its figures."""


def build(seed: int, out: Path = ASSETS) -> Figures:
    """Trains model, CLT and PLT, writes them to a folder, and returns their figures.

    What is measured has been through its files. Raises `BelowTarget`, and leaves the folder as it was, where a figure
    misses its bound.
    """
    facts = world(seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _language_model(facts, seed, folder / "model")
        figures = _model_figures(model, facts)
        for name, cross_layer in (("clt", True), ("plt", False)):
            save_transcoder(_transcoder(model, facts, cross_layer, seed), folder / name)
            figures |= {
                f"{name}: {what}": figure for what, figure in _figures(model, load_folder(folder / name), facts).items()
            }
        _show(figures)
        _refuse_what_misses(figures)
        _record(figures, seed, folder / "figures.json")
        for made in folder.iterdir():
            _replace(made, out / made.name)
    return figures


def _language_model(facts: World, seed: int, folder: Path) -> Model:
    folder.mkdir()
    save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    _save_language_model(train_language_model(facts, tokenizer, ModelSettings(seed=seed)), folder)
    return bridge(load_language_model(folder), tokenizer).requires_grad_(False)


def _save_language_model(language_model: GPT2LMHeadModel, folder: Path) -> None:
    # `save_pretrained` would show a progress bar for one small file.
    language_model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in language_model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _transcoder(model: Model, facts: World, cross_layer: bool, seed: int) -> CrossLayerTranscoder:
    tokens, targets = encode(facts.trained, model.tokenizer)
    settings = replace(TRANSCODER, cross_layer=cross_layer, seed=seed)
    return train(model, tokens, settings, weights=_weights(facts.trained), scored=targets != IGNORED)


def _weights(prompts: tuple[Prompt, ...]) -> Tensor:
    sums = torch.tensor([prompt.kind == "addition" for prompt in prompts])
    return torch.where(sums, SUMS / sums.sum(), (1 - SUMS) / (~sums).sum())


def _model_figures(model: Model, facts: World) -> dict[str, float]:
    return {
        f"model: {kind} held out": accuracy(model, encode(facts.of(kind, held_out=True), model.tokenizer))
        for kind in ("two-hop", "addition")
    }


def _figures(model: Model, transcoder: CrossLayerTranscoder, facts: World) -> dict[str, float]:
    figures = {"agreement, trained on": agreement(model, transcoder, facts.trained)}
    for kind in ("two-hop", "addition"):
        figures[f"agreement, {kind} held out"] = agreement(model, transcoder, facts.of(kind, held_out=True))
    measured = sparsity(model, transcoder, facts.trained)
    figures["mean L0"] = sum(measured.l0) / len(measured.l0)
    for layer in range(transcoder.n_layers):
        figures[f"L0, layer {layer}"] = measured.l0[layer]
        figures[f"variance unexplained, layer {layer}"] = measured.fvu[layer]
        figures[f"features never active, layer {layer}"] = measured.silent[layer]
    swap = state_swap(model, transcoder, facts)
    figures |= {"state swap": swap.turned, "state swap, random features": swap.control}
    return figures | {"features that stand for a state": swap.features_per_state}


def _show(figures: Figures) -> None:
    table = Table("figure", "", "wanted")
    for name, figure in figures.items():
        bound = BOUNDS.get(name)
        style = None if bound is None else "green" if bound.met(figure) else "bold red"
        table.add_row(name, f"{figure:.4f}", str(bound or ""), style=style)
    Console().print(table)


def _refuse_what_misses(figures: Figures) -> None:
    missed = [
        f"{name} {figures[name]:.4f}, wanted {bound}" for name, bound in BOUNDS.items() if not bound.met(figures[name])
    ]
    if missed:
        raise BelowTarget(
            f"Not saved: {'; '.join(missed)}. Mend the recipe (ModelSettings, TRANSCODER), not the seed or the bound."
        )


def _record(figures: Figures, seed: int, path: Path) -> None:
    record = {
        "figures": {name: round(figure, 4) for name, figure in figures.items()},
        "bounds": {name: str(bound) for name, bound in BOUNDS.items()},
        "seed": seed,
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "transformer-lens")},
        "model": asdict(ModelSettings(seed=seed)),
        "transcoders": asdict(replace(TRANSCODER, seed=seed)),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _replace(made: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    shutil.move(made, place)


def main() -> int:
    """The command: 0 where everything was saved, 1 where a figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m tl_circuits.zoo.build", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the split, the model and the transcoders (default 0)")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where to save (default: into the package)")
    given = parser.parse_args()
    # Tiny operations gain nothing from a second thread, and sums in a fixed order make the build repeatable.
    torch.set_num_threads(1)
    try:
        build(given.seed, given.out)
    except BelowTarget as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
