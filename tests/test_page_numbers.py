"""The page computes as the package does: the built viewer, run by node, against Python on random graphs."""

import ast
import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import (
    GOLDEN,
    Recipe,
    chain,
    golden,
    hostile_graph,
    names,
    names_in_order,
    pairs,
    random_graph,
    recipes,
)
from tests.page_engine import NO_NODE, NODE, Engine
from tl_circuits.errors import FileError
from tl_circuits.graph import AttributionGraph, GraphScores
from tl_circuits.graph.influence import Shares, counted_sources, cumulative, node_influence, target_shares
from tl_circuits.graph.record import CONSTANTS
from tl_circuits.graph.suggest import origins
from tl_circuits.nodes import Kind
from tl_circuits.page import load_labels

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NODE is None, reason=NO_NODE)]

EXACT = {"abs": 1e-6, "rel": 1e-6, "nan_ok": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "some.graph"


def numbers(engine: Engine, file: Path, graph: AttributionGraph, **asked: Any) -> dict[str, Any]:
    given = {"nodes": 1.0, "edges": 1.0, "errors": False, "constants": False, "k": 4, "from": None, "to": None} | asked
    graph.save(file)
    ends = {name: given.pop(name) for name in ("k", "from", "to")}
    return engine.ask("numbers", file=str(file), thresholds=given, **ends)


def bounds(scores: GraphScores) -> list[list[float]]:
    found = (scores.replacement_bounds, scores.completeness_bounds, scores.completeness_circuit_tracer_bounds)
    return [list(pair) for pair in found]


def close(found: list[Any], expected: list[float]) -> bool:
    return [math.nan if value is None else value for value in found] == pytest.approx(expected, **EXACT)


thresholds = st.sampled_from([0.3, 0.6, 0.8, 0.98, 1.0])


def agree(found: list[Any], scores: GraphScores) -> bool:
    return all(close(pair, expected) for pair, expected in zip(found, bounds(scores), strict=True))


def kept(found: dict[str, Any], graph: AttributionGraph) -> tuple[set[str], set[tuple[str, str]]]:
    names = names_in_order(graph)
    nodes = {name for name, keep in zip(names, found["nodes"], strict=True) if keep}
    ends = zip(graph.edges.target.tolist(), graph.edges.source.tolist(), found["edges"], strict=True)
    return nodes, {(names[target], names[source]) for target, source, keep in ends if keep}


def test_the_number_of_random_graphs_is_no_number_of_trivial_ones() -> None:
    small = [random_graph(seed).prune(0.6, 0.8) for seed in range(20)]
    assert sum(graph.scores().replacement < 0.99 for graph in small) > 10


@given(recipes, thresholds, thresholds, st.booleans(), st.booleans())
@settings(max_examples=40)
def test_pruning_and_scores_are_python_s(
    engine: Engine, file: Path, recipe: Recipe, nodes: float, edges: float, errors: bool, constants: bool
) -> None:
    graph = recipe()
    found = numbers(engine, file, graph, nodes=nodes, edges=edges, errors=errors, constants=constants)
    small = graph.prune(nodes, edges, errors=errors, constants=constants)
    assert found["names"] == names_in_order(graph)
    assert kept(found, graph) == (names(small), pairs(small))
    assert close(found["influence"], graph.influence(constants=constants).tolist())
    assert agree(found["whole"], graph.scores(constants=constants))
    assert agree(found["scores"], small.scores(constants=constants))


@given(recipes, thresholds, thresholds, st.booleans())
@settings(max_examples=40)
def test_a_pruned_graph_is_pruned_again_as_python_does(
    engine: Engine, file: Path, recipe: Recipe, nodes: float, edges: float, constants: bool
) -> None:
    graph = recipe().prune(0.8, 0.9, errors=True)
    found = numbers(engine, file, graph, nodes=nodes, edges=edges, constants=constants)
    small = graph.prune(nodes, edges, constants=constants)
    assert kept(found, graph) == (names(small), pairs(small))
    assert close(found["influence"], graph.influence(constants=constants).tolist())
    assert agree(found["whole"], graph.scores(constants=constants))
    assert agree(found["scores"], small.scores(constants=constants))


@pytest.mark.parametrize("seed", range(6))
def test_what_was_not_expanded_makes_the_same_bounds(engine: Engine, file: Path, seed: int) -> None:
    graph = random_graph(seed, n_layers=4, n_features=20, unexpanded=0.4)
    found = numbers(engine, file, graph, nodes=0.9, edges=0.95)
    assert graph.scores().replacement_bounds[1] > graph.scores().replacement
    assert agree(found["whole"], graph.scores())
    assert agree(found["scores"], graph.prune(0.9, 0.95).scores())


@given(recipes, st.integers(1, 6), st.booleans())
@settings(max_examples=25)
def test_the_strongest_paths_are_python_s(
    engine: Engine, file: Path, recipe: Recipe, k: int, towards_a_feature: bool
) -> None:
    graph = recipe().prune(0.95, 0.95)
    features = graph.nodes.features()
    to = len(features) - 1 if towards_a_feature and features else None
    found = numbers(engine, file, graph, k=k, to=to)["paths"]
    expected = graph.paths(k, target=to)
    assert close([path["share"] for path in found], [path.share for path in expected])
    ways = {tuple(str(view.id) for view in path.nodes): path for path in expected}
    for path in found:
        # Paths of one share may stand in either order, and the last of them may be another.
        if tuple(path["names"]) in ways:
            assert close([path["effect"]], [ways[tuple(path["names"])].effect])


def test_a_path_between_two_nodes_is_python_s(engine: Engine, file: Path) -> None:
    graph = chain()
    start, end = graph.node("token@0").row, graph.node("L1/6@0").row
    (path,) = numbers(engine, file, graph, **{"from": start, "to": end})["paths"]
    (expected,) = graph.paths(source="token@0", target="L1/6@0")
    assert path["names"] == ["token@0", "L0/5@0", "L1/6@0"]
    assert path["share"] == pytest.approx(expected.share)
    assert path["effect"] == pytest.approx(expected.effect)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_precision_is_read(engine: Engine, file: Path, dtype: torch.dtype) -> None:
    graph = random_graph(3, dtype=dtype)
    found = numbers(engine, file, graph)
    assert close(found["influence"], graph.influence().tolist())
    assert agree(found["whole"], graph.scores())


@pytest.mark.parametrize("path", GOLDEN[:4], ids=lambda path: path.stem)
def test_circuit_tracer_s_graphs_are_pruned_alike(engine: Engine, file: Path, path: Path) -> None:
    graph = golden(path).graph
    found = numbers(engine, file, graph, nodes=0.8, edges=0.98, errors=True)
    small = graph.prune(errors=True)
    assert kept(found, graph) == (names(small), pairs(small))
    assert agree(found["scores"], small.scores())


# What the page writes


@given(recipes, thresholds, thresholds)
@settings(max_examples=30)
def test_its_json_is_to_json_s(engine: Engine, file: Path, recipe: Recipe, nodes: float, edges: float) -> None:
    graph = recipe()
    graph.save(file)
    features = [str(feature) for feature in graph.nodes.features()]
    pins, group = features[::3], features[1::3]
    work = {"nodes": nodes, "edges": edges, "pins": pins, "labels": {"0/1": 'a "label"'}}
    work["supernodes"] = [{"label": "Texas", "members": group}] if group else []
    labelled = graph.with_labels({(0, 1): 'a "label"'})
    small = labelled.prune(nodes, edges)
    expected = json.loads(small.to_json(pinned=pins, supernodes={"Texas": group}))
    version = expected["metadata"]["tl_circuits"]["version"]
    found = engine.ask("json", file=str(file), work=work, version=version)
    assert sorted(node["influence"] for node in found["nodes"]) == pytest.approx(
        sorted(node["influence"] for node in expected["nodes"]), **EXACT
    )
    for place in tied(labelled, small):
        found["nodes"][place]["influence"] = expected["nodes"][place]["influence"]
    assert_same(found, expected)


def tied(graph: AttributionGraph, small: AttributionGraph) -> list[int]:
    """The nodes on display whose influence another node shares up to rounding, which then decides their order."""
    influence = graph.influence()
    rows = (~small.nodes.rows(*CONSTANTS)).nonzero()[:, 0].tolist()
    own = [graph.node(small.nodes[row]).influence for row in rows]
    return [place for place, value in enumerate(own) if int(((influence - value).abs() < 1e-12).sum()) > 1]


def test_its_json_of_hostile_words_is_to_json_s(engine: Engine, file: Path) -> None:
    graph = hostile_graph()
    graph.save(file)
    small = graph.prune(1.0, 1.0)
    expected = json.loads(small.to_json())
    version = expected["metadata"]["tl_circuits"]["version"]
    assert_same(engine.ask("json", file=str(file), work={"nodes": 1, "edges": 1}, version=version), expected)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    match expected:
        case dict():
            assert found.keys() == expected.keys(), where
            for name in expected:
                assert_same(found[name], expected[name], f"{where}.{name}")
        case list():
            assert len(found) == len(expected), where
            for place, pair in enumerate(zip(found, expected, strict=True)):
                assert_same(*pair, f"{where}[{place}]")
        case float():
            assert found == pytest.approx(expected, **EXACT), where
        case _:
            assert found == expected, where


def test_labels_go_to_a_file_and_back(engine: Engine, tmp_path: Path) -> None:
    labels = {"0/5": "Texas", "1/6": '</script>"\u2028', "0/40": ""}
    text = engine.ask("written", labels=labels, transcoder="toy")
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    assert load_labels(path) == {(0, 5): "Texas", (1, 6): '</script>"\u2028', (0, 40): ""}
    assert engine.ask("labels", text=text)["labels"] == labels


def test_bad_labels_are_told_five_at_a_time(engine: Engine, tmp_path: Path) -> None:
    rows = [[0, 1, "fine"], [0, "1", "x"], 5, [1, 2], None, [0.5, 1, "x"], [0, 1, 2], ["a"]]
    text = json.dumps({"format": "tl_circuits.labels", "version": "1", "labels": rows})
    problems = engine.ask("labels", text=text)["problems"]
    assert len(problems) == 5
    assert 'Label 1 is [0,"1","x"]' in problems[0]
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"7 labels in .* row 1 is \[0, '1', 'x'\]; row 2 is 5.*Mend them"):
        load_labels(path)
    for strange in ("", "[]", '{"format": "other"}', "{"):
        assert engine.ask("labels", text=strange)["problems"]
        path.write_text(strange)
        with pytest.raises(FileError, match=r"give (what|the labels\.json that) a page wrote"):
            load_labels(path)


