"""A feature's JSON from elsewhere → its card. Everything in it is checked: it may come from anybody.

Text stays text, whatever is in it. What a reader cannot make sense of is refused and named, not guessed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tl_circuits.errors import FileError, SettingError
from tl_circuits.features.card import Effects, Example, FeatureCard, Histogram, Interval, OperandGrid

MOST_EXAMPLES, MOST_TOKENS, MOST_BINS, MOST_LETTERS = 10_000, 10_000, 100_000, 10_000
"""What a card may hold at most, of each kind and in one text."""
_NUMBER = "a finite number"


class Fields:
    """An object from JSON, asked for its fields by name and kind. Raises `FileError`, in the name of `what`."""

    def __init__(self, values: Any, what: str) -> None:
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise FileError(f"{what} is {kind} {values!r:.40}, not an object: fetch or write it again.")
        self.values, self.what = values, what

    def get(self, name: str, kind: type, default: Any) -> Any:
        """The field, of that kind, or what is taken where it is missing or null."""
        value = self.values.get(name)
        return default if value is None else self.check(name, value, lambda it: type(it) is kind, f"of {kind.__name__}")

    def number(self, name: str) -> float | None:
        """A finite number, or None where it is missing or null."""
        value = self.values.get(name)
        return None if value is None else as_number(self, name, value)

    def text(self, name: str) -> str | None:
        """A text, or None where it is missing or null."""
        value = self.values.get(name)
        return None if value is None else as_text(self, name, value)

    def listed(self, name: str, most: int) -> list[Any]:
        """A list of no more than so many; an empty one where it is missing or null."""
        value = self.get(name, list, [])
        return self.check(name, value, lambda it: len(it) <= most, f"a list of at most {most:,}")

    def check(self, name: str, value: Any, holds: Callable[[Any], bool], wanted: str) -> Any:
        """The value, or an error that says what was wanted in its place."""
        if not holds(value):
            shown = f"{len(value):,} entries" if isinstance(value, list) else f"{value!r:.40}"
            raise FileError(f"{self.what} has {shown} as {name}, which is not {wanted}: fetch or write it again.")
        return value


def as_number(fields: Fields, name: str, value: Any) -> float:
    """A finite number that a float holds."""
    fields.check(name, value, lambda it: type(it) in (int, float), _NUMBER)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    return fields.check(name, found, math.isfinite, _NUMBER)


def as_text(fields: Fields, name: str, value: Any) -> str:
    """A text that is not too long."""
    short = f"a text of at most {MOST_LETTERS:,} letters"
    return fields.check(name, value, lambda it: isinstance(it, str) and len(it) <= MOST_LETTERS, short)


def as_example(fields: Fields, tokens: Sequence[Any], values: Sequence[Any], peak: Any = None) -> Example | None:
    """Tokens and activations as an example, None of no tokens. Its peak is the strongest where none is named."""
    fields.check("tokens", len(tokens), lambda n: n == len(values), f"as many as its {len(values):,} activations")
    if not tokens:
        return None
    said = tuple(as_text(fields, "tokens", token) for token in tokens)
    worth = tuple(as_number(fields, "activations", value) for value in values)
    at = peak if type(peak) is int and 0 <= peak < len(said) else worth.index(max(worth))
    return Example(said, worth, at)


def from_public(found: Any, key: tuple[int, int], what: str) -> FeatureCard:
    """The card in one feature's JSON, which `what` names. Raises `FileError` with the field that is wrong."""
    fields = Fields(found, what)
    rest = Fields(fields.get("tl_circuits", dict, {}), f"{what}, under tl_circuits,")
    groups = [_group(fields, group) for group in fields.listed("examples_quantiles", MOST_EXAMPLES)]
    groups = _with_prompts(groups, rest.listed("prompts", MOST_EXAMPLES))
    at = next((at for at, group in enumerate(groups) if group.name.lower().startswith("top")), None)
    try:
        return FeatureCard(
            layer=key[0],
            index=key[1],
            label=rest.text("label"),
            top=() if at is None else groups[at].examples,
            intervals=tuple(group for place, group in enumerate(groups) if place != at),
            top_logits=_effects(fields, rest, "top_logits"),
            bottom_logits=_effects(fields, rest, "bottom_logits"),
            embeddings=_embeddings(rest),
            histogram=_histogram(fields),
            maximum=rest.number("maximum"),
            density=rest.number("density") if "density" in rest.values else fields.number("activation_frequency"),
            n_tokens=rest.get("n_tokens", int, None),
            operands=_operands(rest),
        )
    except SettingError as error:
        raise FileError(f"{what} holds no lawful card: {error}") from error


