import dataclasses
import math
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import (
    Recipe,
    chain,
    may_feed,
    random_graph,
    recipes,
)
from tests.test_refusals import refusal
from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph import AttributionGraph, Edges, Provenance
from tl_circuits.nodes import Feature, Kind, Nodes

# Records ------------------------------------------------------------------------------------------------------------


def test_adjacency_has_targets_as_rows_and_sources_as_columns() -> None:
    graph = chain()
    matrix = graph.adjacency()
    row = {str(graph.nodes[number]): number for number in range(len(graph.nodes))}
    assert float(matrix[row["L1/6@0"], row["L0/5@0"]]) == -3.0
    assert int((matrix != 0).sum()) == len(graph.edges)
    assert bool((matrix != 0).le(may_feed(graph.nodes)).all())


def test_a_large_matrix_is_refused_with_its_size() -> None:
    graph = random_graph(0)
    with pytest.raises(GraphError, match=rf"{len(graph.nodes)} × {len(graph.nodes)}.*GiB.*Prune.*max_nodes="):
        graph.adjacency(max_nodes=10)
    assert graph.adjacency(max_nodes=len(graph.nodes)).shape == (len(graph.nodes),) * 2


@pytest.mark.slow
@given(recipes)
def test_edges_survive_every_form(recipe: Recipe) -> None:
    edges = recipe().edges
    dense = edges.dense(edges.n_rows)
    for other in (
        Edges.from_dense(dense),
        Edges.from_pairs(edges.n_rows, edges.target.flip(0), edges.source.flip(0), edges.weight.flip(0)),
    ):
        assert torch.equal(other.indptr, edges.indptr)
        assert torch.equal(other.source, edges.source)
        assert torch.equal(other.weight, edges.weight)
    for row in range(edges.n_rows):
        assert edges.source[edges.into(row)].tolist() == dense[row].nonzero().squeeze(1).tolist()
        assert edges.target[edges.out_of(row)].tolist() == dense[:, row].nonzero().squeeze(1).tolist()


def columns(indptr: list[int], source: list[int], weight: list[float]) -> Edges:
    return Edges(torch.tensor(indptr), torch.tensor(source, dtype=torch.int32), torch.tensor(weight))


