"""A Hugging Face hub on this machine's loopback: folders served to the real client, with its errors and outages."""

import hashlib
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

_LARGE = (".safetensors", ".npz", ".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BLOCK = 1 << 16


class Request(NamedTuple):
    """What was asked of the hub."""

    method: str
    path: str
    range: str | None


class Refusal(Exception):
    """An answer without a body: a status and what its headers say."""

    def __init__(self, status: HTTPStatus, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _error(code: str, status: HTTPStatus = HTTPStatus.NOT_FOUND, **headers: str) -> Refusal:
    return Refusal(status, X_Error_Code=code, X_Error_Message=code, **headers)


@dataclass
class Cut:
    """Bodies of files end after so many bytes, `times` more times, or always where that is None."""

    after: int
    times: int | None

    def of(self, size: int) -> int:
        """How much of a body of that size is sent."""
        if self.times == 0 or size <= self.after:
            return size
        self.times = None if self.times is None else self.times - 1
        return self.after


@dataclass
class Hub:
    """Serves `<root>/<org>/<name>/<file>` as the hub serves a repository, with one revision, `main`.

    The commit is a hash of the repository's file names, sizes and times, so a repository may be written at any time.
    """

    root: Path
    gated: set[str] = field(default_factory=set)
    """Repositories whose files are refused to everybody; they can be listed, as on the hub."""
    refused: set[str] = field(default_factory=set)
    """Repositories of which nothing is shown, as to somebody whose token has run out."""
    moved: dict[str, str] = field(default_factory=dict)
    """Old names, which redirect to new ones."""
    requests: list[Request] = field(default_factory=list)
    cut: Cut | None = None
    _server: "_Server | None" = None
    _port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> "Hub":
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.drop_connections()
            self._server = None

    def __enter__(self) -> "Hub":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def down(self) -> Iterator[None]:
        """No network: connections are dropped, and new ones are refused."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def cut_after(self, size: int, times: int | None = 1) -> None:
        """The connection is lost after `size` bytes of a file: `times` times, or always (None)."""
        self.cut = Cut(size, times)

    @contextmanager
    def fresh(self, root: Path) -> Iterator["Hub"]:
        """Serves another root, with nothing asked, gated, refused, moved or cut; then the old one again."""
        before = self.root, self.gated, self.refused, self.moved, self.requests, self.cut
        self.root, self.gated, self.refused, self.moved, self.requests, self.cut = root, set(), set(), {}, [], None
        root.mkdir(parents=True, exist_ok=True)
        try:
            yield self
        finally:
            self.root, self.gated, self.refused, self.moved, self.requests, self.cut = before

    def repository(self, name: str) -> Path:
        """The folder of a repository, made where there is none."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, name: str, folder: Path) -> Path:
        """Makes a repository of the files in a folder."""
        return Path(shutil.copytree(folder, self.root / name, dirs_exist_ok=True))

    def files(self, name: str) -> list[Path]:
        folder = self.root / name
        if not folder.is_dir():
            raise _error("RepoNotFound")
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def commit(self, name: str) -> str:
        """The hash that stands for what the repository holds now."""
        found = [f"{path.relative_to(self.root)} {_hash(path)}" for path in self.files(name)]
        return hashlib.sha1("\n".join(found).encode()).hexdigest()

    def downloaded(self) -> list[str]:
        """Paths of the files whose bodies were asked for, each once, in order."""
        bodies = (r.path.split("/resolve/")[1].partition("/")[2] for r in self.requests if _is_body(r))
        return list(dict.fromkeys(bodies))


def _is_body(request: Request) -> bool:
    return request.method == "GET" and "/resolve/" in request.path


def _hash(path: Path) -> str:
    """Of name, size and time, not of content, so that a file of many GB costs nothing."""
    found = path.stat()
    name = f"{path} {found.st_size} {found.st_mtime_ns}".encode()
    # The hub names large files by SHA-256 and small ones as git does.
    return (hashlib.sha256 if path.suffix in _LARGE else hashlib.sha1)(name).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        self.hub = hub
        self.open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        for connection in tuple(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Its own thread closed it meanwhile.
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error of the hub's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> Hub:
        return cast(_Server, self.server).hub

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept, not printed."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._hub.requests.append(Request(self.command, unquote(url.path), self.headers.get("Range")))
        asks = {name: values[-1] in ("1", "true", "True") for name, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        try:
            if parts[:2] == ["api", "models"]:
                self._list(parts[2:], asks)
            else:
                self._file(parts)
        except Refusal as refusal:
            self._send(refusal.status, b"", refusal.headers)

    def _list(self, parts: list[str], asks: dict[str, bool]) -> None:
        what = next((word for word in ("revision", "tree", "refs") if word in parts[1:3]), None)
        names, rest = (parts, []) if what is None else _split(parts, what)
        name = self._name(names)
        commit = self._hub.commit(name)
        if what == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
            self._json({"branches": [main], "tags": [], "converts": []})
            return
        if rest:
            _check_revision(rest[0], commit)
        folder, files = self._hub.root / name, self._hub.files(name)
        if what == "tree":
            self._json(_tree(folder, "/".join(rest[1:]), files, asks.get("recursive", False), commit))
        else:
            siblings = [_sibling(folder, path, asks.get("blobs", False)) for path in files]
            gated = "manual" if name in self._hub.gated else False
            known = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": gated, "disabled": False}
            self._json(known | {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def _file(self, parts: list[str]) -> None:
        if "resolve" not in parts[1:3]:
            raise _error("EntryNotFound")
        names, (revision, *inside) = _split(parts, "resolve")
        name = self._name(names)
        commit = self._hub.commit(name)
        _check_revision(revision, commit)
        if name in self._hub.gated:
            raise _error("GatedRepo", HTTPStatus.FORBIDDEN, X_Repo_Commit=commit)
        path = self._hub.root / name / "/".join(inside)
        if ".." in path.parts or not path.is_file():
            raise _error("EntryNotFound", X_Repo_Commit=commit)
        with path.open("rb") as stream:
            self._stream(stream, path, commit)

    def _stream(self, stream: BinaryIO, path: Path, commit: str) -> None:
        size = path.stat().st_size
        headers = {"ETag": f'"{_hash(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, stop, status = 0, size, HTTPStatus.OK
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET":
            start, stop = int(asked[1]), min(int(asked[2] or size) + 1, size)
            if start >= size:
                raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, Content_Range=f"bytes */{size}")
            status, headers["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{stop - 1}/{size}"
        self._head(status, "application/octet-stream", stop - start, headers)
        if self.command == "GET":
            stream.seek(start)
            self._body(stream, stop - start)

    def _body(self, stream: BinaryIO, size: int) -> None:
        cut = self._hub.cut
        left = sent = size if cut is None else cut.of(size)
        while left:
            block = stream.read(min(_BLOCK, left))
            self.wfile.write(block)
            left -= len(block)
        self.close_connection = self.close_connection or sent < size

    def _name(self, parts: list[str]) -> str:
        name = "/".join(parts)
        if name in self._hub.refused:
            raise Refusal(HTTPStatus.UNAUTHORIZED, X_Error_Message="Invalid username or password.")
        new = self._hub.moved.get(name)
        if new is not None:
            before = "/api/models/" if self.path.startswith("/api/models/") else "/"
            after = self.path.removeprefix(before + name)
            raise Refusal(HTTPStatus.TEMPORARY_REDIRECT, Location=f"{before}{new}{after}")
        return name

    def _json(self, answer: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(answer).encode(), {}, "application/json")

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str], kind: str = "text/plain") -> None:
        self._head(status, kind, len(body), headers)
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _split(parts: list[str], word: str) -> tuple[list[str], list[str]]:
    """What stands before a word and what after; a repository's name has one part or two."""
    place = parts.index(word, 1)
    return parts[:place], parts[place + 1 :]


def _check_revision(revision: str, commit: str) -> None:
    if revision not in ("main", commit):
        raise _error("RevisionNotFound")


def _tree(folder: Path, inside: str, files: list[Path], recursive: bool, commit: str) -> list[dict[str, Any]]:
    top = folder / inside
    below = [path for path in files if path.is_relative_to(top)]
    if not below:
        raise _error("EntryNotFound", X_Repo_Commit=commit)
    folders = {parent for path in below for parent in path.parents if parent != top and parent.is_relative_to(top)}
    found = sorted(path for path in {*below, *folders} if recursive or path.parent == top)
    return [_folder_entry(folder, path) if path in folders else _file_entry(folder, path) for path in found]


def _folder_entry(folder: Path, path: Path) -> dict[str, Any]:
    inside = path.relative_to(folder).as_posix()
    return {"type": "directory", "path": inside, "size": 0, "oid": hashlib.sha1(inside.encode()).hexdigest()}


def _file_entry(folder: Path, path: Path) -> dict[str, Any]:
    inside, size, oid = path.relative_to(folder).as_posix(), path.stat().st_size, _hash(path)
    large = {"lfs": {"oid": oid, "size": size, "pointerSize": 134}} if path.suffix in _LARGE else {}
    return {"type": "file", "path": inside, "size": size, "oid": oid[:40], **large}


def _sibling(folder: Path, path: Path, blobs: bool) -> dict[str, Any]:
    entry = _file_entry(folder, path)
    name = {"rfilename": entry["path"]}
    if not blobs:
        return name
    large = (
        {"lfs": {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}} if "lfs" in entry else {}
    )
    return name | {"size": entry["size"], "blobId": entry["oid"], **large}


def connect(hub: Hub, home: Path) -> None:
    """huggingface_hub, imported later in this process or in a child of it, uses that hub and no other."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        # Large files come from another service on the real hub, with a client of its own.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextmanager
def served(hub: Hub, folder: Path) -> Iterator[Hub]:
    """A hub with nothing on it and nothing downloaded yet, in a folder.

    Its client does not wait between attempts, and keeps what arrived of a file by the kB instead of by 10 MB.
    """
    import huggingface_hub.constants
    import huggingface_hub.file_download

    cache, impatient = str(folder / "cache"), SimpleNamespace(sleep=lambda _: None)
    with pytest.MonkeyPatch.context() as patch, hub.fresh(folder / "hub"):
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
        patch.setenv("HF_HUB_CACHE", cache)
        patch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        patch.setattr(huggingface_hub.file_download, "time", impatient)
        patch.setattr(huggingface_hub.utils._http, "time", impatient)
        yield hub
