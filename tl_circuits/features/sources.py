"""Where cards of other people lie: a folder on this machine, or one of a repository on the hub, packed or not."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from tl_circuits.errors import FileError
from tl_circuits.features.card import FeatureCard
from tl_circuits.features.files import loaded
from tl_circuits.features.foreign import from_public
from tl_circuits.features.inflate import inflated
from tl_circuits.features.public import FOLDER, INDEX
from tl_circuits.graph.export import cantor
from tl_circuits.progress import stage
from tl_circuits.transcoder import hub

MOST_INDEX, MOST_CARD = 2**28, 2**24
"""Bytes, packed and unpacked, of an index of all features and of one feature's card."""
MOST_LAYERS = 10_000
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_CARD = re.compile(r"(\d{1,18})\.json")


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    @property
    def name(self) -> str:
        """The folder, as it was named."""
        return str(self.path)

    def sizes(self) -> Mapping[str, int]:
        """Its files, without those below."""
        return {each.name: each.stat().st_size for each in self.path.iterdir() if each.is_file()}

    def whole(self, names: Sequence[str]) -> Mapping[str, Path]:
        """The files where they are."""
        return {name: self.path / name for name in names}

    def parts(self, name: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read from the file, which stays open meanwhile."""
        with (self.path / name).open("rb") as file:
            for first, last in parts:
                file.seek(first)
                yield file.read(last - first)


@dataclass(frozen=True)
class Repository:
    """A folder of a repository, of which only what is asked for is fetched."""

    listing: hub.Listing

    @property
    def name(self) -> str:
        """Its address."""
        return str(self.listing.address)

    def sizes(self) -> Mapping[str, int]:
        """As the hub lists them."""
        return self.listing.sizes

    def whole(self, names: Sequence[str]) -> Mapping[str, Path]:
        """Fetched into the hub's cache, unless they lie there."""
        folder = hub.fetch(self.listing, names) if names else Path()
        return {name: folder / name for name in names}

    def parts(self, name: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Asked for one by one, and not kept; of a hub that cannot be reached, from the cache."""
        if self.listing.offline or 2 * sum(last - first for first, last in parts) > self.sizes()[name]:
            self.whole([name])
        # All of the commit that the index is of.
        address = hub.at_commit(self.listing.address, hub.fetch(self.listing, [INDEX]))
        return hub.read_parts(address, name, parts)


Source: TypeAlias = Folder | Repository


def cards_in(source: Source, wanted: Sequence[tuple[int, int]] | None, progress: bool | None) -> Iterator[FeatureCard]:
    """The cards of these features, or of all, that lie there. Raises `FileError` where none does or one is no card."""
    sizes = source.sizes()
    if INDEX in sizes:
        yield from _packed(source, sizes, wanted, progress)
        return
    names = {int(match[1]): name for name in sizes if (match := _CARD.fullmatch(name))}
    if not names:
        raise FileError(
            f"'{source.name}' holds no cards: neither {INDEX} nor files such as {cantor(3, 120)}.json among its "
            f"{len(sizes)}. Give a folder or repository that has a folder {FOLDER}."
        )
    keys = [uncantor(number) for number in sorted(names)] if wanted is None else wanted
    there = [key for key in keys if cantor(*key) in names]
    with stage("fetching cards", len(there), show=progress) as bar:
        paths = source.whole([names[cantor(*key)] for key in there])
        for key in there:
            name = names[cantor(*key)]
            _limit(sizes[name], f"'{name}' in '{source.name}'")
            what = f"'{name}' in '{source.name}'"
            yield from_public(loaded(paths[name].read_bytes(), what), key, what)
            bar.update(1)


def uncantor(number: int) -> tuple[int, int]:
    """The (layer, index) that Cantor's pairing makes this number of."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def _packed(
    source: Source, sizes: Mapping[str, int], wanted: Sequence[tuple[int, int]] | None, progress: bool | None
) -> Iterator[FeatureCard]:
    layers = _index(source, sizes)
    asked: dict[int, list[int]] = {}
    for layer, index in wanted if wanted is not None else _all(layers):
        offsets = layers[layer].offsets if layer in layers else ()
        if 0 <= index < len(offsets) - 1 and offsets[index + 1] > offsets[index]:
            asked.setdefault(layer, []).append(index)
    with stage("fetching cards", sum(map(len, asked.values())), show=progress) as bar:
        for layer, indices in sorted(asked.items()):
            name, offsets = layers[layer].filename, layers[layer].offsets
            parts = [(offsets[index], offsets[index + 1]) for index in indices]
            for index, record in zip(indices, source.parts(name, parts), strict=True):
                what = f"The card of L{layer}/{index} in '{name}' of '{source.name}'"
                yield from_public(loaded(_record(record, what), what), (layer, index), what)
                bar.update(1)


@dataclass(frozen=True)
class _Layer:
    """A layer's file, and where in it each feature begins, and the last one ends."""

    filename: str
    offsets: Sequence[int]


def _index(source: Source, sizes: Mapping[str, int]) -> dict[int, _Layer]:
    what = f"'{INDEX}' in '{source.name}'"
    _limit(sizes[INDEX], what, MOST_INDEX)
    found = loaded(inflated(source.whole([INDEX])[INDEX].read_bytes(), MOST_INDEX, what), what)
    if isinstance(found, list):
        found = {str(layer): entry for layer, entry in enumerate(found)}
    if not isinstance(found, dict) or len(found) > MOST_LAYERS:
        raise FileError(f"{what} is not a list of layers: fetch it again, or ask who wrote it.")
    layers = {}
    for layer, entry in found.items():
        if not (layer.isdecimal() and layer.isascii() and len(layer) < 6):
            raise FileError(f"{what} has {layer!r:.40} among its layers, which are numbered from 0: ask who wrote it.")
        if entry is not None:
            layers[int(layer)] = _layer(entry, f"Layer {layer} of {what}", sizes)
    return layers


def _layer(entry: Any, what: str, sizes: Mapping[str, int]) -> _Layer:
    name, offsets = (entry.get("filename"), entry.get("offsets")) if isinstance(entry, dict) else (None, None)
    # A name that leads elsewhere is no name of a file beside the index.
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise FileError(
            f"{what} has {name!r:.80} as the name of its file, where only a plain name beside the index may stand: ask "
            "who wrote it."
        )
    if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
        raise FileError(f"{what} has no list of offsets, whole numbers: fetch it again, or ask who wrote it.")
    if len(offsets) > 1 and name not in sizes:
        raise FileError(f"{what} names '{name}', which is not there: fetch the folder whole.")
    size = sizes.get(name, 0)
    rising = all(first <= last for first, last in pairwise(offsets))
    if offsets and not (rising and offsets[0] >= 0 and offsets[-1] <= size):
        raise FileError(
            f"{what} has offsets from {min(offsets)} to {max(offsets)}, which do not rise within the {size:,} bytes of "
            f"'{name}': fetch both again."
        )
    return _Layer(name, offsets)


def _all(layers: Mapping[int, _Layer]) -> Iterator[tuple[int, int]]:
    return ((layer, index) for layer in sorted(layers) for index in range(max(0, len(layers[layer].offsets) - 1)))


def _record(record: bytes, what: str) -> bytes:
    _limit(len(record), what)
    size = int.from_bytes(record[:4], "little")
    if len(record) < 4 or size > len(record) - 4:
        raise FileError(f"{what} says it is {size:,} bytes long, of {max(len(record) - 4, 0):,}: fetch the file again.")
    return inflated(record[4 : 4 + size], MOST_CARD, what)


def _limit(size: int, what: str, most: int = MOST_CARD) -> None:
    if size > most:
        raise FileError(f"{what} is {size:,} bytes large, more than the {most:,} that it may be: ask who wrote it.")
