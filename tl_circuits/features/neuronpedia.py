"""Neuronpedia's exports: one feature as its page has it, lists of explanations, and batches of lines of either.

A record is known by its fields: `description` is a label; `pos_str` and the like are effects, histogram and density;
`activations`, or `tokens` and `values`, are examples. Records of one feature are put together.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError, SettingError
from tl_circuits.features.card import Effects, Example, FeatureCard, Histogram
from tl_circuits.features.files import loaded
from tl_circuits.features.foreign import MOST_BINS, MOST_EXAMPLES, MOST_TOKENS, Fields, as_example, as_number, as_text
from tl_circuits.features.inflate import content

MOST_BYTES = 2**30
_LAYER = re.compile(r"(\d{1,5})(?:-.*)?")


def read_neuronpedia(path: Path) -> list[FeatureCard]:
    """The cards in an export: JSON or JSON lines, packed by gzip or not. Raises `FileError` for anything else."""
    found: dict[tuple[int, int], FeatureCard] = {}
    for what, record in _records(path):
        fields = Fields(record, what)
        key = _key(fields)
        try:
            found[key] = _with(found.get(key, FeatureCard(*key)), fields)
        except SettingError as error:
            raise FileError(f"{what} holds no lawful card: {error}") from error
    if not found:
        raise FileError(f"'{path}' holds no record of a feature: give an export of Neuronpedia's.")
    return [found[key] for key in sorted(found)]


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    data = content(path, MOST_BYTES)
    if ".jsonl" in path.name:
        lines = enumerate(data.split(b"\n"), start=1)
        for at, line in lines:
            if line.strip():
                yield f"Line {at} of '{path}'", loaded(line, f"Line {at} of '{path}'")
        return
    whole = loaded(data, f"'{path}'")
    records: Iterable[Any] = whole if isinstance(whole, list) else [whole]
    yield from ((f"Record {number} of '{path}'", record) for number, record in enumerate(records))


def _key(fields: Fields) -> tuple[int, int]:
    layer, index = fields.values.get("layer"), fields.values.get("index")
    match = _LAYER.fullmatch(str(layer)) if isinstance(layer, str | int) and not isinstance(layer, bool) else None
    number = str(index) if isinstance(index, str | int) and not isinstance(index, bool) else ""
    if match is None or not (number.isascii() and number.isdecimal() and len(number) < 13):
        raise FileError(
            f"{fields.what} has layer {layer!r:.40} and index {index!r:.40}, not such as Neuronpedia writes "
            "('20-gemmascope-transcoder-16k' and '15589'): give one of its exports."
        )
    return int(match[1]), int(number)


def _with(card: FeatureCard, fields: Fields) -> FeatureCard:
    """The card with what a record adds to it."""
    label = _label(fields)
    examples = tuple(example for example in _examples(fields) if example is not None)
    top = sorted((*card.top, *examples), key=lambda example: example.activation, reverse=True)
    return replace(
        card,
        label=card.label if label is None else label,
        top=tuple(top),
        top_logits=_effects(fields, "pos") or card.top_logits,
        bottom_logits=_effects(fields, "neg") or card.bottom_logits,
        histogram=_histogram(fields) or card.histogram,
        maximum=_first(fields.number("maxActApprox"), card.maximum),
        density=_first(fields.number("frac_nonzero"), card.density),
    )


def _first(found: float | None, otherwise: float | None) -> float | None:
    return otherwise if found is None else found


def _label(fields: Fields) -> str | None:
    explanations = fields.listed("explanations", MOST_EXAMPLES)
    for explanation in explanations:
        found = Fields(explanation, f"{fields.what}, in explanations,").text("description")
        if found:
            return found
    return fields.text("description") or None


def _examples(fields: Fields) -> Iterator[Example | None]:
    if "tokens" in fields.values and "values" in fields.values:
        yield as_example(fields, fields.listed("tokens", MOST_TOKENS), fields.listed("values", MOST_TOKENS))
    for given in fields.listed("activations", MOST_EXAMPLES):
        of = Fields(given, f"{fields.what}, in activations,")
        yield as_example(of, of.listed("tokens", MOST_TOKENS), of.listed("values", MOST_TOKENS))


def _effects(fields: Fields, side: str) -> Effects:
    tokens, values = (fields.listed(f"{side}_{part}", MOST_TOKENS) for part in ("str", "values"))
    fields.check(f"{side}_str", len(tokens), lambda n: n == len(values), f"as many as its {len(values):,} values")
    return tuple(
        (as_text(fields, f"{side}_str", token), as_number(fields, f"{side}_values", value))
        for token, value in zip(tokens, values, strict=True)
    )


def _histogram(fields: Fields) -> Histogram | None:
    """Bars by their middles, which are equally far apart."""
    heights, middles = (
        [as_number(fields, name, value) for value in fields.listed(name, MOST_BINS)]
        for name in ("freq_hist_data_bar_heights", "freq_hist_data_bar_values")
    )
    if len(heights) < 2 or len(heights) != len(middles) or middles[-1] <= middles[0]:
        return None
    half = (middles[-1] - middles[0]) / (len(middles) - 1) / 2
    return Histogram(middles[0] - half, middles[-1] + half, tuple(heights))
