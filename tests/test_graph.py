import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import GOLDEN, Recipe, golden, graph_of, may_feed, random_graph, recipes
from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph import AttributionGraph, Edges, Provenance
from tl_circuits.graph.losses import input_sums, with_losses_as_errors
from tl_circuits.nodes import Feature, Kind, Nodes, lay_out

shares = st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.98, 1.0])


def names(graph: AttributionGraph) -> set[str]:
    return set(names_in_order(graph))


def names_in_order(graph: AttributionGraph) -> list[str]:
    return [str(graph.nodes[row]) for row in range(len(graph.nodes))]


def pairs(graph: AttributionGraph) -> set[tuple[str, str]]:
    targets, sources = graph.edges.target.tolist(), graph.edges.source.tolist()
    return {(str(graph.nodes[t]), str(graph.nodes[s])) for t, s in zip(targets, sources, strict=True)}


# Pruning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_pruning_errors_too_gives_circuit_tracers_masks(path: Path) -> None:
    example = golden(path)
    pruned = example.graph.prune(0.8, 0.98, errors=True)
    rows = example.paper.nonzero().squeeze(1)
    expected_nodes, expected_edges = example.expected["prune_node_mask"], example.expected["prune_edge_mask"]
    kept = rows[expected_nodes].tolist()
    assert names(pruned) == {str(example.graph.nodes[row]) for row in kept} | {
        str(example.graph.nodes[row]) for row in (~example.paper).nonzero().squeeze(1).tolist()
    }
    targets, sources = expected_edges.nonzero(as_tuple=True)
    assert pairs(pruned) == {
        (str(example.graph.nodes[t]), str(example.graph.nodes[s]))
        for t, s in zip(rows[targets].tolist(), rows[sources].tolist(), strict=True)
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_scores_equal_circuit_tracers(path: Path) -> None:
    example = golden(path)
    scores = example.graph.scores()
    replacement, completeness = example.scores
    assert scores.replacement == pytest.approx(replacement, abs=1e-9)
    assert scores.completeness_circuit_tracer == pytest.approx(completeness, abs=1e-9)
    assert scores.completeness < scores.completeness_circuit_tracer


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_pruned_graph_remembers_how_its_nodes_ranked(path: Path) -> None:
    example = golden(path)
    pruned = example.graph.prune(0.8, 0.98, errors=True)
    assert pruned.pruned is not None
    paper = pruned.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)
    expected = example.expected["prune_cumulative"][example.expected["prune_node_mask"]]
    torch.testing.assert_close(pruned.pruned.cumulative[paper], expected, rtol=1e-9, atol=1e-12)


def dense_prune(
    graph: AttributionGraph, nodes: float, edges: float, *, errors: bool
) -> tuple[set[str], set[tuple[str, str]]]:
    """The rule on dense matrices and sets of names, for graphs small enough to read."""
    paper = graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN)
    matrix = graph.adjacency().abs()
    weights = graph.target_weights.double().abs()
    p = torch.zeros(len(matrix), dtype=torch.float64)
    p[graph.nodes.span(Kind.TARGET)] = weights / weights.sum()
    identity = torch.eye(len(matrix), dtype=torch.float64)

    def weigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = (matrix * paper).sum(1, keepdim=True)
        share = torch.where(total > 0, matrix * paper / total, 0.0)
        return total, p @ (torch.linalg.inv(identity - share) - identity)

    def smallest(scores: list[float], share: float) -> float:
        reached, ordered = 0.0, sorted(scores, reverse=True)
        for value in ordered:
            reached += value
            if reached >= share * sum(ordered) * (1 - 1e-9):
                return value * (1 - 1e-9)
        return 0.0

    influence = weigh(matrix)[1]
    stays = ~graph.nodes.rows(Kind.FEATURE, Kind.ERROR) if errors else ~graph.nodes.rows(Kind.FEATURE)
    kept = (influence >= smallest(influence.tolist(), nodes)) & (influence > 0) | stays
    matrix = matrix * kept * kept[:, None]
    total, influence = weigh(matrix)
    # Where a row has constants alone, its share of nothing is infinite: such edges stay if anything flows through it.
    carried = torch.nan_to_num(matrix / total * (influence + p)[:, None], nan=0.0)
    cut = smallest((carried * paper)[:, paper].flatten().tolist(), edges)
    names_of = names_in_order(graph)
    found = {names_of[row] for row in kept.nonzero().squeeze(1).tolist()}
    links = {(names_of[t], names_of[s]) for t, s in ((carried >= cut) & (carried > 0)).nonzero().tolist()}
    constants = {names_of[row] for row in (~paper).nonzero().squeeze(1).tolist()}
    while errors:
        fed = {target for target, source in links if source not in constants}
        feeding = {source for _, source in links}
        loose = {name for name in found if name.startswith("L") and name not in fed & feeding}
        loose |= {name for name in found if name.startswith("error") and name not in feeding}
        if not loose:
            break
        found -= loose
        links = {(target, source) for target, source in links if target in found and source in found}
    return found, links


