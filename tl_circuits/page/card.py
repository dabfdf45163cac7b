"""What a page can say of a feature beyond the graph."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.nodes import Kind, Nodes

MOST_TOKENS, MOST_EXAMPLES = 12, 12
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


def cards_of(nodes: Nodes, cards: object) -> dict[str, dict[str, Any]]:
    """The cards of a graph's features, by `layer/index`. Raises `SettingError` for what is no mapping of cards."""
    if not isinstance(cards, Mapping):
        raise SettingError(f"cards={cards!r:.80}: give {{(layer, index): tl_circuits.page.Card(...)}}.")
    for key, card in cards.items():
        match key, card:
            case (int(), int()), Card():
                pass
            case _:
                raise SettingError(
                    f"cards holds {key!r:.40}: {card!r:.60}. Give {{(layer, index): tl_circuits.page.Card(...)}}."
                )
    return {f"{layer}/{index}": cards[layer, index].to_dict() for layer, index in _features(nodes) & cards.keys()}


def _features(nodes: Nodes) -> set[tuple[int, int]]:
    span = nodes.span(Kind.FEATURE)
    return set(zip(nodes.layer[span].tolist(), nodes.index[span].tolist(), strict=True))


def _list(name: str, given: object) -> Iterator[Any]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise SettingError(f"{name}={given!r:.80}: give a list.")
    return iter(given)
