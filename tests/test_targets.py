"""What a graph explains: which tokens are chosen, and what each kind of target reads."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tl_circuits as tlc
from tests import models, texts
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Feature, Kind
from tl_circuits.replacement import LocalReplacementModel

TOKENS = torch.tensor([1, 5, 9, 3, 7, 22])

both = pytest.mark.parametrize("model_class", models.CLASSES)


@cache
def local(model_class: str = "hooked") -> LocalReplacementModel:
    return tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS)


@cache
def reading(model_class: str) -> LocalReplacementModel:
    return tlc.localize(texts.reader(model_class), models.transcoder(), " Austin is in")


def target_rows(graph: AttributionGraph) -> Tensor:
    return graph.adjacency()[graph.nodes.span(Kind.TARGET), : graph.nodes.span(Kind.TARGET).start]


def centred_logits(model_class: str, pos: int) -> Tensor:
    logits = local(model_class).logits[pos].detach()
    return logits - logits.mean()


@pytest.mark.slow
@settings(max_examples=25)
@given(probability=st.floats(0.01, 1.0), at_most=st.integers(1, models.D_VOCAB + 5))
def test_the_most_likely_tokens_are_as_few_as_reach_the_probability(probability: float, at_most: int) -> None:
    graph = tlc.attribute(local(), max_targets=at_most, target_probability=probability, max_features=1)
    likely = local().logits[-1].detach().softmax(-1).sort(descending=True)
    chosen, total = [], 0.0
    for token, share in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        if len(chosen) == at_most or total >= probability:
            break
        chosen.append(token)
        total += share
    assert graph.nodes.index[graph.nodes.span(Kind.TARGET)].tolist() == chosen
    torch.testing.assert_close(graph.target_weights, likely.values[: len(chosen)])
    torch.testing.assert_close(graph.target_probabilities, likely.values[: len(chosen)])


@pytest.mark.slow
def test_the_paper_s_rule_is_the_default() -> None:
    by_default = tlc.attribute(local(), max_features=1)
    by_rule = tlc.attribute(local(), tlc.Targets.top(10, 0.95), max_features=1)
    assert by_default.target_labels == by_rule.target_labels


@pytest.mark.slow
@both
def test_a_token_reads_its_centred_logit(model_class: str) -> None:
    graph = tlc.attribute(local(model_class), [3, 30])
    expected = centred_logits(model_class, -1)[[3, 30]]
    torch.testing.assert_close(target_rows(graph).sum(1), expected)
    torch.testing.assert_close(graph.totals[graph.nodes.span(Kind.TARGET)], expected)
    assert graph.target_labels == ("3", "30")


@pytest.mark.slow
@both
@pytest.mark.parametrize("pos", [0, 2, -3])
def test_a_target_may_stand_at_another_position_and_sees_nothing_after_it(model_class: str, pos: int) -> None:
    graph = tlc.attribute(local(model_class), tlc.Targets.tokens([3], pos=pos))
    row = target_rows(graph)[0]
    assert graph.nodes.pos[graph.nodes.span(Kind.TARGET)].tolist() == [pos % len(TOKENS)]
    torch.testing.assert_close(row.sum(), centred_logits(model_class, pos)[3])
    assert bool((graph.nodes.pos[: len(row)][row != 0] <= pos % len(TOKENS)).all())
    probability = local(model_class).logits[pos].detach().softmax(-1)[3]
    torch.testing.assert_close(graph.target_probabilities, probability[None])


def test_the_most_likely_tokens_of_another_position_are_its_own() -> None:
    graph = tlc.attribute(local(), tlc.Targets.top(1, pos=1))
    assert int(graph.nodes.index[-1]) == int(local().logits[1].argmax())


@pytest.mark.slow
@both
@pytest.mark.parametrize("pos", [-1, 3])
def test_a_difference_is_the_difference_of_two_logit_rows(model_class: str, pos: int) -> None:
    pair = tlc.attribute(local(model_class), tlc.Targets.tokens([3, 30], pos=pos))
    difference = tlc.attribute(local(model_class), tlc.Targets.difference(3, 30, pos=pos))
    one, other = target_rows(pair)
    torch.testing.assert_close(target_rows(difference)[0], one - other)
    assert difference.target_labels == ("3 - 30",)
    assert difference.target_weights.tolist() == [1.0]
    assert math.isnan(float(difference.target_probabilities[0]))
    logits = local(model_class).logits[pos].detach()
    torch.testing.assert_close(difference.totals[-1], logits[3] - logits[30])


def test_tokens_weigh_their_probability_unless_weights_are_given() -> None:
    probabilities = local().logits[-1].detach().softmax(-1)[[3, 30]]
    by_default = tlc.attribute(local(), [3, 30], max_features=1)
    torch.testing.assert_close(by_default.target_weights, probabilities)
    given_weights = tlc.attribute(local(), tlc.Targets.tokens([3, 30], [2.0, -0.5]), max_features=1)
    assert given_weights.target_weights.tolist() == [2.0, -0.5]
    torch.testing.assert_close(given_weights.target_probabilities, probabilities)
    assert torch.equal(target_rows(given_weights), target_rows(by_default))


@pytest.mark.slow
@both
def test_a_direction_reads_its_projection(model_class: str) -> None:
    vector = torch.linspace(-1, 1, models.D_MODEL)
    graph = tlc.attribute(local(model_class), tlc.Targets.direction(vector, pos=2, layer=1, label="up"))
    read = local(model_class).pieces.reads[1].detach()[0, 2]
    torch.testing.assert_close(target_rows(graph).sum(), read @ vector.double())
    assert graph.target_labels == ("up",)
    assert graph.target_weights.tolist() == [1.0]


@both
def test_a_feature_that_is_not_active_can_be_a_target(model_class: str) -> None:
    here, layer, pos = local(model_class), 2, 4
    active = {(feature.layer, feature.pos, feature.index) for feature in here.active()}
    index = next(index for index in range(models.N_FEATURES) if (layer, pos, index) not in active)
    graph = tlc.attribute(here, tlc.Targets.features([Feature(layer, pos - len(TOKENS), index)]))
    read = here.pieces.reads[layer].detach()[0, pos]
    torch.testing.assert_close(target_rows(graph).sum(), read @ here.transcoder.W_enc[layer][index].double())
    assert graph.target_labels == (f"L{layer}/{index}@{pos}",)
    assert graph.conservation_error < 1e-10


@pytest.mark.slow
def test_features_are_named_as_text_or_as_features() -> None:
    feature = local().active()[5]
    by_text, by_value, listed = (
        tlc.attribute(local(), targets, max_features=1)
        for targets in (tlc.Targets.features([str(feature)]), tlc.Targets.features([feature]), [feature])
    )
    assert by_text.target_labels == by_value.target_labels == listed.target_labels == (str(feature),)
    assert torch.equal(target_rows(by_text), target_rows(listed))


@pytest.mark.slow
@both
def test_tokens_are_named_by_text_or_by_id(model_class: str) -> None:
    (austin,) = texts.reader(model_class).tokenizer(" Austin", add_special_tokens=False)["input_ids"]
    for targets in ([" Austin"], " Austin", [austin]):
        graph = tlc.attribute(reading(model_class), targets, max_features=1)
        assert graph.nodes.index[graph.nodes.span(Kind.TARGET)].tolist() == [austin]
        assert graph.target_labels == (" Austin",)


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("Austin", r"'Austin' is not one token of this vocabulary but 2: \['Au', 'stin'\]; ' Austin' is one"),
        ("Austinopolis", r"but \d+: .*; name one token, or give its id"),
        ("", "but 0"),
    ],
)
def test_text_that_is_not_one_token_is_refused_with_its_pieces_and_a_hint(
    model_class: str, token: str, says: str
) -> None:
    with pytest.raises(tlc.TargetError, match=says):
        tlc.attribute(reading(model_class), [token])


@pytest.mark.parametrize(
    "make",
    [lambda: tlc.Targets.difference(" Austin", "Austin"), lambda: tlc.Targets.tokens([" is", "Austin"])],
)
def test_every_kind_of_target_reads_text_alike(make: Callable[[], Any]) -> None:
    with pytest.raises(tlc.TargetError, match="' Austin' is one"):
        tlc.attribute(reading("hooked"), make())