@given(recipes, st.sampled_from([0.3, 0.8, 0.99]), st.sampled_from([0.2, 0.5, 0.98]), st.booleans())
def test_pruning_is_the_rule_of_the_paper_or_of_circuit_tracer(
    recipe: Recipe, nodes: float, edges: float, errors: bool
) -> None:
    graph = recipe()
    pruned = graph.prune(nodes, edges, errors=errors)
    expected_nodes, expected_edges = dense_prune(graph, nodes, edges, errors=errors)
    assert names(pruned) == expected_nodes
    assert pairs(pruned) == expected_edges


@given(recipes, shares, shares, st.booleans())
def test_losses_of_constants_are_booked_apart(recipe: Recipe, nodes: float, edges: float, errors: bool) -> None:
    graph = recipe()
    pruned = graph.prune(nodes, edges, errors=errors)
    assert pruned.pruned is not None
    constants = graph.nodes.rows(Kind.POSITION, Kind.MASKED, Kind.B_DEC, Kind.BIAS)
    before = dict(zip(names_in_order(graph), graph.edges.sums(constants).tolist(), strict=True))
    kept = pruned.edges.sums(pruned.nodes.rows(Kind.POSITION, Kind.MASKED, Kind.B_DEC, Kind.BIAS))
    lost = pruned.pruned.into.sums(pruned.pruned.lost.rows(Kind.BIAS))
    for name, sum_now in zip(names_in_order(pruned), (kept + lost).tolist(), strict=True):
        assert sum_now == pytest.approx(before[name], abs=1e-9)


@given(recipes, shares, shares, st.booleans(), st.booleans())
def test_a_pruned_graph_is_part_of_the_graph_and_keeps_its_ends(
    recipe: Recipe, nodes: float, edges: float, errors: bool, constants: bool
) -> None:
    graph = recipe()
    pruned = graph.prune(nodes, edges, errors=errors, constants=constants)
    assert names(pruned) <= names(graph)
    assert pairs(pruned) <= pairs(graph)
    stay = graph.nodes.rows(*(kind for kind in Kind if kind not in ((Kind.FEATURE, Kind.ERROR)[: 1 + errors])))
    assert {str(graph.nodes[row]) for row in stay.nonzero().squeeze(1).tolist()} <= names(pruned)
    assert pruned.target_labels == graph.target_labels


@given(recipes, shares, shares, st.booleans())
def test_a_lower_share_keeps_less(recipe: Recipe, first: float, second: float, errors: bool) -> None:
    graph, (low, high) = recipe(), sorted((first, second))
    assert names(graph.prune(low, 1.0)) <= names(graph.prune(high, 1.0))
    assert pairs(graph.prune(1.0, low, errors=errors)) <= pairs(graph.prune(1.0, high, errors=errors))


@given(recipes, st.booleans(), st.booleans())
def test_pruning_to_all_influence_twice_is_pruning_once(recipe: Recipe, errors: bool, constants: bool) -> None:
    once = recipe().prune(1.0, 1.0, errors=errors, constants=constants)
    twice = once.prune(1.0, 1.0, errors=errors, constants=constants)
    assert names(once) == names(twice)
    assert pairs(once) == pairs(twice)


@given(recipes)
def test_pruning_to_all_influence_changes_no_score(recipe: Recipe) -> None:
    graph = recipe()
    before, after = graph.scores(), graph.prune(1.0, 1.0).scores()
    assert after.replacement == pytest.approx(before.replacement, nan_ok=True)
    assert after.completeness == pytest.approx(before.completeness, nan_ok=True)


@given(recipes, shares, shares, shares, st.booleans(), st.booleans())
def test_what_is_pruned_is_remembered_to_the_last_digit(
    recipe: Recipe, nodes: float, edges: float, again: float, errors: bool, constants: bool
) -> None:
    graph = recipe()
    twice = graph.prune(nodes, edges, errors=errors, constants=constants).prune(again, again)
    reads = twice.expanded
    torch.testing.assert_close(input_sums(twice)[reads], twice.totals[reads], rtol=1e-9, atol=1e-9)
    assert twice.pruned is not None
    assert twice.pruned.nodes_before == len(graph.nodes)
    assert twice.pruned.edges_before == len(graph.edges)


