"""Where batches come from: everything held in memory, or blocks one after another, harvested or from a cache on disk.

A batch is a function of the step it is for, so that a run that was broken off goes on with the same ones, and a run
from a cache with those of a run without.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.harvest import ActivationCache, Block, Pairs, Prompts, blocks, collect
from tl_circuits.hooks import Model
from tl_circuits.training.pairs import Normalisation
from tl_circuits.training.settings import TrainingSettings

HELD_BYTES = 2**30
# torch.multinomial draws among fewer than 2^24.
MOST_HELD = 2**23
SAMPLE, SAMPLE_BYTES = 40_000, 2**29
"""Of so many tokens, or so many bytes of them, are units and thresholds taken."""


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
        """How often prompts are drawn, relative to each other; never those of which nothing counts."""
        any_kept = self.prompts.kept.any(1).float()
        return any_kept if self.weights is None else self.weights * any_kept

    def some(self, rows: slice | Int64[Tensor, " prompt"]) -> "Data":
        """Some of the prompts, each counted once."""
        prompts = Prompts(self.prompts.tokens[rows], self.prompts.kept[rows])
        return Data(prompts, self.scored[rows], None)


class Source(ABC):
    """Batches by step, and a sample for units, in the model's units."""

    sample: Pairs

    @abstractmethod
    def batch(self, step: int) -> Pairs:
        """The tokens of a step."""

    def close(self) -> None:  # noqa: B027
        """Ends what goes on in the background."""


def source(model: Model, data: Data, settings: TrainingSettings, cache: ActivationCache | None = None) -> Source:
    """Everything in memory where it fits there, else blocks, of the model or from a cache."""
    room = held_tokens(settings, model.cfg.n_layers, model.cfg.d_model)
    harvest = Harvest(model, data.prompts, settings, cache)
    if data.prompts.n_kept <= room:
        return _Held(harvest, data, settings)
    return _Streamed(harvest, data, settings, room)


def held_tokens(settings: TrainingSettings, n_layers: int, d_model: int) -> int:
    """How many tokens are held at most."""
    return min(MOST_HELD, settings.buffer_tokens or HELD_BYTES // (8 * n_layers * d_model))


def sampled_tokens(n_layers: int, d_model: int) -> int:
    """How many tokens are sampled at most."""
    return min(SAMPLE, max(1024, SAMPLE_BYTES // (8 * n_layers * d_model)))


@dataclass(frozen=True, eq=False)
class Harvest:
    """Pairs of any prompts: from the model, or from a cache."""

    model: Model
    prompts: Prompts
    settings: TrainingSettings
    cache: ActivationCache | None

    def of(self, rows: Int64[Tensor, " prompt"]) -> Pairs:
        """The pairs of some prompts, in this order; `prompt` numbers them among all."""
        if self.cache is not None:
            found = self.cache.pairs(rows)
        else:
            settings = self.settings
            tokens, kept = self.prompts.tokens[rows], self.prompts.kept[rows]
            found = collect(self.model, tokens, kept, settings.read, settings.write, rows)
        return Pairs(found.reads, found.writes, rows[found.prompt])

    def all(self) -> Pairs:
        """The pairs of all prompts."""
        return self.of(torch.arange(len(self.prompts.tokens)))

    def on_its_device(self, pairs: Pairs) -> Pairs:
        """Pairs where the model is: a cache gives them in the processor's memory."""
        if self.cache is None:
            return pairs
        device = next(self.model.parameters()).device
        return Pairs(pairs.reads.to(device), pairs.writes.to(device), pairs.prompt)


class _Held(Source):
    def __init__(self, harvest: Harvest, data: Data, settings: TrainingSettings) -> None:
        self._settings = settings
        self._pairs = harvest.on_its_device(harvest.all())
        self._weights = data.prompt_weights[self._pairs.prompt]
        n_layers, _, d_model = self._pairs.reads.shape
        self.sample = self._drawn(sampled_tokens(n_layers, d_model), seeded(settings.seed, -1))

    def batch(self, step: int) -> Pairs:
        return self._drawn(self._settings.batch_tokens, seeded(self._settings.seed, step))

    def _drawn(self, n: int, draw: torch.Generator) -> Pairs:
        at = torch.multinomial(self._weights, n, replacement=True, generator=draw)
        return Pairs(self._pairs.reads[:, at], self._pairs.writes[:, at], self._pairs.prompt[at])


class _Streamed(Source):
    def __init__(self, harvest: Harvest, data: Data, settings: TrainingSettings, room: int) -> None:
        self._harvest, self._data, self._settings, self._room = harvest, data, settings, room
        # The model itself runs in one thread only: hooks are on it while it does.
        self._ahead = _Ahead(self._load) if harvest.cache is not None else None
        self._restart()
        self._hold()
        n_layers, _, d_model = self._held.reads.shape
        self.sample = self._rows(slice(sampled_tokens(n_layers, d_model)))

    def batch(self, step: int) -> Pairs:
        if step < self._first:
            self._restart()
        while step >= self._first + self._next[0].n_batches:
            self._first += self._next.popleft().n_batches
            self._next.append(next(self._blocks))
        self._hold()
        begin = (step - self._first) * self._settings.batch_tokens
        return self._rows(slice(begin, begin + self._settings.batch_tokens))

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _restart(self) -> None:
        settings = self._settings
        self._blocks = blocks(
            self._data.prompts.kept, self._data.weights, self._room, settings.batch_tokens, settings.seed
        )
        self._first, self._loaded = 0, -1
        self._next = deque([next(self._blocks), next(self._blocks)])

    def _hold(self) -> None:
        block, after = self._next
        if self._loaded == block.number:
            return
        # The last block goes before the next one comes: they would take twice the memory.
        vars(self).pop("_held", None)
        self._held = self._load(block) if self._ahead is None else self._ahead.take(block)
        self._order = torch.randperm(len(self._held.prompt), generator=seeded(self._settings.seed, -2 - block.number))
        self._loaded = block.number
        if self._ahead is not None:
            self._ahead.ask(after)

    def _load(self, block: Block) -> Pairs:
        return self._harvest.of(block.prompts)

    def _rows(self, part: slice) -> Pairs:
        held, at = self._held, self._order[part]
        return self._harvest.on_its_device(Pairs(held.reads[:, at], held.writes[:, at], held.prompt[at]))


class _Ahead:
    """The block after the one in use, read by one thread in the background."""

    def __init__(self, load: Callable[[Block], Pairs]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, "activations")
        self._asked: tuple[int, Future[Pairs]] | None = None

    def ask(self, block: Block) -> None:
        """Begins to read a block."""
        self._asked = block.number, self._thread.submit(self._load, block)

    def take(self, block: Block) -> Pairs:
        """A block, waited for where it was asked for; what was asked for and is not wanted is dropped."""
        asked, self._asked = self._asked, None
        if asked is not None and asked[0] == block.number:
            return asked[1].result()
        if asked is not None:
            asked[1].cancel()
        return self._load(block)

    def close(self) -> None:
        """Waits for what is being read, and ends the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def units_of(sample: Pairs) -> Normalisation:
    """The units in which this sample is centred and of unit mean square."""
    return Normalisation.of(sample.reads, sample.writes)
