"""A behaviour to explain: prompts, their counterfactuals, and the two answers that tell them apart."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tl_circuits.attribution.targets import token_id
from tl_circuits.comparison.passes import last_logits
from tl_circuits.errors import PromptError, SettingError, TargetError
from tl_circuits.hooks import Model
from tl_circuits.replacement.prompt import Prompt, check_tokens, tokenize

Pair = tuple[Prompt, Prompt, str | int, str | int]
"""A prompt, its counterfactual, and the answer to each."""


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts of one length with a counterfactual each, and the answers to both, as token ids.

    The measure of a pass is the logit of the clean answer less that of the corrupted one, at the last position; with
    a `contrast`, weights over the vocabulary, it is Σ contrast · probability instead (where several answers are right,
    +1 for each of them and −1 for each wrong one). Raises `PromptError` for pairs that differ in length, or whose
    prompts or answers are the same.
    """

    name: str
    clean: Int64[Tensor, "prompt pos"]
    corrupted: Int64[Tensor, "prompt pos"]
    answer: Int64[Tensor, " prompt"]
    corrupted_answer: Int64[Tensor, " prompt"]
    contrast: Float[Tensor, "prompt d_vocab"] | None = None

    @classmethod
    def of(cls, model: Model, pairs: Sequence[Pair], name: str = "task") -> "Task":
        """The task of (prompt, counterfactual, answer, its answer), prompts as text or token ids.

        Raises `PromptError` where prompts are not all of one length, counterfactuals included, and `TargetError` for an
        answer that is not one token.
        """
        if not isinstance(pairs, Sequence) or not pairs:
            raise PromptError(f"Task {name!r} has no prompts: give at least one, with its counterfactual.")
        _check_pairs(name, pairs)
        columns = list(zip(*pairs, strict=True))
        both = _side_by_side(model, name, [*columns[0], *columns[1]])
        clean, corrupted = both.split(len(pairs))
        answers = [
            torch.tensor([token_id(model.tokenizer, model.cfg.d_vocab, token) for token in column])
            for column in columns[2:]
        ]
        return cls(name, clean, corrupted, answers[0], answers[1])

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

        same = (self.clean == self.corrupted).all(1).nonzero()[:, 0].tolist()
        if same:
            raise PromptError(
                f"Task {self.name!r}: prompt {same[0]} is its own counterfactual, token for token, so no unit differs "
                f"between the runs: give another one, or leave out such pairs ({len(same)} here)."
            )

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        prompts, pos = self.clean.shape
        return f"Task({self.name!r}, {prompts} prompts of {pos} tokens)"

    def answered(self, model: Model) -> "Task":
        """The prompts that the model answers right, and so their counterfactuals. Raises `PromptError` for none."""
        rows = answers_right(model, self).nonzero()[:, 0].tolist()
        if not rows:
            raise PromptError(
                f"Of the {len(self)} prompts of {self.name!r} the model answers none right, with its counterfactual: "
                "there is no behaviour to explain. Check the answers, and that each is one token with its space."
            )
        return self.part(rows)

    def part(self, rows: int | slice | Sequence[int], name: str | None = None) -> "Task":
        """Some of the prompts, by their numbers, under another name where one is given.

        Raises `PromptError` for numbers that there are not, and for none.
        """
        numbers, wanted = range(len(self)), [rows] if isinstance(rows, int) else rows
        try:
            found = numbers[wanted] if isinstance(wanted, slice) else [numbers[operator.index(row)] for row in wanted]
        except (TypeError, IndexError):
            found = []
        picked = torch.tensor(list(found))
        if not len(picked):
            raise PromptError(
                f"Task {self.name!r}: part({rows!r:.60}) of {len(self)} prompts: give numbers from 0 to "
                f"{len(self) - 1}, at least one."
            )
        return Task(
            name or self.name,
            self.clean[picked],
            self.corrupted[picked],
            self.answer[picked],
            self.corrupted_answer[picked],
            None if self.contrast is None else self.contrast[picked],
        )

    def measure(self, logits: Float64[Tensor, "prompt d_vocab"]) -> Float64[Tensor, " prompt"]:
        """The logit of the clean answer less that of the corrupted one, or the contrast of probabilities."""
        if self.contrast is not None:
            return (logits.softmax(-1) * self.contrast.to(logits)).sum(-1)
        rows = torch.arange(len(self), device=logits.device)
        return logits[rows, self.answer.to(logits.device)] - logits[rows, self.corrupted_answer.to(logits.device)]


def answers_right(model: Model, task: Task) -> Bool[Tensor, " prompt"]:
    """Whether the model prefers each prompt's answer there, and on the counterfactual the other.

    With a contrast, of which both may have the same right answers, it has to be lower on the counterfactual.
    """
    check_task(model, task)
    with torch.no_grad():
        here, there = (task.measure(last_logits(model, tokens)) for tokens in (task.clean, task.corrupted))
    return (here > 0) & (there < (0 if task.contrast is None else here))


def check_is_task(task: Task) -> None:
    """Raises `SettingError` for what is no task."""
    if not isinstance(task, Task):
        raise SettingError(
            f"A task is needed, and {type(task).__name__} was given: make one by tlc.Task.of(model, pairs)."
        )


def check_task(model: Model, task: Task) -> None:
    """Raises `PromptError` for tokens that the model cannot read, and `TargetError` for answers that it cannot give."""
    check_is_task(task)
    for tokens in (*task.clean, *task.corrupted):
        check_tokens(model, tokens)
    out = getattr(model.cfg, "d_vocab_out", None) or -1
    n_logits = out if out > 0 else model.cfg.d_vocab
    for answers in (task.answer, task.corrupted_answer):
        if int(answers.min()) < 0 or int(answers.max()) >= n_logits:
            raise TargetError(
                f"Task {task.name!r}: its answers are tokens {int(answers.min())} to {int(answers.max())}, but the "
                f"model gives 0 to {n_logits - 1}: make the task of this model, by Task.of."
            )
    if task.contrast is not None and tuple(task.contrast.shape) != (len(task), n_logits):
        raise TargetError(
            f"Task {task.name!r}: its contrast has shape {tuple(task.contrast.shape)}, but there are {len(task)} "
            f"prompts and {n_logits} tokens to answer: give a weight for each."
        )


def _check_pairs(name: str, pairs: Sequence[Pair]) -> None:
    for number, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 4:
            said = f"{len(pair)} parts" if isinstance(pair, Sequence) and not isinstance(pair, str) else "none"
            raise PromptError(
                f"Task {name!r}: {pair!r:.80} at {number} has {said}: give a list, for each prompt (prompt, "
                "counterfactual, answer, answer of the counterfactual)."
            )


def _side_by_side(model: Model, name: str, prompts: Sequence[Prompt]) -> Int64[Tensor, "prompt pos"]:
    rows = [tokenize(model, prompt).tokens for prompt in prompts]
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        odd = next(place for place, length in enumerate(lengths) if length != lengths[0])
        raise PromptError(
            f"Task {name!r}: {prompts[0]!r:.80} has {lengths[0]} tokens, but {prompts[odd]!r:.80} {lengths[odd]}. "
            "Units are compared position by position: give prompts of one length, and the others in a task of theirs."
        )
    return torch.stack(rows)