def chain(*, error: float = 1.0) -> AttributionGraph:
    """token → feature L0 → feature L1 → target, with one error into each feature, so that shares are easy to read."""
    nodes = lay_out(
        torch.tensor([[0, 0, 5], [1, 0, 6]]),
        2,
        torch.tensor([11]),
        learned_positions=False,
        masked_positions=(),
        targets=torch.tensor([[2, 0, 42]]),
    )
    row = {str(nodes[number]): number for number in range(len(nodes))}
    weights = {
        ("L0/5@0", "token@0"): 3.0,
        ("L1/6@0", "L0/5@0"): -3.0,
        ("L1/6@0", "error L0@0"): error,
        ("target 42@0", "L1/6@0"): 3.0,
        ("target 42@0", "error L1@0"): error,
        ("target 42@0", "bias L2"): 100.0,
    }
    ends = torch.tensor([[row[target], row[source]] for target, source in weights])
    edges = Edges.from_pairs(
        len(nodes), ends[:, 0], ends[:, 1], torch.tensor(list(weights.values()), dtype=torch.float64)
    )
    return graph_of(nodes, edges, nodes.rows(Kind.FEATURE, Kind.TARGET), torch.tensor([0.5]), n_layers=2)


def test_scores_of_a_chain_by_hand() -> None:
    scores = chain().scores()
    assert scores.replacement == pytest.approx(0.75 * 0.75)
    # Weights 1, .75 and .5625 of target, L1 and L0; their inputs are complete to .75, .75 and 1.
    assert scores.completeness == pytest.approx((0.75 + 0.75 * 0.75 + 0.5625) / (1 + 0.75 + 0.5625))
    everything = 1 + 0.75 + 0.5625 + 0.5625 + 0.25 + 0.1875
    assert scores.completeness_circuit_tracer == pytest.approx((everything - 0.25 - 0.1875) / everything)


def test_constants_count_where_asked() -> None:
    scores = chain().scores(constants=True)
    assert scores.completeness == pytest.approx(
        (1 * 103 / 104 + 3 / 104 * 0.75 + 3 / 104 * 0.75) / (1 + 3 / 104 + 3 / 104 * 0.75)
    )


def test_circuit_tracers_completeness_counts_errors_as_complete() -> None:
    # One feature fed by an error alone: the toy on which the two formulas give .333 and .600.
    nodes = lay_out(
        torch.tensor([[0, 0, 1]]),
        1,
        torch.tensor([3]),
        learned_positions=False,
        masked_positions=(),
        targets=torch.tensor([[1, 0, 2]]),
    )
    ends = torch.tensor([[nodes.span(Kind.TARGET).start, 0, 1.0], [nodes.span(Kind.TARGET).start, 1, 1.0], [0, 1, 1.0]])
    edges = Edges.from_pairs(len(nodes), ends[:, 0].long(), ends[:, 1].long(), ends[:, 2])
    scores = graph_of(nodes, edges, nodes.rows(Kind.FEATURE, Kind.TARGET), torch.ones(1), n_layers=1).scores()
    assert scores.completeness == pytest.approx(1 / 3)
    assert scores.completeness_circuit_tracer == pytest.approx(0.6)


def test_a_pruned_feature_counts_as_error_with_its_sign() -> None:
    pruned = chain().prune(0.3, 1.0)
    assert "L0/5@0" not in names(pruned)
    assert pruned.pruned is not None
    assert [str(pruned.pruned.lost[place]) for place in range(len(pruned.pruned.lost))] == ["error L0@0"]
    assert pruned.pruned.into.weight.tolist() == [-3.0]
    # −3 joins the +1 of the error at the same place before |·|: L1/6 is fed by an error of 2 and by nothing else.
    shares, is_error = with_losses_as_errors(pruned, constants=False)
    into = shares.edges.into(names_in_order(pruned).index("L1/6@0"))
    assert shares.edges.weight[into].tolist() == [-2.0]
    assert bool(is_error[shares.edges.source[into]].all())
    assert pruned.scores().replacement == 0
    assert pruned.scores().completeness == pytest.approx(0.75 / 1.75)


