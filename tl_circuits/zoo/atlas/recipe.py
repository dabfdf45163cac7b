"""How the atlas is made: a GPT-2 of four layers on its behaviours, a CLT and a PLT of it, and SAEs, in 16 bits."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer

from tl_circuits.harvest import kept_tokens
from tl_circuits.hooks import Model, Tap, installed
from tl_circuits.replacement import replace_mlps
from tl_circuits.saelens import train_sae
from tl_circuits.training import TrainingSettings, train
from tl_circuits.transcoder.files import save_transcoder
from tl_circuits.zoo.atlas.behaviour import Behaviour, Lesson
from tl_circuits.zoo.atlas.behaviours import behaviours
from tl_circuits.zoo.atlas.measure import right, right_mass, sae_figures
from tl_circuits.zoo.atlas.stored import ATLAS, NAME, SAE_SITES, atlas
from tl_circuits.zoo.atlas.tokens import save as save_tokenizer
from tl_circuits.zoo.demo import shipped_model
from tl_circuits.zoo.language_model import Batch, ModelSettings, train_language_model
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.recipe import Bound, Figures, Recipe, save_language_model
from tl_circuits.zoo.tokenizer import IGNORED, encode

MODEL = ModelSettings(n_layers=4, d_model=96, steps=1400, batch=512)
TRANSCODER = TrainingSettings(features=1024, steps=900, sparsity=1.5e-3, finetune_steps=450)


@dataclass(frozen=True)
class Share:
    """What share of a batch a behaviour has, and what share of that are its lessons."""

    of_batch: float
    lessons: float = 0.0


SHARES = {
    "two-hop": Share(0.25, lessons=0.5),
    "attribute": Share(0.05),
    "opposite": Share(0.18, lessons=0.4),
    "rhyme": Share(0.19),
    "addition": Share(0.11),
    "greater-than": Share(0.10),
    "induction": Share(0.08),
    "acronym": Share(0.04),
}


@dataclass(frozen=True)
class SAESettings:
    """How each SAE is trained: BatchTopK, `k` of `features` on, so many batches of tokens of so many prompts."""

    features: int = 512
    k: float = 12.0
    steps: int = 400
    batch_tokens: int = 2048
    lr: float = 2e-3
    prompts: int = 20_000
    seed: int = 0


SAE = SAESettings()
PROMPTS_PER_PASS = 1000

BOUNDS = (
    {f"model: right, {name}": Bound(0.95) for name in SHARES}
    | {"model: probability of a right answer, greater-than": Bound(0.9)}
    | {f"clt: right, {name}": Bound(0.85) for name in SHARES}
    | {"clt: mean L0": Bound(12.0, at_least=False)}
)


def recipe() -> Recipe:
    """The atlas's."""
    return Recipe(make, BOUNDS, _settings, ATLAS, "the recipe (MODEL, SHARES, TRANSCODER)")


def make(seed: int, folder: Path) -> Figures:
    """Trains model, CLT, PLT and SAEs into a folder, and measures what lies there."""
    learnt = behaviours(seed=seed)
    lessons, weights = curriculum(learnt)
    model = _language_model(lessons, weights, seed, folder / "model")
    figures = {f"model: {what}": figure for what, figure in _answers(model, learnt).items()}
    tokens, targets = encode(lessons, model.tokenizer)
    for name in ("clt", "plt"):
        settings = replace(TRANSCODER, cross_layer=name == "clt", seed=seed)
        trained = train(model, tokens, settings, weights=weights, scored=targets != IGNORED)
        save_transcoder(trained.to(torch.float16), folder / name)
        figures |= {f"{name}: {what}": figure for what, figure in _transcoder_figures(name, learnt, folder).items()}
    return figures | _saes(model, tokens, weights, seed, folder / "saes")


def curriculum(learnt: Mapping[str, Behaviour]) -> tuple[list[Lesson], Tensor]:
    """All that is trained on, and how often each is drawn."""
    lessons: list[Lesson] = []
    weights: list[float] = []
    for name, behaviour in learnt.items():
        share = SHARES[name]
        for some, part in ((behaviour.lessons, share.lessons), (behaviour.trained, 1 - share.lessons)):
            lessons += some
            weights += [share.of_batch * part / max(len(some), 1)] * len(some)
    return lessons, torch.tensor(weights)


def _language_model(lessons: list[Lesson], weights: Tensor, seed: int, folder: Path) -> Model:
    folder.mkdir()
    save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = replace(MODEL, seed=seed)
    sampler = _sampler(encode(lessons, tokenizer), weights, settings)
    save_language_model(train_language_model(sampler, settings, len(tokenizer)).half(), folder)
    return shipped_model("bridge", folder, NAME).requires_grad_(False)


