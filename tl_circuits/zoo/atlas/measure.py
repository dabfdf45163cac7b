"""How often the atlas is right, and how well its SAEs write what they read."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.hooks import Model
from tl_circuits.zoo.atlas.behaviour import Question
from tl_circuits.zoo.language_model import accuracy
from tl_circuits.zoo.tokenizer import encode


def right(model: Model, questions: Sequence[Question]) -> float:
    """The share of questions that are answered: every token of the answer, and the end after it, the top one.

    Where several answers are right the top one has to be one of them.
    """
    if not questions[0].accepted:
        return accuracy(model, encode(questions, model.tokenizer))
    said, accepted = _first_answers(model, questions)
    return accepted.gather(1, said.argmax(-1, keepdim=True)).float().mean().item()


def right_mass(model: Model, questions: Sequence[Question]) -> float:
    """The probability of a right answer, on average, where several are right."""
    said, accepted = _first_answers(model, questions)
    return (said * accepted).sum(-1).mean().item()


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


@torch.no_grad()
def _first_answers(
    model: Model, questions: Sequence[Question]
) -> tuple[Float[Tensor, "question d_vocab"], Bool[Tensor, "question d_vocab"]]:
    """What the model says first, as probabilities, and which tokens are right."""
    tokens = torch.tensor([model.tokenizer(question.text).input_ids for question in questions])
    said = model(tokens)[:, -1].softmax(-1)
    accepted = torch.zeros_like(said, dtype=torch.bool)
    for row, question in enumerate(questions):
        accepted[row, model.tokenizer.convert_tokens_to_ids(list(question.accepted))] = True
    return said, accepted
