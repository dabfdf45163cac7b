"""Repositories of the Hugging Face hub: which files they hold, and those that are needed, on this machine.

Files lie in huggingface_hub's own cache, each whole or not at all: an interrupted download goes on with the files that
are missing. Where the hub cannot be reached, or HF_HUB_OFFLINE is set, the cache answers for it.
"""

import errno
import glob
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

from tl_circuits.errors import FileError

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ADDRESS = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}))?(?:/(?P<folder>.+?))?(?:@(?P<last>{_PART}))?"
)


@dataclass(frozen=True)
class Address:
    """A repository, a revision of it (None: the main branch) and a folder in it: `org/name[@revision][/sub/folder]`."""

    repo: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """What the text means, or None where it is no address. A revision may stand at the end as well."""
        match = _ADDRESS.fullmatch(text.strip("/"))
        if match is None or (match["revision"] and match["last"]):
            return None
        folder = match["folder"] or ""
        # A path that leads out of the repository, or says nothing, is no folder in it.
        if any(part in ("", ".", "..") for part in folder.split("/") if folder):
            return None
        return cls(match["repo"], match["revision"] or match["last"], folder)

    @classmethod
    def of_file(cls, uri: str) -> "tuple[Address, str] | None":
        """The folder and the name of the file that `hf://org/name/folder/file[?revision=…]` means; None for others."""
        parts = urlsplit(uri)
        path = PurePosixPath(f"{parts.netloc}{parts.path}")
        address = cls.parse(str(path.parent)) if parts.scheme == "hf" and "@" not in str(path) else None
        if address is None or not path.name or path.name == "..":
            return None
        (revision,) = parse_qs(parts.query).get("revision", [None])
        return cls(address.repo, revision, address.folder), path.name

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}{'/' if self.folder else ''}{self.folder}"


@dataclass(frozen=True)
class Listing:
    """The files below an address and their sizes in bytes. `offline` says why the cache was asked, if it was."""

    address: Address
    sizes: Mapping[str, int]
    offline: str = ""


def list_files(address: Address) -> Listing:
    """Every file below the address.

    Raises `FileError` where there is no such repository, revision or folder, where access is not granted, and where the
    hub cannot be reached and the cache does not know the repository.
    """
    with _quoting(address):
        offline, sizes = "", dict[str, int]()
        try:
            sizes = _on_hub(address)
        except _Unreachable as error:
            offline, sizes = str(error), _in_cache(address, error)
    if not sizes:
        raise FileError(
            f"There is no file below '{address}'{_because(offline)}: look at the repository's files for the folder's "
            "name."
        )
    return Listing(address, sizes, offline)


def fetch(listing: Listing, paths: Iterable[str]) -> Path:
    """The local folder that the address stands for, once these of its files are there. Files that are there stay.

    Raises `FileError` where the disk has no room for them, where the download breaks off, and where the hub cannot be
    reached and some of them are not in the cache.
    """
    import huggingface_hub

    address, paths = listing.address, sorted(set(paths))
    missing = [path for path in paths if cached(address, path) is None]
    if missing and listing.offline:
        raise FileError(
            f"{len(missing)} of {len(paths)} files of '{address}' are not on this machine (first: {missing[0]})"
            f"{_because(listing.offline)}: connect, or take away HF_HUB_OFFLINE, and load it once."
        )
    _check_room(address, sum(listing.sizes.get(path, 0) for path in missing))
    if missing:
        with _quoting(address):
            huggingface_hub.snapshot_download(
                address.repo,
                revision=address.revision,
                allow_patterns=[glob.escape(_inside(address, path)) for path in missing],
            )
    first = cached(address, paths[0]) if paths else None
    if first is None:
        raise FileError(f"'{address}' was fetched, but {paths[:1]} is not in the cache: load it again.")
    return Path(first).parents[len(PurePosixPath(paths[0]).parts) - 1]


