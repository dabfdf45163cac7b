"""circuit-tracer's pickled graphs become ours, with its numbers, and without running what they hold."""

import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.graphs import GOLDEN, Recipe, golden, names_in_order, random_graph, recipes
from tl_circuits.errors import FileError, SettingError
from tl_circuits.graph import AttributionGraph, circuit_tracer, load_graph
from tl_circuits.graph.circuit_tracer import convert_graph
from tl_circuits.nodes import Kind

WRITTEN = Path(__file__).parent / "golden" / "graphs"
PAPER = (Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)

UNIFIED = "circuit_tracer.utils.tl_nnsight_mapping"
TARGETS = "circuit_tracer.attribution.targets"
TRANSFORMER_LENS = (
    "transformer_lens.HookedTransformerConfig",
    "transformer_lens.config.HookedTransformerConfig",
    "transformer_lens.config.hooked_transformer_config",
)


class UnifiedConfig:
    """Pickled under the module that the original's is in."""


class HookedTransformerConfig:
    """Pickled under the modules that the original's has been in."""


class LogitTarget(NamedTuple):
    """Pickled under the module that the original's is in."""

    token_str: str
    vocab_idx: int


class Door:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


class Shell:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


@contextmanager
def pretending(kind: type, module: str) -> Iterator[None]:
    """Within, `kind` is what a module that is not loaded here calls so."""
    parts = list(accumulate(module.split("."), "{}.{}".format))
    stage = {part: ModuleType(part) for part in parts}
    setattr(stage[module], kind.__name__, kind)
    before = {name: sys.modules.get(name) for name in stage}
    kind.__module__ = module
    sys.modules |= stage
    try:
        yield
    finally:
        for name, loaded in before.items():
            if loaded is None:
                del sys.modules[name]
            else:
                sys.modules[name] = loaded


def config(kind: type = UnifiedConfig, **settings: object) -> Any:
    found = kind()
    found.__dict__ |= {"n_layers": 3, "d_vocab": 40, "model_name": "toy", "tokenizer_name": "toy/tokenizer"}
    found.__dict__ |= {"dtype": torch.bfloat16} | settings
    return found


def write(path: Path, content: object) -> Path:
    """What circuit-tracer saves with these entries."""
    with pretending(UnifiedConfig, UNIFIED), pretending(LogitTarget, TARGETS):
        torch.save(content, path)
    return path


def entries_of(graph: AttributionGraph, **others: object) -> dict[str, Any]:
    """What circuit-tracer would have saved of a graph: constants are not in it."""
    nodes, paper = graph.nodes, graph.nodes.rows(*PAPER)
    features, targets = nodes.span(Kind.FEATURE), nodes.index[nodes.span(Kind.TARGET)].tolist()
    place = torch.stack([nodes.layer[features], nodes.pos[features], nodes.index[features]], dim=1)
    labelled = zip(graph.target_labels, targets, strict=True)
    return {
        "input_string": graph.provenance.prompt,
        "adjacency_matrix": graph.adjacency()[paper][:, paper],
        "cfg": config(n_layers=graph.provenance.n_layers),
        "active_features": place.T.contiguous().T,
        "logit_targets": [LogitTarget(label, token) for label, token in labelled],
        "logit_probabilities": graph.target_weights,
        "vocab_size": 40,
        "input_tokens": nodes.index[nodes.span(Kind.TOKEN)],
        "selected_features": torch.arange(len(place)),
        "activation_values": graph.activations[features],
        "scan": "toy/clt",
    } | others


def toy(**others: object) -> dict[str, Any]:
    """The entries of 8 features, 3 layers × 3 tokens and 2 targets: 22 nodes."""
    return entries_of(random_graph(4, n_layers=3, n_pos=3, n_features=8, n_targets=2), **others)


# The same graph, with circuit-tracer's numbers


