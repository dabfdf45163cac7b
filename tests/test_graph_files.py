import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.graphs import Recipe, hostile_graph, random_graph, recipes
from tl_circuits.errors import FileError
from tl_circuits.graph import AttributionGraph, load_graph
from tl_circuits.nodes import Kind


def columns_of(graph: AttributionGraph) -> dict[str, Any]:
    pruned = graph.pruned
    found: dict[str, Any] = {
        **{f"nodes.{name}": getattr(graph.nodes, name) for name in ("kind", "layer", "pos", "index")},
        **{f"edges.{name}": getattr(graph.edges, name) for name in ("indptr", "source", "weight")},
    }
    for name in ("activations", "totals", "expanded", "target_weights", "target_probabilities"):
        found[name] = getattr(graph, name)
    if pruned is not None:
        found |= {f"lost.{name}": getattr(pruned.lost, name) for name in ("kind", "layer", "pos", "index")}
        found |= {f"into.{name}": getattr(pruned.into, name) for name in ("indptr", "source", "weight")}
        found["cumulative"] = pruned.cumulative
    return found


def assert_same(first: AttributionGraph, second: AttributionGraph) -> None:
    for name, column in columns_of(first).items():
        other = columns_of(second)[name]
        assert column.dtype == other.dtype
        torch.testing.assert_close(other, column, rtol=0, atol=0, equal_nan=True)
    for name in ("target_labels", "tokens", "provenance", "labels", "coverage"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("conservation_error", "probe_error"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), nan_ok=True, abs=0)


@pytest.mark.slow
@given(recipes, st.booleans(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_a_saved_graph_is_the_same_graph(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, pruned: bool, dtype: torch.dtype
) -> None:
    graph = recipe()
    graph = dataclasses.replace(graph, edges=dataclasses.replace(graph.edges, weight=graph.edges.weight.to(dtype)))
    graph = graph.prune(0.5, 0.9, errors=True) if pruned else graph
    path = tmp_path_factory.mktemp("graph") / "toy.graph"
    assert graph.save(path) == path
    assert_same(load_graph(path), graph)
    assert [entry.name for entry in path.parent.iterdir()] == ["toy.graph"]


def test_hostile_words_come_back_as_they_were(tmp_path: Path) -> None:
    graph = hostile_graph()
    assert_same(load_graph(graph.save(tmp_path / "hostile.graph")), graph)


def test_saving_replaces_a_graph_that_is_still_in_use(tmp_path: Path) -> None:
    path = random_graph(1).save(tmp_path / "toy.graph")
    loaded = load_graph(path)
    weights = loaded.edges.weight.tolist()
    loaded.prune().save(path)
    assert loaded.edges.weight.tolist() == weights
    assert load_graph(path).pruned is not None


def test_a_saved_graph_is_a_file_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    saved, written = random_graph(1).save(tmp_path / "toy.graph"), tmp_path / "toy.json"
    random_graph(1).to_json(written)
    assert saved.stat().st_mode == written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere/toy.graph' cannot be written.*folder that you may write"):
        random_graph(1).save(tmp_path / "nowhere" / "toy.graph")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"There is no file '.*missing.graph'.*graph.save"):
        load_graph(tmp_path / "missing.graph")


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 64])
def test_pickles_and_noise_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.graph"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"is not a whole safetensors file.*pickles are never opened"):
        load_graph(path)


@pytest.mark.slow
@given(st.data())
def test_a_cut_or_flipped_file_never_reaches_a_stack_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = random_graph(2, n_features=3).prune(0.9, 0.9).save(tmp_path_factory.mktemp("cut") / "toy.graph")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(FileError):
            load_graph(path)
        return
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        load_graph(path)
    except FileError:
        return


def rewrite(path: Path, change_columns: Any = None, change_words: Any = None) -> Path:
    from safetensors import safe_open

    columns = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    words = json.loads(metadata["graph"])
    if change_columns:
        change_columns(columns)
    if change_words:
        change_words(words)
    metadata["graph"] = json.dumps(words)
    save_file({name: column.clone() for name, column in columns.items()}, path, metadata)
    return path


