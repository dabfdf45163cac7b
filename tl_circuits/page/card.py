"""What a page can say of a feature beyond the graph."""

import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.features.card import Effects, Example, FeatureCard, OperandGrid
from tl_circuits.features.cards import FeatureCards
from tl_circuits.nodes import Kind, Nodes

MOST_TOKENS, MOST_EXAMPLES, MOST_INTERVALS, MOST_IN_INTERVAL = 12, 12, 10, 4
"""What of each card goes into a page."""


@dataclass(frozen=True)
class Card:
    """One feature: which tokens it makes likelier and less likely, and texts on which it fires.

    `top_logits` and `bottom_logits` are (token, effect), the strongest first; `examples` are (tokens, activations) of
    equal length. Raises `SettingError` for anything else.
    """

    top_logits: Sequence[tuple[str, float]] = ()
    bottom_logits: Sequence[tuple[str, float]] = ()
    examples: Sequence[tuple[Sequence[str], Sequence[float]]] = ()

    def __post_init__(self) -> None:
        for name in ("top_logits", "bottom_logits"):
            for entry in _list(name, getattr(self, name)):
                match entry:
                    case (str(), int() | float() as value) if math.isfinite(value):
                        pass
                    case _:
                        raise SettingError(f"{name} holds {entry!r:.80}: give (token, effect), say (' Austin', 1.5).")
        for entry in _list("examples", self.examples):
            match entry:
                case ([*tokens], [*activations]) if (
                    len(tokens) == len(activations)
                    and all(isinstance(token, str) for token in tokens)
                    and all(isinstance(value, int | float) and math.isfinite(value) for value in activations)
                ):
                    pass
                case _:
                    raise SettingError(f"examples holds {entry!r:.80}: give (tokens, activations) of equal length.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "top_logits": [[token, float(effect)] for token, effect in self.top_logits[:MOST_TOKENS]],
            "bottom_logits": [[token, float(effect)] for token, effect in self.bottom_logits[:MOST_TOKENS]],
            "examples": [
                {"tokens": list(tokens), "activations": [round(float(value), 4) for value in activations]}
                for tokens, activations in self.examples[:MOST_EXAMPLES]
            ],
        }


def of_feature(card: FeatureCard) -> dict[str, Any]:
    """What a page shows of a feature's card, as JSON values."""
    histogram, grid = card.histogram, card.operands
    intervals = [
        {"name": interval.name, "examples": [_example(example) for example in interval.examples[:MOST_IN_INTERVAL]]}
        for interval in card.intervals[:MOST_INTERVALS]
    ]
    return {
        "top_logits": _effects(card.top_logits),
        "bottom_logits": _effects(card.bottom_logits),
        "embeddings": _effects(card.embeddings),
        "examples": [_example(example) for example in card.top[:MOST_EXAMPLES]],
        "intervals": intervals,
        "histogram": None if histogram is None else {
            "low": histogram.low, "high": histogram.high, "counts": list(histogram.counts)
        },
        "density": card.density,
        "maximum": card.maximum,
        "n_tokens": card.n_tokens,
        "operands": None if grid is None else _grid(grid),
    }  # fmt: skip


def _effects(effects: Effects) -> list[list[Any]]:
    return [[token, value] for token, value in effects[:MOST_TOKENS]]


def _example(example: Example) -> dict[str, Any]:
    activations = [round(value, 4) for value in example.activations]
    return {"tokens": list(example.tokens), "activations": activations, "peak": example.peak}


def _grid(grid: OperandGrid) -> dict[str, Any] | None:
    """A grid as bytes: 255 is its largest activation. None where nothing is active, as of most features."""
    most = max((value for row in grid.activations for value in row), default=0.0)
    if most <= 0:
        return None
    cells = bytes(round(255 * max(value, 0.0) / most) for row in grid.activations for value in row)
    axes = {"template": grid.template, "a": list(grid.a), "b": list(grid.b)}
    return axes | {"most": most, "cells": b64encode(cells).decode()}


def cards_of(nodes: Nodes, cards: object) -> dict[str, dict[str, Any]]:
    """The cards of a graph's features, by `layer/index`. Raises `SettingError` for what is no mapping of cards."""
    if not isinstance(cards, Mapping):
        raise SettingError(f"cards={cards!r:.80}: give what tlc.feature_cards(...) made, or {{(layer, index): card}}.")
    wanted = _features(nodes)
    # Cards by the thousand are made when they are asked for: those of other graphs are not looked at.
    asked = {key: cards[key] for key in (cards if not isinstance(cards, FeatureCards) else wanted & cards.keys())}
    for key, card in asked.items():
        match key, card:
            case (int(), int()), Card() | FeatureCard():
                pass
            case _:
                raise SettingError(
                    f"cards holds {key!r:.40}: {card!r:.60}. Give {{(layer, index): tl_circuits.page.Card(...)}}, or "
                    "what tlc.feature_cards(...) made."
                )
    return {f"{layer}/{index}": _shown(asked[layer, index]) for layer, index in wanted & asked.keys()}


def _shown(card: Card | FeatureCard) -> dict[str, Any]:
    return of_feature(card) if isinstance(card, FeatureCard) else card.to_dict()


def _features(nodes: Nodes) -> set[tuple[int, int]]:
    span = nodes.span(Kind.FEATURE)
    return set(zip(nodes.layer[span].tolist(), nodes.index[span].tolist(), strict=True))


def _list(name: str, given: object) -> Iterator[Any]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise SettingError(f"{name}={given!r:.80}: give a list.")
    return iter(given)