def assert_circuit_tracers(graph: AttributionGraph, expected: dict[str, Tensor], scores: tuple[float, float]) -> None:
    # circuit-tracer does not divide the targets' weights by their sum.
    influence = graph.influence() * graph.target_weights.sum()
    torch.testing.assert_close(influence, expected["node_influence"].double(), atol=1e-6, rtol=0)
    pruned, mask = graph.prune(nodes=0.8, edges=0.98, errors=True), expected["prune_node_mask"]
    kept = graph.nodes.subset(mask)
    assert names_in_order(pruned) == [str(kept[row]) for row in range(len(kept))]
    assert torch.equal(pruned.adjacency() != 0, expected["prune_edge_mask"][mask][:, mask])
    assert pruned.pruned is not None
    torch.testing.assert_close(pruned.pruned.cumulative, expected["prune_cumulative"][mask].double(), atol=1e-6, rtol=0)
    found = graph.scores()
    assert (found.replacement, found.completeness_circuit_tracer) == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("name", ["capped", "custom"])
def test_a_file_that_circuit_tracer_wrote_becomes_its_graph(name: str) -> None:
    expected = load_file(WRITTEN / f"{name}.safetensors")
    replacement, completeness = expected["graph_scores"].tolist()
    graph = convert_graph(WRITTEN / f"{name}.pt")
    assert torch.equal(graph.adjacency(), expected["adjacency_matrix"])
    assert_circuit_tracers(graph, expected, (replacement, completeness))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_graph_in_such_a_file_keeps_circuit_tracers_numbers(path: Path, tmp_path: Path) -> None:
    known = golden(path)
    values = known.expected["activation_values"]
    entries = entries_of(known.graph, activation_values=values[known.expected["selected_features"]])
    graph = convert_graph(write(tmp_path / "golden.pt", entries))
    assert torch.equal(graph.adjacency(), known.expected["adjacency_matrix"])
    assert torch.equal(graph.activations[graph.nodes.span(Kind.FEATURE)], entries["activation_values"])
    assert torch.equal(graph.target_weights, known.expected["logit_probabilities"])
    assert_circuit_tracers(graph, known.expected, known.scores)


@pytest.mark.slow
@given(recipes)
def test_what_circuit_tracer_would_save_of_a_graph_comes_back_without_constants(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe
) -> None:
    graph = recipe()
    found = convert_graph(write(tmp_path_factory.mktemp("graph") / "graph.pt", entries_of(graph)))
    paper = graph.nodes.rows(*PAPER)
    assert names_in_order(found) == [str(graph.nodes[row]) for row in paper.nonzero().squeeze(1).tolist()]
    assert torch.equal(found.adjacency(), graph.adjacency()[paper][:, paper])
    assert torch.equal(found.expanded, graph.expanded[paper])
    torch.testing.assert_close(found.influence(), graph.influence()[paper], rtol=1e-12, atol=0)
    assert found.target_weights.tolist() == graph.target_weights.tolist()
    assert found.target_labels == graph.target_labels


def test_it_says_where_it_came_from_and_what_is_unknown() -> None:
    graph = convert_graph(WRITTEN / "capped.pt")
    origin = graph.provenance
    assert origin.prompt == "<bos> word15 word16 word23 word31 word3"
    assert (origin.model, origin.transcoder, origin.dtype) == ("random-gpt2-shape", "random/transcoder", "float32")
    assert (origin.n_layers, origin.read, origin.write, origin.transcoder_kind) == (3, "", "", "transcoder")
    assert origin.settings["converted_from"] == "circuit-tracer"
    assert origin.settings["file"] == "capped.pt"
    assert (origin.settings["active_features"], origin.settings["selected_features"]) == (75, 20)
    assert np.isnan(graph.conservation_error)
    assert np.isnan(graph.probe_error)
    reads = graph.nodes.rows(Kind.FEATURE, Kind.TARGET)
    assert torch.equal(graph.expanded, reads)
    torch.testing.assert_close(graph.totals[reads], graph.edges.sums()[reads], rtol=0, atol=0)
    assert graph.totals[~reads].isnan().all()
    targets = graph.nodes.span(Kind.TARGET)
    assert torch.equal(graph.activations[targets], graph.totals[targets])
    assert "not measured" in repr(graph)


