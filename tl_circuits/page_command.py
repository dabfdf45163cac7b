"""`tl-circuits page`: a graph's file as a page to look at."""

import sys
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_circuits.options import AsJson, share
from tl_circuits.terminal import check_place, show, working

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from tl_circuits.features import FeatureCards
    from tl_circuits.graph import AttributionGraph
    from tl_circuits.graph.views import NodeName
    from tl_circuits.nodes import Feature


@dataclass(frozen=True)
class Written:
    """What was written, and of what."""

    page: Path
    size: int
    nodes: int
    edges: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"page": str(self.page), "bytes": self.size, "nodes": self.nodes, "edges": self.edges}

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        from tl_circuits.graph.report import visible

        said = f"{visible(self.page)}: {self.nodes} nodes and {self.edges} edges in {self.size / 1024:.0f} KiB"
        yield Text(f"{said}. Open it in any browser.", overflow="fold")


def _serve(folder: Path, port: int, allow_save: bool, open_it: bool) -> None:
    with working():
        import socket
        from secrets import token_urlsafe

        from tl_circuits.page.server import ADDRESS, serve

        token = token_urlsafe(24)
        if port == 0:
            with socket.socket() as free:
                free.bind((ADDRESS, 0))
                port = free.getsockname()[1]
        address = f"http://{ADDRESS}:{port}/{token}/"
        typer.echo(f"Graphs of {folder}, to this machine alone, until Ctrl-C: {address}", file=sys.__stdout__)
        if open_it:
            webbrowser.open(address)
        serve(folder, token, port=port, allow_save=allow_save)


def _grouped(file: Path) -> "tuple[list[Feature], dict[str, Sequence[NodeName]]]":
    """What was pinned and put together in the viewer that wrote a file; nothing of a file of ours."""
    from tl_circuits.graph import load_supernodes
    from tl_circuits.graph.viewer_file import is_viewer_file

    groups = load_supernodes(file) if is_viewer_file(file) else {}
    # A pin outside of supernodes goes by its own name.
    alone = [members[0] for name, members in groups.items() if members == (_named(name),)]
    return alone, {name: list(members) for name, members in groups.items() if members[0] not in alone}


def _labelled(graph: "AttributionGraph", cards: "FeatureCards") -> "AttributionGraph":
    from tl_circuits.errors import warn_once

    own, theirs = dict(graph.labels), cards.labels()
    behind = sum(own.get(feature, label) != label for feature, label in theirs.items())
    if behind:
        warn_once(
            f"Of {len(theirs)} labels of the cards {behind} are not shown: the graph has its own of these features.",
            stacklevel=2,
        )
    return graph.with_labels(theirs | own)


def _printed(file: Path) -> dict[str, Any]:
    """What a command printed into a file."""
    import json

    from tl_circuits.errors import FileError

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"'{file}' cannot be read as JSON ({error}): give what `tl-circuits intervene --json` printed."
        ) from error
    if not isinstance(found, dict):
        raise FileError(f"'{file}' holds no intervention: give what `tl-circuits intervene --json` printed.")
    return found


def _named(name: str) -> "Feature | None":
    from tl_circuits.nodes import Feature

    return Feature.parse(name) if Feature.names(name) else None


def page_command(
    graph: Annotated[Path, typer.Argument(metavar="GRAPH", help="A graph's file: ours, or the JSON of a viewer.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; by default beside the graph.")] = None,
    nodes: Annotated[float | None, typer.Option(callback=share, help="Where the slider of nodes starts.")] = None,
    edges: Annotated[float | None, typer.Option(callback=share, help="Where the slider of edges starts.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels of features, as a page wrote them.")] = None,
    cards: Annotated[
        str | None, typer.Option(help="Cards of features: what `cards` wrote, a release or a repository that has some.")
    ] = None,
    interventions: Annotated[
        list[Path] | None,
        typer.Option("--intervention", help="What `intervene --json` printed, in a file; may be given again."),
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another graph's file, to be told apart from this one.")] = None,
    title: Annotated[str | None, typer.Option(help="What the page is called; by default the prompt.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve all graphs of the folder, to this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to serve; 0 takes one that is free.")] = 0,
    allow_save: Annotated[bool, typer.Option("--allow-save", help="Keep beside each graph what is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a graph as one HTML file to look at, prune, search and label it; no network is asked.

    With --serve GRAPH may be a folder, and no file is written. For JSON of other viewers' see trace --json-out.
    """
    if serve:
        _serve(graph if graph.is_dir() else graph.parent, port, allow_save, open_it)
        return
    with working():
        from tl_circuits.errors import SettingError
        from tl_circuits.features import load_cards
        from tl_circuits.graph import load_graph
        from tl_circuits.page import load_labels, save_page

        if graph.is_dir():
            raise SettingError(f"'{graph}' is a folder: give a graph's file, or --serve to look at all that it holds.")
        place = graph.with_suffix(".html") if out is None else out
        check_place(place)
        found = load_graph(graph)
        found = found if labels is None else found.with_labels(load_labels(labels))
        known = None if cards is None else load_cards(cards, features=found)
        found = found if known is None else _labelled(found, known)
        pinned, supernodes = _grouped(graph)
        page = save_page(
            found,
            place,
            title=title,
            cards=known,
            pinned=pinned,
            supernodes=supernodes,
            interventions={file.stem: _printed(file) for file in interventions or []},
            compare=None if compare is None else load_graph(compare),
            nodes=nodes,
            edges=edges,
        )
        written = Written(page, page.stat().st_size, len(found.nodes), len(found.edges))
    show(written, as_json)
    if open_it:
        webbrowser.open(page.resolve().as_uri())
