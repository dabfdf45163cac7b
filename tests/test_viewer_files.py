"""Graphs read from the JSON of viewers: ours there and back, and what other tools and their Save buttons write."""

import copy
import json
import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tl_circuits as tlc
from tests.graphs import HOSTILE, Recipe, hostile_graph, names_in_order, pairs, random_graph, recipes
from tests.test_refusals import refusal
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.export import cantor
from tl_circuits.nodes import Feature, Kind
from tl_circuits.page.document import document, viewer


def written(folder: Path, whole: Any) -> Path:
    path = folder / "graph.json"
    path.write_text(whole if isinstance(whole, str) else json.dumps(whole), encoding="utf-8")
    return path


def weights(graph: AttributionGraph) -> dict[tuple[str, str], float]:
    names = names_in_order(graph)
    edges = zip(graph.edges.source.tolist(), graph.edges.target.tolist(), graph.edges.weight.tolist(), strict=True)
    return {(names[source], names[target]): weight for source, target, weight in edges}


def feature(layer: int, index: int, pos: int, /, **more: Any) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{index}_{pos}", "jsNodeId": f"{layer}_{index}-0", "feature": cantor(layer, index),
        "layer": str(layer), "ctx_idx": pos, "feature_type": "cross layer transcoder", "clerp": "", "activation": 1.5,
    } | more  # fmt: skip


def error(layer: int, pos: int, name: str, /, **more: Any) -> dict[str, Any]:
    return {
        "node_id": name, "jsNodeId": name, "feature": -1, "layer": str(layer), "ctx_idx": pos,
        "feature_type": "mlp reconstruction error", "clerp": "",
    } | more  # fmt: skip


def token(number: int, pos: int) -> dict[str, Any]:
    name = f"E_{number}_{pos}"
    return {
        "node_id": name, "jsNodeId": name, "feature": pos, "layer": "E", "ctx_idx": pos, "feature_type": "embedding",
        "clerp": "",
    }  # fmt: skip


def output(layer: int, number: int, pos: int, text: str, chance: float, /, **more: Any) -> dict[str, Any]:
    name = f"{layer}_{number}_{pos}"
    return {
        "node_id": name, "jsNodeId": name, "feature": number, "layer": str(layer), "ctx_idx": pos,
        "feature_type": "logit", "clerp": f'Output "{text}" (p={chance:.3f})', "token_prob": chance,
    } | more  # fmt: skip


def link(source: str, target: str, weight: float) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": weight}


def whole(nodes: list[Any], links: list[Any], view: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "slug": "toy", "scan": "some/repo", "prompt": "a b", "prompt_tokens": ["a", " b"], "schema_version": 1,
        }
        | metadata,
        "qParams": {} if view is None else view, "nodes": nodes, "links": links,
    }  # fmt: skip


CHAIN = whole(
    [feature(0, 7, 0), feature(1, 3, 1, clerp="Texas"), error(0, 1, "0_-1_1"), token(4, 0), token(5, 1),
     output(3, 42, 1, " Austin", 0.4)],
    [link("E_4_0", "0_7_0", 2.0), link("0_7_0", "1_3_1", -1.0), link("0_-1_1", "1_3_1", 0.5),
     link("1_3_1", "3_42_1", 3.0)],
)  # fmt: skip


# Ours, there and back