def test_its_python_is_python(engine: Engine) -> None:
    hostile = 'Te"x\\\n\u2028as'
    supernodes = [{"label": hostile, "members": ["L0/5@0", "token@0", "L1/6@0"]}]
    work = {"pins": ["L0/5@0", "L1/6@0", "L2/9@3", "token@0"], "supernodes": supernodes}
    tree = ast.parse(engine.ask("python", work=work))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore
    assert ast.literal_eval(values["supernodes"]) == {hostile: ["L0/5@0", "L1/6@0"]}
    assert ast.literal_eval(values["pins"]) == ["L2/9@3"]


def test_its_tables_hold_no_formulas(engine: Engine) -> None:
    lines = [["=cmd()", 'a "quote"', "two\nlines", "-1+1", "plain", 1.5, None]]
    (row,) = csv.reader(io.StringIO(engine.ask("csv", lines=[[value for value in lines[0] if value is not None]])))
    assert row == ["'=cmd()", 'a "quote"', "two\nlines", "'-1+1", "plain", "1.5"]


# State


def test_a_hash_gives_back_what_went_into_it(engine: Engine) -> None:
    value = {"work": {"pins": ["L0/5@0"], "labels": {"0/5": "\u2028</script>é😀"}}, "selected": None}
    found = engine.ask("hash", value=value)
    assert found["hash"].startswith("#v1=")
    assert all(letter.isalnum() or letter in "-_" for letter in found["hash"][4:])
    assert found["back"] == value
    assert found["strange"][:4] == [None] * 4


