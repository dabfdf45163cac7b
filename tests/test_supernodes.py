"""Supernodes that people made in a viewer, read back and acted on; files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models
from tests.graphs import random_graph
from tests.test_refusals import refusal
from tl_circuits.nodes import Feature


def node(name: str, kind: str = "cross layer transcoder", **more: Any) -> dict[str, Any]:
    return {"node_id": name, "jsNodeId": name, "feature_type": kind, **more}


def file(folder: Path, view: Any, nodes: Any = None) -> Path:
    path = folder / "graph.json"
    nodes = [node("0_5_3"), node("2_7_8"), node("1_1_4"), node("E_9_2", "embedding")] if nodes is None else nodes
    path.write_text(json.dumps({"qParams": view, "nodes": nodes}), encoding="utf-8")
    return path


def test_what_to_json_writes_is_read_back(tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    features = graph.nodes.features()
    groups = {"Texas": [str(f) for f in features[:3]], "say “Austin”": [str(features[4])]}
    pinned = [str(features[0]), str(features[5]), "token@0"]
    graph.to_json(tmp_path / "graph.json", pinned=pinned, supernodes={**groups, "tokens": ["token@1"]})
    found = tlc.load_supernodes(tmp_path / "graph.json")
    assert found == {
        "Texas": tuple(features[:3]), "say “Austin”": (features[4],), str(features[5]): (features[5],)
    }  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
def test_lists_and_the_texts_of_circuit_tracers_viewer_are_read_alike(tmp_path: Path, as_text: bool) -> None:
    groups, pinned = [["Texas", "0_5_3", "E_9_2"], ["Texas", "2_7_8", "0_5_3"]], ["1_1_4", "E_9_2", "0_5_3"]
    view = {"supernodes": groups, "pinnedIds": pinned}
    if as_text:
        view = {"supernodes": json.dumps(groups), "pinnedIds": ",".join(pinned)}
    found = tlc.load_supernodes(file(tmp_path, view))
    assert found == {"Texas": (Feature(0, 3, 5), Feature(2, 8, 7)), "L1/1@4": (Feature(1, 4, 1),)}


def test_names_of_other_writers_are_read(tmp_path: Path) -> None:
    nodes = [node("0_5_3"), node("0_5_3", "mlp reconstruction error"), node("4_cro_17_2", jsNodeId="4_17-2")]
    view = {"supernodes": [["a", "0_5_3"], ["b", "4_17-2"]], "pinnedIds": None}
    for order in (nodes, nodes[::-1]):
        assert tlc.load_supernodes(file(tmp_path, view, order)) == {"a": (Feature(0, 3, 5),), "b": (Feature(4, 2, 17),)}


@pytest.mark.parametrize("view", [{}, {"supernodes": [], "pinnedIds": []}, {"supernodes": "", "pinnedIds": ""}])
def test_a_graph_on_which_nothing_was_put_together_has_none(tmp_path: Path, view: Any) -> None:
    assert tlc.load_supernodes(file(tmp_path, view)) == {}


@pytest.mark.slow
def test_a_supernode_is_acted_on_as_one(tmp_path: Path) -> None:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(9), (0,))
    graph = tlc.attribute(local)
    features = local.active()[2:5]
    graph.to_json(tmp_path / "graph.json", supernodes={"three": [str(f) for f in features]})
    group = tlc.load_supernodes(tmp_path / "graph.json")["three"]
    together, apart = tlc.intervene(
        local, [[tlc.Intervention(group, scale=-1)], [tlc.Intervention(f, scale=-1) for f in features]]
    )
    torch.testing.assert_close(together.logits, apart.logits, atol=1e-12, rtol=0)
    assert not torch.equal(together.logits, local.logits)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON .*give the file that graph.to_json writes"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", r"holds '\[1\]' and no graph"),
        ('{"nodes": 3}', "is no graph of a viewer: nodes is 3"),
        ('{"nodes": [3]}', r"nodes is \[3\]"),
        ('{"nodes": [], "qParams": []}', r"qParams is \[\]"),
        ('{"nodes": [], "qParams": {"supernodes": 5}}', "supernodes is 5"),
        ('{"nodes": [], "qParams": {"supernodes": [[]]}}', r"supernodes is \[\]"),
        ('{"nodes": [], "qParams": {"supernodes": [["a", 3]]}}', r"supernodes is \['a', 3\]"),
        ('{"nodes": [], "qParams": {"supernodes": "[["}}', "is no JSON"),
        ('{"nodes": [], "qParams": {"pinnedIds": 5}}', "pinnedIds is 5"),
        (
            '{"nodes": [], "qParams": {"pinnedIds": ["1_2_3"]}}',
            "'1_2_3' into .*none of its 0 node ids: write the graph",
        ),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "graph.json").write_text(text, encoding="utf-8")
    with refusal(tlc.FileError, says, "graph.json"):
        tlc.load_supernodes(tmp_path / "graph.json")


def test_a_feature_of_another_name_is_refused(tmp_path: Path) -> None:
    with refusal(tlc.FileError, "'feature 3' in .* not named layer_index_position", "write the graph anew"):
        tlc.load_supernodes(file(tmp_path, {"pinnedIds": ["feature 3"]}, [node("feature 3")]))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with refusal(tlc.FileError, "cannot be read: .*Give the JSON file"):
        tlc.load_supernodes(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with refusal(tlc.FileError, "cannot be read"):
        tlc.load_supernodes(tmp_path / "bytes.json")