@pytest.mark.slow
@settings(max_examples=12)
@given(recipes, st.booleans(), st.booleans(), st.sampled_from(["local", "neuronpedia"]))
def test_what_to_json_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, pruned: bool, constants: bool, preset: Any
) -> None:
    graph = recipe()
    graph = graph.prune(0.6, 0.9) if pruned else graph
    graph = graph.with_labels({(f.layer, f.index): f"word {f.index}" for f in graph.nodes.features()[::2]})
    path = tmp_path_factory.mktemp("json") / "toy.json"
    groups = {"pair": [str(f) for f in graph.nodes.features()[:2]]}
    if preset == "neuronpedia" and graph.provenance.n_layers < 2:
        with pytest.raises(tlc.GraphError, match="all lie in layer 0"):
            graph.to_json(path, preset=preset)
        return
    text = graph.to_json(path, preset=preset, constants=constants, supernodes=groups)
    found = tlc.load_graph(path)
    kept = [row for row in range(len(graph.nodes)) if constants or graph.nodes[row].kind in PAPER]
    assert names_in_order(found) == [str(graph.nodes[row]) for row in kept]
    assert weights(found) == {
        pair: weight for pair, weight in weights(graph).items() if pair[0] in set(names_in_order(found))
    }
    assert found.edges.weight.dtype in (torch.float64, torch.float32)
    shown = {(f.layer, f.index) for f in graph.nodes.features()}
    assert found.labels == {key: label for key, label in graph.labels.items() if key in shown}
    for name in ("target_weights", "target_probabilities", "activations"):
        ours, theirs = getattr(graph, name).double(), getattr(found, name)
        rows = torch.tensor(kept) if name == "activations" else torch.arange(len(ours))
        torch.testing.assert_close(theirs, ours[rows], rtol=1e-6, atol=1e-9, equal_nan=True)
    assert found.target_labels == graph.target_labels
    assert found.tokens == graph.tokens
    assert found.provenance.n_layers == graph.provenance.n_layers
    # What is written of it again is the same graph, down to the ids.
    again = json.loads(found.to_json(preset=preset, slug="toy", constants=constants))
    for part in ("nodes", "links"):
        assert [_ids(one) for one in again[part]] == [_ids(one) for one in json.loads(text)[part]]
    members = tuple(f for f in graph.nodes.features()[:2])
    assert tlc.load_supernodes(path) == ({"pair": members} if members else {})


@pytest.mark.parametrize("named", [True, False])
def test_targets_keep_their_weights_in_whatever_order_others_put_them(tmp_path: Path, named: bool) -> None:
    graph = random_graph(5, n_features=30)
    whole = json.loads(graph.to_json(tmp_path / "toy.json"))
    first = len(whole["nodes"]) - len(graph.target_labels)
    whole["nodes"] = whole["nodes"][first:][::-1] + whole["nodes"][:first]
    if not named:
        del whole["metadata"]["tl_circuits"]["target_nodes"]
    path = written(tmp_path, whole)
    if not named:
        with pytest.warns(tlc.TLCircuitsWarning, match="weighed by probability"):
            found = tlc.load_graph(path)
        assert found.target_weights.tolist() == found.target_probabilities.tolist()
        return
    found = tlc.load_graph(path)
    assert found.target_labels == graph.target_labels[::-1]
    for name in ("target_weights", "target_probabilities"):
        assert getattr(found, name).tolist() == getattr(graph, name).tolist()[::-1]
    assert found.nodes.index[-2:].tolist() == graph.nodes.index[-2:].tolist()[::-1]
    ours, theirs = (dict(zip(names_in_order(one), one.influence().tolist(), strict=True)) for one in (graph, found))
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-12)
    assert max(abs(one.change) for one in found.diff(tlc.load_graph(tmp_path / "toy.json")).nodes) < 1e-12


def test_targets_that_are_no_tokens_or_none_are_read_or_refused(tmp_path: Path) -> None:
    whole = json.loads(random_graph(3, n_features=9).to_json())
    ours = whole["metadata"]["tl_circuits"]
    ours["target_tokens"] = [10**30 for _ in ours["target_tokens"]]
    found = tlc.load_graph(written(tmp_path, whole))
    assert found.nodes.index[-2:].tolist() == [int(name.split("_")[1]) for name in ours["target_nodes"]]
    ours["target_nodes"] = ours["target_tokens"] = ours["target_weights"] = ours["target_probabilities"] = []
    whole["nodes"] = [node for node in whole["nodes"] if node["feature_type"] != "logit"]
    whole["links"] = []
    with pytest.raises(tlc.FileError, match="0 targets"):
        tlc.load_graph(written(tmp_path, whole))


def test_a_depth_that_no_model_has_is_refused(tmp_path: Path) -> None:
    whole = json.loads(random_graph(3).to_json())
    for depth in (10**30, 10**9):
        whole["metadata"]["tl_circuits"]["provenance"]["n_layers"] = depth
        with pytest.raises(tlc.FileError, match=f"n_layers is {depth}; graphs have up to 10000 layers. Trace"):
            tlc.load_graph(written(tmp_path, whole))


PAPER = (Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)


def _ids(one: dict[str, Any]) -> list[Any]:
    return [one.get(name) for name in ("node_id", "feature", "layer", "clerp", "source", "target", "weight")]


