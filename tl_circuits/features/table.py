"""Cards as columns: many of them in little memory, and in one file. A card is made of them when it is asked for.

Numbers are in single precision. Everything of variable length stands in one long column, with the bounds of each piece
in another: of feature f these are `bounds[f]` to `bounds[f + 1]`.
"""

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.features.card import Effects, Example, FeatureCard, Histogram, Interval, OperandGrid

EFFECTS = ("top_logits", "bottom_logits", "embeddings")
_TYPES = {
    "layer": "q",
    "index": "q",
    "density": "d",
    "n_tokens": "q",
    "maximum": "f",
    "effects.bounds": "q",
    "effects.word": "i",
    "effects.value": "f",
    "histogram.bounds": "q",
    "histogram.count": "d",
    "histogram.low": "d",
    "histogram.high": "d",
    "groups.bounds": "q",
    "groups.word": "i",
    "examples.bounds": "q",
    "examples.peak": "i",
    "examples.prompt": "q",
    "tokens.bounds": "q",
    "tokens.word": "i",
    "tokens.activation": "f",
    "operands.at": "q",
    "operands.activation": "f",
}
DTYPES = {"q": torch.int64, "i": torch.int32, "d": torch.float64, "f": torch.float32}
COLUMNS = {name: DTYPES[code] for name, code in _TYPES.items()}
"""What a table holds, and in which dtype."""
PIECES = {
    "effects.bounds": ("effects.word", "effects.value"),
    "histogram.bounds": ("histogram.count",),
    "groups.bounds": ("groups.word",),
    "examples.bounds": ("examples.peak", "examples.prompt"),
    "tokens.bounds": ("tokens.word", "tokens.activation"),
}
"""Which columns each column of bounds cuts."""


@dataclass(frozen=True, eq=False)
class CardTable:
    """Columns of many cards, sorted by (layer, index). Raises `SettingError` where two cards are of one feature."""

    columns: Mapping[str, Tensor]
    words: list[str]
    labels: Mapping[int, str]
    axes: tuple[str, tuple[int, ...], tuple[int, ...]] | None
    row_of: Mapping[tuple[int, int], int] = field(init=False)

    def __post_init__(self) -> None:
        keys = list(zip(self.columns["layer"].tolist(), self.columns["index"].tolist(), strict=True))
        object.__setattr__(self, "row_of", {key: row for row, key in enumerate(keys)})
        if len(self.row_of) < len(keys):
            raise SettingError(f"{len(keys)} cards are of {len(self.row_of)} features: give one card for each feature.")

    @classmethod
    def of(cls, cards: Iterable[FeatureCard]) -> "CardTable":
        """The columns of these cards."""
        builder = _Builder()
        for card in sorted(cards, key=lambda card: card.key):
            builder.add(card)
        return builder.table()

    def __len__(self) -> int:
        return len(self.columns["layer"])

    def card(self, row: int) -> FeatureCard:
        """The card in a row."""
        one = self.columns
        top, *intervals = self._groups(row)
        low, high = float(one["histogram.low"][row]), float(one["histogram.high"][row])
        counts = tuple(self._piece("histogram.bounds", row, "histogram.count").tolist())
        maximum, density, n_tokens = (one[name][row].item() for name in ("maximum", "density", "n_tokens"))
        return FeatureCard(
            layer=int(one["layer"][row]),
            index=int(one["index"][row]),
            label=self.labels.get(row),
            top=top.examples,
            intervals=tuple(intervals),
            **{name: self._effects(3 * row + at) for at, name in enumerate(EFFECTS)},
            histogram=Histogram(low, high, counts) if counts else None,
            maximum=None if math.isnan(maximum) else float(maximum),
            density=None if math.isnan(density) else float(density),
            n_tokens=None if n_tokens < 0 else int(n_tokens),
            operands=self._operands(row),
        )

    def _piece(self, bounds: str, at: int, name: str) -> Tensor:
        first, last = self.columns[bounds][at : at + 2].tolist()
        return self.columns[name][first:last]

    def _effects(self, at: int) -> Effects:
        words = self._piece("effects.bounds", at, "effects.word").tolist()
        values = self._piece("effects.bounds", at, "effects.value").tolist()
        return tuple(
            (self.words[word], None if math.isnan(value) else value) for word, value in zip(words, values, strict=True)
        )

    def _groups(self, row: int) -> list[Interval]:
        first, last = self.columns["groups.bounds"][row : row + 2].tolist()
        return [
            Interval(self.words[int(self.columns["groups.word"][at])], tuple(self._examples(at)))
            for at in range(first, last)
        ]

    def _examples(self, group: int) -> Iterable[Example]:
        first, last = self.columns["examples.bounds"][group : group + 2].tolist()
        for at in range(first, last):
            words = self._piece("tokens.bounds", at, "tokens.word").tolist()
            yield Example(
                tuple(self.words[word] for word in words),
                tuple(self._piece("tokens.bounds", at, "tokens.activation").tolist()),
                int(self.columns["examples.peak"][at]),
                int(self.columns["examples.prompt"][at]),
            )

    def _operands(self, row: int) -> OperandGrid | None:
        at = int(self.columns["operands.at"][row])
        if at < 0 or self.axes is None:
            return None
        template, a, b = self.axes
        cells = self.columns["operands.activation"][at * len(a) * len(b) : (at + 1) * len(a) * len(b)]
        return OperandGrid(template, a, b, tuple(map(tuple, cells.view(len(a), len(b)).tolist())))