@pytest.mark.parametrize(
    ("given_columns", "message"),
    [
        (([0, 2], [0], [1.0]), "run from 0 to 2 for 1 edges.*Edges.from_pairs"),
        (([1, 1], [0], [1.0]), "run from 1 to 1 for 1 edges"),
        (([0, 2, 1, 2], [0, 1], [1.0, 1.0]), "must rise from 0"),
        (([0, 2], [1, 0], [1.0, 1.0]), "Edge 1 starts at node 0, the one before it at 1"),
        (([0, 2], [1, 1], [1.0, 1.0]), "each named once"),
        (([0, 0, 2], [1, 0], [1.0, 1.0]), "Edge 1 starts at node 0"),
        (([0, 2, 2], [1, 0], [1.0, 1.0]), "Edge 1 starts at node 0"),
        (([0, 1], [-1], [1.0]), "starts at node -1"),
        (([0, 1], [0], [math.nan]), "1 of 1 edges are not finite"),
    ],
)
def test_columns_that_are_no_edges_are_refused(given_columns, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        columns(*given_columns)


def changed(**changes: Any) -> dict[str, Any]:
    return changes


def test_columns_of_unequal_length_are_refused_where_shapes_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(GraphError, match=r"source torch.int32 \(2,\), weight torch.float32 \(1,\).*int64 \(nodes"):
        columns([0, 2], [0, 1], [1.0])
    with pytest.raises(GraphError, match=r"indptr torch.float32 \(2,\)"):
        Edges(torch.zeros(2), torch.zeros(0, dtype=torch.int32), torch.zeros(0))


@pytest.mark.parametrize(
    ("make_change", "message"),
    [
        (lambda _: changed(edges=random_graph(0, n_features=3).edges), "35 nodes, but {'edges': 30.*per node"),
        (lambda _: changed(target_labels=("a",)), "2 targets, but .*'target_labels': 1"),
        (lambda _: changed(target_weights=torch.zeros(2)), r"weights are \[0.0, 0.0\].*not all 0"),
        (lambda _: changed(target_weights=torch.tensor([1.0, math.nan])), "must be finite"),
        (lambda g: changed(tokens=g.tokens[:-1]), "lies outside 3 layers and 2 tokens"),
        (lambda _: changed(provenance=Provenance(n_layers=2)), "lies outside 2 layers and 3 tokens"),
        (lambda g: changed(expanded=torch.zeros_like(g.expanded)), "Targets are always expanded"),
        (lambda g: changed(expanded=torch.ones_like(g.expanded)), "besides them only features"),
        (lambda g: changed(expanded=g.nodes.rows(Kind.TARGET)), "nodes have inputs but are not expanded, first L"),
        (lambda g: changed(activations=torch.full_like(g.activations, math.nan)), "no finite activation"),
        (lambda _: changed(coverage=1.5), "coverage of 1.5 is no share"),
        (lambda _: changed(conservation_error=-1.0), "conservation -1.0"),
        (lambda g: changed(edges=reverse(g)), "reads at the same layer or lower"),
        (lambda g: changed(edges=one_edge(g, *same_layer(g))), "reads at the same layer or lower"),
        (lambda g: changed(edges=one_edge(g, 0, len(g.nodes) - 1)), "starts at a target"),
        (lambda g: changed(edges=one_edge(g, 0, len(g.nodes))), "starts at node 35 of 35"),
    ],
)
def test_a_graph_that_breaks_a_law_is_refused(make_change, message: str) -> None:
    graph = random_graph(0)
    with pytest.raises(GraphError, match=message):
        dataclasses.replace(graph, **make_change(graph))


def one_edge(graph: AttributionGraph, target: int, source: int) -> Edges:
    return Edges.from_pairs(len(graph.nodes), torch.tensor([target]), torch.tensor([source]), torch.ones(1))


def same_layer(graph: AttributionGraph) -> tuple[int, int]:
    layers = graph.nodes.layer[graph.nodes.span(Kind.FEATURE)].tolist()
    source = next(row for row in range(len(layers) - 1) if layers[row] == layers[row + 1])
    return source + 1, source


def reverse(graph: AttributionGraph) -> Edges:
    return one_edge(graph, 0, graph.nodes.count(Kind.FEATURE) - 1)


def test_features_out_of_order_are_refused() -> None:
    graph = chain()
    columns = [getattr(graph.nodes, name).clone() for name in ("kind", "layer", "pos", "index")]
    columns[1][:2] = torch.tensor([1, 0])
    with pytest.raises(GraphError, match=r"Feature L0/6@0 stands after L1/5@0.*sorted by layer, position and index"):
        dataclasses.replace(graph, nodes=Nodes(*columns), edges=one_edge(graph, len(graph.nodes) - 1, 0))


def test_a_graph_without_targets_is_refused() -> None:
    graph = random_graph(0, n_targets=1)
    keep = ~graph.nodes.rows(Kind.TARGET)
    none = torch.zeros(0)
    with pytest.raises(GraphError, match="0 targets, so there is nothing to explain"):
        AttributionGraph(
            graph.nodes.subset(keep),
            graph.edges.renumber(keep),
            graph.activations[keep],
            graph.totals[keep],
            graph.expanded[keep],
            none,
            (),
            none,
            graph.tokens,
            provenance=graph.provenance,
        )


def test_settings_that_are_no_json_are_refused() -> None:
    with pytest.raises(GraphError, match=r"cannot be written as JSON.*finite numbers.*inf"):
        Provenance(settings={"coverage": math.inf})
    with pytest.raises(GraphError, match="cannot be written as JSON"):
        Provenance(settings={"model": object()})


# Looking around -----------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_every_name() -> None:
    graph = random_graph(11)
    for row in range(len(graph.nodes) - 1):
        node = graph.nodes[row]
        assert graph.node(row).id == graph.node(node).id == node
        assert graph.node(str(node)).id == node
    feature = graph.nodes.features()[-1]
    from_the_end = Feature(feature.layer, feature.pos - len(graph.tokens), feature.index)
    assert graph.node(from_the_end) == graph.node(feature) == graph.node(str(from_the_end))
    assert graph.node("error L1@-1").id == (Kind.ERROR, 1, 2, -1)
    assert graph.node("token@-2").label == " Dallas"
    assert len({graph.node(0), graph.node(0), graph.node(1)}) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L0/99@1", "no node L0/99@1.*35 nodes"),
        ("error L9@0", "no node 'error L9@0' among its 35"),
        ("Texas", r"'Texas' names no node. Write a feature as L20/15589@-1, others as error L3@5.*graph.find"),
        ("feature L1@0", "names no node"),
        ("error L" + "9" * 30, "names no node"),
        ("L0/" + "9" * 30 + "@0", "no node L0/9999"),
        ("token", "'token' names 3 nodes, first token@0 and token@2: say which"),
        ("", "'' names no node"),
        (35, "no row 35 among 35 nodes"),
        (-1, "no row -1 among 35 nodes"),
    ],
)
def test_a_name_of_nothing_is_refused(name: str | int, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        random_graph(0).node(name)


@pytest.mark.slow
@given(recipes)
def test_inputs_and_outputs_are_the_matrix_sorted_by_size(recipe: Recipe) -> None:
    graph = recipe()
    matrix = graph.adjacency()
    for row in range(0, len(graph.nodes), 3):
        view = graph.node(row)
        for listed, line in ((view.inputs(), matrix[row]), (view.outputs(), matrix[:, row])):
            assert {other.row: weight for other, weight in listed} == {
                other: float(line[other]) for other in line.nonzero().squeeze(1).tolist()
            }
            sizes = [abs(weight) for _, weight in listed]
            assert sizes == sorted(sizes, reverse=True)
        assert view.inputs(2) == view.inputs()[:2]
        assert view.influence == float(graph.influence()[row])


def test_words_numbers_and_features_find_nodes() -> None:
    graph = random_graph(11, n_features=24).with_labels({(0, 1): "Cities in TEXAS", (1, 2): "capitals"})
    assert {view.id[1::2] for view in graph.find("texas")} == {(0, 1)}
    assert [str(view.id) for view in graph.find(" Dallas")] == ["token@1"]
    assert [view.label for view in graph.find("word1")] == [" word1"]
    assert {str(view.id) for view in graph.find(8)} == {"token@1"}
    assert {str(view.id) for view in graph.find(1)} == {"target 1@2"}
    feature = graph.nodes.features()[0]
    assert [view.row for view in graph.find(feature)] == [0]
    assert [view.row for view in graph.find(str(feature))] == [0]
    assert {view.id.index for view in graph.find(f"L{feature.layer}/{feature.index}")} == {feature.index}
    assert (
        graph.find("nothing like it") == graph.find(Feature(0, 0, 99)) == graph.find(10**6) == graph.find(10**30) == []
    )
    influences = [view.influence for view in graph.find("i")]
    assert influences == sorted(influences, reverse=True)
    with pytest.raises(GraphError, match=r"find\(''\) would find every node. Give a word"):
        graph.find("")


def test_labels_are_added_and_replaced() -> None:
    graph = random_graph(11).with_labels({(0, 1): "Texas"}).with_labels({(0, 1): "Dallas", (2, 2): "say Austin"})
    assert dict(graph.labels) == {(0, 1): "Dallas", (2, 2): "say Austin"}
    assert "'Dallas'" in repr(graph.find("L0/1")[0])
    assert not random_graph(11).labels


def every_path(graph: AttributionGraph, constants: bool) -> dict[tuple[int, ...], float]:
    """All paths from an end of the graph to a target with their shares, by walking down."""
    magnitude = graph.adjacency().abs() * (graph.nodes.kind < (8 if constants else 3))
    total = magnitude.sum(1, keepdim=True)
    share = torch.where(total > 0, magnitude / total, 0.0)
    weights = graph.target_weights.double().abs()
    first = graph.nodes.span(Kind.TARGET).start
    walks: list[tuple[tuple[int, ...], float]] = [
        ((first + number,), weight) for number, weight in enumerate((weights / weights.sum()).tolist())
    ]
    found = {}
    while walks:
        rows, product = walks.pop()
        if not bool(graph.expanded[rows[0]]):
            found[rows] = product
        for source in share[rows[0]].nonzero().squeeze(1).tolist():
            walks.append(((source, *rows), product * float(share[rows[0], source])))
    return found


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans(), st.sampled_from([0.0, 0.4]))
def test_the_strongest_paths_are_the_strongest_of_all_paths(
    seed: int, k: int, constants: bool, unexpanded: float
) -> None:
    graph = random_graph(seed, n_layers=4, n_pos=1, n_features=7, density=0.5, unexpanded=unexpanded)
    paths, every = graph.paths(k, constants=constants), every_path(graph, constants)
    assert [path.share for path in paths] == pytest.approx(sorted(every.values(), reverse=True)[:k])
    for path in paths:
        assert path.share == pytest.approx(every[tuple(view.row for view in path.nodes)])