def test_undo_takes_back_and_redo_gives_again(engine: Engine) -> None:
    steps = [["step", 1, None, 0], ["step", 2, None, 1], ["undo"], ["undo"], ["undo"], ["redo"], ["step", 9, None, 2]]
    assert engine.ask("history", steps=[*steps, ["redo"], ["undo"]]) == [1, 2, 1, 0, 0, 1, 9, 9, 1]


def test_a_slider_s_moves_are_one_step(engine: Engine) -> None:
    steps = [["step", 0.7, "nodes", 10], ["step", 0.6, "nodes", 300], ["step", 0.5, "nodes", 5000], ["undo"], ["undo"]]
    assert engine.ask("history", steps=steps)[-2:] == [0.6, 0]


def test_strange_work_is_taken_for_what_it_is_worth(engine: Engine) -> None:
    fresh = engine.ask("work", given=None)
    strange = {"nodes": 7, "edges": "x", "pins": [1, "L0/5@0", "L0/5@0"], "kinds": "all", "layers": [1], "sign": "?"}
    strange |= {"supernodes": [{"label": 1}, {"label": "a", "members": ["x"]}, {"label": "a", "members": ["y"]}]}
    strange |= {"labels": {"0/1": "x", "__proto__": "y", "a": "z", "0/2": 3}}
    found = engine.ask("work", given=strange)
    assert found["pins"] == ["L0/5@0"]
    assert [one["label"] for one in found["supernodes"]] == ["a", "a 2"]
    assert found["labels"] == {"0/1": "x"}
    same = ("nodes", "edges", "kinds", "layers", "sign", "errors")
    assert {name: found[name] for name in same} == {name: fresh[name] for name in same}