def test_features_that_were_not_expanded_stay_so(tmp_path: Path) -> None:
    graph = random_graph(5, n_features=12, unexpanded=0.5)
    graph.to_json(tmp_path / "toy.json")
    found = tlc.load_graph(tmp_path / "toy.json")
    closed = [str(found.nodes[row]) for row in (~found.expanded).nonzero()[:, 0].tolist()]
    assert [name for name in closed if name.startswith("L")]
    assert found.scores().replacement_bounds == pytest.approx(graph.scores().replacement_bounds)


def test_hostile_words_come_back_as_they_were_and_stay_text(tmp_path: Path) -> None:
    graph = hostile_graph()
    graph.to_json(tmp_path / "toy.json")
    found = tlc.load_graph(tmp_path / "toy.json")
    assert found.tokens == graph.tokens
    assert found.target_labels == graph.target_labels
    # A feature that is called nothing has no label.
    assert found.labels == {key: label for key, label in graph.labels.items() if label}
    page = document(found).replace(viewer()[0], "")
    assert "<img" not in page
    assert "<img" not in found._repr_html_()


# Other tools'


def test_a_graph_of_circuit_tracers_is_read(tmp_path: Path) -> None:
    found = tlc.load_graph(written(tmp_path, CHAIN))
    assert names_in_order(found) == ["L0/7@0", "L1/3@1", "error L0@1", "token@0", "token@1", "target 42@1"]
    assert weights(found) == {
        ("token@0", "L0/7@0"): 2.0,
        ("L0/7@0", "L1/3@1"): -1.0,
        ("error L0@1", "L1/3@1"): 0.5,
        ("L1/3@1", "target 42@1"): 3.0,
    }
    assert found.labels == {(1, 3): "Texas"}
    assert found.target_labels == (" Austin",)
    assert found.target_probabilities.tolist() == [0.4]
    assert found.target_weights.tolist() == [0.4]
    assert found.totals[:2].tolist() == [2.0, -0.5]
    assert found.nodes.index[found.nodes.span(Kind.TOKEN)].tolist() == [4, 5]
    assert (found.provenance.transcoder, found.provenance.model, found.provenance.n_layers) == ("some/repo", "", 2)
    assert found.provenance.settings["read_from_json"] == {"file": "graph.json", "layers": "blocks"}
    assert math.isnan(found.conservation_error)


@pytest.mark.parametrize("name", ["0_2_1", "2_-1_1"])
def test_errors_of_either_name_are_read(tmp_path: Path, name: str) -> None:
    graph = copy.deepcopy(CHAIN)
    graph["nodes"][2] = error(2, 1, name)
    graph["nodes"].append(feature(3, 1, 1))
    graph["links"][2:] = [link(name, "3_1_1", 0.5)]
    assert pairs(tlc.load_graph(written(tmp_path, graph))) >= {("L3/1@1", "error L2@1")}


def test_an_id_that_a_feature_and_an_error_share_is_told_apart_where_it_can_be(tmp_path: Path) -> None:
    # Layer 0's feature 2 and layer 2's error, both at position 1.
    nodes = [feature(0, 2, 1), feature(1, 5, 1), feature(3, 6, 1), feature(3, 7, 1), error(2, 1, "0_2_1"),
             token(4, 0), token(5, 1), output(5, 42, 1, "x", 0.5)]  # fmt: skip
    links = [
        link("E_5_1", "0_2_1", 1.0),  # an error reads nothing
        link("0_2_1", "1_5_1", 2.0),  # an error of layer 2 does not reach layer 1
        link("0_2_1", "3_6_1", 3.0), link("0_2_1", "3_6_1", 4.0),  # both do, features first
        link("0_2_1", "3_7_1", 5.0),  # whose is it?
        link("3_6_1", "5_42_1", 1.0), link("3_7_1", "5_42_1", 1.0),
    ]  # fmt: skip
    with pytest.warns(tlc.TLCircuitsWarning, match="1 links start at an id that is a feature's and an error's alike"):
        found = tlc.load_graph(written(tmp_path, whole(nodes, links)))
    known = weights(found)
    assert known["token@1", "L0/2@1"] == 1.0
    assert known["L0/2@1", "L1/5@1"] == 2.0
    assert known["L0/2@1", "L3/6@1"] == 3.0
    assert known["error L2@1", "L3/6@1"] == 4.0
    assert known["L0/2@1", "L3/7@1"] == 5.0
    assert "an error's alike" in found.provenance.settings["read_from_json"]["repairs"][0]


