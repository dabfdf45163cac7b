"""Cards as the files that other people's viewers read, and back: one JSON file for each feature, or all of them packed.

A feature's file is named by Cantor's pairing of (layer, index). Packed, `index.json.gz` holds for each layer the name
of a `.bin` file and the offsets of its features; a record there is its length in four bytes, the lowest first, and the
same JSON, compressed by zlib (circuit-tracer's `loadFeatureFromBinary`). What the format has no field for stands under
`tl_circuits`, which other readers leave aside.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError
from tl_circuits.features.card import Effects, Example, FeatureCard, Interval
from tl_circuits.graph.export import cantor
from tl_circuits.graph.files import write_whole

FOLDER, INDEX = "features", "index.json.gz"
TOP = "Top activations"
QUANTILES = 100


def write_features(cards: Iterable[FeatureCard], folder: Path, transcoder_id: str) -> Path:
    """A JSON file for each card, in `folder`/features. Raises `FileError` where they cannot be written."""
    place = _made(folder)
    for card in cards:
        content = _json(to_public(card, transcoder_id))
        write_whole(place / f"{cantor(*card.key)}.json", lambda partial, content=content: partial.write_bytes(content))
    return place


def write_packed(cards: Iterable[FeatureCard], folder: Path, transcoder_id: str) -> Path:
    """A `.bin` file for each layer and their index, in `folder`/features, of cards that are sorted by layer and index.

    Features without a card take no byte. The index is written last, so that what it names is there. Raises `FileError`
    where files cannot be written.
    """
    place = _made(folder)
    index: list[dict[str, Any]] = []
    for layer, of_layer in groupby(cards, key=lambda card: card.layer):
        index += [_entry(below, [0]) for below in range(len(index), layer)]
        index.append(_entry(layer, _write_layer(place / _entry(layer, [])["filename"], of_layer, transcoder_id)))
    content = gzip.compress(_json(index), mtime=0)
    write_whole(place / INDEX, lambda partial: partial.write_bytes(content))
    return place


def _entry(layer: int, offsets: list[int]) -> dict[str, Any]:
    return {"filename": f"layer_{layer}.bin", "offsets": offsets}


def _write_layer(path: Path, cards: Iterable[FeatureCard], transcoder_id: str) -> list[int]:
    offsets: list[int] = []

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            for card in cards:
                # A feature ends where the next one begins: those that are left out begin and end here.
                offsets.extend([file.tell()] * (card.index + 1 - len(offsets)))
                record = zlib.compress(_json(to_public(card, transcoder_id)))
                file.write(len(record).to_bytes(4, "little") + record)
            offsets.append(file.tell())

    write_whole(path, write)
    return offsets


def to_public(card: FeatureCard, transcoder_id: str) -> dict[str, Any]:
    """The card in the public fields, with the rest of it under `tl_circuits`."""
    histogram = card.histogram
    quantiles = [] if histogram is None else [histogram.quantile(at / QUANTILES) for at in range(1, QUANTILES)]
    return {
        "transcoder_id": transcoder_id,
        "index": card.index,
        "examples_quantiles": [_group(group) for group in (Interval(TOP, card.top), *card.intervals)],
        "top_logits": [token for token, _ in card.top_logits],
        "bottom_logits": [token for token, _ in card.bottom_logits],
        "act_min": 0.0 if histogram is None else histogram.low,
        "act_max": 1.0 if histogram is None else histogram.high,
        "quantile_values": quantiles,
        "histogram": [] if histogram is None else list(histogram.counts),
        "activation_frequency": 0.0 if card.density is None else card.density,
        "tl_circuits": _rest(card),
    }


def _group(group: Interval) -> dict[str, Any]:
    return {"quantile_name": group.name, "examples": [_example(example) for example in group.examples]}


def _example(example: Example) -> dict[str, Any]:
    return {
        "tokens_acts_list": list(example.activations),
        "train_token_ind": example.peak,
        "is_repeated_datapoint": False,
        "tokens": list(example.tokens),
    }


def _rest(card: FeatureCard) -> dict[str, Any]:
    grid = card.operands
    return {
        "layer": card.layer,
        "label": card.label,
        "top_logits": _values(card.top_logits),
        "bottom_logits": _values(card.bottom_logits),
        "embeddings": [[token, value] for token, value in card.embeddings],
        "maximum": card.maximum,
        "density": card.density,
        "n_tokens": card.n_tokens,
        "prompts": [example.prompt for example in card.examples],
        "operands": None if grid is None else {
            "template": grid.template, "a": list(grid.a), "b": list(grid.b),
            "activations": [*map(list, grid.activations)],
        },
    }  # fmt: skip


def _values(effects: Effects) -> list[float | None]:
    return [value for _, value in effects]


def _json(values: Any) -> bytes:
    # Escapes alone can carry every token: some are half of a character.
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode("ascii")


def _made(folder: Path) -> Path:
    place = folder / FOLDER
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"'{place}' cannot be made ({error.strerror}): give a folder that you may write into."
        ) from error
    return place
