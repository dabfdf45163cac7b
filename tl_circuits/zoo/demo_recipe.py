"""How the demo is made: a GPT-2 of three layers on its world, and a CLT and a PLT of it, in a few minutes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from tl_circuits.hooks import Model
from tl_circuits.training import TrainingSettings, train
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.files import load_folder, save_transcoder
from tl_circuits.zoo.demo import ASSETS, bridge, load_language_model
from tl_circuits.zoo.language_model import Batch, ModelSettings, accuracy, train_language_model
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.recipe import Bound, Figures, Recipe, save_language_model
from tl_circuits.zoo.swap import state_swap
from tl_circuits.zoo.tokenizer import IGNORED, encode, save_tokenizer, vocabulary
from tl_circuits.zoo.world import Kind, Prompt, World, world

# Of each batch of the model, the share that are sums. Of the rest, a quarter each are questions about a city and about
# a state, and half are two-hop: drawn evenly, these would crowd out the facts that they are composed of.
SUMS_TO_LEARN = 0.4
SHARES: dict[Kind, float] = {"city": 0.25, "fact": 0.25, "two-hop": 0.5}
# Of the tokens a transcoder is trained on, the share from sums: they vary at every token, facts only in their names.
SUMS = 0.3
TRANSCODER = TrainingSettings(features=768, sparsity=2e-3, finetune_steps=600)

BOUNDS = {
    "model: two-hop held out": Bound(0.99),
    "model: addition held out": Bound(0.99),
    "clt: agreement, trained on": Bound(0.99),
    "clt: agreement, two-hop held out": Bound(0.93),
    "clt: mean L0": Bound(12.0, at_least=False),
    "clt: state swap": Bound(0.6),
    "clt: state swap, random features": Bound(0.05, at_least=False),
}


def recipe() -> Recipe:
    """The demo's."""
    return Recipe(make, BOUNDS, _settings, ASSETS, "the recipe (ModelSettings, TRANSCODER)")


def make(seed: int, folder: Path) -> Figures:
    """Trains model, CLT and PLT into a folder, and measures what lies there."""
    facts = world(seed=seed)
    model = _language_model(facts, seed, folder / "model")
    figures = _model_figures(model, facts)
    for name, cross_layer in (("clt", True), ("plt", False)):
        save_transcoder(_transcoder(model, facts, cross_layer, seed), folder / name)
        measured = _figures(model, load_folder(folder / name), facts)
        figures |= {f"{name}: {what}": figure for what, figure in measured.items()}
    return figures


def _language_model(facts: World, seed: int, folder: Path) -> Model:
    folder.mkdir()
    save_tokenizer(folder, vocabulary())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = ModelSettings(seed=seed)
    batch = _sampler(facts, tokenizer, settings)
    save_language_model(train_language_model(batch, settings, len(tokenizer)), folder)
    return bridge(load_language_model(folder), tokenizer).requires_grad_(False)


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


def _sampler(facts: World, tokenizer, settings: ModelSettings) -> Callable[[], Batch]:
    draw = torch.Generator().manual_seed(settings.seed)
    # One encoding for all, so that facts and sums are padded to the same width and can share a batch.
    tokens, targets = encode(facts.trained, tokenizer)
    counts = {kind: len(facts.of(kind)) for kind in SHARES}
    weight = torch.tensor(
        [SHARES[prompt.kind] / counts[prompt.kind] if prompt.kind in SHARES else 0.0 for prompt in facts.trained]
    )
    sums = torch.tensor([row for row, prompt in enumerate(facts.trained) if prompt.kind == "addition"])
    n_sums = round(settings.batch * SUMS_TO_LEARN)

    def batch() -> Batch:
        asked = torch.multinomial(weight, settings.batch - n_sums, replacement=True, generator=draw)
        rows = torch.cat([asked, sums[torch.randint(len(sums), (n_sums,), generator=draw)]])
        return tokens[rows], targets[rows]

    return batch


def _settings(seed: int) -> Mapping[str, Any]:
    return {
        "model": asdict(ModelSettings(seed=seed)) | {"addition": SUMS_TO_LEARN},
        "transcoders": asdict(replace(TRANSCODER, seed=seed)),
    }