def test_a_node_is_in_one_supernode_the_last_that_names_it(engine: Engine) -> None:
    groups = {"a": ["x", "y"], "b": ["y", "y", 3], "c": ["z"], "d": ["z"], "e": [4]}
    given = {"supernodes": [{"label": label, "members": members} for label, members in groups.items()]}
    found = {one["label"]: one["members"] for one in engine.ask("work", given=given)["supernodes"]}
    assert found == {"a": ["x"], "b": ["y"], "d": ["z"]}


@pytest.mark.parametrize("size", [(300, 300), (900, 500)])
def test_no_two_nodes_have_one_place(engine: Engine, file: Path, size: tuple[int, int]) -> None:
    random_graph(5, n_layers=5, n_pos=4, n_features=60).save(file)
    found = engine.ask("layout", file=str(file), width=size[0], height=size[1])
    places = list(zip(found["x"], found["y"], strict=True))
    near = [
        (a, b) for number, a in enumerate(places) for b in places[:number] if math.hypot(a[0] - b[0], a[1] - b[1]) < 12
    ]
    assert not near
    assert all(0 <= x <= found["width"] and 0 <= y <= found["height"] for x, y in places)


# Files that are no graphs


def test_a_file_that_is_no_graph_is_told_so(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "bad.graph"
    for content in (
        b"",
        b"12345678",
        b"\xff" * 40,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
    ):
        path.write_bytes(content)
        (problem,) = engine.ask("problems", file=str(path))
        assert problem


def test_five_problems_are_told_at_most(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "bad.graph"
    graph = random_graph(4, n_layers=3, n_features=8)
    graph.save(path)
    assert engine.ask("problems", file=str(path)) == []
    content = path.read_bytes()
    weights = graph.edges.weight.numpy().tobytes()
    start = content.index(weights)
    path.write_bytes(content[:start] + b"\xff" * len(weights) + content[start + len(weights) :])
    problems = engine.ask("problems", file=str(path))
    assert len(problems) == 5
    assert problems[0] == "Edge 0 weighs NaN."


def test_cumulative_influence_is_python_s(engine: Engine, file: Path) -> None:
    graph = random_graph(9, n_features=12)
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
    influence = node_influence(shares, graph.nodes, target_shares(graph.nodes, graph.target_weights))
    assert close(numbers(engine, file, graph)["cumulative"], cumulative(influence).tolist())


@settings(max_examples=8)
@given(recipes)
def test_its_dot_and_its_cones_are_python_s(engine: Engine, file: Path, recipe: Recipe) -> None:
    import networkx

    graph = recipe()
    graph.save(file)
    assert engine.ask("dot", file=str(file)) == graph.to_dot()
    drawn, every = graph.to_networkx(), names_in_order(graph)
    for row in (0, len(every) // 2, len(every) - 1):
        for end, reached in (("source", networkx.ancestors), ("target", networkx.descendants)):
            found = {every[at] for at in engine.ask("cone", file=str(file), row=row, end=end)}
            assert found == {every[row]} | reached(drawn, every[row])


def test_its_dot_of_hostile_words_is_python_s(engine: Engine, file: Path) -> None:
    graph = dataclasses.replace(hostile_graph(), labels={})
    hostile = graph.with_labels({(f.layer, f.index): 'a\\"b\nc\u2028' for f in graph.nodes.features()})
    hostile.save(file)
    text = engine.ask("dot", file=str(file))
    assert text == hostile.to_dot()
    assert '[label="a\\\\\\"b␤c�", shape=ellipse]' in text


def test_its_labels_as_csv_are_read_here_and_there(engine: Engine, tmp_path: Path) -> None:
    labels = {"2/623": 'say "Austin",\nnow', "0/1": "=1+1", "0/2": "", "11/3": "'quoted'"}
    labels |= {"11/4": "'=1", "11/5": "''-1"}
    found = engine.ask("labels_csv", labels=labels)
    assert found["back"] == labels
    path = tmp_path / "labels.csv"
    path.write_bytes(found["text"].encode())
    assert {f"{layer}/{index}": text for (layer, index), text in load_labels(path).items()} == labels


# Suggestions, groups from files, long prompts, links under the pointer


@given(recipes, st.sampled_from([0.2, 0.5, 0.75, 0.9]), st.booleans())
@settings(max_examples=40)
def test_its_suggestions_are_python_s(
    engine: Engine, file: Path, recipe: Recipe, alike: float, only_some: bool
) -> None:
    graph = recipe().with_labels({(0, 0): "Texas 90%", (1, 1): "say Texas", (2, 2): "the word is", (1, 3): "to-be"})
    graph.save(file)
    n_features = len(graph.nodes.features())
    rows = list(range(n_features))[:: 2 if only_some else 1]
    found = engine.ask("suggest", file=str(file), features=rows, alike=alike)
    for row, expected in zip(found["origins"], origins(graph).tolist(), strict=True):
        assert close(row, expected)
    expected = graph.suggest_supernodes(rows, alike=alike)
    assert {
        one["label"]: tuple(graph.nodes.features()[row] for row in one["rows"]) for one in found["groups"]
    } == expected
    assert [one["label"] for one in found["groups"]] == list(expected)


def test_suggestions_of_random_graphs_are_not_all_none() -> None:
    recipe = partial(random_graph, n_layers=4, n_pos=2, n_features=24)
    assert sum(len(recipe(seed).suggest_supernodes()) for seed in range(10)) > 10


@given(recipes)
@settings(max_examples=15)
def test_pins_supernodes_and_labels_come_back_from_the_json(engine: Engine, file: Path, recipe: Recipe) -> None:
    graph = recipe()
    graph.save(file)
    features = [str(feature) for feature in graph.nodes.features()]
    pins, group = features[::3], features[1::3]
    supernodes = {"Texas": group} if group else {}
    labels = {(one.layer, one.index): f"word {one.index}" for one in graph.nodes.features()[:2]}
    text = graph.with_labels(labels).to_json(pinned=pins, supernodes=supernodes)
    found = engine.ask("groups", file=str(file), work={}, text=text)
    assert sorted(found["work"]["pins"]) == sorted({*pins, *group})
    assert {one["label"]: sorted(one["members"]) for one in found["work"]["supernodes"]} == {
        label: sorted(members) for label, members in supernodes.items()
    }
    assert found["work"]["labels"] == {f"{layer}/{index}": label for (layer, index), label in labels.items()}
    assert (found["supernodes"], found["missing"]) == (len(supernodes), 0)


def test_what_a_save_button_wrote_is_read_and_strangers_are_counted(engine: Engine, file: Path) -> None:
    graph = random_graph(3, n_features=9)
    graph.save(file)
    ids = [f"{one.layer}_{one.index}_{one.pos}" for one in graph.nodes.features()]
    view = {"pinnedIds": f"{ids[0]},9_9_9", "supernodes": json.dumps([["Texas", ids[1], "8_8_8"], ["none", "7_7_7"]])}
    work = {"pins": [str(graph.nodes.features()[2])]}
    found = engine.ask("groups", file=str(file), work=work, text=json.dumps({"qParams": view}))
    names = [str(feature) for feature in graph.nodes.features()]
    assert found["work"]["pins"] == [names[2], names[0], names[1]]
    assert found["work"]["supernodes"] == [{"label": "Texas", "members": [names[1]]}]
    assert found["missing"] == 3


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ({"pinnedIds": 5}, "pinnedIds is 5, not a list of nodes"),
        ({"supernodes": "[["}, 'supernodes is "[[", which is no JSON'),
        ({"supernodes": 5}, 'A supernode is 5, not ["label"'),
        ({"supernodes": [["a", 3]]}, 'A supernode is ["a",3], not ["label"'),
    ],
)
def test_groups_that_make_no_sense_are_told(engine: Engine, file: Path, view: Any, says: str) -> None:
    random_graph(3).save(file)
    assert says in engine.ask("groups", file=str(file), work={}, text=json.dumps({"qParams": view}))["problems"][0]


def test_labels_say_whose_they_are(engine: Engine, tmp_path: Path) -> None:
    text = engine.ask("written", labels={"0/5": "Texas"}, transcoder="some-clt", weights="12ab")
    said = {"labels": {"0/5": "Texas"}, "transcoder": "some-clt", "weights": "12ab"}
    assert engine.ask("labels", text=text) == said
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    assert load_labels(path) == {(0, 5): "Texas"}


def test_of_a_long_prompt_what_matters_is_shown_until_all_is_asked_for(engine: Engine, file: Path) -> None:
    graph = random_graph(5, n_pos=70, n_features=12, n_layers=2)
    graph.save(file)
    found = engine.ask("positions", file=str(file), work={})
    shown, hidden = [pos for pos in found if pos >= 0], [pos for pos in range(70) if pos not in found]
    assert len(shown) in (23, 24)
    fed = {69, *(graph.node(row).id.pos for row in range(12) if graph.node(row).influence > 0)}
    assert fed <= set(shown)
    influence = torch.zeros(70, dtype=torch.float64)
    others = ~graph.nodes.rows(Kind.FEATURE) & (graph.nodes.pos >= 0)
    influence.index_add_(0, graph.nodes.pos[others].long(), graph.influence()[others])
    assert float(influence[hidden].max()) <= float(influence[sorted({*shown} - fed)].min())
    assert engine.ask("positions", file=str(file), work={"allTokens": True}) is None
    pinned = {"pins": [f"token@{hidden[0]}"], "positions": [hidden[1]]}
    assert {hidden[0], hidden[1]} <= set(engine.ask("positions", file=str(file), work=pinned))
    random_graph(5, n_pos=64).save(file)
    assert engine.ask("positions", file=str(file), work={}) is None


def test_the_link_under_the_pointer_is_found_along_its_curve(engine: Engine) -> None:
    places = [[100, 300], [100, 100], [400, 100]]
    links = [
        {"source": 0, "target": 1, "weight": 1, "share": 1, "carried": 1},
        {"source": 0, "target": 2, "weight": 1, "share": 1, "carried": 1},
    ]
    asked = {"links": links, "places": places, "reach": 5}

    def target(x: float, y: float) -> int | None:
        found = engine.ask("link_at", **asked, x=x, y=y)
        return None if found is None else found["target"]

    # The first is a straight line up; the second swings over, and lies in its middle between its ends.
    assert target(102, 150) == 1
    assert target(110, 150) is None
    assert target(250, 200) == 2
    assert target(250, 230) is None
    # Where both are, the one that is drawn on top.
    assert target(100, 298) == 2