class _Builder:
    """Columns as they grow."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {name: array(code) for name, code in _TYPES.items()}
        for bounds in PIECES:
            self._columns[bounds].append(0)
        self._words: dict[str, int] = {}
        self._labels: dict[int, str] = {}
        self._axes: tuple[str, tuple[int, ...], tuple[int, ...]] | None = None
        self._n_grids = 0

    def add(self, card: FeatureCard) -> None:
        """One card more."""
        column, row = self._columns, len(self._columns["layer"])
        column["layer"].append(card.layer)
        column["index"].append(card.index)
        column["density"].append(math.nan if card.density is None else card.density)
        column["n_tokens"].append(-1 if card.n_tokens is None else card.n_tokens)
        column["maximum"].append(math.nan if card.maximum is None else card.maximum)
        if card.label is not None:
            self._labels[row] = card.label
        for name in EFFECTS:
            effects: Effects = getattr(card, name)
            column["effects.word"].extend(self._word(token) for token, _ in effects)
            column["effects.value"].extend(math.nan if value is None else value for _, value in effects)
            self._close("effects.bounds")
        histogram = card.histogram
        column["histogram.low"].append(math.nan if histogram is None else histogram.low)
        column["histogram.high"].append(math.nan if histogram is None else histogram.high)
        column["histogram.count"].extend(() if histogram is None else histogram.counts)
        self._close("histogram.bounds")
        for group in (Interval("top", card.top), *card.intervals):
            column["groups.word"].append(self._word(group.name))
            self._examples(group.examples)
        self._close("groups.bounds")
        self._grid(card)

    def _examples(self, examples: Iterable[Example]) -> None:
        column = self._columns
        for example in examples:
            column["examples.peak"].append(example.peak)
            column["examples.prompt"].append(example.prompt)
            column["tokens.word"].extend(self._word(token) for token in example.tokens)
            column["tokens.activation"].extend(example.activations)
            self._close("tokens.bounds")
        self._close("examples.bounds")

    def _grid(self, card: FeatureCard) -> None:
        grid = card.operands
        self._columns["operands.at"].append(-1 if grid is None else self._n_grids)
        if grid is None:
            return
        axes = grid.template, grid.a, grid.b
        if self._axes not in (None, axes):
            raise SettingError(
                f"The cards' grids of operands differ: that of {card} is {grid.template!r} of {len(grid.a)} × "
                f"{len(grid.b)}, and one before was another. Keep cards of one grid together."
            )
        self._axes = axes
        self._n_grids += 1
        for cells in grid.activations:
            self._columns["operands.activation"].extend(cells)

    def _word(self, text: str) -> int:
        return self._words.setdefault(text, len(self._words))

    def _close(self, bounds: str) -> None:
        self._columns[bounds].append(len(self._columns[PIECES[bounds][0]]))

    def table(self) -> CardTable:
        """The cards that were added."""
        columns = {
            name: torch.frombuffer(held, dtype=COLUMNS[name]) if len(held) else torch.zeros(0, dtype=COLUMNS[name])
            for name, held in self._columns.items()
        }
        return CardTable(columns, list(self._words), self._labels, self._axes)