def _group(fields: Fields, group: Any) -> Interval:
    of = Fields(group, f"{fields.what}, in examples_quantiles,")
    found = (_public_example(of, one) for one in of.listed("examples", MOST_EXAMPLES))
    return Interval(of.text("quantile_name") or "", tuple(one for one in found if one is not None))


def _public_example(fields: Fields, given: Any) -> Example | None:
    of = Fields(given, f"{fields.what} in examples,")
    tokens, values = of.listed("tokens", MOST_TOKENS), of.listed("tokens_acts_list", MOST_TOKENS)
    return as_example(of, tokens, values, of.values.get("train_token_ind"))


def _with_prompts(groups: list[Interval], prompts: list[Any]) -> list[Interval]:
    numbers = iter(prompts)
    return [Interval(group.name, tuple(_of_prompt(one, numbers) for one in group.examples)) for group in groups]


def _of_prompt(one: Example, numbers: Iterator[Any]) -> Example:
    number = next(numbers, None)
    # No more prompts than a file of ours numbers.
    known = number if type(number) is int and -1 <= number < 2**63 else -1
    return Example(one.tokens, one.activations, one.peak, known)


def _effects(fields: Fields, rest: Fields, name: str) -> Effects:
    tokens = [as_text(fields, name, token) for token in fields.listed(name, MOST_TOKENS)]
    values = rest.listed(name, MOST_TOKENS)
    if len(values) != len(tokens):
        return tuple((token, None) for token in tokens)
    worth = [None if value is None else as_number(rest, name, value) for value in values]
    return tuple(zip(tokens, worth, strict=True))


def _embeddings(rest: Fields) -> Effects:
    found: list[tuple[str, float | None]] = []
    for entry in rest.listed("embeddings", MOST_TOKENS):
        pair = rest.check("embeddings", entry, lambda it: isinstance(it, list) and len(it) == 2, "[token, effect]")
        value = None if pair[1] is None else as_number(rest, "embeddings", pair[1])
        found.append((as_text(rest, "embeddings", pair[0]), value))
    return tuple(found)


def _histogram(fields: Fields) -> Histogram | None:
    counts = fields.listed("histogram", MOST_BINS)
    low, high = fields.number("act_min"), fields.number("act_max")
    if not counts or low is None or high is None or low >= high:
        return None
    return Histogram(low, high, tuple(as_number(fields, "histogram", count) for count in counts))


def _operands(rest: Fields) -> OperandGrid | None:
    given = rest.get("operands", dict, None)
    if given is None:
        return None
    of = Fields(given, f"{rest.what} in operands,")
    a, b = (tuple(_whole(of, name, each) for each in of.listed(name, MOST_TOKENS)) for name in ("a", "b"))
    rows = [of.check("activations", row, _is_list, "rows") for row in of.listed("activations", MOST_TOKENS)]
    cells = tuple(tuple(as_number(of, "activations", cell) for cell in row) for row in rows)
    return OperandGrid(of.text("template") or "", a, b, cells)


def _whole(fields: Fields, name: str, value: Any) -> int:
    return fields.check(name, value, lambda it: type(it) is int, "a whole number")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
