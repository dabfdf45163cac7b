"""Models with their tasks: what dictionaries are trained on, and what circuits are of."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

import tl_circuits as tlc
from benchmarks.circuits import sentences
from benchmarks.circuits.planted import PLANTED, Planted
from benchmarks.circuits.sentence_model import Recipe, lessons, sentence_model, token_ids
from tl_circuits.comparison import Task
from tl_circuits.comparison.task import answers_right
from tl_circuits.harvest import kept_tokens
from tl_circuits.zoo.tokenizer import encode
from tl_circuits.zoo.world import Prompt, world

SUMS = 0.3
"""The share of sums among those of the demo: they vary at every token, facts only in their names."""


@dataclass(frozen=True)
class Width:
    """What a dictionary of a suite is at matched L0: features per layer, how many are on, and how long it trains.

    It is trained on so many `prompts`, drawn from all that the model is taught.
    """

    features: int
    k: int
    steps: int
    batch_tokens: int
    prompts: int = 6000


@dataclass(frozen=True, eq=False)
class Suite:
    """A model, where its dictionaries read, what they are trained on, and its tasks."""

    name: str
    model: Any
    read: str
    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]
    width: Width
    tasks: Mapping[str, Task]
    planted: Planted | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """The share of each task's prompts, before those that the model gets wrong are left out, that it gets right."""


def demo_suite(n_prompts: int, seed: int, width: Width) -> Suite:
    """The shipped model: held-out two-hop questions and sums."""
    model, _ = tlc.demo("hooked")
    facts = world()
    sums = torch.tensor([prompt.kind == "addition" for prompt in facts.trained])
    weights = torch.where(sums, SUMS / sums.sum(), (1 - SUMS) / (~sums).sum())
    drawn = torch.multinomial(weights, width.prompts, replacement=True, generator=torch.Generator().manual_seed(seed))
    tokens, _ = encode([facts.trained[row] for row in drawn.tolist()], model.tokenizer)
    found = {
        "two-hop": _two_hop(model, facts.of("two-hop", held_out=True), n_prompts, seed),
        "addition": _addition(model, facts.of("addition", held_out=True), n_prompts, seed),
    }
    tasks, accuracy = answered(model, found, n_prompts)
    kept = kept_tokens(tokens, model.tokenizer)
    return Suite("demo", model, "ln2.hook_normalized", tokens, kept, width, tasks, accuracy=accuracy)


def sentences_suite(folder: Path, recipe: Recipe, n_prompts: int, seed: int, width: Width) -> Suite:
    """The model of `sentences`, taught here, on sentences that it was not taught."""
    model = sentence_model(folder, recipe)
    tokens, _, weights = lessons(recipe.seed, recipe.pool)
    drawn = torch.multinomial(weights, width.prompts, replacement=True, generator=torch.Generator().manual_seed(seed))
    # Of few sentences there are so many that some were taught; where all were, as for agreement, there are no others.
    found = {name: _sentence_task(name, 2 * n_prompts, seed + 1) for name in sentences.TASKS}
    tasks, accuracy = answered(model, found, n_prompts)
    rows = tokens[drawn]
    kept = kept_tokens(rows, model.tokenizer)
    return Suite("sentences", model, "ln2.hook_normalized", rows, kept, width, tasks, accuracy=accuracy)


def planted_suite(name: str, n_prompts: int, seed: int, width: Width) -> Suite:
    """A compiled model, whose variables are known."""
    made = PLANTED[name]()
    # There are fewer prompts than tokens in a batch.
    tokens = made.tokens.repeat(-(-width.batch_tokens // len(made.tokens)), 1)
    last = torch.zeros_like(tokens, dtype=torch.bool)
    last[:, -1] = True
    task = made.task(n_prompts, seed)
    return Suite(name, made.model, "hook_resid_mid", tokens, last, width, {name: task}, planted=made)


def answered(model: Any, tasks: Mapping[str, Task], n_prompts: int) -> tuple[dict[str, Task], dict[str, float]]:
    """The prompts of each task that the model answers right, and so their counterfactuals; and the share of those.

    Tasks of which it gets no prompt right are left out.
    """
    kept, share = {}, {}
    for name, task in tasks.items():
        right = answers_right(model, task)
        share[name] = float(right.float().mean())
        if bool(right.any()):
            kept[name] = task.part(right.nonzero()[:, 0].tolist()[:n_prompts])
    return kept, share


def _two_hop(model: Any, prompts: Sequence[Prompt], n_prompts: int, seed: int) -> Task:
    draw = random.Random(seed)

    def pairs() -> Iterator[tuple[str, str, str, str]]:
        while True:
            one, other = draw.sample(prompts, 2)
            other = next((p for p in prompts if (p.city, p.relation) == (other.city, one.relation)), None)
            if other is not None and other.answer != one.answer:
                yield one.text, other.text, one.answer, other.answer

    return Task.of(model, list(itertools.islice(pairs(), 2 * n_prompts)), "two-hop")


def _addition(model: Any, prompts: Sequence[Prompt], n_prompts: int, seed: int) -> Task:
    """The tens digit of a sum below 100; the counterfactual has other numbers and another digit."""
    draw, small = random.Random(seed), [prompt for prompt in prompts if int(prompt.answer) < 100]

    def pairs() -> Iterator[tuple[str, str, str, str]]:
        while True:
            one, other = draw.sample(small, 2)
            if one.answer[0] != other.answer[0]:
                yield one.text, other.text, one.answer[0], other.answer[0]

    return Task.of(model, list(itertools.islice(pairs(), 2 * n_prompts)), "addition")


def _sentence_task(name: str, n_prompts: int, seed: int) -> Task:
    number = {word: row for row, word in enumerate(sentences.vocabulary())}
    drawn = list(itertools.islice(sentences.pairs(name, seed), n_prompts))
    contrast = None
    if drawn[0].right:
        contrast = torch.zeros(len(drawn), len(number))
        for row, pair in enumerate(drawn):
            contrast[row, [number[word] for word in pair.right]] = 1
            contrast[row, [number[word] for word in pair.wrong]] = -1
    return Task(
        name,
        token_ids([pair.clean for pair in drawn]),
        token_ids([pair.corrupted for pair in drawn]),
        torch.tensor([number[pair.answer] for pair in drawn]),
        torch.tensor([number[pair.other] for pair in drawn]),
        contrast,
    )