def test_targets_keep_their_texts_ids_and_probabilities() -> None:
    graph = convert_graph(WRITTEN / "capped.pt")
    targets = graph.nodes.span(Kind.TARGET)
    assert graph.target_labels[0] == " word13"
    assert (graph.nodes.index[targets][0], graph.nodes.layer[targets][0], graph.nodes.pos[targets][0]) == (13, 3, 5)
    assert torch.equal(graph.target_probabilities, graph.target_weights)


def test_directions_that_are_no_tokens_have_weights_and_no_probabilities() -> None:
    graph = convert_graph(WRITTEN / "custom.pt")
    assert graph.target_labels == ("a - b", "c")
    torch.testing.assert_close(graph.target_weights, torch.tensor([0.7, 0.1]).double())
    assert graph.target_probabilities.isnan().all()
    assert graph.nodes.index[graph.nodes.span(Kind.TARGET)].tolist() == [-1, -1]


def test_selected_features_keep_their_activations(tmp_path: Path) -> None:
    entries = toy()
    active = torch.cat([torch.tensor([[0, 0, 0]]), entries["active_features"] + torch.tensor([0, 0, 1])])
    values, selected = torch.arange(9.0) + 1, torch.arange(8) + 1
    some = {"active_features": active, "activation_values": values, "selected_features": selected}
    graph = convert_graph(write(tmp_path / "some.pt", entries | some))
    assert [list(feature) for feature in graph.nodes.features()] == active[1:].tolist()
    assert graph.activations[:8].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_token_may_lie_beyond_what_the_tokenizer_calls_its_vocabulary(tmp_path: Path) -> None:
    targets = [LogitTarget("<added>", 35), LogitTarget("a - b", 41)]
    entries = toy(cfg=config(d_vocab=40), vocab_size=30, logit_targets=targets)
    graph = convert_graph(write(tmp_path / "added.pt", entries))
    assert graph.nodes.index[graph.nodes.span(Kind.TARGET)].tolist() == [35, -1]
    assert graph.target_probabilities.isnan().tolist() == [False, True]


def test_tokens_are_written_as_ids_or_as_decode_has_them() -> None:
    words = ["<bos>"] + [f" word{number}" for number in range(1, 40)]
    assert convert_graph(WRITTEN / "capped.pt").tokens == ("#0", "#15", "#16", "#23", "#31", "#3")
    graph = convert_graph(WRITTEN / "capped.pt", decode=words.__getitem__)
    assert "".join(graph.tokens) == graph.provenance.prompt
    with pytest.raises(SettingError, match=r"decode\(0\) gives b'' and no text: .*tokenizer.decode"):
        convert_graph(WRITTEN / "capped.pt", decode=bytes)  # pyright: ignore[reportArgumentType]


# Other versions' files


@pytest.mark.parametrize("module", TRANSFORMER_LENS)
def test_early_files_hold_transformer_lenss_settings_and_ids_alone(tmp_path: Path, module: str) -> None:
    settings = config(HookedTransformerConfig, initializer_range=0.8 / np.sqrt(8), device=torch.device("cpu"))
    entries = toy(cfg=settings, logit_tokens=torch.tensor([0, 1]), scan=["layer 0", "layer 1"])
    del entries["logit_targets"], entries["vocab_size"]
    with pretending(HookedTransformerConfig, module):
        graph = convert_graph(write(tmp_path / "early.pt", entries), decode="abcdefghij".__getitem__)
    assert torch.equal(graph.adjacency(), entries["adjacency_matrix"])
    assert graph.target_labels == ("a", "b")
    assert not graph.target_probabilities.isnan().any()
    assert (graph.provenance.model, graph.provenance.dtype) == ("toy", "bfloat16")
    assert graph.provenance.transcoder == "layer 0, layer 1"


