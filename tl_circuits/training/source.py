"""Where batches come from: everything held in memory, or blocks harvested one after another.

A batch is a function of the step it is for, so that a run that was broken off goes on with the same ones.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.harvest import Block, Pairs, Prompts, blocks, collect
from tl_circuits.sites import Model
from tl_circuits.training.pairs import Normalisation
from tl_circuits.training.settings import TrainingSettings

HELD_BYTES = 2**30
# torch.multinomial draws among fewer than 2^24.
MOST_HELD = 2**23
SAMPLE = 40_000


def seeded(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + step * 0x85EBCA6B + 1) % 2**62)


@dataclass(frozen=True, eq=False)
class Data:
    """Prompts, after which tokens predictions count, and how often each prompt is drawn."""

    prompts: Prompts
    scored: Bool[Tensor, "prompt pos"]
    weights: Float[Tensor, " prompt"] | None

    @property
    def prompt_weights(self) -> Float[Tensor, " prompt"]:
        """How often prompts are drawn, relative to each other."""
        return torch.ones(len(self.prompts.tokens)) if self.weights is None else self.weights


class Source(ABC):
    """Batches by step, and a sample for units, in the model's units."""

    sample: Pairs

    @abstractmethod
    def batch(self, step: int) -> Pairs:
        """The tokens of a step."""


def source(model: Model, data: Data, settings: TrainingSettings) -> Source:
    """Everything in memory where it fits there, else blocks."""
    room = held_tokens(settings, model.cfg.n_layers, model.cfg.d_model)
    return _Held(model, data, settings) if data.prompts.n_kept <= room else _Streamed(model, data, settings, room)


def held_tokens(settings: TrainingSettings, n_layers: int, d_model: int) -> int:
    """How many tokens are held at most."""
    return settings.buffer_tokens or min(MOST_HELD, HELD_BYTES // (8 * n_layers * d_model))


class _Held(Source):
    def __init__(self, model: Model, data: Data, settings: TrainingSettings) -> None:
        self._settings = settings
        self._pairs = collect(model, data.prompts.tokens, data.prompts.kept, settings.read, settings.write)
        self._weights = data.prompt_weights[self._pairs.prompt]
        self.sample = self._drawn(SAMPLE, seeded(settings.seed, -1))

    def batch(self, step: int) -> Pairs:
        return self._drawn(self._settings.batch_tokens, seeded(self._settings.seed, step))

    def _drawn(self, n: int, draw: torch.Generator) -> Pairs:
        at = torch.multinomial(self._weights, n, replacement=True, generator=draw)
        return Pairs(self._pairs.reads[:, at], self._pairs.writes[:, at], self._pairs.prompt[at])


class _Streamed(Source):
    def __init__(self, model: Model, data: Data, settings: TrainingSettings, room: int) -> None:
        self._model, self._data, self._settings, self._room = model, data, settings, room
        self._restart()
        block = self._block
        self._load(block)
        held = self._held
        n = min(SAMPLE, held.reads.shape[1])
        self.sample = Pairs(held.reads[:, :n], held.writes[:, :n], held.prompt[:n])

    def batch(self, step: int) -> Pairs:
        if step < self._first:
            self._restart()
        while step >= self._first + self._block.n_batches:
            self._first += self._block.n_batches
            self._block = next(self._blocks)
        if self._loaded != self._block.number:
            self._load(self._block)
        begin = (step - self._first) * self._settings.batch_tokens
        part = slice(begin, begin + self._settings.batch_tokens)
        held = self._held
        return Pairs(held.reads[:, part], held.writes[:, part], held.prompt[part])

    def _restart(self) -> None:
        settings = self._settings
        self._blocks = blocks(
            self._data.prompts.kept, self._data.weights, self._room, settings.batch_tokens, settings.seed
        )
        self._first, self._loaded = 0, -1
        self._block: Block = next(self._blocks)

    def _load(self, block: Block) -> None:
        prompts, settings = self._data.prompts, self._settings
        rows = block.prompts
        found = collect(self._model, prompts.tokens[rows], prompts.kept[rows], settings.read, settings.write)
        order = torch.randperm(len(found.prompt), generator=seeded(settings.seed, -2 - block.number))
        self._held = Pairs(found.reads[:, order], found.writes[:, order], rows[found.prompt[order]])
        self._loaded = block.number


def units_of(sample: Pairs) -> Normalisation:
    """The units in which this sample is centred and of unit mean square."""
    return Normalisation.of(sample.reads, sample.writes)