def test_what_a_save_button_writes_is_read(tmp_path: Path) -> None:
    view = {
        "pinnedIds": "0_7_0,1_3_1", "supernodes": json.dumps([["state", "1_3_1"]]), "linkType": None, "clickedId": None,
        "clerps": json.dumps([[cantor(0, 7), "Dallas"], [str(cantor(1, 3)), "the state"]]),
    }  # fmt: skip
    path = written(tmp_path, CHAIN | {"qParams": view})
    assert tlc.load_graph(path).labels == {(0, 7): "Dallas", (1, 3): "the state"}
    assert tlc.load_supernodes(path) == {"state": (Feature(1, 1, 3),), "L0/7@0": (Feature(0, 0, 7),)}


def test_neuronpedias_labels_and_names_are_read(tmp_path: Path) -> None:
    view = {"pinnedIds": ["1_3_1"], "supernodes": [["state", "1_3_1"]], "clerps": [[f"1_{cantor(1, 3)}_1", "state"]]}
    graph = CHAIN | {"qParams": view}
    graph["metadata"] = CHAIN["metadata"] | {"scan": "gemma-2-2b", "feature_details": {"neuronpedia_source_set": "hp"}}
    found = tlc.load_graph(written(tmp_path, graph))
    assert found.labels == {(1, 3): "state"}
    assert (found.provenance.model, found.provenance.transcoder) == ("gemma-2-2b", "hp")


@pytest.mark.parametrize(
    ("number", "scan"),
    [(lambda _, index: index, "x"), (lambda layer, index: layer * 100_000 + index, "gemma"), (cantor, "y")],
)
def test_features_without_schema_version_are_numbered_as_their_file_is(tmp_path: Path, number: Any, scan: str) -> None:
    # The ids of Eleuther's writer name places in another order, so the numbers count.
    def named(layer: int, index: int, pos: int) -> dict[str, Any]:
        return feature(layer, index, pos, node_id=f"intermediate_{pos}_{layer}_{index}", feature=number(layer, index))

    nodes = [
        named(0, 71, 0),
        named(1, 302, 1),
        named(2, 5, 1),
        error(1, 1, "error_1_1", feature=None),
        token(4, 0) | {"node_id": "input_0"},
        token(5, 1) | {"node_id": "input_1"},
        output(-1, 42, 1, "Austin", 0.4, node_id="output_1_42", layer="-1", clerp='output: "Austin" (p=0.4)'),
    ]
    links = [link("input_0", "intermediate_0_0_71", 1.0), link("intermediate_0_0_71", "intermediate_1_1_302", 1.0),
             link("error_1_1", "intermediate_1_2_5", 1.0), link("intermediate_1_2_5", "output_1_42", 1.0)]  # fmt: skip
    graph = whole(nodes, links, scan=scan, schema_version=None, n_layers=4)
    found = tlc.load_graph(written(tmp_path, graph))
    assert found.nodes.features() == [Feature(0, 0, 71), Feature(1, 1, 302), Feature(2, 1, 5)]
    assert found.provenance.n_layers == 4
    assert found.target_labels == ("Austin",)


def test_features_of_attention_stand_in_layers_of_their_own(tmp_path: Path) -> None:
    lorsa = feature(1, 8, 1, node_id="1_lor_8_1", feature_type="lorsa", layer=1)
    nodes = [
        feature(0, 7, 0, node_id="0_cro_7_0", layer=0),
        lorsa,
        feature(1, 3, 1, node_id="1_cro_3_1", layer=1),
        error(1, 1, "1_error_attn_1", feature_type="lorsa error", layer=1, feature=None),
        error(0, 1, "0_error_mlp_1", layer=0, feature=None),
        error(1, 0, "1_bias_attn_bO_0", feature_type="bias", layer=1, feature=None),
        token(4, 0),
        token(5, 1),
        output(2, 42, 1, " Austin", 0.4, layer=2),
    ]
    links = [link("0_cro_7_0", "1_lor_8_1", 1.0), link("1_lor_8_1", "1_cro_3_1", 2.0),
             link("1_error_attn_1", "1_cro_3_1", 0.5), link("0_error_mlp_1", "1_lor_8_1", 0.25),
             link("1_bias_attn_bO_0", "1_cro_3_1", 0.125), link("1_cro_3_1", "2_42_1", 3.0)]  # fmt: skip
    path = written(tmp_path, whole(nodes, links, view={"pinnedIds": ["1_lor_8_1"]}))
    found = tlc.load_graph(path)
    assert found.nodes.features() == [Feature(1, 0, 7), Feature(2, 1, 8), Feature(3, 1, 3)]
    assert weights(found)["error L2@1", "L3/3@1"] == 0.5
    assert weights(found)["error L1@1", "L2/8@1"] == 0.25
    assert weights(found)["bias L2", "L3/3@1"] == 0.125
    assert found.provenance.n_layers == 4
    assert tlc.load_supernodes(path) == {"L2/8@1": (Feature(2, 1, 8),)}
    with pytest.raises(tlc.GraphError, match=r"read from 'graph.json'.*4 layers are half blocks.*Give them that file"):
        found.to_json()


