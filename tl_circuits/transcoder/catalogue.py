"""Releases as a table for people, and as plain values for programs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_circuits.graph.report import visible
from tl_circuits.transcoder.release import Release

UNKNOWN = "?"
_WIDE = 160
"""Columns of a terminal from which on releases are rows of a table; else each has lines of its own."""


@dataclass(frozen=True)
class Catalogue:
    """Releases, and the bytes of each of their variants by its name, where they are known."""

    releases: Sequence[Release]
    sizes: Mapping[str, Mapping[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is not known is None, and so are variants that only the hub can tell."""
        return {"releases": [self._values(release) for release in self.releases]}

    def _values(self, release: Release) -> dict[str, Any]:
        sizes = self.sizes.get(release.name, {})
        told = [
            {
                "name": variant.name,
                "layers": list(variant.layers),
                "missing_layers": release.missing(variant),
                "n_features": variant.n_features,
                "bytes": sizes.get(variant.name),
            }
            for variant in release.variants
        ]
        found = [
            {"name": name, "layers": None, "missing_layers": None, "n_features": None, "bytes": size}
            for name, size in sizes.items()
        ]
        return {
            "name": release.name,
            "repository": release.repository,
            "model": release.model,
            "kind": release.kind,
            "read": release.read,
            "write": release.write,
            "n_layers": release.n_layers,
            "variants": told or found or None,
            "known_by": release.known_by,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        show = self._table if options.max_width >= _WIDE else self._lines
        for model, group in groupby(self.releases, key=lambda release: release.model):
            yield Text(visible(model or UNKNOWN), style="bold", overflow="fold")
            yield Padding(show(list(group)), (0, 0, 1, 2))
        count = len(self.releases)
        yield Text(f"{count} release{'' if count == 1 else 's'}. Load one by tlc.load_transcoder(name, variant=...).")

    def _table(self, releases: Sequence[Release]) -> RenderableType:
        table = Table(*_COLUMNS, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True)
        for column in table.columns:
            column.overflow = "fold"
        table.columns[0].ratio = 1
        for release in releases:
            table.add_row(*(Text(cell) for cell in self._cells(release)))
        return table

    def _lines(self, releases: Sequence[Release]) -> RenderableType:
        lines: list[RenderableType] = []
        for release in releases:
            name, kind, places, layers, features, size, variants = self._cells(release)
            facts = (
                f"{kind}, {places}, {layers} layers, {features} features per layer, size {size}, {variants} "
                f"variant{'' if variants == '1' else 's'}"
            )
            lines += [Text(name, overflow="fold"), Padding(Text(facts, style="dim", overflow="fold"), (0, 2))]
        return Group(*lines)

    def _cells(self, release: Release) -> tuple[str, ...]:
        sizes = self.sizes.get(release.name, {})
        return (
            visible(release.name),
            release.kind or UNKNOWN,
            f"{visible(release.read or UNKNOWN)} → {visible(release.write or UNKNOWN)}",
            f"{_span([len(each.layers) or None for each in release.variants])} of {_known(release.n_layers)}",
            _span([each.n_features for each in release.variants]),
            _span(list(sizes.values()), _size),
            str(len(release.variants) or len(sizes) or UNKNOWN),
        )


_COLUMNS = ("release", "kind", "reads → writes", "layers", "features per layer", "size", "variants")


def _known(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _span(values: Sequence[int | None], show: Callable[[int], str] = _known) -> str:
    """One value, or the least and the most of several; unknown where one of them is."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return UNKNOWN
    ends = dict.fromkeys((show(min(known)), show(max(known))))
    return " to ".join(ends)


def _size(size: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} B"