def test_a_pruned_token_edge_is_an_error_below_all_layers() -> None:
    pruned = chain().prune(1.0, 0.3)
    assert pairs(pruned) == {("target 42@0", "L1/6@0"), ("target 42@0", "bias L2")}
    assert pruned.pruned is not None
    lost = [str(pruned.pruned.lost[place]) for place in range(len(pruned.pruned.lost))]
    assert lost == ["error L-1@0", "error L0@0", "error L1@0"]
    assert pruned.pruned.into.weight.tolist() == [3.0, -2.0, 1.0]
    assert pruned.scores().replacement == 0
    assert pruned.scores().completeness == pytest.approx(0.75 / 1.75)


def test_pruning_the_edges_of_errors_changes_no_score() -> None:
    pruned = chain().prune(1.0, 0.8)
    assert not any("error" in source for _, source in pairs(pruned))
    for name in ("replacement", "completeness", "completeness_circuit_tracer"):
        assert getattr(pruned.scores(), name) == pytest.approx(getattr(chain().scores(), name))


def test_a_lost_error_still_counts_as_one() -> None:
    graph = random_graph(4, n_layers=3, n_features=12)
    pruned = graph.prune(0.4, 0.9, errors=True)
    assert pruned.nodes.count(Kind.ERROR) < graph.nodes.count(Kind.ERROR)
    assert pruned.scores().replacement < graph.scores().replacement
    assert "what was pruned counts as error" in repr(pruned.scores())


@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.6]), st.booleans())
def test_the_bounds_of_a_partial_graph_hold_the_scores_of_the_full_one(
    seed: int, share: float, constants: bool
) -> None:
    make = partial(random_graph, seed, n_layers=4, n_pos=2, n_features=20, density=0.5)
    full, partial_graph = make(), close(make(), seed, share)
    exact, bounds = full.scores(constants=constants), partial_graph.scores(constants=constants)
    for name in ("replacement", "completeness", "completeness_circuit_tracer"):
        low, high = getattr(bounds, f"{name}_bounds")
        assert low - 1e-12 <= getattr(exact, name) <= high + 1e-12
        assert getattr(bounds, name) == low
        assert getattr(exact, f"{name}_bounds") == pytest.approx((getattr(exact, name),) * 2)


def close(graph: AttributionGraph, seed: int, share: float) -> AttributionGraph:
    """The same graph with a share of its features not expanded."""
    rng = torch.Generator().manual_seed(seed)
    features = graph.nodes.rows(Kind.FEATURE)
    expanded = graph.expanded & ~(features & (torch.rand(len(features), generator=rng) < share))
    return dataclasses.replace(
        graph,
        edges=graph.edges.keep(expanded[graph.edges.target]),
        expanded=expanded,
        totals=torch.where(expanded, graph.totals, torch.nan),
        coverage=0.5,
    )


def test_features_that_were_not_expanded_survive_circuit_tracers_rule() -> None:
    graph = close(random_graph(8, n_layers=4, n_features=24), 8, 0.7)
    pruned = graph.prune(1.0, 1.0, errors=True)
    pending = pruned.nodes.rows(Kind.FEATURE) & ~pruned.expanded
    assert int(pending.sum()) > 0
    assert "partial graph, coverage 0.500" in repr(pruned.scores())
    assert "at most" in repr(pruned.scores())


def test_negative_weights_are_said_in_the_scores() -> None:
    scores = random_graph(3, negative_weights=True).scores()
    assert 0 <= scores.replacement <= 1
    assert "targets of negative weight count by its size" in scores.note


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize("name", ["nodes", "edges"])
def test_shares_outside_are_refused(name: str, threshold: float) -> None:
    with pytest.raises(SettingError, match=rf"prune\({name}={threshold}\).*above 0 and at most at 1, say {name}=0.8"):
        random_graph(0).prune(**cast(Any, {name: threshold}))


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


@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans(), st.sampled_from([0.0, 0.4]))
def test_the_strongest_paths_are_the_strongest_of_all_paths(
    seed: int, k: int, constants: bool, unexpanded: float
) -> None:
    graph = random_graph(seed, n_layers=4, n_pos=1, n_features=7, density=0.5, unexpanded=unexpanded)
    paths, every = graph.paths(k, constants=constants), every_path(graph, constants)
    assert [path.share for path in paths] == pytest.approx(sorted(every.values(), reverse=True)[:k])
    for path in paths:
        assert path.share == pytest.approx(every[tuple(view.row for view in path.nodes)])


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