def test_what_is_named_twice_or_nowhere_is_mended_and_said(tmp_path: Path) -> None:
    graph = copy.deepcopy(CHAIN)
    graph["nodes"] += [feature(0, 7, 0), feature(1, 3, 1, node_id="other", jsNodeId="other")]
    graph["nodes"][0]["activation"] = graph["nodes"][-2]["activation"] = None
    graph["links"] += [link("9_9_9", "1_3_1", 1.0), link("1_3_1", "7_7_7", 1.0), link("0_7_0", "other", 0.25)]
    with pytest.warns(tlc.TLCircuitsWarning) as caught:
        found = tlc.load_graph(written(tmp_path, graph))
    (said,) = (str(one.message) for one in caught)
    assert "2 links lead to or from nodes that it lacks and were left out, first '9_9_9' → '1_3_1'" in said
    assert "2 nodes stand for what another stands for already" in said
    assert "1 pairs of nodes are linked more than once, and their weights were added up" in said
    assert "features have no activation and were given 0" in said
    assert weights(found)["L0/7@0", "L1/3@1"] == -0.75


def test_a_saved_graph_with_a_header_like_json_is_no_json(tmp_path: Path) -> None:
    # Whatever safetensors' first byte is, its length is followed by zeros.
    path = random_graph(1).save(tmp_path / "toy.json")
    assert len(tlc.load_graph(path).nodes)
    path.write_bytes(b"{" + bytes(7) + b"{" + b" " * 122)
    with refusal(tlc.FileError, "not a whole safetensors file"):
        tlc.load_graph(path)


# Hostile


def damaged(change: Any) -> Any:
    graph = copy.deepcopy(CHAIN)
    change(graph)
    return graph


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ('{"a":' * 100_000, "is no JSON"),
        ('{"nodes": NaN}', "NaN is no number of JSON"),
        ('{"nodes": [' + "9" * 5000 + "]}", "is no JSON"),
        ('{"metadata": {"prompt_tokens": ["a"]}, "nodes": [' + "[" * 800 + "]" * 800 + "]}", "nodes is"),
        ("{}", "nodes is None"),
        (damaged(lambda g: g.pop("metadata")), "metadata.prompt_tokens is None"),
        (damaged(lambda g: g["metadata"].update(prompt_tokens=["a", 3])), r"prompt_tokens is \['a', 3\]"),
        (damaged(lambda g: g["links"][0].update(weight="1")), "one of links is .*'weight': '1'"),
        (damaged(lambda g: g["links"][0].update(weight=True)), "one of links is"),
        (json.dumps(CHAIN).replace("-1.0", "1e999"), "one of links is .*inf"),
        (damaged(lambda g: g["links"].append([1, 2])), r"one of links is \[1, 2\]"),
        (damaged(lambda g: g["nodes"][0].update(activation="a")), "the activation of '0_7_0' is 'a'"),
        (damaged(lambda g: g["nodes"][0].update(clerp=3)), "the clerp of '0_7_0' is 3"),
        (damaged(lambda g: g["nodes"][0].update(layer="9" * 12)), "the feature of a node in layer 999999999999 is 35"),
        (damaged(lambda g: g["nodes"][0].update(node_id="a", layer="x")), r"not named layer_index_position.*layer 'x'"),
        (damaged(lambda g: g["nodes"][2].update(layer=10**7)), "n_layers is 10000001"),
        (damaged(lambda g: g["nodes"][2].update(layer={"a": 1})), "the layer of '0_-1_1' is"),
        (damaged(lambda g: g["nodes"][3].update(ctx_idx=None)), "the ctx_idx of 'E_4_0' is None"),
        (damaged(lambda g: g["nodes"][3].update(ctx_idx=7)), r"does not hold a graph: Node token@7 lies outside"),
        (damaged(lambda g: g["nodes"][0].update(feature_type="neuron")), "the feature_type of '0_7_0' is 'neuron'"),
        (damaged(lambda g: g["nodes"][0].update(node_id="a", feature=3)), "the feature of a node in layer 0 is 3"),
        (damaged(lambda g: g["nodes"].pop()), "0 targets"),
        (damaged(lambda g: g["links"].append(link("1_3_1", "0_7_0", 1.0))), "reads at the same layer or lower"),
        (damaged(lambda g: g["links"].append(link("0_7_0", "0_-1_1", 1.0))), "have inputs but are not expanded"),
        (damaged(lambda g: g["qParams"].update(clerps=[["a"]])), r"clerps is \['a'\]"),
        (damaged(lambda g: g["metadata"].update(tl_circuits={"provenance": {"a": 3}})), "not recorded as expected"),
    ],
)  # fmt: skip
def test_what_is_no_lawful_graph_is_refused(tmp_path: Path, text: Any, says: str) -> None:
    path = written(tmp_path, text)
    with refusal(tlc.FileError, says, "graph.json"):
        tlc.load_graph(path)