def cached(address: Address, path: str) -> Path | None:
    """Where a file below the address lies on this machine, or None where it does not."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(address.repo, _inside(address, path), revision=address.revision)
    return Path(found) if isinstance(found, str) else None


class _Unreachable(Exception):
    """The hub did not answer, or was not to be asked."""


def _on_hub(address: Address) -> dict[str, int]:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    try:
        files = api.list_repo_tree(address.repo, address.folder or None, recursive=True, revision=address.revision)
        return {
            str(PurePosixPath(file.path).relative_to(address.folder)): file.size
            for file in files
            if isinstance(file, huggingface_hub.RepoFile)
        }
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        raise _Unreachable(_first_line(error)) from error
    except huggingface_hub.errors.HFValidationError:
        raise
    except Exception as error:
        # Without an answer, the client raises errors of the HTTP library beneath it, which differs between versions.
        raise _Unreachable(_first_line(error)) from error


def _in_cache(address: Address, reason: _Unreachable) -> dict[str, int]:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = huggingface_hub.snapshot_download(address.repo, revision=address.revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        snapshot = getattr(error, "snapshot_path", None)
    if snapshot is None:
        raise FileError(
            f"'{address}' is not on this machine{_because(str(reason))}: connect, or take away HF_HUB_OFFLINE, and "
            "load it once; or give the path of a local folder."
        )
    listed = _cached_tree(address) or {
        path.relative_to(snapshot).as_posix(): path.stat().st_size
        for path in Path(snapshot).rglob("*")
        if path.is_file()
    }
    below = f"{address.folder}/" if address.folder else ""
    return {path.removeprefix(below): size for path, size in listed.items() if path.startswith(below)}


def _cached_tree(address: Address) -> dict[str, int] | None:
    """What the repository held when it was last asked, files that were not fetched included."""
    import huggingface_hub

    # Versions before 2.4 do not keep it.
    get = getattr(huggingface_hub, "get_cached_repo_tree", None)
    if get is None:
        return None
    try:
        return {file.path: file.size for file in get(address.repo, revision=address.revision)}
    except huggingface_hub.errors.CachedRepoTreeNotFoundError:
        return None


def _check_room(address: Address, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise _no_room(address, f"{needed / 1e9:,.2f} GB are to be fetched and {free / 1e9:,.2f} GB are free", cache)


@contextmanager
def _quoting(address: Address) -> Iterator[None]:
    """What the client raises, as one error that quotes the address and says what to do."""
    from huggingface_hub import constants, errors

    try:
        yield
    except (FileError, _Unreachable):
        raise
    except errors.GatedRepoError as error:
        raise FileError(
            f"'{address}' is gated: accept its terms on its page on the hub, and log in with `hf auth login` or set "
            "HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileError(
            f"There is no repository '{address.repo}' on the hub, or it is private: check its name, log in with `hf "
            "auth login` where it is yours, or give a local folder. `tl-circuits list` names those that are known."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileError(
            f"'{address.repo}' has no revision '{address.revision}': give a branch, tag or commit."
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileError(
            f"There is no folder '{address.folder}' in '{address.repo}': look at the repository's files for its name."
        ) from error
    except Exception as error:
        # Beside its own errors, the client raises those of the HTTP library beneath it, and of the disk.
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(address, "the disk is full", Path(constants.HF_HUB_CACHE)) from error
        raise FileError(
            f"Fetching '{address}' broke off ({_first_line(error)}): load it again, which goes on with the files that "
            "are missing."
        ) from error


def _no_room(address: Address, problem: str, cache: Path) -> FileError:
    return FileError(
        f"'{address}' does not fit into the hub's cache, '{cache}': {problem}. Free space there, or set HF_HUB_CACHE "
        "to a folder on another disk. Nothing half-fetched was left there."
    )


def _inside(address: Address, path: str) -> str:
    return f"{address.folder}/{path}" if address.folder else path


def _because(offline: str) -> str:
    return f", and the hub cannot be reached ({offline})" if offline else ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
