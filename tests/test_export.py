import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import jaxtyping
import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import GOLDEN, Recipe, golden, hostile_graph, random_graph, recipes
from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph.export import cantor
from tl_circuits.nodes import Feature, Kind, Nodes

SCHEMA = json.loads((Path(__file__).parent / "graph.schema.json").read_text(encoding="utf-8"))


# Tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@given(st.integers(0, 200), st.integers(0, 2**27 - 402))
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


def test_rich_prints_a_graph_with_its_features_and_paths_and_no_markup() -> None:
    from rich.console import Console

    graph = hostile_graph().with_labels({(0, 0): "[red]not red[/red]"})
    console = Console(width=100)
    with console.capture() as printed:
        console.print(graph)
    text = printed.get()
    for said in ("Scores", "replacement", "Features that matter", "Strongest paths", "<img src=x"):
        assert said in text
    assert "Top outputs" not in text
    assert "\x1b[31m" not in text


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
