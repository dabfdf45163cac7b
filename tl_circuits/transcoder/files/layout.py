"""What a format is, and how the files of a folder are found and told apart by their layers' numbers."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.tensors import PICKLES
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


@dataclass(frozen=True)
class Format:
    """One layout of files.

    `choices(folder)` names the transcoders that lie in a folder in this format: nothing where it is not in this
    format, `("",)` where it holds one. `files(folder, choice)` are those that one of them is made of; it raises
    `FileError` where a layer is missing among them. Both look at the names of files alone, so that they serve for a
    listing of files that are yet to be fetched. `load(folder, choice)` reads one of them.
    """

    name: str
    choices: Callable[[Path], tuple[str, ...]]
    files: Callable[[Path, str], Iterable[Path]]
    load: Callable[[Path, str], CrossLayerTranscoder]


def matching(*patterns: str) -> Callable[[Path, str], Iterable[Path]]:
    """What lies below a folder under names that match any of the patterns, in which `{}` stands for the choice."""
    return lambda folder, choice: [
        path for pattern in patterns for path in sorted(folder.glob(pattern.format(choice or "*"))) if path.is_file()
    ]


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """What lies in a folder under a name that matches, by the number in it."""
    return {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name)) is not None}


def every_layer(folder: Path, found: Mapping[int, Path], name: str) -> list[Path]:
    """The paths in the order of their layers, 2 before 10. Raises `FileError` where one of layers 0, 1, … is missing.

    `name` is what the missing one is called, with `{}` for its number.
    """
    if not found:
        raise FileError(
            f"'{folder}' has no {name.format(0)} (it holds {listed(folder)}): fetch it whole.{about_pickles(folder)}"
        )
    n_layers = max(found) + 1
    if len(found) < n_layers:
        missing = next(layer for layer in range(n_layers) if layer not in found)
        raise FileError(
            f"'{folder}' has no {name.format(missing)}; files of layers {', '.join(map(str, sorted(found)))} are "
            f"there, and {n_layers - len(found)} of {n_layers} are missing: fetch them, or undo the renaming."
        )
    return [found[layer] for layer in sorted(found)]


def listed(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:6]) or "nothing") + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def about_pickles(folder: Path, repository: str | None = None) -> str:
    """A sentence on the pickles in a folder, where there are any; the folder may stand for a repository's."""
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if not pickled:
        return ""
    way = "`tl-circuits convert FOLDER OUT` does so"
    if repository is not None:
        way = f"download them by `hf download {repository} --local-dir FOLDER`, then `tl-circuits convert FOLDER OUT`"
    return (
        f" {pickled[0]} was left shut, since such files can run code: convert it to safetensors (for the transcoders "
        f"of Dunefsky et al., {way})."
    )
