import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import GOLDEN, Recipe, golden, random_graph, recipes
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import (
    ROUNDING,
    Shares,
    counted_sources,
    cumulative,
    edge_influence,
    influence_by_length,
    node_influence,
    reaching,
    target_shares,
)
from tl_circuits.nodes import Kind


def dense_shares(graph: AttributionGraph, constants: bool) -> torch.Tensor:
    magnitude = graph.adjacency().to(torch.float64).abs() * counted_sources(graph.nodes, constants=constants)
    total = magnitude.sum(1, keepdim=True)
    return magnitude / torch.where(total > 0, total, 1.0)


def dense_influence(graph: AttributionGraph, constants: bool) -> torch.Tensor:
    shares = dense_shares(graph, constants)
    identity = torch.eye(len(shares), dtype=torch.float64)
    return target_shares(graph.nodes, graph.target_weights) @ (torch.linalg.inv(identity - shares) - identity)


@pytest.mark.slow
@given(recipes, st.booleans())
def test_one_pass_equals_the_matrix_inverse(recipe: Recipe, constants: bool) -> None:
    graph = recipe()
    torch.testing.assert_close(
        graph.influence(constants=constants), dense_influence(graph, constants), rtol=1e-12, atol=1e-15
    )


@pytest.mark.slow
@given(recipes, st.booleans())
def test_the_shares_of_a_row_sum_to_one_or_to_nothing(recipe: Recipe, constants: bool) -> None:
    graph = recipe()
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=constants))
    sums = torch.zeros(len(graph.nodes), dtype=torch.float64).index_add_(0, graph.edges.target, shares.all())
    assert bool(((sums - 1).abs().lt(1e-12) | sums.eq(0)).all())


@pytest.mark.slow
@given(recipes)
def test_all_influence_ends_where_nothing_enters_when_every_row_has_counted_inputs(recipe: Recipe) -> None:
    graph = recipe()
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=True))
    reads = graph.expanded & (shares.denominator == 0)
    influence = graph.influence(constants=True)
    p = target_shares(graph.nodes, graph.target_weights)
    ends = influence[~graph.expanded].sum() + (influence + p)[reads].sum()
    torch.testing.assert_close(ends, torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0.0)


@pytest.mark.slow
@given(recipes)
def test_an_edge_carries_its_share_of_what_its_target_carries(recipe: Recipe) -> None:
    graph = recipe()
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
    p = target_shares(graph.nodes, graph.target_weights)
    influence = graph.influence()
    carried = edge_influence(shares, influence, p)
    arriving = torch.zeros_like(influence).index_add_(0, graph.edges.source, carried)
    torch.testing.assert_close(arriving, influence, rtol=1e-12, atol=1e-15)
    dense = dense_shares(graph, False) * (influence + p)[:, None]
    torch.testing.assert_close(carried, dense[graph.edges.target, graph.edges.source.long()], rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@given(recipes)
def test_influence_by_length_adds_up_powers_of_the_shares(recipe: Recipe) -> None:
    graph = recipe()
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
    p, tokens = target_shares(graph.nodes, graph.target_weights), graph.nodes.rows(Kind.TOKEN)
    lengths = influence_by_length(shares, p, tokens)
    assert len(lengths) <= graph.provenance.n_layers + 1
    flow, reached = p, torch.zeros((), dtype=torch.float64)
    for share in lengths:
        flow = flow @ dense_shares(graph, False)
        reached = reached + flow[tokens].sum()
        torch.testing.assert_close(share, reached, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(reached, graph.influence()[tokens].sum(), rtol=1e-12, atol=1e-15)


def test_the_weights_are_on_the_left_of_the_matrix() -> None:
    # The paper's pseudocode prints B·p, which is zero everywhere when rows are targets.
    graph = random_graph(1)
    assert float(graph.influence().sum()) > 1
    assert not bool((dense_shares(graph, False) @ target_shares(graph.nodes, graph.target_weights)).any())


def test_a_negative_target_weight_counts_by_its_size() -> None:
    graph = random_graph(3, negative_weights=True)
    assert float(graph.target_weights.min()) < 0
    assert float(target_shares(graph.nodes, graph.target_weights).sum()) == pytest.approx(1)
    assert float(graph.influence().min()) >= 0


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_influence_equals_circuit_tracers(path) -> None:
    example = golden(path)
    scale = example.graph.target_weights.sum()
    found = example.graph.influence()[example.paper] * scale
    torch.testing.assert_close(found, example.expected["node_influence"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(cumulative(found), example.expected["prune_cumulative"], rtol=1e-9, atol=1e-12)


def test_the_golden_graphs_are_there() -> None:
    assert len(GOLDEN) == 4


scores = st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=30).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(scores, st.floats(0.01, 1.0))
def test_the_set_reaches_the_threshold_and_no_smaller_one_does(values: torch.Tensor, threshold: float) -> None:
    kept = reaching(values, threshold)
    total = values.sum()
    assert float(values[kept].sum()) >= threshold * float(total) * (1 - 1e-12)
    if threshold < 1 and bool(kept.any()):
        # Without the least of those kept, and all that ties with it up to rounding, the rest falls short.
        rest = kept & (values > values[kept].min() * (1 + 4 * ROUNDING))
        assert float(values[rest].sum()) < threshold * float(total) * (1 + 1e-12)


def test_what_scores_nothing_is_never_in() -> None:
    assert reaching(torch.tensor([0.0, 0.0], dtype=torch.float64), 0.5).tolist() == [False, False]
    assert reaching(torch.tensor([0.0, 2.0, 1e-300], dtype=torch.float64), 1.0).tolist() == [False, True, True]


def test_the_crossing_score_is_in_and_ties_stay_together() -> None:
    assert reaching(torch.tensor([5.0, 3.0, 1.0, 1.0], dtype=torch.float64), 0.6).tolist() == [True, True, False, False]
    assert reaching(torch.tensor([5.0, 3.0, 1.0, 1.0], dtype=torch.float64), 0.85).tolist() == [True] * 4


def test_a_partial_graph_keeps_what_was_not_expanded_as_ends() -> None:
    graph = random_graph(5, n_layers=4, n_features=20, unexpanded=0.5)
    influence = graph.influence(constants=True)
    ends = ~graph.expanded
    assert float(influence[ends].sum()) == pytest.approx(1)


def test_influence_in_node_order_of_extra_columns() -> None:
    graph = random_graph(2)
    counted = torch.cat([counted_sources(graph.nodes, constants=False), torch.tensor([True])])
    extended = Shares(graph.edges, counted)
    p = target_shares(graph.nodes, graph.target_weights)
    influence = node_influence(extended, graph.nodes, p)
    assert len(influence) == len(graph.nodes) + 1
    assert float(influence[-1]) == 0
