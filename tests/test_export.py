import dataclasses
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import jaxtyping
import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.graphs import GOLDEN, Recipe, golden, random_graph, recipes
from tl_circuits.errors import FileError, GraphError, SettingError
from tl_circuits.graph import AttributionGraph, load_graph
from tl_circuits.graph.export import cantor
from tl_circuits.nodes import Feature, Kind, Nodes

SCHEMA = json.loads((Path(__file__).parent / "graph.schema.json").read_text(encoding="utf-8"))

HOSTILE = ('<img src=x onerror="alert(1)">', "</script><script>", '" (p=', "\u2028\n\r\t", "\ud800", "'", "&amp;", "")


def hostile_graph() -> AttributionGraph:
    graph = random_graph(11, n_layers=3, n_pos=3, n_features=9, n_targets=2)
    labels = {
        (feature.layer, feature.index): HOSTILE[number % len(HOSTILE)]
        for number, feature in enumerate(graph.nodes.features())
    }
    provenance = dataclasses.replace(graph.provenance, prompt="<b>" + HOSTILE[0], model="</table>" + HOSTILE[1])
    return dataclasses.replace(
        graph, tokens=HOSTILE[:3], target_labels=HOSTILE[2:4], labels=labels, provenance=provenance
    )


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


# Files --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 64, b"{}"])
def test_pickles_and_noise_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.graph"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"is not a whole safetensors file.*pickles are never opened"):
        load_graph(path)


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


