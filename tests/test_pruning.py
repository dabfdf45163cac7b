import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import (
    GOLDEN,
    Recipe,
    chain,
    golden,
    graph_of,
    names,
    names_in_order,
    pairs,
    random_graph,
    recipes,
)
from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph, Edges
from tl_circuits.graph.losses import with_losses_as_errors
from tl_circuits.nodes import Kind, lay_out

shares = st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.98, 1.0])


@pytest.mark.slow
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


@pytest.mark.slow
@given(recipes, st.sampled_from([0.3, 0.8, 0.99]), st.sampled_from([0.2, 0.5, 0.98]), st.booleans())
def test_pruning_is_the_rule_of_the_paper_or_of_circuit_tracer(
    recipe: Recipe, nodes: float, edges: float, errors: bool
) -> None:
    graph = recipe()
    pruned = graph.prune(nodes, edges, errors=errors)
    expected_nodes, expected_edges = dense_prune(graph, nodes, edges, errors=errors)
    assert names(pruned) == expected_nodes
    assert pairs(pruned) == expected_edges


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@given(recipes, shares, shares, st.booleans())
def test_a_lower_share_keeps_less(recipe: Recipe, first: float, second: float, errors: bool) -> None:
    graph, (low, high) = recipe(), sorted((first, second))
    assert names(graph.prune(low, 1.0)) <= names(graph.prune(high, 1.0))
    assert pairs(graph.prune(1.0, low, errors=errors)) <= pairs(graph.prune(1.0, high, errors=errors))


@pytest.mark.slow
@given(recipes, st.booleans(), st.booleans())
def test_pruning_to_all_influence_twice_is_pruning_once(recipe: Recipe, errors: bool, constants: bool) -> None:
    once = recipe().prune(1.0, 1.0, errors=errors, constants=constants)
    twice = once.prune(1.0, 1.0, errors=errors, constants=constants)
    assert names(once) == names(twice)
    assert pairs(once) == pairs(twice)


@pytest.mark.slow
@given(recipes)
def test_pruning_to_all_influence_changes_no_score(recipe: Recipe) -> None:
    graph = recipe()
    before, after = graph.scores(), graph.prune(1.0, 1.0).scores()
    assert after.replacement == pytest.approx(before.replacement, nan_ok=True)
    assert after.completeness == pytest.approx(before.completeness, nan_ok=True)


@pytest.mark.slow
@given(recipes, shares, shares, shares, st.booleans(), st.booleans())
def test_what_is_pruned_is_remembered_to_the_last_digit(
    recipe: Recipe, nodes: float, edges: float, again: float, errors: bool, constants: bool
) -> None:
    graph = recipe()
    twice = graph.prune(nodes, edges, errors=errors, constants=constants).prune(again, again)
    reads = twice.expanded
    assert twice.pruned is not None
    kept_and_lost = twice.edges.sums() + twice.pruned.into.sums()
    torch.testing.assert_close(kept_and_lost[reads], twice.totals[reads], rtol=1e-9, atol=1e-9)
    assert twice.pruned.nodes_before == len(graph.nodes)
    assert twice.pruned.edges_before == len(graph.edges)


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


@pytest.mark.slow
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
