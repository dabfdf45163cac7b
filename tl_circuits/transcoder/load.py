"""Whatever a user has of a transcoder → the transcoder: a release's name, a repository, a folder, SAELens objects."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from tl_circuits.errors import FileError, FitError
from tl_circuits.saelens import from_pretrained, from_sae
from tl_circuits.transcoder import hub, registry
from tl_circuits.transcoder.files.circuit_tracer import CONFIG, load_layers
from tl_circuits.transcoder.files.formats import Found, find, load_folder
from tl_circuits.transcoder.files.listed import is_gemma_scope
from tl_circuits.transcoder.files.listed import load as load_listed
from tl_circuits.transcoder.release import Release, Variant
from tl_circuits.transcoder.saes import from_saes
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def load_transcoder(source: str | Path | Sequence[Any], *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder that `source` names, whatever its format.

    - A local folder.
    - A release by its name in SAELens's registry, or one of `tlc.releases()`.
    - A repository of the hub, `org/name[@revision][/sub/folder]`, or the address of its page. Only the files that are
      needed are fetched, once.
    - A list of `sae_lens.SAE` transcoders, one for each layer.

    A folder that exists goes before a release, and a release before a repository. Where there are several transcoders,
    `variant` names one of them, such as a width or a sparsity; the error that asks for it lists the names.

    Weights keep the dtype they are stored in and are memory-mapped where the format allows it: decoders are then read
    row by row, as features become active. Pickles are never opened.

    Raises `FileError` where nothing has that name, the hub cannot be reached, a layer is missing, a file is damaged or
    of an unknown format, several transcoders lie there and `variant` names none, shapes disagree, a threshold is NaN,
    or an encoder, bias or skip weight is NaN or infinite. Decoder rows are checked when read. Raises `FitError` where
    SAEs make no transcoder.
    """
    return prepare(source, variant=variant)()


def prepare(source: str | Path | Sequence[Any], *, variant: str | None = None) -> Callable[[], CrossLayerTranscoder]:
    """What loads the transcoder, once it is called: until then nothing is fetched, and names alone are refused.

    What is on this machine is loaded at once. Raises as `load_transcoder` does.
    """
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        if variant is not None:
            raise FileError(
                f"variant={variant!r} was given with a list of SAEs, which is one transcoder: leave it out."
            )
        return partial(from_saes, source)
    if isinstance(source, Iterable | nn.Module) and not isinstance(source, str | bytes):
        raise FileError(
            f"A {type(source).__name__} is no name and no list: give a list with one SAELens transcoder for each "
            "layer, such as [sae, ...], a release, a repository as org/name, or the path of a folder."
        )
    if not isinstance(source, str | PathLike) or not str(source).strip():
        raise FileError(
            f"{source!r:.80} names no transcoder: give a release, a repository as org/name, the path of a folder, or a "
            "list of SAELens transcoders."
        )
    if not isinstance(variant, str | None):
        raise FileError(f"variant={variant!r:.80} is no name: give a text, or leave it out to see those there are.")
    if not isinstance(source, str) or _is_there(source):
        found = _from(Path(source).expanduser().resolve().name, variant, load_folder(Path(source), variant=variant))
        return lambda: found
    release = registry.find(source)
    if release is not None:
        registry.choose(release, variant)
        return partial(load_release, release, variant=variant)
    address = hub.Address.parse(source)
    # A name that ends like a file, or starts like a path, is one that is missing here.
    if address is None or Path(source).is_absolute() or source.startswith((".", "~")):
        raise _unknown(source)
    try:
        return partial(_find_and_load, hub.list_files(address), variant)
    except hub.NoRepository as error:
        raise FileError(f"{error}{_nearest(source)}") from error