def test_reading_a_graph_loads_no_model_library() -> None:
    code = (
        "import sys, tl_circuits.graph\n"
        "print([name for name in ('transformer_lens', 'sae_lens', 'transformers', 'pandas', 'networkx') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Tables -------------------------------------------------------------------------------------------------------------


@given(recipes)
def test_tables_and_networkx_hold_the_matrix(recipe: Recipe) -> None:
    graph = recipe()
    nodes, edges = graph.to_pandas()
    assert list(nodes["node"]) == [str(graph.nodes[row]) for row in range(len(graph.nodes))]
    assert nodes["influence"].tolist() == graph.influence().tolist()
    row_of = {name: row for row, name in enumerate(nodes["node"])}
    matrix = torch.zeros_like(graph.adjacency())
    for source, target, weight in zip(edges["source"], edges["target"], edges["weight"], strict=True):
        matrix[row_of[target], row_of[source]] = weight
    assert torch.equal(matrix, graph.adjacency())
    drawn = graph.to_networkx()
    assert list(drawn.nodes) == list(nodes["node"])
    assert {(source, target): data["weight"] for source, target, data in drawn.edges(data=True)} == {
        (source, target): weight
        for source, target, weight in zip(edges["source"], edges["target"], edges["weight"], strict=True)
    }
    networkx = pytest.importorskip("networkx")
    assert networkx.is_directed_acyclic_graph(drawn)


def test_targets_at_one_place_keep_apart() -> None:
    graph = random_graph(1, n_targets=3)
    index = graph.nodes.index.clone()
    index[graph.nodes.span(Kind.TARGET)] = -1
    nodes = Nodes(graph.nodes.kind, graph.nodes.layer, graph.nodes.pos, index)
    directions = dataclasses.replace(graph, nodes=nodes, target_probabilities=torch.full((3,), math.nan))
    assert directions.to_pandas().nodes["node"].tolist()[-3:] == ["target L3@2", "target L3@2#2", "target L3@2#3"]
    written = json.loads(directions.to_json())
    jsonschema.validate(written, SCHEMA)
    targets = [node for node in written["nodes"] if node["feature_type"] == "logit"]
    assert len({node["node_id"] for node in targets}) == 3
    assert all(node["feature"] >= 10**9 for node in targets)
    # Without a probability a target stands with its weight.
    weights = graph.target_weights / graph.target_weights.sum()
    assert [node["token_prob"] for node in targets] == pytest.approx(weights.tolist(), abs=1e-6)


# JSON ---------------------------------------------------------------------------------------------------------------


@given(recipes, st.booleans(), st.booleans())
def test_every_graph_is_written_by_the_schema(recipe: Recipe, pruned: bool, constants: bool) -> None:
    graph = recipe()
    graph = graph.prune() if pruned else graph
    written = json.loads(graph.to_json(constants=constants))
    jsonschema.validate(written, SCHEMA)
    ids = [node["node_id"] for node in written["nodes"]]
    assert len(set(ids)) == len(ids)
    assert [node["jsNodeId"] for node in written["nodes"]] == ids
    assert {end for link in written["links"] for end in (link["source"], link["target"])} <= set(ids)
    kinds = (
        graph.nodes.rows(*Kind) if constants else graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)
    )
    assert len(ids) == int(kinds.sum())
    assert len(written["links"]) == int((kinds[graph.edges.source] & kinds[graph.edges.target]).sum())
    assert sum(node["is_target_logit"] for node in written["nodes"]) == 1


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_cumulative_influence_is_circuit_tracers(path: Path) -> None:
    example = golden(path)
    pruned = example.graph.prune(0.8, 0.98, errors=True)
    written = json.loads(pruned.to_json())
    jsonschema.validate(written, SCHEMA)
    expected = example.expected["prune_cumulative"][example.expected["prune_node_mask"]]
    assert [node["influence"] for node in written["nodes"]] == pytest.approx(expected.tolist(), abs=1e-9)
    assert written["metadata"]["node_threshold"] == 0.8
    assert written["metadata"]["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    # The unpruned graph ranks its nodes the same way.
    whole = {node["node_id"]: node["influence"] for node in json.loads(example.graph.to_json())["nodes"]}
    assert all(whole[node["node_id"]] == pytest.approx(node["influence"]) for node in written["nodes"])


def test_a_feature_an_error_a_token_and_a_target_are_written_as_viewers_know_them() -> None:
    graph = random_graph(11).with_labels({(0, 1): "Texas"})
    written = {node["node_id"]: node for node in json.loads(graph.to_json(constants=True))["nodes"]}
    feature = next(feature for feature in graph.nodes.features() if (feature.layer, feature.index) == (0, 1))
    assert written[f"0_1_{feature.pos}"]["clerp"] == "Texas"
    assert written[f"0_1_{feature.pos}"]["feature"] == cantor(0, 1)
    assert written["2_-1_1"]["feature_type"] == "mlp reconstruction error"
    assert written["E_8_1"]["token"] == " Dallas"
    assert written["4_0_2"]["clerp"].startswith('Output " word0" (p=0.')
    assert written["3_bias_bias_0"]["feature_type"] == "bias"
    assert written["E_bias_position_2"]["layer"] == "E"


@given(st.integers(0, 200), st.integers(0, 2**27 - 201))
def test_cantors_numbers_can_be_taken_apart(layer: int, index: int) -> None:
    number = cantor(layer, index)
    assert number < 2**53
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    assert number - diagonal * (diagonal + 1) // 2 == index
    assert diagonal - index == layer


def test_a_feature_number_beyond_javascript_is_refused() -> None:
    assert cantor(25, 98_303) == 4_834_345_259
    with pytest.raises(GraphError, match=r"L3/200000000 would be number 2000000\d+, beyond the 9007199254740991"):
        cantor(3, 200_000_000)


def test_hostile_words_stay_data() -> None:
    graph = hostile_graph()
    written = json.loads(graph.to_json())
    jsonschema.validate(written, SCHEMA)
    targets = [node for node in written["nodes"] if node["feature_type"] == "logit"]
    assert [node["token"] for node in targets] == list(graph.target_labels)
    for node in targets:
        # What viewers do with it.
        assert 0 <= float(node["clerp"].split("(p=")[1].split(")")[0]) <= 1
        assert node["clerp"].count('"') == 2
    assert written["metadata"]["prompt_tokens"] == list(graph.tokens)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name == "style" for name, _ in attrs)
        self.seen.add(tag)


