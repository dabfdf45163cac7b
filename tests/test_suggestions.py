"""Supernodes that are suggested: what features are made of, who stands together, and what a group is called."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings

from tests.graphs import Recipe, graph_of, random_graph, recipes
from tests.test_refusals import refusal
from tl_circuits.errors import GraphError, SettingError
from tl_circuits.graph import AttributionGraph, Edges
from tl_circuits.graph.influence import Shares, counted_sources
from tl_circuits.graph.suggest import GRID, linked, origins
from tl_circuits.nodes import Feature, Kind, lay_out


@pytest.mark.slow
@given(recipes)
@settings(max_examples=30)
def test_origins_are_the_signed_shares_of_all_paths(recipe: Recipe) -> None:
    graph = recipe()
    nodes, n_pos = graph.nodes, len(graph.tokens)
    shares = Shares(graph.edges, counted_sources(nodes, constants=False))
    signed = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    signed[graph.edges.target, graph.edges.source.long()] = shares.all() * graph.edges.weight.sign()
    paths = torch.linalg.solve(torch.eye(len(nodes), dtype=torch.float64) - signed, signed)
    expected = torch.zeros(nodes.count(Kind.FEATURE), 2 * n_pos, dtype=torch.float64)
    for kind, first in ((Kind.TOKEN, 0), (Kind.ERROR, n_pos)):
        span = nodes.span(kind)
        expected.index_add_(1, first + nodes.pos[span].long(), paths[nodes.span(Kind.FEATURE), span])
    assert torch.allclose(origins(graph), expected, atol=1e-9)


def billionths(rows: list[list[float]]) -> Any:
    return (torch.tensor(rows, dtype=torch.float64) * GRID).round().long()


def test_linkage_is_average_and_stops_at_the_threshold() -> None:
    alike = billionths([[1, 0.9, 0.7, 0], [0.9, 1, 0.5, 0], [0.7, 0.5, 1, 0], [0, 0, 0, 1]])
    # 0 and 1 join at 0.9; 2 is like the two of them by 0.6 on average.
    assert linked(alike, 0.91) == [[0], [1], [2], [3]]
    assert linked(alike, 0.61) == [[0, 1], [2], [3]]
    assert linked(alike, 0.6) == [[0, 1, 2], [3]]


def test_of_equal_pairs_the_first_is_joined() -> None:
    alike = billionths([[1, 0.8, 0.1], [0.8, 1, 0.8], [0.1, 0.8, 1]])
    assert linked(alike, 0.7) == [[0, 1], [2]]


def made_of(weights: dict[tuple[int, int, int], dict[str, float]], n_layers: int = 3) -> AttributionGraph:
    """Features by (layer, pos, index) that read these nodes; one target reads them all."""
    features = torch.tensor(sorted(weights))
    targets = torch.tensor([[n_layers, 1, 0]])
    nodes = lay_out(
        features, n_layers, torch.arange(2) + 7, learned_positions=False, masked_positions=(), targets=targets
    )
    matrix = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    for number, key in enumerate(sorted(weights)):
        for name, weight in weights[key].items():
            matrix[number, nodes.row_named(name)] = weight
        matrix[-1, number] = 1.0
    expanded = nodes.rows(Kind.FEATURE, Kind.TARGET)
    return graph_of(nodes, Edges.from_dense(matrix), expanded, torch.ones(1), n_layers=n_layers)


@pytest.fixture
def texas() -> AttributionGraph:
    """Two features that read the first token, one of them through the other, and others that read otherwise."""
    graph = made_of(
        {
            (0, 1, 1): {"token@0": 2.0},
            (0, 1, 2): {"token@1": 1.0},
            (0, 0, 1): {"token@0": 2.0},
            (1, 1, 3): {"L0/1@1": 4.0},
            (2, 1, 4): {"L0/1@1": -1.0},
        }
    )
    labels = {(0, 1): "Texas 90% at las", (1, 3): "the state of TEXAS", (0, 2): "the word is", (2, 4): "the opposite"}
    return graph.with_labels(labels)


def test_features_of_one_place_and_origin_stand_together_under_the_word_they_share(texas: AttributionGraph) -> None:
    # L0/1@0 reads the same token, but stands elsewhere; L2/4@1 reads it with the other sign.
    assert texas.suggest_supernodes() == {"Texas": (Feature(0, 1, 1), Feature(1, 1, 3))}


def test_a_group_without_a_word_of_its_own_goes_by_its_first_member() -> None:
    graph = made_of({(0, 1, 1): {"token@0": 2.0}, (1, 1, 3): {"L0/1@1": 4.0}})
    assert list(graph.suggest_supernodes()) == ["L0/1@1 and 1 more"]
    assert list(graph.with_labels({(0, 1): "to", (1, 3): "go"}).suggest_supernodes()) == ["to"]


def test_only_what_is_asked_for_is_looked_at(texas: AttributionGraph) -> None:
    assert texas.suggest_supernodes(["L0/1@1", Feature(0, 1, 2)]) == {}
    assert texas.suggest_supernodes([]) == {}


def test_what_was_not_expanded_is_like_nothing() -> None:
    graph = random_graph(2, n_layers=4, n_features=20, unexpanded=1.0)
    assert graph.suggest_supernodes(alike=1e-9) == {}


def test_two_groups_of_one_name_are_told_apart() -> None:
    graph = made_of(
        {
            (0, 0, 1): {"token@0": 2.0},
            (1, 0, 3): {"token@0": 1.0},
            (0, 1, 1): {"token@1": 2.0},
            (1, 1, 3): {"token@1": 1.0},
        }
    ).with_labels({(0, 1): "Texas", (1, 3): "Texas"})
    assert list(graph.suggest_supernodes()) == ["Texas", "Texas 2"]


@pytest.mark.parametrize("alike", [0.0, 1.1, -1.0, float("nan")])
def test_a_likeness_that_is_none_is_refused(texas: AttributionGraph, alike: Any) -> None:
    with refusal(SettingError, f"alike={alike!r} is no likeness.*say 0.75"):
        texas.suggest_supernodes(alike=alike)


def test_what_is_no_feature_is_refused(texas: AttributionGraph) -> None:
    with refusal(GraphError, "token@0 is no feature"):
        texas.suggest_supernodes(["token@0"])


@pytest.mark.slow
def test_on_the_demo_the_texas_step_is_suggested(dallas: AttributionGraph) -> None:
    found = dallas.prune(0.8, 0.98).suggest_supernodes()
    first = next(iter(found))
    assert first == "Texas"
    assert Feature(2, 9, 623) in found["Texas"]
    assert all("Texas" in dallas.labels[one.layer, one.index] for one in found["Texas"])


@pytest.fixture(scope="module")
def dallas() -> AttributionGraph:
    from tl_circuits.attribution import attribute
    from tl_circuits.replacement import localize
    from tl_circuits.zoo.firing import labelled
    from tl_circuits.zoo.named import load

    model, transcoder = load("demo", None)
    local = localize(model, transcoder, "the capital of the state containing Dallas is")
    return labelled(attribute(local), model, transcoder)
