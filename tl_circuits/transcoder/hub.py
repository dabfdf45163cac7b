"""Repositories of the Hugging Face hub: which files they hold, and those that are needed, on this machine.

Files lie in huggingface_hub's own cache, each whole or not at all, and all of one commit: an interrupted download goes
on with the files that are missing. Where the hub cannot be reached, or HF_HUB_OFFLINE is set, the cache answers for it.
"""

import errno
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

from tl_circuits.errors import FileError

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
# Of revisions with a slash, the hub itself makes these: pull requests and converted files.
_REVISION = rf"refs/(?:pr/\d+|convert/{_PART})|{_PART}"
_ADDRESS = re.compile(
    rf"(?:hf://)?(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_REVISION}))?(?:/(?P<folder>.+?))?(?:@(?P<last>{_REVISION}))?"
)
_PAGE = re.compile(
    rf"https://huggingface\.co/(?P<repo>{_PART}/{_PART})(?:/tree/(?P<revision>{_REVISION})(?:/(?P<folder>.+))?)?(?P<last>)"
)


@dataclass(frozen=True)
class Address:
    """A repository, a revision of it (None: the main branch) and a folder in it: `org/name[@revision][/sub/folder]`."""

    repo: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """What the text means, or None where it is no address.

        A revision may stand at the end as well, `hf://` before it all, and a page of the hub names its repository.
        """
        match = _PAGE.fullmatch(text.strip("/")) or _ADDRESS.fullmatch(text.strip("/"))
        if match is None or (match["revision"] and match["last"]):
            return None
        folder = match["folder"] or ""
        # A path that leads out of the repository, or says nothing, is no folder in it.
        if any(part in ("", ".", "..") for part in folder.split("/") if folder):
            return None
        return cls(match["repo"], match["revision"] or match["last"] or None, folder)

    @classmethod
    def of_file(cls, uri: str) -> "tuple[Address, str] | None":
        """The folder and the name of the file that `hf://org/name/folder/file[?revision=…]` means; None for others."""
        try:
            parts = urlsplit(uri)
        except ValueError:
            return None
        path = PurePosixPath(f"{parts.netloc}{parts.path}")
        address = cls.parse(str(path.parent)) if parts.scheme == "hf" and "@" not in str(path) else None
        if address is None or not path.name or path.name == "..":
            return None
        revision = parse_qs(parts.query).get("revision", [None])[-1]
        if revision is not None and re.fullmatch(_REVISION, revision) is None:
            return None
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


def list_cached(address: Address) -> Listing | None:
    """What was below the address when the hub was last asked; None where nothing is known. It is not asked now."""
    listed = _below(address, _cached_tree(address) or {})
    return Listing(address, listed, "it was not asked") if listed else None


def fetch(listing: Listing, paths: Iterable[str]) -> Path:
    """The local folder that the address stands for, once these of its files are there, all of one commit.

    What is there already is not fetched again. Raises `FileError` where the disk has no room for them, where the
    download breaks off, and where the hub cannot be reached and some of them are not in the cache.
    """
    import huggingface_hub

    address, paths = listing.address, sorted(set(paths))
    unlisted = [path for path in paths if path not in listing.sizes]
    if unlisted and not listing.offline:
        raise FileError(
            f"'{address}' has no '{unlisted[0]}', one of {len(unlisted)} of {len(paths)} files that it lacks: look at "
            "the repository's files, or give another revision."
        )
    missing = [path for path in paths if cached(address, path) is None]
    if missing and listing.offline:
        raise FileError(
            f"{len(missing)} of {len(paths)} files of '{address}' are not on this machine (first: {missing[0]})"
            f"{_because(listing.offline)}: connect, or take away HF_HUB_OFFLINE, and load it once."
        )
    if listing.offline:
        return _top(address, paths[0])
    _check_room(address, sum(listing.sizes.get(path, 0) for path in missing))
    with _quoting(address):
        snapshot = huggingface_hub.snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=[glob.escape(_inside(address, path)) for path in paths],
        )
    folder = Path(snapshot, address.folder)
    absent = [path for path in paths if not (folder / path).is_file()]
    if absent:
        raise FileError(
            f"{len(absent)} of {len(paths)} files of '{address}' went away while it was fetched (first: {absent[0]}): "
            "load it again."
        )
    return folder


