"""A graph to one HTML document: the viewer, the graph's own file and what goes with it, and nothing from elsewhere.

The graph travels as the file that `AttributionGraph.save` writes, compressed, in a block that no browser executes.
The document's policy lets no script and no style run but the two that are named in it by their hashes, and no request
be made. The viewer is built from `viewer/` into `assets/`.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tl_circuits.errors import GraphError, SettingError
from tl_circuits.features.card import FeatureCard
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import file_name, number, share, text
from tl_circuits.graph.files import write_whole
from tl_circuits.graph.tables import unique_names
from tl_circuits.graph.views import NodeName, row_of
from tl_circuits.graph.visible import visible
from tl_circuits.intervention.result import InterventionResult
from tl_circuits.page.card import Card, cards_of
from tl_circuits.page.runs import difference, runs_of

ASSETS = Path(__file__).parent / "assets"
MOST_EDGES = 500_000
"""What a browser re-prunes without a noticeable wait, and an archive of some megabytes."""


@dataclass(frozen=True)
class Host:
    """Who shows a page: nobody in particular, a notebook's `widget`, or a `server`, which alone may be asked for more.

    `acts` says whether it runs interventions; `work` is what was done on the page before.
    """

    name: Literal["widget", "server"] | None = None
    acts: bool = False
    work: Mapping[str, Any] = field(default_factory=dict)


NOBODY = Host()


def save_page(
    graph: AttributionGraph,
    path: str | Path,
    *,
    title: str | None = None,
    cards: Mapping[tuple[int, int], Card | FeatureCard] | None = None,
    pinned: Sequence[NodeName] = (),
    supernodes: Mapping[str, Sequence[NodeName]] | None = None,
    interventions: Mapping[str, InterventionResult | Mapping[str, Any]] | None = None,
    compare: AttributionGraph | None = None,
    nodes: float | None = None,
    edges: float | None = None,
    max_edges: int = MOST_EDGES,
) -> Path:
    """Write the graph as one HTML file that opens anywhere, asks no network and holds it whole; returns its path.

    On the page people search, prune with sliders (which start at `nodes` and `edges`: 0.8 and 0.98, or all of a graph
    that is pruned), follow paths, pin, name and group nodes, and write pictures, tables, JSON and labels. `cards` say
    more of features: what `feature_cards` or `load_cards` made, or cards by (layer, index). `pinned` nodes and
    `supernodes` (label → nodes) are there from the start.

    Raises `GraphError` beyond `max_edges` edges and for nodes that the graph does not hold, `SettingError` for
    thresholds, cards or groups that cannot be, and `FileError` where the file cannot be written.
    """
    file = file_name(path)
    if file.suffix.lower() not in (".html", ".htm"):
        raise SettingError(
            f"'{file}' is a page's file and browsers go by its name: call it '{file.with_suffix('.html')}'."
        )
    page = document(
        graph,
        title=title,
        cards=cards,
        pinned=pinned,
        supernodes=supernodes,
        interventions=interventions,
        compare=compare,
        nodes=nodes,
        edges=edges,
        max_edges=max_edges,
    )
    return write_whole(file, lambda partial: partial.write_text(page, encoding="utf-8"))


def document(
    graph: AttributionGraph,
    *,
    title: str | None = None,
    cards: Mapping[tuple[int, int], Card | FeatureCard] | None = None,
    pinned: Sequence[NodeName] = (),
    supernodes: Mapping[str, Sequence[NodeName]] | None = None,
    interventions: Mapping[str, InterventionResult | Mapping[str, Any]] | None = None,
    compare: AttributionGraph | None = None,
    nodes: float | None = None,
    edges: float | None = None,
    max_edges: int = MOST_EDGES,
    host: Host = NOBODY,
) -> str:
    """The text that `save_page` writes, or the same for whoever shows it and keeps what is done on it."""
    if not isinstance(graph, AttributionGraph):
        raise SettingError(f"{graph!r:.80} is no graph: give what tlc.trace, attribute or load_graph returned.")
    text("title", title)
    if len(graph.edges) > number("save_page", "max_edges", max_edges):
        raise GraphError(
            f"The graph has {len(graph.edges)} edges, a page takes {max_edges}. Prune it first, graph.prune(0.95, "
            f"0.99), or ask for max_edges={len(graph.edges)}."
        )
    beside = {
        "version": _version(),
        "title": title or "",
        "cards": cards_of(graph.nodes, cards or {}),
        "runs": runs_of(graph, interventions),
        "diff": difference(graph, compare),
        "host": host.name,
        "acts": host.acts,
        "work": _work(graph, pinned, supernodes, nodes, edges) | dict(host.work),
    }
    return _html(title or graph.provenance.prompt or "".join(graph.tokens), _file(graph), beside, host)


def _work(
    graph: AttributionGraph,
    pinned: Sequence[NodeName],
    supernodes: Mapping[str, Sequence[NodeName]] | None,
    nodes: float | None,
    edges: float | None,
) -> dict[str, Any]:
    names = unique_names(graph)
    groups: dict[str, list[str]] = {}
    for label, members in _groups(supernodes).items():
        groups[label] = [names[row_of(graph, member)] for member in _nodes(f"supernodes[{label!r:.40}]", members)]
    _refuse_twice(groups)
    pins = [names[row_of(graph, name)] for name in _nodes("pinned", pinned)]
    work: dict[str, Any] = {
        "pins": list(dict.fromkeys([*pins, *(name for members in groups.values() for name in members)])),
        "supernodes": [{"label": label, "members": members} for label, members in groups.items() if members],
    }
    whole = 1.0 if graph.cut_before else None
    for name, threshold in (("nodes", whole if nodes is None else nodes), ("edges", whole if edges is None else edges)):
        if threshold is not None:
            if share(threshold) is None:
                raise SettingError(f"{name}={threshold!r:.80} is no share of influence: give 0 < {name} <= 1, say 0.8.")
            work[name] = float(threshold)
    return work


def _refuse_twice(groups: Mapping[str, Sequence[str]]) -> None:
    group_of: dict[str, str] = {}
    for label, members in groups.items():
        for name in members:
            if group_of.setdefault(name, label) != label:
                raise SettingError(
                    f"{name} is in the supernodes {group_of[name]!r:.40} and {label!r:.40}: a node stands in one."
                )


def _groups(supernodes: object) -> Mapping[str, Any]:
    groups = {} if supernodes is None else supernodes
    if not isinstance(groups, Mapping) or not all(isinstance(label, str) for label in groups):
        raise SettingError(f"supernodes={supernodes!r:.80}: give {{'Texas': ['L20/15589@-1', ...]}}.")
    return groups


def _nodes(name: str, given: object) -> Sequence[Any]:
    # A feature is a tuple, and so a sequence, itself.
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or hasattr(given, "_fields"):
        raise SettingError(f"{name}={given!r:.80}: give a list of nodes, say ['L20/15589@-1'].")
    return given


def _file(graph: AttributionGraph) -> bytes:
    with TemporaryDirectory(prefix="tl_circuits_page") as folder:
        return _steady(graph.save(Path(folder, "graph")).read_bytes())


def _steady(file: bytes) -> bytes:
    # safetensors writes its header in an order of the moment; the same graph is to make the same page.
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def _html(title: str, graph: bytes, beside: Mapping[str, Any], host: Host) -> str:
    script, style = viewer()
    connect = "connect-src 'self'; " if host.name == "server" else ""
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        f"{connect}base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(visible(title))}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            '<div id="page"><noscript>This page needs JavaScript, which is switched off.</noscript></div>',
            f'<script type="application/gzip" id="graph-data">{_packed(graph)}</script>',
            f'<script type="application/gzip" id="page-data">{_packed(json.dumps(beside, allow_nan=False).encode())}'
            "</script>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


@cache
def viewer() -> tuple[str, str]:
    """The viewer's script and style sheet. Only they may hold markup, so they are checked for its end."""
    script, style = ((ASSETS / name).read_text(encoding="utf-8").strip() for name in ("viewer.js", "viewer.css"))
    if "</script" in script.lower() or "<!--" in script or "</style" in style.lower():
        raise GraphError("The built viewer would end its own element: build it anew from tl_circuits/page/viewer.")
    return script, style


def _version() -> str:
    try:
        return version("tl-circuits")
    except PackageNotFoundError:
        return "0"


def _hash(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, mtime=0)).decode()
