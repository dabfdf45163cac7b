"""Two graphs side by side."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings

import tl_circuits as tlc
from tests.graphs import Recipe, names, random_graph, recipes
from tests.test_refusals import refusal
from tl_circuits.graph.diff import WEIGHTS, aligned
from tl_circuits.nodes import Kind


def test_positions_are_matched_by_tokens_and_by_what_lies_between() -> None:
    here, there = ["the", "capital", "of", "Dal", "las", "is"], ["the", "capital", "of", "Oak", "land", "is"]
    assert aligned(here, there) == {pos: pos for pos in range(6)}
    assert aligned(["a", "x", "b"], ["a", "b"]) == {0: 0, 2: 1}
    assert aligned(["a"], ["b", "c"]) == {}
    assert aligned([], []) == {}


@pytest.mark.slow
@settings(max_examples=10)
@given(recipes)
def test_a_graph_differs_from_itself_in_nothing_and_from_its_part_by_what_was_cut(recipe: Recipe) -> None:
    graph = recipe()
    same = graph.diff(graph)
    assert all(one.change == 0 and one.here == one.there for one in same.nodes)
    assert all(edge.change == 0 for edge in same.edges)
    part = graph.prune(0.5, 0.8)
    found = graph.diff(part)
    assert {str(one.here) for one in found.nodes if one.there is None} == names(graph) - names(part)
    assert not [one for one in found.nodes if one.here is None]
    assert sum(edge.weight_there != 0 for edge in found.edges) == int((part.edges.weight != 0).sum())
    # There and back.
    back = part.diff(graph)
    assert {(str(one.there), -one.change) for one in back.nodes} == {(str(one.here), one.change) for one in found.nodes}


def test_what_came_what_went_and_what_changed_is_told_the_largest_first() -> None:
    first, second = random_graph(3, n_features=9), random_graph(4, n_features=9)
    found = first.diff(second)
    changes = [abs(one.change) for one in found.nodes]
    assert changes == sorted(changes, reverse=True)
    only = {str(one.here) for one in found.only_here(99)}
    assert only == names(first) - names(second)
    assert {str(one.there) for one in found.only_there(99)} == names(second) - names(first)
    one = found.moved(1)[0]
    assert one.here is not None
    assert one.influence_there - one.influence_here == one.change
    assert one.influence_here == pytest.approx(first.node(one.here).influence)
    assert math.isnan(found.only_here(1)[0].activation_there)
    edge = found.edges[0]
    assert abs(edge.change) == max(abs(edge.change) for edge in found.edges)
    assert "only here" in repr(found)


def test_nodes_at_tokens_that_only_one_prompt_has_keep_apart() -> None:
    graph = random_graph(3, n_features=9, n_pos=3)
    other = dataclasses.replace(graph, tokens=("<bos>", " is", " x"))
    found = graph.diff(other)
    assert found.positions == {0: 0, 2: 1}
    assert {str(one.there) for one in found.only_there(99) if one.there and one.there.kind == Kind.TOKEN} == {"token@2"}
    assert {str(one.here) for one in found.only_here(99) if one.here and one.here.kind == Kind.TOKEN} == {"token@1"}


def test_graphs_of_two_transcoders_are_refused() -> None:
    graph = random_graph(3)
    other = dataclasses.replace(graph, provenance=dataclasses.replace(graph.provenance, transcoder="other"))
    with refusal(tlc.GraphError, "two transcoders: the CLT 'toy-clt' of 3 layers, and the CLT 'other' of 3 layers"):
        graph.diff(other)
    with refusal(tlc.GraphError, "of 3 layers, and the CLT 'toy-clt' of 2"):
        graph.diff(random_graph(3, n_layers=2))
    kind = dataclasses.replace(graph, provenance=dataclasses.replace(graph.provenance, transcoder_kind="PLT"))
    with refusal(tlc.GraphError, "and the PLT 'toy-clt' of 3 layers. Compare graphs of one transcoder"):
        graph.diff(kind)


def test_graphs_of_other_weights_under_one_name_are_compared_with_a_warning() -> None:
    graph, other = (
        dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, settings={WEIGHTS: weights}))
        for made, weights in ((random_graph(3), "aaaa"), (random_graph(3), "bbbb"))
    )
    assert not graph.diff(graph).moved()
    with pytest.warns(tlc.TLCircuitsWarning, match=r"other weights \(aaaa and bbbb\): features of one number may"):
        graph.diff(other)


def test_what_is_no_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    no_graph: Any = 5
    with refusal(tlc.SettingError, r"diff\(5\): give the graph to compare with"):
        random_graph(3).diff(no_graph)
