"""Graphs of one folder as pages, to this machine alone: the server behind `tl-circuits page --serve`.

Only who knows the token in the address is answered, and only by names of this machine, so that no other page in the
browser can reach it. Nothing outside of the folder is read, whatever links lead there, and nothing is written unless
that was asked for.
"""

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from secrets import compare_digest
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tl_circuits.errors import FileError, SettingError, TLCircuitsError
from tl_circuits.graph import AttributionGraph, load_graph
from tl_circuits.graph.files import is_graph, write_whole
from tl_circuits.page.document import Host, document
from tl_circuits.page.kept import sound_work

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MOST_BYTES = 2_000_000
"""The largest work of a person that is kept."""

ADDRESS = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def application(folder: str | Path, token: str, *, allow_save: bool = False) -> "Starlette":
    """The pages of the graphs in a folder, at `/<token>/`.

    What is done on a page is kept beside its graph, as `<name>.work.json`, where `allow_save` is given. Raises
    `SettingError` without starlette and for a token that could be guessed, `FileError` for what is no folder.
    """
    starlette = _starlette()
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileError(f"'{folder}' is no folder: give the one that your graphs are in.")
    if len(token) < 16:
        raise SettingError(f"A token of {len(token)} letters can be guessed: give at least 16.")
    pages = _Pages(root, token, allow_save)
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    return starlette(
        routes=[
            Route("/{token}/", pages.answer(pages.index), methods=["GET"]),
            Route("/{token}/{name}", pages.answer(pages.page), methods=["GET"]),
            Route("/{token}/{name}", pages.answer(pages.keep), methods=["PUT"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])],
    )


def serve(folder: str | Path, token: str, *, port: int, allow_save: bool) -> None:
    """Answers on this machine until it is interrupted. Raises what `application` raises."""
    made = application(folder, token, allow_save=allow_save)
    import uvicorn

    uvicorn.run(made, host=ADDRESS, port=port, log_level="warning", access_log=False, server_header=False)


def _starlette() -> Any:
    try:
        import uvicorn  # noqa: F401
        from starlette.applications import Starlette
    except ImportError as error:
        raise SettingError(
            f"Serving needs starlette and uvicorn, which are not installed ({error}): pip install "
            "'tl-circuits[serve]'. A page that save_page writes needs no server."
        ) from error
    return Starlette


class _Pages:
    """What is answered to whom."""

    def __init__(self, root: Path, token: str, allow_save: bool) -> None:
        self._root, self._token, self._allow_save = root, token, allow_save

    def answer(self, with_: Callable[["Request"], Any]) -> Callable[["Request"], Any]:
        """The same behind the token, with headers that keep others out, and errors of ours in a line."""
        from starlette.responses import PlainTextResponse

        async def answered(request: "Request") -> "Response":
            if not compare_digest(request.path_params["token"].encode(), self._token.encode()):
                return PlainTextResponse("Not found.", 404, _HEADERS)
            try:
                found: Response = await with_(request)
            except TLCircuitsError as error:
                found = PlainTextResponse(str(error), 400)
            found.headers.update(_HEADERS)
            return found

        return answered

    async def index(self, request: "Request") -> "Response":
        """All graphs of the folder."""
        from starlette.responses import HTMLResponse

        names = sorted(path.name for path in self._root.iterdir() if self._file(path.name) is not None)
        links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in names)
        held = f"<ul>{links}</ul>" if links else "<p>No graph is in this folder.</p>"
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Graphs</title><h1>Graphs</h1>'
        return HTMLResponse(head + held, headers={"Content-Security-Policy": "default-src 'none'"})

    async def page(self, request: "Request") -> "Response":
        """One graph as a page, with what was kept of it."""
        from starlette.responses import HTMLResponse, PlainTextResponse

        file = self._file(request.path_params["name"])
        if file is None:
            return PlainTextResponse("Not found.", 404)
        graph = load_graph(file)
        host = Host("server" if self._allow_save else None, work=self._kept(file, graph))
        return HTMLResponse(document(graph, title=file.name, host=host))

    async def keep(self, request: "Request") -> "Response":
        """Keeps what was done on a page."""
        from starlette.responses import PlainTextResponse, Response

        if not self._allow_save:
            return PlainTextResponse("Nothing is kept: start the server with --allow-save.", 403)
        if request.headers.get("origin") != f"{request.url.scheme}://{request.headers.get('host')}":
            return PlainTextResponse("Another page may not write here.", 403)
        file = self._file(request.path_params["name"])
        if file is None:
            return PlainTextResponse("Not found.", 404)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return PlainTextResponse(f"More than {MOST_BYTES} bytes are not kept.", 413)
        work = sound_work(load_graph(file), _json(body))
        text = json.dumps(work, allow_nan=False)
        write_whole(_beside(file), lambda partial: partial.write_text(text, encoding="utf-8"))
        return Response(status_code=204)

    def _file(self, name: str) -> Path | None:
        """The graph of this name in the folder itself; None where a name or a link leads elsewhere."""
        try:
            path = (self._root / name).resolve()
            inside = path.parent == self._root and path.name == name
            return path if inside and path.is_file() and is_graph(path) else None
        except (OSError, ValueError, RuntimeError):
            # Too long, with a zero byte, or a link to itself.
            return None

    def _kept(self, file: Path, graph: AttributionGraph) -> dict[str, Any]:
        kept = _beside(file)
        if not kept.is_file() or kept.resolve().parent != self._root:
            return {}
        try:
            if kept.stat().st_size > MOST_BYTES:
                raise SettingError(f"It is {kept.stat().st_size:,} bytes large, more than the {MOST_BYTES:,} kept.")
            return sound_work(graph, _json(kept.read_bytes()))
        except (SettingError, OSError) as error:
            raise FileError(
                f"'{kept.name}' is not what a page of '{file.name}' keeps. {error} Move it elsewhere, and the page "
                "starts anew; or mend it."
            ) from error


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.work.json")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"What was done on the page is no JSON: {error}.") from error