def _sampler(encoded: Batch, weights: Tensor, settings: ModelSettings) -> Callable[[], Batch]:
    draw = torch.Generator().manual_seed(settings.seed)

    def batch() -> Batch:
        rows = torch.multinomial(weights, settings.batch, replacement=True, generator=draw)
        return encoded[0][rows], encoded[1][rows]

    return batch


def _answers(model: Model, learnt: Mapping[str, Behaviour]) -> dict[str, float]:
    figures = {f"right, {name}": right(model, behaviour.held_out) for name, behaviour in learnt.items()}
    several = {name: behaviour.held_out for name, behaviour in learnt.items() if behaviour.held_out[0].accepted}
    return figures | {
        f"probability of a right answer, {name}": right_mass(model, questions) for name, questions in several.items()
    }


def _transcoder_figures(name: str, learnt: Mapping[str, Behaviour], folder: Path) -> dict[str, float]:
    model, transcoder = atlas(transcoder=name, assets=folder)
    with replace_mlps(model, transcoder):
        figures = _answers(model, learnt)
    for behaviour in learnt.values():
        # Where several answers are right, which of them comes first is chance.
        if not behaviour.held_out[0].accepted:
            figures[f"agreement, {behaviour.name}"] = agreement(model, transcoder, behaviour.held_out)
        figures[f"L0, {behaviour.name}"] = _mean(sparsity(model, transcoder, behaviour.held_out).l0)
    figures["mean L0"] = _mean(tuple(figures[f"L0, {name}"] for name in learnt))
    measured = sparsity(model, transcoder, [question for each in learnt.values() for question in each.held_out])
    for layer in range(transcoder.n_layers):
        figures[f"L0, layer {layer}"] = measured.l0[layer]
        figures[f"variance unexplained, layer {layer}"] = measured.fvu[layer]
        figures[f"features never active, layer {layer}"] = measured.silent[layer]
    return figures


def _mean(figures: tuple[float, ...]) -> float:
    return sum(figures) / len(figures)


def _saes(model: Model, tokens: Tensor, weights: Tensor, seed: int, folder: Path) -> dict[str, float]:
    """Trains the SAEs on prompts drawn as the model's were, and measures them there."""
    drawn = torch.multinomial(weights, SAE.prompts, replacement=True, generator=torch.Generator().manual_seed(seed))
    some, kept = tokens[drawn], kept_tokens(tokens[drawn], model.tokenizer)
    figures = {}
    for hook_name in (f"blocks.{layer}.{site}" for site in SAE_SITES for layer in range(MODEL.n_layers)):
        x = _passing(model, some, hook_name)[kept]
        measured = sae_figures(_trained_sae(x, hook_name, seed, folder / hook_name), x)
        figures |= {f"sae, {hook_name}: {what}": figure for what, figure in measured.items()}
    return figures


@torch.no_grad()
def _passing(model: Model, tokens: Tensor, hook_name: str) -> Float[Tensor, "prompt pos d_model"]:
    """What passes a hook point of the model."""
    seen: list[Tensor] = []
    with installed(model, {Tap(hook_name): seen.append}):
        for rows in tokens.split(PROMPTS_PER_PASS):
            model(rows)
    return torch.cat(seen)


def _trained_sae(x: Tensor, hook_name: str, seed: int, folder: Path) -> Any:
    config = {
        "d_in": x.shape[1],
        "d_sae": SAE.features,
        "k": SAE.k,
        "normalize_activations": "expected_average_only_in",
        "metadata": {"model_name": NAME, "hook_name": hook_name},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trained = train_sae(_batches(x, seed), config, SAE.steps, SAE.lr, folder)
    _in_order(folder / "cfg.json")
    return trained


def _in_order(config: Path) -> None:
    """The same keys in the order of the alphabet: SAELens writes them in that of a set, another in each process."""
    text = config.read_text(encoding="utf-8")
    config.write_text(json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _batches(x: Tensor, seed: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield x[torch.randint(len(x), (SAE.batch_tokens,), generator=draw)]


def _settings(seed: int) -> Mapping[str, Any]:
    return {
        "model": asdict(replace(MODEL, seed=seed)),
        "shares": {name: asdict(share) for name, share in SHARES.items()},
        "transcoders": asdict(replace(TRANSCODER, seed=seed)),
        "saes": asdict(replace(SAE, seed=seed)),
    }