@pytest.mark.slow
@given(st.integers(0, 10_000))
def test_the_paths_from_tokens_carry_the_influence_of_tokens(seed: int) -> None:
    graph = random_graph(seed, n_layers=3, n_pos=1, n_features=6, density=0.6)
    shares = [path.share for path in graph.paths(10_000, Kind.TOKEN)]
    tokens = graph.influence()[graph.nodes.span(Kind.TOKEN)].sum()
    assert sum(shares) == pytest.approx(float(tokens))
    lengths = graph.path_lengths()
    assert sum(share for share in shares) == pytest.approx(float(lengths[-1]) if len(lengths) else 0.0)


def test_the_effect_of_a_path_has_a_sign_and_the_targets_units() -> None:
    graph = chain()
    graph = dataclasses.replace(graph, activations=torch.where(graph.nodes.rows(Kind.FEATURE), 2.0, graph.activations))
    (path,) = graph.paths(5, "token@0", "target 42@0")
    assert [str(view.id) for view in path.nodes] == ["token@0", "L0/5@0", "L1/6@0", "target 42@0"]
    assert path.share == pytest.approx(0.75 * 0.75)
    assert path.effect == pytest.approx(3 * -3 * 3 / 2 / 2)
    assert repr(path).startswith("<token@0 '<bos>' → L0/5@0 → L1/6@0 → target 42@0 ' word0': share 0.56")
    (inner,) = graph.paths(5, "L0/5@0", "L1/6@0")
    assert (inner.share, inner.effect) == (pytest.approx(0.75), -3.0)
    assert graph.paths(5, "L1/6@0", "L0/5@0") == []
    with pytest.raises(SettingError, match=r"paths\(k=0\): ask for at least 1"):
        graph.paths(0)


def test_paths_from_a_kind_may_pass_through_that_kind() -> None:
    found = {tuple(str(view.id) for view in path.nodes)[:-1] for path in chain().paths(10, Kind.FEATURE)}
    assert found == {("L1/6@0",), ("L0/5@0", "L1/6@0")}


def test_inputs_that_overflow_together_are_refused_with_the_node() -> None:
    graph = random_graph(3, n_features=9)
    row = int(graph.edges.target[0])
    weight = graph.edges.weight.clone()
    # Their sum is a number, the sum of their sizes is none.
    weight[graph.edges.into(row)] *= 0
    first = graph.edges.into(row).start
    weight[first], weight[first + 1] = 1.5e308, -1.5e308
    edges = dataclasses.replace(graph.edges, weight=weight)
    with refusal(GraphError, rf"inputs of {graph.nodes[row]} add up to more.*largest is 1.5e\+308.*in what units"):
        dataclasses.replace(graph, edges=edges)
