"""Whatever a user has of cards → the cards: our file, a folder, a repository of the hub, an export of Neuronpedia's."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError, warn_once
from tl_circuits.features.cards import FeatureCards
from tl_circuits.features.chosen import Chosen, chosen
from tl_circuits.features.files import is_cards
from tl_circuits.features.neuronpedia import read_neuronpedia
from tl_circuits.features.public import FOLDER
from tl_circuits.features.sources import Folder, Repository, Source, cards_in
from tl_circuits.graph.asked import file_name
from tl_circuits.transcoder import hub, registry

_EXPORTS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def load_cards(source: str | Path, *, features: Chosen = None, progress: bool | None = None) -> FeatureCards:
    """Cards that exist already, of all features or of those of a graph (or some by (layer, index) or name).

    `source` is

    - a file that `cards.save` wrote;
    - a folder of feature files, packed or not, or one that has them in its folder `features`;
    - a transcoder's release or repository on the hub, `org/name[@revision][/sub/folder]`, that has a folder `features`.
      Of packed files only the bytes of the features asked for are fetched, where these are the smaller part;
    - an export of Neuronpedia's (`.json`, `.jsonl`, and either packed as `.gz`): features, activations or explanations.

    What is not there is left out, with a warning that says how many. Everything in these files is checked, and none of
    it is run. Raises `FileError` where there are no cards, where one is damaged or larger than a card is, and where the
    hub cannot be reached.
    """
    wanted = None if features is None else chosen(features)
    found = _load(source, wanted, progress)
    if wanted is not None:
        missing = [key for key in wanted if key not in found]
        if len(missing) == len(wanted):
            raise FileError(
                f"'{source}' has no card of any of the {len(wanted)} features asked for (first: L{wanted[0][0]}/"
                f"{wanted[0][1]}): is it of the same transcoder?"
            )
        if missing:
            warn_once(
                f"'{source}' has no card of {len(missing)} of {len(wanted)} features, such as L{missing[0][0]}/"
                f"{missing[0][1]}: feature_cards(model, transcoder, data, features=...) makes them.",
                stacklevel=2,
            )
    return found


def _load(source: Any, wanted: Sequence[tuple[int, int]] | None, progress: bool | None) -> FeatureCards:
    if not isinstance(source, str | PathLike) or not str(source).strip():
        raise FileError(f"{source!r:.80} names no cards: give a file, a folder, or a repository as org/name.")
    path = Path(source).expanduser() if "\0" not in str(source) else file_name(source)
    if path.is_dir():
        folder = Folder(path / FOLDER if (path / FOLDER).is_dir() else path)
        return FeatureCards.of(cards_in(folder, wanted, progress), {"read_from": path.resolve().name})
    if path.is_file():
        return _of_file(path, wanted)
    repository = _repository(source, str(source))
    made_by = {"transcoder": str(repository.name).removesuffix(f"/{FOLDER}")}
    return FeatureCards.of(cards_in(repository, wanted, progress), made_by)


def _of_file(path: Path, wanted: Sequence[tuple[int, int]] | None) -> FeatureCards:
    if is_cards(path) or not path.name.lower().endswith(_EXPORTS):
        cards = FeatureCards.load(path)
        return cards if wanted is None else cards.only(wanted)
    found = read_neuronpedia(path)
    kept = found if wanted is None else [card for card in found if card.key in set(wanted)]
    return FeatureCards.of(kept, {"read_from": path.name})


def _repository(source: Any, name: str) -> Source:
    release = registry.find(name) if isinstance(source, str) else None
    address = release.address if release is not None and release.repository else hub.Address.parse(name)
    if address is None or not isinstance(source, str) or name.startswith((".", "~", "/")):
        raise FileError(f"There is no file or folder '{source}', and it is no repository org/name: check its name.")
    below = hub.Address(address.repo, address.revision, f"{address.folder}/{FOLDER}".lstrip("/"))
    try:
        listing = hub.list_files(below)
    except FileError as error:
        raise FileError(f"No cards of '{name}' were found. {error}") from error
    return Repository(listing)