def test_a_file_too_large_is_refused_with_the_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, CHAIN)
    size = path.stat().st_size
    with refusal(tlc.FileError, f"has {size} bytes, more than the 100 that are read", f"max_bytes={size}"):
        tlc.load_graph(path, max_bytes=100)
    with refusal(tlc.SettingError, r"load_graph\(max_bytes=0\)"):
        tlc.load_graph(path, max_bytes=0)
    assert len(tlc.load_graph(path, max_bytes=size).nodes) == 6


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_whatever_is_put_into_a_file_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    graph = copy.deepcopy(CHAIN)
    strange = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(HOSTILE), st.just([[]]))
    part = data.draw(st.sampled_from([graph, graph["metadata"], *graph["nodes"], *graph["links"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(strange)
    path = written(tmp_path_factory.mktemp("json"), graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tlc.TLCircuitsWarning)
        with suppress(tlc.FileError):
            document(tlc.load_graph(path))


def with_weights(folder: Path, weights: Any) -> Path:
    whole = json.loads(random_graph(5, n_features=9).to_json())
    whole["metadata"]["tl_circuits"]["target_weights"] = weights
    return written(folder, whole)


def test_negative_weights_of_targets_count_by_size_and_stay(tmp_path: Path) -> None:
    graph, plain = (tlc.load_graph(with_weights(tmp_path, weights)) for weights in ([-2, 1], [2, 1]))
    assert graph.target_weights.tolist() == [-2.0, 1.0]
    assert torch.equal(graph.influence(), plain.influence())
    assert "negative weight count by its size" in graph.scores().note


def test_weights_of_targets_that_overflow_together_are_refused(tmp_path: Path) -> None:
    with refusal(tlc.FileError, r"target weights \[1e\+308, 1e\+308\] add up to more.*Divide them by the largest"):
        tlc.load_graph(with_weights(tmp_path, [1e308, 1e308]))
    assert float(tlc.load_graph(with_weights(tmp_path, [1e307, 1e-300])).influence().sum()) > 0


@pytest.mark.parametrize("weights", [["a", 1], [1], [0, 0], [True, 1], [10**400, 1], []])
def test_weights_of_targets_that_are_none_are_mended_and_said(tmp_path: Path, weights: Any) -> None:
    with pytest.warns(tlc.TLCircuitsWarning, match="are not 2 finite numbers of which one is not 0, and probability"):
        found = tlc.load_graph(with_weights(tmp_path, weights))
    assert found.target_weights.tolist() == found.target_probabilities.tolist()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_wherever_they_stand(tmp_path: Path, number: str) -> None:
    whole = json.loads(random_graph(5, n_features=9).to_json())
    whole["metadata"]["tl_circuits"]["target_weights"] = [12345678, 1]
    path = written(tmp_path, whole)
    path.write_text(path.read_text().replace("12345678", number))
    if number == "1e999":
        with pytest.warns(tlc.TLCircuitsWarning, match="are not 2 finite numbers"):
            assert torch.isfinite(tlc.load_graph(path).target_weights).all()
    else:
        with refusal(tlc.FileError, f"{number} is no number of JSON"):
            tlc.load_graph(path)
