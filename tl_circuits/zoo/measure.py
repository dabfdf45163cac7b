"""How well a transcoder replaces the MLPs of a model of the zoo, and how sparsely."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tl_circuits.hooks import Model
from tl_circuits.replacement import replace_mlps
from tl_circuits.training.pairs import collect, kept_tokens
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.tokenizer import IGNORED, Asked, encode


@torch.no_grad()
def agreement(model: Model, transcoder: CrossLayerTranscoder, prompts: Sequence[Asked]) -> float:
    """The share of prompts on whose answer, all of it, the full replacement model has the model's own top tokens."""
    tokens, targets = encode(prompts, model.tokenizer)
    same = []
    for rows, asked in zip(tokens.split(1024), (targets != IGNORED).split(1024), strict=True):
        own = model(rows).argmax(-1)
        with replace_mlps(model, transcoder):
            replaced = model(rows).argmax(-1)
        same.append(((own == replaced) | ~asked).all(-1))
    return torch.cat(same).float().mean().item()


@dataclass(frozen=True)
class Sparsity:
    """By layer: features active per token, the fraction of the MLP's variance unexplained, features that never fire."""

    l0: tuple[float, ...]
    fvu: tuple[float, ...]
    silent: tuple[int, ...]


@torch.no_grad()
def sparsity(model: Model, transcoder: CrossLayerTranscoder, prompts: Sequence[Asked]) -> Sparsity:
    """How sparsely and how well a transcoder writes what the model's MLPs wrote on these prompts."""
    tokens, _ = encode(prompts, model.tokenizer)
    pairs = collect(model, tokens, kept_tokens(tokens, model.tokenizer), transcoder.read, transcoder.write)
    active = [transcoder.encode(x, layer) for layer, x in enumerate(pairs.reads)]
    l0, fvu, silent = [], [], []
    for layer, wrote in enumerate(pairs.writes):
        error = transcoder.decode(active, layer) - wrote
        fvu.append((error.square().sum() / (wrote - wrote.mean(0)).square().sum()).item())
        l0.append((active[layer] > 0).sum(-1).float().mean().item())
        silent.append(int((~(active[layer] > 0).any(0)).sum()))
    return Sparsity(tuple(l0), tuple(fvu), tuple(silent))
