"""Which row is which node: the order, the names and what is refused."""

import re

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_circuits as tlc
from tl_circuits.nodes import PAPER_SOURCES, Feature, Kind, NodeId, Nodes, lay_out

FEATURES = torch.tensor([[0, 0, 4], [0, 1, 2], [1, 1, 0], [1, 1, 9]])
TARGETS = torch.tensor([[2, 2, 30], [2, 2, 31]])

features = st.builds(Feature, st.integers(0, 10**6), st.integers(-(10**6), 10**6), st.integers(0, 10**9))


def nodes(*, learned_positions: bool = True, targets: torch.Tensor = TARGETS) -> Nodes:
    """The nodes of a model of 2 layers on 3 tokens of which the first is masked."""
    ids = torch.tensor([7, 8, 7])
    return lay_out(FEATURES, 2, ids, learned_positions=learned_positions, masked_positions=(0,), targets=targets)


def test_nodes_stand_in_the_order_that_the_module_states() -> None:
    assert [str(nodes()[row]) for row in range(len(nodes()))] == [
        *("L0/4@0", "L0/2@1", "L1/0@1", "L1/9@1"),
        *("error L0@0", "error L0@1", "error L0@2", "error L1@0", "error L1@1", "error L1@2"),
        *("token@0", "token@1", "token@2"),
        *("position@0", "position@1", "position@2"),
        *("masked L0@0", "masked L1@0"),
        *("b_dec L0", "b_dec L1"),
        *("bias L0", "bias L1", "bias L2"),
        *("target 30@2", "target 31@2"),
    ]


def test_position_nodes_stand_only_where_positions_are_learned() -> None:
    assert nodes(learned_positions=False).count(Kind.POSITION) == 0
    assert len(nodes(learned_positions=False)) == len(nodes()) - 3


def test_the_token_of_a_token_node_is_its_index() -> None:
    assert nodes().index[nodes().span(Kind.TOKEN)].tolist() == [7, 8, 7]


@pytest.mark.parametrize("kind", Kind)
def test_a_span_holds_the_rows_of_its_kind_and_no_other(kind: Kind) -> None:
    rows = nodes().rows(kind).nonzero()[:, 0].tolist()
    span = nodes().span(kind)
    assert rows == list(range(span.start, span.stop))
    assert nodes().count(kind) == len(rows)
    assert bool((nodes().kind[span] == kind).all())


def test_a_span_of_a_kind_that_is_not_there_is_empty_at_its_place() -> None:
    span = nodes(learned_positions=False).span(Kind.POSITION)
    assert span.start == span.stop == nodes(learned_positions=False).span(Kind.MASKED).start


def test_rows_of_several_kinds_are_the_rows_of_any_of_them() -> None:
    assert int(nodes().rows(*PAPER_SOURCES).sum()) == 4 + 6 + 3
    assert not bool(nodes().rows().any())


def test_the_row_of_every_node_leads_back_to_it() -> None:
    assert [nodes().row(nodes()[row]) for row in range(len(nodes()))] == list(range(len(nodes())))


def test_every_name_leads_to_its_node() -> None:
    for row in range(len(nodes())):
        assert nodes().row_named(f" {nodes()[row]} ") == row


@pytest.mark.parametrize(
    ("name", "meant"),
    [("L1/9@-2", "L1/9@1"), ("token@-1", "token@2"), ("error L1@-3", "error L1@0"), ("target 31", "target 31@2")],
)
def test_names_may_count_positions_from_the_end_and_leave_out_what_is_clear(name: str, meant: str) -> None:
    assert str(nodes()[nodes().row_named(name)]) == meant


def test_of_two_targets_at_one_place_the_first_is_found() -> None:
    directions = nodes(targets=torch.tensor([[2, 2, -1], [2, 2, -1]]))
    first = directions.span(Kind.TARGET).start
    assert directions.row(directions[first + 1]) == first
    assert directions.row_named("target L2@2") == first


@pytest.mark.slow
@given(keep=st.lists(st.booleans(), min_size=len(nodes()), max_size=len(nodes())))
def test_a_subset_keeps_the_order_and_only_what_was_kept(keep: list[bool]) -> None:
    whole, part = nodes(), nodes().subset(torch.tensor(keep))
    assert [part[row] for row in range(len(part))] == [whole[row] for row in range(len(whole)) if keep[row]]
    for row, kept in enumerate(keep):
        if kept:
            assert part[part.row(whole[row])] == whole[row]
        else:
            with pytest.raises(tlc.GraphError, match=re.escape(str(whole[row]))):
                part.row(whole[row])


def test_feature_nodes_come_back_as_features() -> None:
    assert [str(feature) for feature in nodes().features()] == ["L0/4@0", "L0/2@1", "L1/0@1", "L1/9@1"]
    assert nodes().features()[0] == Feature(layer=0, pos=0, index=4)


@given(feature=features)
def test_a_feature_is_what_its_text_says(feature: Feature) -> None:
    assert Feature.parse(str(feature)) == feature
    assert Feature.parse(f"  {feature}\n") == feature


@given(text=st.text(alphabet="L/@-0123456789 x", max_size=12))
def test_text_that_names_no_feature_is_refused_and_nothing_else_is(text: str) -> None:
    if re.fullmatch(r"\s*L[0-9]+/[0-9]+@-?[0-9]+\s*", text):
        assert str(Feature.parse(text)).startswith("L")
    else:
        with pytest.raises(tlc.TargetError, match=r"L3/120@-1"):
            Feature.parse(text)


@pytest.mark.parametrize("name", ["", "tokens@0", "feature L0@0", "TOKEN@0", "L0-4@0", "error L0@0@0", "bias L"])
def test_names_of_no_kind_of_node_are_refused(name: str) -> None:
    with pytest.raises(tlc.GraphError, match=r"names no node.*L20/15589@-1.*find"):
        nodes().row_named(name)


@pytest.mark.parametrize("name", ["L0/4@1", "error L2@0", "token@3", "token@-4", "target 32@2", "masked L0@1"])
def test_names_of_nodes_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(tlc.GraphError, match=r"no node"):
        nodes().row_named(name)


def test_a_name_of_several_nodes_is_refused_with_two_of_them() -> None:
    with pytest.raises(tlc.GraphError, match=r"'error L0' names 3 nodes, first error L0@0 and error L0@2"):
        nodes().row_named("error L0")


def test_a_node_that_is_not_there_is_refused_with_the_size_of_the_graph() -> None:
    with pytest.raises(tlc.GraphError, match=rf"no node error L5@0\. It holds {len(nodes())} nodes"):
        nodes().row(NodeId(Kind.ERROR, 5, 0, -1))


def test_columns_of_different_lengths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Users run without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    column = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(tlc.GraphError, match=r"\[2, 3\]"):
        Nodes(column, column, column[:2], column)


def test_nodes_out_of_order_are_refused() -> None:
    column = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(tlc.GraphError, match="out of order"):
        Nodes(torch.tensor([Kind.TOKEN, Kind.ERROR]), column, column, column)
