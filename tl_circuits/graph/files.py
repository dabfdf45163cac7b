"""Graphs on disk: one safetensors file, whose metadata is JSON. Nothing in it is ever executed."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError, GraphError
from tl_circuits.graph.asked import file_name
from tl_circuits.graph.edges import Edges
from tl_circuits.graph.record import GraphRecord, Provenance, Pruned
from tl_circuits.nodes import Kind, Nodes

FORMAT, VERSION = "tl_circuits.graph", "1"

_COLUMNS = {
    "nodes.kind": ("node", torch.int64),
    "nodes.layer": ("node", torch.int64),
    "nodes.pos": ("node", torch.int64),
    "nodes.index": ("node", torch.int64),
    "edges.indptr": ("bound", torch.int64),
    "edges.source": ("edge", torch.int32),
    "edges.weight": ("edge", None),
    "activations": ("node", None),
    "totals": ("node", None),
    "expanded": ("node", torch.bool),
    "target_weights": ("target", None),
    "target_probabilities": ("target", None),
    "figures": ("figure", torch.float64),
}
_PRUNED_COLUMNS = {
    "pruned.cumulative": ("node", torch.float64),
    "pruned.lost.kind": ("loss", torch.int64),
    "pruned.lost.layer": ("loss", torch.int64),
    "pruned.lost.pos": ("loss", torch.int64),
    "pruned.lost.index": ("loss", torch.int64),
    "pruned.into.indptr": ("bound", torch.int64),
    "pruned.into.source": ("lost edge", torch.int32),
    "pruned.into.weight": ("lost edge", None),
}
_PRUNED_SETTINGS = {
    "node_threshold": float,
    "edge_threshold": float,
    "errors": bool,
    "constants": bool,
    "nodes_before": int,
    "edges_before": int,
}


def save(graph: GraphRecord, path: str | Path) -> Path:
    """Writes the graph as one file, whole or not at all, and returns its path.

    Raises `FileError` where the file cannot be written.
    """
    path = file_name(path)
    words = {
        "provenance": graph.provenance.to_dict(),
        "tokens": list(graph.tokens),
        "target_labels": list(graph.target_labels),
        "labels": [[layer, index, label] for (layer, index), label in graph.labels.items()],
        "pruned": {name: getattr(graph.pruned, name) for name in _PRUNED_SETTINGS} if graph.pruned else None,
    }
    metadata = {"format": FORMAT, "version": VERSION, "graph": json.dumps(words, allow_nan=False)}
    columns = {name: _owned(column) for name, column in _columns(graph).items()}
    return write_whole(path, lambda partial: save_file(columns, partial, metadata))


def is_whole(path: Path) -> bool:
    """Whether a file is there, and is a graph's as far as its header and its length tell: neither cut off nor empty."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Lets `write` fill a file beside `path` and then puts it in place, so that no reader meets half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        # safetensors makes files that only their owner may read; a graph is a file like any other.
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise FileError(
            f"'{path}' cannot be written: {error}. Give a file name in a folder that you may write."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _columns(graph: GraphRecord) -> dict[str, Tensor]:
    figures = torch.tensor([graph.conservation_error, graph.probe_error, graph.coverage], dtype=torch.float64)
    columns = {
        **_parts("nodes", graph.nodes, "kind", "layer", "pos", "index"),
        **_parts("edges", graph.edges, "indptr", "source", "weight"),
        "activations": graph.activations,
        "totals": graph.totals,
        "expanded": graph.expanded,
        "target_weights": graph.target_weights,
        "target_probabilities": graph.target_probabilities,
        "figures": figures,
    }
    if graph.pruned is None:
        return columns
    return columns | {
        "pruned.cumulative": graph.pruned.cumulative,
        **_parts("pruned.lost", graph.pruned.lost, "kind", "layer", "pos", "index"),
        **_parts("pruned.into", graph.pruned.into, "indptr", "source", "weight"),
    }


def _parts(prefix: str, whole: Nodes | Edges, *names: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": getattr(whole, name) for name in names}


def _owned(column: Tensor) -> Tensor:
    # safetensors refuses tensors that share memory, as the columns of one table do.
    alone = column.is_contiguous() and column.untyped_storage().nbytes() == column.nbytes
    return column if alone else column.contiguous().clone()


def read(path: str | Path) -> dict[str, Any]:
    """The fields of the graph in a file, checked in themselves; the record that they make checks the rest.

    Tensors are memory-mapped. Raises `FileError` where the file is missing, damaged, of another format or inconsistent.
    """
    path = file_name(path)
    if not path.is_file():
        there = f"'{path}' is a folder" if path.is_dir() else f"There is no file '{path}'"
        raise FileError(f"{there}. Give the path that graph.save(...) returned.")
    try:
        with safe_open(path, "pt") as file:
            words = _words(path, file.metadata() or {})
            expected = _COLUMNS | (_PRUNED_COLUMNS if words["pruned"] is not None else {})
            columns = {name: file.get_tensor(name) for name in file.keys() if name in expected}
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"'{path}' is not a whole safetensors file ({error}). A graph is read from what graph.save(...) wrote; "
            f"pickles are never opened. {_way_out(path)}"
        ) from error
    _check_columns(path, columns, expected)
    try:
        return _fields(words, columns)
    except GraphError as error:
        raise FileError(f"'{path}' does not hold a graph: {error}") from error


def is_graph(path: Path) -> bool:
    """Whether a file says that it is a graph of ours, of any version, whole or not."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _way_out(path: Path) -> str:
    if path.suffix not in (".pt", ".pth"):
        return "Save the graph again."
    names = shlex.join([str(path), str(path.with_suffix(".graph"))])
    return f"If circuit-tracer wrote it, convert it once: `tl-circuits convert {names}`."


def _words(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"{metadata.get('format')!r} version {metadata.get('version')!r}"
        raise FileError(
            f"'{path}' says it is {found}, this version reads {FORMAT!r} version {VERSION!r}. Give a file that "
            "graph.save(...) wrote, or read it with the version of tl_circuits that wrote it."
        )
    try:
        words = json.loads(metadata.get("graph", ""))
    except (ValueError, RecursionError) as error:
        raise FileError(f"The metadata of '{path}' is no JSON ({error}). Save the graph again.") from error
    expected = {"provenance": dict, "tokens": list, "target_labels": list, "labels": list, "pruned": (dict, type(None))}
    wrong = [
        name
        for name, kind in expected.items()
        if not isinstance(words, dict) or not isinstance(words.get(name, 0), kind)
    ]
    if not wrong:
        wrong += [
            name for name in ("tokens", "target_labels") if not all(isinstance(word, str) for word in words[name])
        ]
        wrong += [] if all(_is_label(entry) for entry in words["labels"]) else ["labels"]
        pruned = words["pruned"]
        wrong += (
            []
            if pruned is None or {name: type(value) for name, value in pruned.items()} == _PRUNED_SETTINGS
            else ["pruned"]
        )
    if wrong:
        raise FileError(f"The metadata of '{path}' is not a graph's: see {', '.join(wrong)}. Save the graph again.")
    return words


def _is_label(entry: object) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]


def _check_columns(path: Path, columns: Mapping[str, Tensor], expected: Mapping[str, tuple[str, Any]]) -> None:
    if missing := sorted(expected.keys() - columns.keys()):
        raise FileError(f"'{path}' lacks {', '.join(missing)}. Save the graph again.")
    lengths = {"figure": 3, "bound": columns["nodes.kind"].numel() + 1}
    for name, (axis, dtype) in expected.items():
        column = columns[name]
        typed = column.dtype == dtype if dtype else column.is_floating_point()
        length = lengths.setdefault(axis, column.numel())
        if not typed or tuple(column.shape) != (length,):
            raise FileError(
                f"In '{path}', {name} is {column.dtype} {tuple(column.shape)}; expected "
                f"{dtype or 'a floating type'} ({length},). Save the graph again."
            )
    for name in ("nodes.kind", "pruned.lost.kind"):
        if name in columns and bool(((columns[name] < 0) | (columns[name] > max(Kind))).any()):
            raise FileError(f"In '{path}', {name} goes beyond the {len(Kind)} kinds of nodes. Save the graph again.")


def _fields(words: Mapping[str, Any], columns: Mapping[str, Tensor]) -> dict[str, Any]:
    conservation_error, probe_error, coverage = columns["figures"].tolist()
    pruned = words["pruned"] and Pruned(
        **words["pruned"],
        cumulative=columns["pruned.cumulative"],
        lost=Nodes(*(columns[f"pruned.lost.{name}"] for name in ("kind", "layer", "pos", "index"))),
        into=Edges(*(columns[f"pruned.into.{name}"] for name in ("indptr", "source", "weight"))),
    )
    return {
        "nodes": Nodes(*(columns[f"nodes.{name}"] for name in ("kind", "layer", "pos", "index"))),
        "edges": Edges(*(columns[f"edges.{name}"] for name in ("indptr", "source", "weight"))),
        **{
            name: columns[name]
            for name in ("activations", "totals", "expanded", "target_weights", "target_probabilities")
        },
        "target_labels": tuple(words["target_labels"]),
        "tokens": tuple(words["tokens"]),
        "conservation_error": conservation_error,
        "probe_error": probe_error,
        "coverage": coverage,
        "provenance": Provenance.from_dict(words["provenance"]),
        "labels": {(layer, index): label for layer, index, label in words["labels"]},
        "pruned": pruned,
    }
