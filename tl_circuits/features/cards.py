"""The cards of many features, to look at, to keep in a file and to label graphs with."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tl_circuits.errors import GraphError
from tl_circuits.features.card import Example, FeatureCard
from tl_circuits.features.chosen import key
from tl_circuits.features.contexts import NO_CONTEXTS, Contexts
from tl_circuits.features.files import read, save
from tl_circuits.features.public import write_features, write_packed
from tl_circuits.features.table import CardTable
from tl_circuits.graph.asked import feature_labels, file_name
from tl_circuits.graph.visible import visible


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCards(Mapping[tuple[int, int], FeatureCard]):
    """Cards by (layer, index), as `feature_cards` makes them and `load_cards` reads them. Immutable.

    `made_by` says of what model, transcoder and stream they are, as far as that is known. `contexts` are what labels
    are scored on; cards that were read from other people's files have none.
    """

    table: CardTable
    contexts: Contexts = NO_CONTEXTS
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, cards: Iterable[FeatureCard], made_by: Mapping[str, Any] | None = None) -> "FeatureCards":
        """These cards together. Raises `SettingError` where two are of one feature."""
        return cls(CardTable.of(cards), made_by=made_by or {})

    @classmethod
    def joined(cls, parts: Sequence["FeatureCards"], made_by: Mapping[str, Any]) -> "FeatureCards":
        """Cards of different features of one stream as one."""
        if len(parts) == 1:
            return replace(parts[0], made_by=made_by)
        order = sorted(
            ((key, part, row) for part, cards in enumerate(parts) for key, row in cards.table.row_of.items()),
        )
        table = CardTable.of(parts[part].table.card(row) for _, part, row in order)
        active = torch.stack([parts[part].contexts.active[row] for _, part, row in order])
        return cls(table, replace(parts[0].contexts, active=active), made_by)

    def card(self, feature: Any) -> FeatureCard:
        """The card of a feature, named by (layer, index), as `L2/623`, or as a `Feature` of a graph.

        Raises `GraphError` where there is none, and `SettingError` for what names no feature.
        """
        asked = key(feature)
        if asked not in self.table.row_of:
            layers = sorted({layer for layer, _ in self})
            raise GraphError(
                f"There is no card of L{asked[0]}/{asked[1]} among these {len(self)}, which are of layers "
                f"{layers[:20]}: make them with feature_cards(..., features=...)."
            )
        return self.table.card(self.table.row_of[asked])

    def only(self, features: Iterable[tuple[int, int]]) -> "FeatureCards":
        """Those of these features that have a card, by (layer, index)."""
        rows = [self.table.row_of[feature] for feature in sorted(features) if feature in self]
        active = self.contexts.active[rows] if self.contexts.texts else self.contexts.active
        return FeatureCards(
            CardTable.of(map(self.table.card, rows)), replace(self.contexts, active=active), self.made_by
        )

    def __getitem__(self, feature: tuple[int, int]) -> FeatureCard:
        return self.table.card(self.table.row_of[feature])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.table.row_of)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, feature: object) -> bool:
        return feature in self.table.row_of

    def __repr__(self) -> str:
        known = [
            f"{name} {visible(self.made_by[name])}"
            for name in ("model", "transcoder", "n_tokens")
            if self.made_by.get(name)
        ]
        return f"FeatureCards({', '.join([f'{len(self)} features', f'{len(self.table.labels)} labels', *known])})"

    def labels(self) -> dict[tuple[int, int], str]:
        """The labels there are, by (layer, index): `graph.with_labels(cards.labels())`."""
        keys = list(self.table.row_of)
        return {keys[row]: label for row, label in sorted(self.table.labels.items())}

    def with_labels(
        self, labels: Mapping[tuple[int, int], str] | Callable[[Sequence[Example]], str | None]
    ) -> "FeatureCards":
        """The same cards with these labels, added to those they have.

        Labels are given by (layer, index), and those of other features are left aside; or made by a function that is
        given a card's top examples (where it has none, the drawn ones) and returns a label, or None for none. One such
        is `tl_circuits.features.shared_tokens`. Raises `GraphError` for labels that are no text.
        """
        given = feature_labels(labels) if isinstance(labels, Mapping) else feature_labels(dict(self._made(labels)))
        found = {self.table.row_of[feature]: label for feature, label in given.items() if feature in self}
        return replace(self, table=replace(self.table, labels={**self.table.labels, **found}))

    def _made(self, labeller: Any) -> Iterator[tuple[tuple[int, int], str]]:
        if not callable(labeller):
            raise GraphError(
                f"Labels {labeller!r:.80} were given: write {{(layer, index): label}}, or give a function."
            )
        for feature, card in self.items():
            examples = card.top or card.examples
            label: Any = labeller(examples) if examples else None
            if label is not None and label != "":
                yield feature, label

    def save(self, path: str | Path) -> Path:
        """Writes the cards as one safetensors file, whole or not at all, and returns its path. `load_cards` reads it.

        Raises `FileError` where the file cannot be written.
        """
        return save(self.table, self.contexts, self.made_by, path)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureCards":
        """The cards in a file that `save` wrote. Nothing in the file is executed.

        Raises `FileError` where the file is missing, damaged or of another format.
        """
        return cls(*read(path))

    def save_public(self, folder: str | Path, *, packed: bool = True, transcoder_id: str | None = None) -> Path:
        """Writes the cards into `folder`/features as circuit-tracer's and Neuronpedia's viewers read them.

        `packed` is `index.json.gz` and a `.bin` file for each layer, as in repositories on the hub; otherwise each
        feature is a JSON file named by Cantor's pairing of (layer, index). What these formats have no field for stands
        under `tl_circuits`, and is read back by `load_cards`. Raises `FileError` where files cannot be written.
        """
        name = transcoder_id if transcoder_id is not None else str(self.made_by.get("transcoder", ""))
        write = write_packed if packed else write_features
        return write(self.values(), file_name(folder), name)