def test_targets_may_be_a_tensor_of_ids(tmp_path: Path) -> None:
    graph = convert_graph(write(tmp_path / "ids.pt", toy(logit_targets=torch.tensor([5, 39]))))
    assert graph.target_labels == ("#5", "#39")


def test_numbers_of_numpy_1_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "new.pt", toy(cfg=config(attn_scale=np.float64(2.0))))
    renamed = tmp_path / "old.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(renamed, "w") as other:
        for entry in archive.infolist():
            stored = archive.read(entry)
            assert not entry.filename.endswith("data.pkl") or b"numpy._core" in stored
            other.writestr(entry, stored.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert convert_graph(renamed).provenance.model == "toy"


def test_what_is_unnamed_in_the_settings_stays_unnamed(tmp_path: Path) -> None:
    cfg = config(model_name=None, tokenizer_name=None, dtype="torch.float16", d_vocab=None)
    entries = toy(cfg=cfg, scan=None, vocab_size=1)
    graph = convert_graph(write(tmp_path / "unnamed.pt", entries))
    assert (graph.provenance.model, graph.provenance.transcoder, graph.provenance.dtype) == ("", "", "float16")
    assert graph.target_probabilities.isnan().tolist() == [False, True]
    del cfg.__dict__["dtype"]
    assert convert_graph(write(tmp_path / "unnamed.pt", entries)).provenance.dtype == "float64"


# The file that is written


def test_it_is_saved_where_a_file_is_named(tmp_path: Path) -> None:
    graph = convert_graph(WRITTEN / "capped.pt", tmp_path / "capped.graph")
    found = load_graph(tmp_path / "capped.graph")
    assert torch.equal(found.adjacency(), graph.adjacency())
    assert found.provenance == graph.provenance
    assert found.to_json() == graph.to_json()


def test_a_file_that_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    source = write(tmp_path / "graph.pt", toy())
    before = source.read_bytes()
    with pytest.raises(FileError, match=r"graph.pt' exists already: .* overwrite=True"):
        convert_graph(source, source)
    assert source.read_bytes() == before
    convert_graph(source, source, overwrite=True)
    assert len(load_graph(source).nodes) == 22


def test_the_graph_outlives_its_file(tmp_path: Path) -> None:
    entries = toy(logit_probabilities=torch.tensor([0.25, 0.5], dtype=torch.float64))
    source = write(tmp_path / "graph.pt", entries)
    graph = convert_graph(source)
    source.write_bytes(bytes(source.stat().st_size))
    assert torch.equal(graph.adjacency(), entries["adjacency_matrix"])
    assert torch.equal(graph.target_weights, entries["logit_probabilities"])
    assert graph.nodes.index[graph.nodes.span(Kind.TOKEN)].tolist() == [7, 8, 9]


def test_a_matrix_is_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert_graph(WRITTEN / "custom.pt").adjacency()
    for band in (1, 250, 10**4):
        monkeypatch.setattr(circuit_tracer, "_BAND", band)
        assert torch.equal(convert_graph(WRITTEN / "custom.pt").adjacency(), whole)


# What is refused


def test_a_pickled_graph_is_refused_by_load_graph_with_the_way_to_convert_it() -> None:
    way_out = r"capped.pt' is not a whole safetensors file.*once: `tl-circuits convert .*capped.pt .*capped.graph`"
    with pytest.raises(FileError, match=way_out):
        load_graph(WRITTEN / "capped.pt")


def test_a_pickle_that_runs_a_command_is_not_opened(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for content in (Shell(mark), toy(cfg=Shell(mark)), toy(scan=[Shell(mark)]), {Shell(mark): 1}):
        with pytest.raises(
            FileError, match=r"plain settings \(it names posix.system\).* run code, and was left unread"
        ):
            convert_graph(write(tmp_path / "evil.pt", content))
    settings = config()
    settings.door = Door()
    with pytest.raises(FileError, match=r"\(it names _pytest.outcomes\.\w+\).* left unread\. Save the graph again"):
        convert_graph(write(tmp_path / "evil.pt", toy(cfg=settings)))
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0, 10, 1000, 4000, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes((WRITTEN / "capped.pt").read_bytes()[:kept])
    with pytest.raises(FileError, match=r"cut.pt' cannot be read .*File is not a zip file.* damaged.*Save the graph"):
        convert_graph(path)


@pytest.mark.slow
@given(st.data())
def test_a_flipped_file_never_reaches_a_stack_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((WRITTEN / "capped.pt").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flipped") / "flipped.pt"
    path.write_bytes(content)
    try:
        convert_graph(path)
    except FileError as error:
        assert "flipped.pt" in str(error)  # noqa: PT017 (a flip may also leave a lawful graph)


def test_a_file_that_would_swell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swollen.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(FileError, match=r"10000000 bytes are said to be in a file of \d{4,5}\)"):
        convert_graph(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"There is no file '.*missing.pt'\. Give the .pt file that circuit-tracer"):
        convert_graph(tmp_path / "missing.pt")
    with pytest.raises(FileError, match=r"' is a folder\. Give the .pt file"):
        convert_graph(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"cfg": {"n_layers": 3}, "W_enc": torch.ones(2)},
            r"holds a dict of W_enc, cfg, and not circuit-tracer's graph",
        ),
        ({}, r"holds a dict of nothing, and not .*Give the file that graph.to_pt"),
        ([1], r"holds a list, and not"),
        (torch.ones(2), r"holds a Tensor, and not"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(FileError, match=message):
        convert_graph(write(tmp_path / "other.pt", content))


def nested() -> list[Any]:
    """A list whose text would be 2**60 words long."""
    found: list[Any] = []
    for _ in range(60):
        found = [found, found]
    return found


def changed(row: int, column: int, value: float) -> Callable[[], dict[str, Any]]:
    def entries() -> dict[str, Any]:
        found = toy()
        found["adjacency_matrix"][row, column] = value
        return found

    return entries


WRONG: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a matrix that is not square": (
        lambda: toy(adjacency_matrix=torch.zeros(22, 21)),
        r"adjacency_matrix in .* is torch.float32 \(22, 21\), but a tensor of floating numbers, shape \(22, 22\) for "
        r"8 features, 3 × 3 errors, 3 tokens, 2 targets was expected.*graph.to_pt",
    ),
    "a matrix of whole numbers": (
        lambda: toy(adjacency_matrix=torch.zeros(22, 22, dtype=torch.int64)),
        r"adjacency_matrix in .* is torch.int64 \(22, 22\), but a tensor of floating",
    ),
    "a matrix that is not stored": (
        lambda: toy(adjacency_matrix=torch.ones(1).expand(22, 22)),
        r"adjacency_matrix in .* is \(22, 22\) of 4 bytes, but 1936 bytes was expected",
    ),
    "a sparse matrix": (
        lambda: toy(adjacency_matrix=torch.zeros(22, 22).to_sparse()),
        r"adjacency_matrix in .* is torch.float32 \(22, 22\), but",
    ),
    "a matrix of no device": (
        lambda: toy(adjacency_matrix=torch.zeros(22, 22, device="meta")),
        r"adjacency_matrix in .* is torch.float32 \(22, 22\), but",
    ),
    "no matrix": (lambda: toy(adjacency_matrix=None), r"adjacency_matrix in .* is not there, but a tensor"),
    "an edge that is not a number": (
        changed(21, 0, float("nan")),
        r"does not hold a graph: 1 of \d+ edges are not fin",
    ),
    "an edge into an error": (changed(9, 0, 1.0), r"does not hold a graph: 1 nodes have inputs but are not expanded"),
    "an edge out of a target": (changed(21, 20, 1.0), r"does not hold a graph: An edge starts at a target"),
    "an edge downwards": (changed(0, 7, 1.0), r"does not hold a graph: .* feeds .*Features feed higher layers only"),
    "a feature that was never active": (
        lambda: toy(selected_features=torch.arange(8) + 1),
        r"selected_features in .* is 1 to 8, but numbers from 0 to 7 was expected",
    ),
    "a feature before the first": (
        lambda: toy(selected_features=torch.arange(8) - 1),
        r"selected_features in .* is -1 to 6, but numbers from 0 to 7",
    ),
    "a feature selected twice": (
        lambda: toy(selected_features=torch.tensor([0, 0, 2, 3, 4, 5, 6, 7])),
        r"does not hold a graph: Feature (\S+) stands after \1",
    ),
    "a feature of no layer": (
        lambda: toy(active_features=toy()["active_features"] + torch.tensor([2, 0, 0])),
        r"does not hold a graph: Node L\d+\S+ lies outside 3 layers and 3 tokens",
    ),
    "features in two columns": (
        lambda: toy(active_features=torch.zeros(8, 2, dtype=torch.int64)),
        r"active_features in .* is torch.int64 \(8, 2\), but a tensor of whole numbers, shape \(any, 3\)",
    ),
    "too few activations": (
        lambda: toy(activation_values=torch.ones(7)),
        r"activation_values in .* is torch.float32 \(7,\), but .* shape \(8\)",
    ),
    "an activation that is not a number": (
        lambda: toy(activation_values=torch.full((8,), torch.nan)),
        r"does not hold a graph: A feature or a target has no finite activation",
    ),
    "weights that are not numbers": (
        lambda: toy(logit_probabilities=torch.tensor([0.5, torch.inf])),
        r"does not hold a graph: The target weights are \[0.5, inf\]",
    ),
    "too many weights": (
        lambda: toy(logit_probabilities=torch.ones(3)),
        r"logit_probabilities in .* is torch.float32 \(3,\), but .* shape \(2\)",
    ),
    "targets without ids": (
        lambda: toy(logit_targets=["a", "b"]),
        r"logit_targets in .* is a list with a, but a text and an id for each target",
    ),
    "a target beyond counting": (
        lambda: toy(logit_targets=[LogitTarget("a", 0), LogitTarget("b", 2**63 - 1)]),
        r"logit_targets in .* is a list with a Target, but",
    ),
    "no targets": (lambda: toy(logit_targets=None, logit_tokens=nested()), r"logit_targets in .* is not there, but"),
    "no text": (lambda: toy(input_string=nested()), r"input_string in .* is a list, but a text was expected"),
    "a name that is none": (
        lambda: toy(cfg=config(model_name=nested())),
        r"cfg.model_name in .* is a list, but a text was expected",
    ),
    "a scan that is none": (lambda: toy(scan=[[1]]), r"scan in .* is a list, but a text"),
    "no layers": (lambda: toy(cfg=config(n_layers=0)), r"cfg.n_layers in .* is 0, but a whole number from 1"),
    "layers beyond counting": (
        lambda: toy(cfg=config(n_layers=10**300)),
        r"cfg.n_layers in .* is a int, but a whole number from 1",
    ),
    "a million layers": (
        lambda: toy(cfg=config(n_layers=10**6)),
        r"\(22, 22\), but .* shape \(3000013, 3000013\) for 8 features, 1000000 × 3 errors",
    ),
    "settings that are none": (lambda: toy(cfg=config(n_layers=nested())), r"cfg.n_layers in .* is a list, but"),
    "tokens that are none": (
        lambda: toy(input_tokens=torch.tensor([[7, 8, 9]])),
        r"input_tokens in .* is torch.int64 \(1, 3\), but .* shape \(any\)",
    ),
    "no tokens": (
        lambda: toy(input_tokens=torch.zeros(0, dtype=torch.int64), adjacency_matrix=torch.zeros(10, 10)),
        r"does not hold a graph: Node .* lies outside 3 layers and 0 tokens",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_holds_no_graph_is_refused(tmp_path: Path, name: str) -> None:
    entries, message = WRONG[name]
    path = write(tmp_path / "wrong.pt", entries())
    with pytest.raises(FileError, match=message) as caught:
        convert_graph(path, tmp_path / "wrong.graph")
    assert "wrong.pt" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "wrong.graph").exists()