def read_parts(address: Address, path: str, parts: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Parts of a file below the address, each from its first byte up to before its last.

    They are read from the cache where the file lies there, and otherwise asked for one by one; nothing is kept. Raises
    `FileError` where the hub cannot be reached, and where it sends anything but these bytes.
    """
    here = cached(address, path)
    if here is not None:
        with here.open("rb") as file:
            for first, last in parts:
                file.seek(first)
                yield file.read(last - first)
        return
    for first, last in parts:
        with _quoting(address):
            part = _part(address, path, first, last)
        yield part


def _part(address: Address, path: str, first: int, last: int) -> bytes:
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    url = huggingface_hub.hf_hub_url(address.repo, _inside(address, path), revision=address.revision)
    headers = build_hf_headers() | {"Range": f"bytes={first}-{last - 1}"}
    found = bytearray()
    with http_stream_backoff("GET", url, headers=headers, follow_redirects=True, timeout=60.0) as response:
        hf_raise_for_status(response)
        if response.status_code == 206:
            for block in response.iter_bytes():
                found += block
                # Whoever sends more than was asked for is not read to the end.
                if len(found) > last - first:
                    break
    if len(found) != last - first:
        raise FileError(
            f"Of '{path}' in '{address}' bytes {first} to {last} were asked for, and {len(found)} came "
            f"(HTTP {response.status_code}): fetch the whole file, `hf download {address.repo}`."
        )
    return bytes(found)


def at_commit(address: Address, folder: Path) -> Address:
    """The address with the commit in the place of its revision, by the local folder that stands for it."""
    depth = len(PurePosixPath(address.folder).parts)
    return replace(address, revision=(folder, *folder.parents)[depth].name)


def cached(address: Address, path: str) -> Path | None:
    """Where a file below the address lies on this machine, or None where it does not."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(address.repo, _inside(address, path), revision=address.revision)
    return Path(found) if isinstance(found, str) else None


class NoRepository(FileError):
    """The hub has no such repository, or does not show it."""


class NoAnswer(FileError):
    """The hub cannot be reached, and the cache does not know the repository."""


class _Unreachable(Exception):
    """The hub did not answer, or was not to be asked."""


def _top(address: Address, path: str) -> Path:
    """The local folder of the address, by one of its files."""
    found = cached(address, path)
    assert found is not None
    return found.parents[len(PurePosixPath(path).parts) - 1]


def _on_hub(address: Address) -> dict[str, int]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        files = api.list_repo_tree(address.repo, address.folder or None, recursive=True, revision=address.revision)
        return {
            str(PurePosixPath(file.path).relative_to(address.folder)): file.size
            for file in files
            if isinstance(file, RepoFile)
        }
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        raise _Unreachable(_first_line(error)) from error
    except HFValidationError:
        raise
    except OfflineModeIsEnabled as error:
        raise _Unreachable("HF_HUB_OFFLINE is set") from error
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
        raise NoAnswer(
            f"'{address}' is not on this machine{_because(str(reason))}: connect, or take away HF_HUB_OFFLINE, and "
            "load it once; or give the path of a local folder."
        )
    listed = _cached_tree(address) or {
        path.relative_to(snapshot).as_posix(): path.stat().st_size
        for path in Path(snapshot).rglob("*")
        if path.is_file()
    }
    return _below(address, listed)


def _below(address: Address, sizes: Mapping[str, int]) -> dict[str, int]:
    top = f"{address.folder}/" if address.folder else ""
    return {path.removeprefix(top): size for path, size in sizes.items() if path.startswith(top)}


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
    try:
        yield
    except (FileError, _Unreachable):
        raise
    # Beside its own errors, the client raises those of the HTTP library beneath it, and of the disk.
    except Exception as error:
        raise _told(address, error) from error


def _told(address: Address, error: Exception) -> FileError:
    from huggingface_hub import constants, errors

    match error:
        case errors.GatedRepoError():
            return FileError(
                f"'{address}' is gated: accept its terms on its page on the hub, and log in with `hf auth login` or "
                "set HF_TOKEN."
            )
        case errors.RepositoryNotFoundError():
            return NoRepository(
                f"There is no repository '{address.repo}' on the hub, or it is private: check its name, log in with "
                "`hf auth login` where it is yours, or give a local folder. `tl-circuits list` names those that are "
                "known."
            )
        case errors.RevisionNotFoundError():
            return FileError(f"'{address.repo}' has no revision '{address.revision}': give a branch, tag or commit.")
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            return FileError(
                f"There is no folder '{address.folder}' in '{address.repo}': look at the repository's files for its "
                "name."
            )
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return FileError(
                f"'{address}' is not shown to you ({_first_line(error)}): log in anew with `hf auth login`, or take "
                "away an HF_TOKEN that has run out."
            )
        case errors.HFValidationError():
            return FileError(f"'{address.repo}' is no name of a repository ({_first_line(error)}): give org/name.")
        case _ if _is_full(error):
            return _no_room(address, "the disk is full", Path(constants.HF_HUB_CACHE))
        case _:
            return FileError(
                f"Fetching '{address}' broke off ({_first_line(error)}): load it again, which goes on with the files "
                "that are missing."
            )


def _is_full(error: BaseException) -> bool:
    """Whether the disk had no room left; some clients tell only in words."""
    told = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return told or os.strerror(errno.ENOSPC) in str(error)


def _no_room(address: Address, problem: str, cache: Path) -> FileError:
    return FileError(
        f"'{address}' does not fit into the hub's cache, '{cache}': {problem}. Free space there, or set HF_HUB_CACHE "
        "to a folder on another disk, and load it again: files that arrived whole are kept."
    )


def _inside(address: Address, path: str) -> str:
    return f"{address.folder}/{path}" if address.folder else path


def _because(offline: str) -> str:
    return f", and the hub cannot be reached ({offline})" if offline else ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
