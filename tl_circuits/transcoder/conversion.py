"""From files of one kind to files of another: any transcoder to a folder, a circuit-tracer graph to one of ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from tl_circuits.errors import FileError
from tl_circuits.graph.circuit_tracer import convert_graph
from tl_circuits.graph.files import is_graph
from tl_circuits.graph.report import visible
from tl_circuits.nodes import Kind
from tl_circuits.transcoder.files import save_transcoder
from tl_circuits.transcoder.files.dunefsky import read as read_dunefsky
from tl_circuits.transcoder.files.folders import check_free
from tl_circuits.transcoder.files.formats import everything
from tl_circuits.transcoder.load import load_transcoder
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_PICKLED = (".pt", ".pth")
_TOLD = {"n_layers": "layers", "n_features": "features per layer"}


@dataclass(frozen=True)
class Converted:
    """What was written where, and facts about it by their names."""

    source: str
    out: Path
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"source": self.source, "out": str(self.out), **self.facts}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        told = ", ".join(f"{_TOLD.get(name, name)} {value}" for name, value in self.facts.items() if value is not None)
        yield Text(f"{visible(self.source)} → {visible(self.out)}", overflow="fold")
        yield Text(visible(told), overflow="fold")


def convert(source: str, out: Path, *, layout: str, variant: str | None, overwrite: bool) -> Converted:
    """Writes a transcoder as a folder in a layout of `save_transcoder`, or a graph as a file for `load_graph`.

    The source is whatever `load_transcoder` takes by name, a folder of Dunefsky et al.'s `.pt` files, or a `.pt` graph
    of circuit-tracer. Raises `FileError` where it is none of these, and where `out` exists (without `overwrite`) or
    cannot be written, before anything is fetched.
    """
    path = Path(source).expanduser()
    _check_source(source, path)
    is_pickled = path.suffix.lower() in _PICKLED and path.is_file()
    is_dunefsky = path.is_dir() and any(path.glob("*.pt")) and not everything(path)
    if variant is not None and (is_pickled or is_dunefsky):
        raise FileError(f"'{source}' is one {'graph' if is_pickled else 'transcoder'}: leave out --variant {variant}.")
    if is_pickled:
        graph = convert_graph(path, out, overwrite=overwrite)
        facts = {"kind": "graph", "features": graph.nodes.count(Kind.FEATURE), "nodes": len(graph.nodes)}
        return Converted(source, out, facts | {"edges": len(graph.edges), "model": graph.provenance.model})
    check_free(out, (lambda _: True) if overwrite else None)
    transcoder = read_dunefsky(path) if is_dunefsky else load_transcoder(source, variant=variant)
    save_transcoder(transcoder, out, layout=layout, overwrite=overwrite)
    return Converted(source, out, _facts(transcoder) | {"layout": layout})


def _check_source(source: str, path: Path) -> None:
    if path.suffix.lower() in _PICKLED and not path.exists():
        raise FileError(
            f"There is no file '{source}' on this machine: check its path. A graph is given as the .pt file that "
            "circuit-tracer wrote, and the transcoders of Dunefsky et al. as their folder."
        )
    if path.is_file() and is_graph(path):
        raise FileError(
            f"'{source}' is a graph of tl_circuits already, and nothing is to be converted: tlc.load_graph reads it, "
            "and the to_json of what it returns writes JSON for viewers."
        )


def _facts(transcoder: CrossLayerTranscoder) -> dict[str, Any]:
    n_features = transcoder.n_features
    return {
        "kind": "per-layer transcoder" if transcoder.is_per_layer else "cross-layer transcoder",
        "n_layers": transcoder.n_layers,
        "n_features": n_features[0] if len(set(n_features)) == 1 else list(n_features),
        "read": transcoder.read,
        "write": transcoder.write,
        "model": transcoder.model_name,
    }
