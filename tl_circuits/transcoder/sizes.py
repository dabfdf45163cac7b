"""How many bytes a release's transcoders are, from the listing of its repository."""

from collections.abc import Mapping
from contextlib import suppress

from tl_circuits.errors import FileError
from tl_circuits.transcoder import hub
from tl_circuits.transcoder.files.formats import everything
from tl_circuits.transcoder.load import names_of, outlined
from tl_circuits.transcoder.release import Release

_WEIGHTS = (".safetensors", ".npz")


def measure(release: Release, *, ask: bool) -> dict[str, int]:
    """Bytes to be fetched for each variant, by its name, of those that are known.

    With `ask` the hub is asked, and `FileError` raised where it does not answer; otherwise only what it said when it
    was last asked is looked at.
    """
    if release.repository is None:
        return {}
    listing = hub.list_files(release.address) if ask else hub.list_cached(release.address)
    if listing is None:
        return {}
    if release.loader == "repository":
        return _of_repository(listing)
    found = {variant.name: _under(listing.sizes, variant.paths) for variant in release.variants}
    return {name: size for name, size in found.items() if size is not None}


def _of_repository(listing: hub.Listing) -> dict[str, int]:
    sizes = {}
    with outlined(listing) as outline:
        for found in everything(outline):
            # Layers may be missing; and a config may list files of other repositories, whose sizes are not known here.
            with suppress(FileError):
                names = names_of(found, outline)
                if any(name.endswith(_WEIGHTS) for name in names):
                    sizes[found.label] = sum(listing.sizes.get(name, 0) for name in names)
    return sizes


def _under(sizes: Mapping[str, int], paths: tuple[str, ...]) -> int | None:
    """The bytes of files and folders; None where one of them is not there."""
    found = [[size for name, size in sizes.items() if f"{name}/".startswith(f"{path}/")] for path in paths]
    return sum(map(sum, found)) if all(found) else None
