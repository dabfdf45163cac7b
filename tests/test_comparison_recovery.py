"""What is planted is found again: areas under precision and recall against definitions, and exact circuits."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_circuits as tlc
from tests.test_comparison import planted
from tests.test_refusals import refusal
from tl_circuits.comparison import Basis
from tl_circuits.comparison.recovery import average_precision, best_f1, description_length, variable_recovery
from tl_circuits.comparison.scorers import scores
from tl_circuits.errors import SettingError
from tl_circuits.nodes import Feature, Kind
from tl_circuits.zoo import compiled

TRUTH = torch.tensor([True, False, True, False, False])


def test_a_score_that_ranks_the_truth_first_is_perfect() -> None:
    assert average_precision(torch.tensor([9.0, 1.0, 8.0, 0.0, 2.0]), TRUTH) == 1
    assert best_f1(torch.tensor([9.0, 1.0, 8.0, 0.0, 2.0]), TRUTH) == 1


def test_areas_are_what_is_counted_by_hand() -> None:
    # True, false, true, then the rest: precision 1 at recall 1/2, 2/3 at recall 1.
    found = torch.tensor([9.0, 8.0, 7.0, 1.0, 0.0])
    assert average_precision(found, TRUTH) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert best_f1(found, TRUTH) == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    # The other way round: the true ones are third and last.
    assert average_precision(-found, TRUTH) == pytest.approx(0.5 / 3 + 0.5 * 2 / 5)


def test_scores_that_are_no_numbers_are_refused() -> None:
    for found in (average_precision, best_f1):
        with refusal(SettingError, "1 of 5 scores are NaN"):
            found(torch.tensor([math.nan, 1.0, 2.0, 3.0, 4.0]), TRUTH)


def test_a_score_that_is_the_same_for_all_knows_no_more_than_the_share_of_what_is_true() -> None:
    assert average_precision(torch.zeros(5), TRUTH) == pytest.approx(2 / 5)
    assert best_f1(torch.zeros(5), TRUTH) == pytest.approx(2 * 0.4 / 1.4)


def test_where_nothing_is_true_there_is_no_area() -> None:
    assert math.isnan(average_precision(torch.rand(5), torch.zeros(5, dtype=torch.bool)))


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=12), st.integers(0, 9))
def test_the_order_of_items_does_not_matter(items: list[tuple[int, bool]], seed: int) -> None:
    truth = torch.tensor([is_true for _, is_true in items])
    if not bool(truth.any()):
        return
    found = torch.tensor([float(score) for score, _ in items])
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    for measure in (average_precision, best_f1):
        assert measure(found, truth) == pytest.approx(measure(found[order], truth[order]))
        assert 0 < measure(found, truth) <= 1


def test_a_variables_best_unit_is_the_one_that_follows_it() -> None:
    variables = torch.tensor([[True, False], [False, True], [True, False], [False, False]])
    noise = torch.tensor([[0.2], [0.8], [0.9], [0.7]])
    found = variable_recovery(torch.cat([noise, 3.0 * variables], dim=1), variables)
    assert found.unit.tolist() == [1, 2]
    assert found.auprc.tolist() == [1, 1]
    assert variable_recovery(noise, variables).auprc.tolist() < [1, 1]


def test_a_circuit_is_longer_to_say_the_more_units_it_has_and_could_have() -> None:
    assert description_length(1, 8) == pytest.approx(3)
    assert description_length(2, 8) == pytest.approx(math.log2(28))
    assert description_length(2, 16) > description_length(2, 8) > description_length(0, 8) == 0
    for size in (9, -1):
        with refusal(SettingError, f"A circuit of {size} among 8 units is none: give 0 to 8"):
            description_length(size, 8)


# Hand-built dictionaries: the truth is found


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["ablation", "ig-activations", "ig-inputs"])
def test_the_planted_features_are_scored_above_all_others(scorer: Any) -> None:
    made, asked = planted()
    found = scores(made.model, Basis.features(made.model, made.transcoder), asked, scorer)
    for prompt, other in ((0, 1), (1, 0)):
        truth = [torch.zeros(part.shape[1:], dtype=torch.bool) for part in found]
        # A word's own features carry its answer, those of the counterfactual's word, by being silent, too.
        for edge in (*made.prompts[prompt].edges, *made.prompts[other].edges):
            for node in (edge.source, edge.target):
                if node.kind == Kind.FEATURE:
                    truth[node.layer][node.pos, node.index] = True
        flat = torch.cat([part[prompt].abs().flatten() for part in found])
        assert average_precision(flat, torch.cat([part.flatten() for part in truth])) == pytest.approx(1)
        turned = average_precision(flat.max() - flat, torch.cat([part.flatten() for part in truth]))
        assert turned < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("circuit", compiled.CIRCUITS, ids=lambda made: made.__name__)
def test_the_planted_edges_are_those_of_the_graph(circuit: Callable[[], compiled.Compiled]) -> None:
    made = circuit()
    for prompt in made.prompts:
        local = tlc.localize(made.model, made.transcoder, prompt.tokens, masked_positions=())
        graph = tlc.attribute(local, tlc.Targets.tokens([prompt.answer]))
        planted_edges = {(str(edge.source), str(edge.target)) for edge in prompt.edges}
        sources = graph.nodes.rows(Kind.FEATURE, Kind.TOKEN)[graph.edges.source]
        named = [
            (str(graph.nodes[int(s)]), str(graph.nodes[int(t)]))
            for s, t in zip(graph.edges.source[sources], graph.edges.target[sources], strict=True)
        ]
        truth = torch.tensor([pair in planted_edges for pair in named])
        weights = graph.edges.weight[sources].abs()
        assert int(truth.sum()) == len(planted_edges)
        assert average_precision(weights, truth) == pytest.approx(1)


@pytest.mark.slow
def test_a_chain_that_is_not_collapsed_has_collapse_0_and_one_that_is_has_1() -> None:
    made = compiled.chain_at_one_token()
    for prompt in made.prompts:
        local = tlc.localize(made.model, made.transcoder, prompt.tokens, masked_positions=())
        graph = tlc.attribute(local, tlc.Targets.tokens([prompt.answer]))
        first, second = sorted(local.active(), key=lambda feature: feature.layer)
        honest = tlc.hop_collapse(graph, local, first, second)
        assert (honest.graph, honest.model, honest.collapse) == pytest.approx((1, 1, 0), abs=1e-6)
        skipped = tlc.localize(made.model, collapsed(made.transcoder, first, second, local), prompt.tokens, ())
        lied = tlc.hop_collapse(
            tlc.attribute(skipped, tlc.Targets.tokens([prompt.answer])), skipped, first, second, mediator_of=local
        )
        assert lied.graph == pytest.approx(0, abs=1e-6)
        assert lied.collapse == pytest.approx(1, abs=1e-6)


def collapsed(
    honest: tlc.CrossLayerTranscoder, first: Feature, second: Feature, local: tlc.LocalReplacementModel
) -> tlc.CrossLayerTranscoder:
    """The first feature writes what the second one would, which never fires."""
    W_dec = [rows.detach().clone() for rows in honest.W_dec]
    b_enc = [bias.detach().clone() for bias in honest.b_enc]
    size = dict(zip(local.active(), local.activations.tolist(), strict=True))
    W_dec[0][first.index, 1] = W_dec[1][second.index, 0] * size[second] / size[first]
    b_enc[1][second.index] = -100
    return tlc.CrossLayerTranscoder(list(honest.W_enc), b_enc, W_dec, honest.b_dec, activation=honest.activation)
