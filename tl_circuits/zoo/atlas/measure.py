"""How often the atlas is right, and how well its SAEs write what they read."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.sites import Model
from tl_circuits.zoo.atlas.behaviour import Question
from tl_circuits.zoo.language_model import accuracy
from tl_circuits.zoo.tokenizer import IGNORED, encode


@torch.no_grad()
def right(model: Model, questions: Sequence[Question]) -> float:
    """The share of questions that are answered, every token of the answer and its end the top one.

    Where several answers are right it is the probability of giving one of them, on average.
    """
    tokens, targets = encode(questions, model.tokenizer)
    if not questions[0].accepted:
        return accuracy(model, (tokens, targets))
    said = model(tokens)[torch.arange(len(tokens)), (targets != IGNORED).int().argmax(-1)].softmax(-1)
    mass = [
        row[model.tokenizer.convert_tokens_to_ids(list(question.accepted))].sum()
        for row, question in zip(said, questions, strict=True)
    ]
    return torch.stack(mass).mean().item()


@torch.no_grad()
def sae_figures(sae: Any, x: Float[Tensor, "token d_in"]) -> dict[str, float]:
    """Of a SAELens SAE on these activations: features active per token, variance unexplained, features never active."""
    active = sae.encode(x)
    error = (sae.decode(active) - x).square().sum() / (x - x.mean(0)).square().sum()
    return {
        "L0": (active > 0).sum(-1).float().mean().item(),
        "variance unexplained": error.item(),
        "features never active": float((~(active > 0).any(0)).sum()),
    }