COLUMN_FAULTS = {
    "a missing column": (lambda c: c.pop("totals"), "lacks totals.*Save the graph again"),
    "a column of another type": (
        lambda c: c.update(totals=c["totals"].int()),
        "totals is torch.int32.*a floating type",
    ),
    "a short column": (
        lambda c: c.update(totals=c["totals"][1:]),
        r"totals is torch.float64 \(.*expected a floating type",
    ),
    "a flat column made square": (
        lambda c: c.update({"nodes.kind": c["nodes.kind"][None]}),
        r"nodes.kind is torch.int64 \(1, 30\); expected",
    ),
    "a kind that does not exist": (lambda c: c["nodes.kind"].add_(90), "nodes.kind goes beyond the 8 kinds"),
    "a source beyond the nodes": (lambda c: c["edges.source"][-1:].fill_(10**6), "starts at node 1000000 of"),
    "a source below zero": (lambda c: c["edges.source"][:1].fill_(-1), "starts at node -1"),
    "a weight that is no number": (lambda c: c["edges.weight"][0].fill_(math.nan), "1 of .* edges are not finite"),
    "rows that fall": (lambda c: c["edges.indptr"][1].fill_(10**9), "must rise from 0"),
    "nodes out of order": (lambda c: c["nodes.kind"].copy_(c["nodes.kind"].flip(0)), "out of order"),
    "a layer beyond the model": (lambda c: c["nodes.layer"][0].fill_(77), "lies outside 3 layers"),
    "a loss that goes nowhere": (lambda c: c["pruned.into.source"][-1:].fill_(999), "booked at place 999 of"),
    "a loss outside the prompt": (lambda c: c["pruned.lost.pos"].fill_(2**40), "A loss is booked at .* outside"),
    "a loss of a kind of its own": (lambda c: c["pruned.lost.kind"].fill_(0), "booked as errors or as biases only"),
    "a rank beyond one": (lambda c: c["pruned.cumulative"].fill_(7), "between 0 and 1"),
    "a coverage beyond one": (lambda c: c["figures"][2].fill_(9), "coverage of 9.0 is no share"),
}
WORD_FAULTS = {
    "tokens that are numbers": (lambda w: w.update(tokens=[1, 2, 3]), "see tokens"),
    "labels of another shape": (lambda w: w.update(labels=[[1, "x"]]), "see labels"),
    "no provenance": (lambda w: w.pop("provenance"), "see provenance"),
    "a provenance that lacks a field": (lambda w: w["provenance"].pop("dtype"), "not recorded as expected: see dtype"),
    "a provenance of another type": (lambda w: w["provenance"].update(n_layers="3"), "see n_layers"),
    "masked positions that are words": (lambda w: w["provenance"].update(masked_positions=["x"]), r"not \['x'\]"),
    "a pruning without a threshold": (lambda w: w["pruned"].pop("edge_threshold"), "see pruned"),
    "too few targets": (lambda w: w["target_labels"].pop(), "2 targets, but"),
    "too few tokens": (lambda w: w["tokens"].pop(), "lies outside 3 layers and 2 tokens"),
    "another shape altogether": (lambda w: w.clear(), "see provenance, tokens, target_labels, labels, pruned"),
}


@pytest.mark.parametrize("name", COLUMN_FAULTS)
def test_a_file_with_a_false_column_is_refused(tmp_path: Path, name: str) -> None:
    change, message = COLUMN_FAULTS[name]
    path = random_graph(0).prune(0.7, 0.9).save(tmp_path / "toy.graph")
    with pytest.raises(FileError, match=message):
        load_graph(rewrite(path, change_columns=change))


@pytest.mark.parametrize("name", WORD_FAULTS)
def test_a_file_with_false_words_is_refused(tmp_path: Path, name: str) -> None:
    change, message = WORD_FAULTS[name]
    path = random_graph(0).prune(0.7, 0.9).save(tmp_path / "toy.graph")
    with pytest.raises(FileError, match=message):
        load_graph(rewrite(path, change_words=change))


def test_a_cyclic_file_is_refused(tmp_path: Path) -> None:
    graph = random_graph(0)
    path = graph.save(tmp_path / "toy.graph")
    last = graph.nodes.count(Kind.FEATURE) - 1

    def close_the_circle(columns: dict[str, torch.Tensor]) -> None:
        first = int(columns["edges.indptr"][last])
        columns["edges.source"][first] = last

    def keep_in_order(columns: dict[str, torch.Tensor]) -> None:
        first, stop = columns["edges.indptr"][last : last + 2].tolist()
        close_the_circle(columns)
        columns["edges.source"][first:stop] = columns["edges.source"][first:stop].sort().values

    with pytest.raises(FileError, match=r"does not hold a graph: .*(reads at the same layer or lower|each named once)"):
        load_graph(rewrite(path, change_columns=keep_in_order))


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"format": "tl_circuits.graph", "version": "99", "graph": ""}]
)
def test_another_format_or_version_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.graph"
    save_file({"x": torch.zeros(2)}, path, metadata)
    with pytest.raises(FileError, match=r"this version reads 'tl_circuits.graph' version '1'"):
        load_graph(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_metadata_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.graph"
    save_file({"x": torch.zeros(2)}, path, {"format": "tl_circuits.graph", "version": "1", "graph": text})
    with pytest.raises(FileError, match=r"The metadata of .* is no JSON"):
        load_graph(path)


@pytest.mark.slow
def test_reading_a_graph_loads_no_model_library() -> None:
    code = (
        "import sys, tl_circuits.graph\n"
        "print([name for name in ('transformer_lens', 'sae_lens', 'transformers', 'pandas', 'networkx') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