def load_release(release: Release, *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder of a release, or one of its variants. Raises `FileError` as `load_transcoder` does."""
    chosen = registry.choose(release, variant)
    try:
        found = _load(release, chosen)
    except (FileError, FitError) as error:
        # What is wrong is often told of the repository, which may go by the same name.
        told = re.search(rf"'{re.escape(release.name)}['/@]", str(error)) is not None
        raise FileError(str(error) if told else f"'{release.name}' was not loaded. {error}") from error
    if release.n_layers not in (None, found.n_layers):
        raise FileError(
            f"'{release.name}' holds files of {found.n_layers} layers, but {release.model} has {release.n_layers}: "
            f"look whether {release.repository} is whole."
        )
    if release.name != release.repository:
        found.source = f"{release.name}: {found.source}"
    return found


def _find_and_load(listing: hub.Listing, variant: str | None) -> CrossLayerTranscoder:
    """The transcoder in a repository, told from the names of its files. Only what it is made of is fetched."""
    with outlined(listing) as outline:
        found = find(outline, variant=variant, repository=listing.address.repo)
        below, paths = found.folder.relative_to(outline), names_of(found, outline)
        if not paths:
            # A format that is recognised only to be refused asks for no file, and says why.
            return found.load()
    folder = hub.fetch(listing, paths)
    with _telling_where(folder):
        transcoder = found.format.load(folder / below, found.choice)
    place = "/".join(part for part in (str(hub.at_commit(listing.address, folder)), *below.parts) if part)
    return _from(place, found.choice, transcoder)


@contextmanager
def outlined(listing: hub.Listing) -> Iterator[Path]:
    """A folder of empty files under the listed names, by which formats are recognised as they are on disk.

    Errors that are raised meanwhile quote the address instead of it.
    """
    with tempfile.TemporaryDirectory(prefix="tl_circuits-") as made:
        outline = Path(made)
        for name in listing.sizes:
            _touch(outline, name)
        try:
            yield outline
        except FileError as error:
            message = str(error).replace(made, str(listing.address))
            offline = f" (The hub cannot be reached: {listing.offline}.)" if listing.offline else ""
            raise FileError(message + offline) from error


def names_of(found: Found, top: Path) -> list[str]:
    """What a transcoder is made of, by names below a folder."""
    return [path.relative_to(top).as_posix() for path in found.files()]


def _touch(outline: Path, name: str) -> None:
    # Names come from elsewhere. One that leads out of the folder, or is none on this machine, makes no file.
    if ".." in name.replace("\\", "/").split("/") or Path(name).is_absolute():
        return
    try:
        (outline / name).parent.mkdir(parents=True, exist_ok=True)
        (outline / name).touch()
    except (OSError, ValueError):
        return


def _load(release: Release, chosen: Variant) -> CrossLayerTranscoder:
    if release.loader == "saelens":
        # One by one, so that SAEs that are no transcoders are refused before all are fetched.
        first = from_pretrained(release.name, chosen.paths[0])
        from_sae(first, f"'{chosen.paths[0]}'")
        saes = [first, *(from_pretrained(release.name, path) for path in chosen.paths[1:])]
        return _from(release.repository or "SAELens", chosen.name, from_saes(saes))
    listing = hub.list_files(release.address)
    if release.loader == "repository" and not _is_bare(release, chosen, listing):
        return _find_and_load(listing, chosen.name or None)
    assert release.read is not None
    assert release.write is not None
    folder = hub.fetch(listing, chosen.paths)
    paths = [folder / path for path in chosen.paths]
    with _telling_where(folder):
        load = load_listed if is_gemma_scope(paths) else load_layers
        transcoder = load(folder, paths, read=release.read, write=release.write, model_name=release.model)
    return _from(str(hub.at_commit(release.address, folder)), chosen.name, transcoder)


def _is_bare(release: Release, chosen: Variant, listing: hub.Listing) -> bool:
    """Whether the layers lie there without the config that would say what they read, which the release says instead."""
    known = release.read is not None and release.write is not None and chosen.paths
    return bool(known) and CONFIG not in listing.sizes and all(path in listing.sizes for path in chosen.paths)


def _from(place: str, variant: str | None, transcoder: CrossLayerTranscoder) -> CrossLayerTranscoder:
    """The same transcoder, which now says what it was loaded from."""
    transcoder.source = f"{place}, {variant}" if variant else place
    return transcoder


@contextmanager
def _telling_where(folder: Path) -> Iterator[None]:
    """What is wrong with files that were fetched is told with where they lie, since nobody else put them there."""
    try:
        yield
    except FileError as error:
        raise FileError(
            f"{error} (What was fetched lies in '{folder}': a file that is damaged there is fetched anew once it is "
            "deleted.)"
        ) from error


def _is_there(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    # A text may be no path at all: too long, with a null in it, of a user that does not exist.
    except (OSError, ValueError, RuntimeError):
        return False


def _unknown(source: str) -> FileError:
    return FileError(
        f"There is no folder {source!r:.200} on this machine, and no release of that name: give a release, a "
        f"repository as org/name, or the path of a folder.{_nearest(source)} `tl-circuits list` names all releases."
    )


def _nearest(source: str) -> str:
    """The names of releases that are most like the one that was given."""
    known = {name.lower(): name for name in registry.names()}
    near = get_close_matches(source.lower(), known, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(repr(known[name]) for name in near)}?" if near else ""
