"""A behaviour to explain: prompts, their counterfactuals, and the two answers that tell them apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.errors import PromptError


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts of one length with a counterfactual each, and the answers to both, as token ids.

    The measure of a pass is the logit of the clean answer less that of the corrupted one, at the last position. Raises
    `PromptError` for pairs that differ in length or answers that are the same.
    """

    name: str
    clean: Int64[Tensor, "prompt pos"]
    corrupted: Int64[Tensor, "prompt pos"]
    answer: Int64[Tensor, " prompt"]
    corrupted_answer: Int64[Tensor, " prompt"]

    def __post_init__(self) -> None:
        shapes = {tuple(self.clean.shape), tuple(self.corrupted.shape)}
        counts = {len(self.clean), len(self.answer), len(self.corrupted_answer)}
        if len(shapes) > 1 or len(counts) > 1 or not len(self.clean):
            raise PromptError(
                f"Task {self.name!r}: prompts {tuple(self.clean.shape)}, counterfactuals "
                f"{tuple(self.corrupted.shape)}, answers {len(self.answer)} and {len(self.corrupted_answer)}: give at "
                "least one prompt, as many of each, and pairs of one length."
            )
        same = (self.answer == self.corrupted_answer).nonzero()[:, 0].tolist()
        if same:
            raise PromptError(
                f"Task {self.name!r}: prompt {same[0]} and its counterfactual have the same answer "
                f"({int(self.answer[same[0]])}), so nothing tells them apart: leave out such pairs ({len(same)} here)."
            )

    def __len__(self) -> int:
        return len(self.clean)

    def part(self, rows: slice | Sequence[int]) -> "Task":
        """Some of the prompts."""
        picked = torch.arange(len(self))[rows]
        return Task(
            self.name,
            self.clean[picked],
            self.corrupted[picked],
            self.answer[picked],
            self.corrupted_answer[picked],
        )

    def measure(self, logits: Float64[Tensor, "prompt d_vocab"]) -> Float64[Tensor, " prompt"]:
        """The logit of the clean answer less that of the corrupted one."""
        rows = torch.arange(len(self), device=logits.device)
        return logits[rows, self.answer.to(logits.device)] - logits[rows, self.corrupted_answer.to(logits.device)]