def test_the_card_escapes_labels_and_tokens() -> None:
    parser = Tags()
    parser.feed(hostile_graph()._repr_html_())
    assert parser.seen == {"table", "caption", "tr", "th", "td"}


def test_the_card_says_what_matters() -> None:
    graph = random_graph(11).with_labels({(0, 1): "Texas"})
    shown = repr(graph.prune(0.9, 0.9))
    for text in (
        "' Dallas is'",
        "toy-clt",
        "p=0.",
        "error",
        "pruned       to 0.9 / 0.9, from",
        "replacement",
        "conservation 0",
    ):
        assert text in shown
    assert "probe not measured" in repr(dataclasses.replace(graph, probe_error=math.nan))
    assert "coverage     0.500" in repr(dataclasses.replace(graph, coverage=0.5))


def test_pins_and_supernodes_follow_the_nodes_that_are_left() -> None:
    graph = random_graph(11, n_features=12).prune(0.3, 0.9)
    kept, gone = graph.nodes.features()[0], Feature(0, 0, 99)
    state = json.loads(
        graph.to_json(pinned=[kept, gone, "error L1@0", "bias L0"], supernodes={"Texas": [kept, gone], "none": [gone]})
    )["qParams"]
    assert state["pinnedIds"] == [f"{kept.layer}_{kept.index}_{kept.pos}", "1_-1_0"]
    assert state["supernodes"] == [["Texas", f"{kept.layer}_{kept.index}_{kept.pos}"]]


def test_neuronpedia_finds_its_model_and_features(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    text = random_graph(0).to_json(path, preset="neuronpedia", slug="toy-1", scan="gpt2-small", source_set="clt-hp")
    assert path.read_text(encoding="utf-8") == text
    metadata = json.loads(text)["metadata"]
    assert (metadata["slug"], metadata["scan"]) == ("toy-1", "gpt2-small")
    assert metadata["feature_details"] == {"neuronpedia_source_set": "clt-hp"}
    assert metadata["info"]["neuronpedia_source_set"] == "clt-hp"
    local = json.loads(random_graph(0).to_json())["metadata"]
    assert (local["slug"], local["scan"]) == ("Dallas-is", "toy-clt")
    assert "feature_details" not in local


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scan": "google/gemma-2-2b"}, SettingError, r"in a scan, not 'google/gemma-2-2b'.*scan=.*'gemma-2-2b'"),
        ({"slug": "a b"}, SettingError, r"in a slug, not 'a b'. Give slug=.*'dallas-austin'"),
        ({"slug": ""}, SettingError, "in a slug, not ''"),
        ({"node_threshold": 0.0}, SettingError, "node_threshold=0.0 is no share"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        random_graph(0).to_json(**cast(Any, {"preset": "neuronpedia", **settings}))


def test_an_unknown_preset_is_refused_where_types_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(SettingError, match="preset='html' is not known: write 'neuronpedia' or 'local'"):
        random_graph(0).to_json(preset=cast(Any, "html"))


def test_neuronpedia_refuses_graphs_of_one_layer_and_of_the_wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r"all lie in layer 0, as these do \(1 layers\).*preset='local'"):
        random_graph(0, n_layers=1).to_json(preset="neuronpedia")
    monkeypatch.setattr("tl_circuits.graph.export._NEURONPEDIA_BYTES", (1024, 2000))
    with pytest.raises(GraphError, match=r"bytes of JSON, Neuronpedia takes 1024 to 2000. Prune it further"):
        random_graph(0).to_json(preset="neuronpedia")
    monkeypatch.setattr("tl_circuits.graph.export._NEURONPEDIA_BYTES", (10**9, 10**10))
    with pytest.raises(GraphError, match="prune less"):
        random_graph(0).to_json(preset="neuronpedia")
