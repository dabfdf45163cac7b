"""What is known of one feature: where it fires, what it makes likelier, what it reads. Plain, frozen values."""

import math
from dataclasses import dataclass

from tl_circuits.errors import SettingError
from tl_circuits.graph.visible import visible

Effects = tuple[tuple[str, float | None], ...]
"""Tokens, the strongest first, and how strong each is; None where a file says only which they are."""


@dataclass(frozen=True)
class Example:
    """A stretch of text around the token at `peak`, with the feature's activation at each of its tokens.

    `prompt` is the number of the prompt in the stream it was read from, and -1 where that is not known. Raises
    `SettingError` where tokens and activations differ in number, or a number is not finite.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int = 0
    prompt: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.peak < len(self.tokens) or len(self.tokens) != len(self.activations):
            raise SettingError(
                f"An example of {len(self.tokens)} tokens with {len(self.activations)} activations and its peak at "
                f"{self.peak} cannot be: give an activation for each token, and one of their places."
            )
        if not all(map(math.isfinite, self.activations)):
            raise SettingError(f"The activations of {self.tokens!r:.80} are not all finite: leave the example out.")

    @property
    def activation(self) -> float:
        """The activation at the peak."""
        return self.activations[self.peak]

    def __str__(self) -> str:
        """The text, with the peak between « and », and what a terminal would act on written out."""
        return visible("".join(f"«{token}»" if at == self.peak else token for at, token in enumerate(self.tokens)))


@dataclass(frozen=True)
class Interval:
    """Examples drawn at random from one part of a feature's activations, such as `quantiles 0.8 to 1`."""

    name: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Histogram:
    """How many tokens had an activation in each of some equal bins between `low` and `high`; zeros are in none.

    Raises `SettingError` for bounds that are no interval, and for counts below 0.
    """

    low: float
    high: float
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high) or not self.counts:
            raise SettingError(
                f"A histogram of {len(self.counts)} bins from {self.low} to {self.high} cannot be: give two finite "
                "bounds, the lower one first, and at least one bin."
            )
        if any(count < 0 for count in self.counts):
            raise SettingError(f"A histogram counts {min(self.counts)} tokens in a bin: give counts of 0 and more.")

    @property
    def edges(self) -> tuple[float, ...]:
        """The bounds of all bins."""
        n = len(self.counts)
        return tuple(self.low + (self.high - self.low) * at / n for at in range(n + 1))

    def quantile(self, share: float) -> float:
        """The upper edge of the bin in which this share of the tokens is reached."""
        wanted, seen = share * sum(self.counts), 0
        for count, upper in zip(self.counts, self.edges[1:], strict=True):
            seen += count
            if seen >= wanted and seen:
                return upper
        return self.high


@dataclass(frozen=True)
class OperandGrid:
    """A feature's activation on prompts such as "36+59=", one for each pair of operands.

    `activations[i][j]` is that of `a[i]` and `b[j]`, at the prompt's last token. (Ameisen et al. 2025, the operand
    plots of "Addition".) Raises `SettingError` where the grid has other sizes than its axes.
    """

    template: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    activations: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.activations) != len(self.a) or any(len(row) != len(self.b) for row in self.activations):
            raise SettingError(
                f"A grid of {len(self.activations)} rows was given for {len(self.a)} and {len(self.b)} operands: give "
                "a row for each first operand, with a number for each second one."
            )


@dataclass(frozen=True)
class FeatureCard:
    """What is known of the feature `index` that reads `layer`. Whatever is not known is empty or None.

    - `label`: what it stands for, in words.
    - `top`: the prompts on which it is most active, each around its strongest token, the strongest first.
    - `intervals`: tokens drawn from equal parts of its activations, the highest part first.
    - `top_logits`, `bottom_logits`: what it makes likelier and less likely, by its direct path to the logits.
    - `embeddings`: the tokens whose embedding its encoder reads most.
    - `histogram`, `maximum`: of its activations where it is active.
    - `density`: the share of the stream's `n_tokens` on which it is active.
    - `operands`: its activations on a grid of prompts such as "36+59=".

    Raises `SettingError` for numbers that cannot be.
    """

    layer: int
    index: int
    label: str | None = None
    top: tuple[Example, ...] = ()
    intervals: tuple[Interval, ...] = ()
    top_logits: Effects = ()
    bottom_logits: Effects = ()
    embeddings: Effects = ()
    histogram: Histogram | None = None
    maximum: float | None = None
    density: float | None = None
    n_tokens: int | None = None
    operands: OperandGrid | None = None

    def __post_init__(self) -> None:
        if self.layer < 0 or self.index < 0:
            raise SettingError(f"A card of L{self.layer}/{self.index} cannot be: layers and features count from 0.")
        if self.density is not None and not 0 <= self.density <= 1:
            raise SettingError(f"A density of {self.density} is no share of tokens: give 0 to 1.")
        effects = (*self.top_logits, *self.bottom_logits, *self.embeddings)
        numbers = [value for _, value in effects if value is not None]
        numbers += [] if self.maximum is None else [self.maximum]
        if not all(map(math.isfinite, numbers)):
            raise SettingError(f"The card of {self} has effects that are not finite: leave them out, or give None.")

    @property
    def key(self) -> tuple[int, int]:
        """(layer, index), by which labels and cards are kept."""
        return self.layer, self.index

    @property
    def examples(self) -> tuple[Example, ...]:
        """All examples: the top ones, then those of each interval."""
        return (*self.top, *(example for interval in self.intervals for example in interval.examples))

    def __str__(self) -> str:
        return f"L{self.layer}/{self.index}" + (f" {visible(self.label)}" if self.label else "")

    def __repr__(self) -> str:
        density = "" if self.density is None else f", active on {self.density:.3%} of tokens"
        # Labels come from anybody, and a terminal obeys what is in a text.
        label = f" {self.label!r}" if self.label else ""
        return f"FeatureCard(L{self.layer}/{self.index}{label}, {len(self.examples)} examples{density})"
