"""Whatever a user has of a transcoder → the transcoder: a release's name, a repository, a folder, SAELens objects."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError
from tl_circuits.transcoder import hub, registry
from tl_circuits.transcoder.files import listed
from tl_circuits.transcoder.files.formats import find, load_folder
from tl_circuits.transcoder.files.layout import every_layer
from tl_circuits.transcoder.registry import Release
from tl_circuits.transcoder.saes import from_saes
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def load_transcoder(source: str | Path | Sequence[Any], *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder that `source` names, whatever its format.

    - A local folder.
    - A release by its name in SAELens's registry, or one of `tlc.releases()`.
    - A repository of the hub, `org/name[@revision][/sub/folder]`. Only the files that are needed are fetched, once.
    - A list of `sae_lens.SAE` transcoders, one for each layer.

    A folder that exists goes before a release, and a release before a repository. Where there are several transcoders,
    `variant` names one of them, such as a width or a sparsity; the error that asks for it lists the names.

    Weights keep the dtype they are stored in and are memory-mapped where the format allows it: decoders are then read
    row by row, as features become active. Pickles are never opened.

    Raises `FileError` where nothing has that name, the hub cannot be reached, a layer is missing, a file is damaged or
    of an unknown format, several transcoders lie there and `variant` names none, shapes disagree, a threshold is NaN,
    or an encoder, bias or skip weight is NaN or infinite. Decoder rows are checked when read.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        if variant is not None:
            raise FileError(
                f"variant={variant!r} was given with a list of SAEs, which is one transcoder: leave it out."
            )
        return from_saes(source)
    if not isinstance(source, str | PathLike) or not str(source):
        raise FileError(
            f"{source!r:.80} names no transcoder: give a release, a repository as org/name, the path of a folder, or a "
            "list of SAELens transcoders."
        )
    if not isinstance(source, str) or Path(source).expanduser().exists():
        return load_folder(Path(source), variant=variant)
    release = registry.find(source)
    if release is not None:
        return load_release(release, variant=variant)
    address = hub.Address.parse(source)
    # A name that ends like a file, or starts like a path, is one that is missing here.
    if address is None or Path(source).is_absolute() or source.startswith((".", "~")):
        raise _unknown(source)
    return load_repository(address, variant=variant)


def load_release(release: Release, *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder of a release, or one of its variants. Raises `FileError` as `load_transcoder` does."""
    if not release.files:
        return load_repository(release.address, variant=variant)
    paths = release.files_of(variant)
    ordered = every_layer(release.name, paths, "layer {}")
    folder = hub.fetch(hub.list_files(release.address), ordered)
    return listed.load(
        release.name,
        [folder / path for path in ordered],
        read=release.read,
        write=release.write,
        model_name=release.model,
    )


def load_repository(address: hub.Address, *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder below an address, told from the names of the files there. Only what it is made of is fetched."""
    listing = hub.list_files(address)
    with _outline(listing) as outline:
        found = find(outline, variant=variant)
        below = found.folder.relative_to(outline)
        paths = [path.relative_to(outline).as_posix() for path in found.files()]
    folder = hub.fetch(listing, paths)
    return found.format.load(folder / below, found.choice)


@contextmanager
def _outline(listing: hub.Listing) -> Iterator[Path]:
    """A folder of empty files under the listed names, by which formats are recognised as they are on disk.

    Errors that are raised meanwhile quote the address instead of it.
    """
    with tempfile.TemporaryDirectory(prefix="tl_circuits-") as made:
        outline = Path(made)
        # Names come from elsewhere: one that leads out of the folder makes no file.
        for name in (name for name in listing.sizes if ".." not in name.split("/") and not name.startswith("/")):
            path = outline / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        try:
            yield outline
        except FileError as error:
            message = str(error).replace(made, str(listing.address))
            offline = f" (The hub cannot be reached: {listing.offline}.)" if listing.offline else ""
            raise FileError(message + offline) from error
