"""Interventions as users write them: features, supernodes and positions, what comes back, and what is refused."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models
from tests.test_refusals import refusal
from tl_circuits.hooks import has_user_hooks
from tl_circuits.nodes import Feature
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.zoo.firing import labelled

Do = tlc.Intervention
both = pytest.mark.parametrize("model_class", models.CLASSES)


@pytest.fixture(scope="module")
def local() -> LocalReplacementModel:
    return tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(9), (0,))


# What is written


def test_a_feature_is_named_by_itself_by_its_text_and_from_the_end(local: LocalReplacementModel) -> None:
    feature = local.active()[3]
    ways = [feature, str(feature), feature._replace(pos=feature.pos - 9), [feature]]
    cases = [[Do(way, scale=0)] for way in ways] + [[Do(feature, value=0.0)]]
    first, *others = tlc.intervene(local, cases)
    for other in others:
        torch.testing.assert_close(other.logits, first.logits, atol=1e-12, rtol=0)


def test_scaling_setting_and_adding_come_to_the_same(local: LocalReplacementModel) -> None:
    feature, was = local.active()[3], float(local.activations[3])
    ways = [Do(feature, scale=3), Do(feature, value=3 * was), Do(feature, add=2 * was)]
    results = tlc.intervene(local, [[way] for way in ways], mode="iterative")
    for result in results:
        torch.testing.assert_close(result.logits, results[0].logits, atol=1e-12, rtol=0)
        (row,) = (result.changes.features == torch.tensor(feature)).all(1).nonzero().flatten().tolist()
        assert float(result.changes.after[row]) == pytest.approx(3 * was)


def test_a_supernode_is_its_features(local: LocalReplacementModel) -> None:
    features = local.active()[2:6]
    alike, apart = tlc.intervene(local, [[Do(features, scale=-1)], [Do(each, scale=-1) for each in features]])
    torch.testing.assert_close(alike.logits, apart.logits, atol=1e-12, rtol=0)
    assert str(alike.interventions[0]).startswith(f"4 features ({features[0]}, ...) scale=-1")


def test_nodes_of_a_graph_are_the_features_that_they_stand_for(local: LocalReplacementModel) -> None:
    graph, feature = tlc.attribute(local), local.active()[3]
    for given in (graph.node(str(feature)), graph.node(str(feature)).id, graph.find(feature)):
        assert Do(given, scale=0).features == (feature,)
    with refusal(tlc.SettingError, r"token@3 is a node of a graph, but no feature.*leave it out"):
        _ = Do([graph.node("token@3")], scale=0)


@pytest.mark.parametrize("positions", [slice(None), slice(1, None), slice(-8, 9), range(1, 9), torch.arange(1, 9)])
def test_positions_are_a_number_several_or_a_slice_without_what_is_masked(
    local: LocalReplacementModel, positions: Any
) -> None:
    listed = [Do(Feature(1, pos, 7), value=2) for pos in range(1, 9)]
    given: Any = Do(
        "L1/7@-1", value=2, positions=positions.tolist() if isinstance(positions, torch.Tensor) else positions
    )
    here, there = tlc.intervene(local, [[given], listed])
    torch.testing.assert_close(here.logits, there.logits, atol=1e-12, rtol=0)
    one, same = tlc.intervene(local, [[Do("L1/7@-1", value=2, positions=-3)], [Do("L1/7@6", value=2)]])
    torch.testing.assert_close(one.logits, same.logits, atol=1e-12, rtol=0)


def test_a_feature_that_is_not_active_may_be_set_and_is_said_to_be_silent(local: LocalReplacementModel) -> None:
    active = set(local.active())
    silent = next(f for i in range(models.N_FEATURES) if (f := Feature(0, 5, i)) not in active)
    result = tlc.intervene(local, [Do(silent, value=4), Do(local.active()[0], scale=0)])
    assert result.inactive == (silent,)
    assert "1 of those intervened on not active" in repr(result)
    assert (silent, 0.0, 4.0) in result.changes.strongest(1000)
    assert not torch.equal(result.logits[5:], local.logits[5:])
    torch.testing.assert_close(result.logits[: local.active()[0].pos], local.logits[: local.active()[0].pos])


def test_the_same_said_twice_is_said_once(local: LocalReplacementModel) -> None:
    feature = local.active()[3]
    once, twice = tlc.intervene(local, [[Do(feature, scale=0)], [Do(feature, scale=0), Do([feature], scale=0)]])
    torch.testing.assert_close(once.logits, twice.logits, atol=1e-12, rtol=0)


def test_the_record_is_frozen_and_reads_as_it_was_written() -> None:
    done = Do("L2/623@-1", scale=-1)
    assert str(done) == "L2/623@-1 scale=-1"
    assert str(Do("L2/623@-1", add=0.5, positions=slice(1, None))) == "L2/623@-1 at 1: add=0.5"
    assert str(Do("L2/623@-1", scale=0.5, positions=slice(1, 9, 2))) == "L2/623@-1 at 1:9:2 scale=0.5"
    assert done.features == (Feature(2, -1, 623),)
    with pytest.raises(FrozenInstanceError):
        done.scale = 2  # pyright: ignore


# What comes back


@pytest.mark.slow
@both
def test_nothing_is_left_on_the_model_even_after_an_error(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    local = tlc.localize(model, models.transcoder(), torch.arange(9))
    own = model(torch.arange(9)[None])
    tlc.intervene(local, Do(local.active()[0], scale=-9), mode="iterative")
    assert not has_user_hooks(model)
    with refusal(tlc.SettingError, "not in the transcoder"):
        tlc.intervene(local, Do("L0/99@1", scale=0))
    assert not has_user_hooks(model)
    assert torch.equal(model(torch.arange(9)[None]), own)


@pytest.mark.slow
@both
def test_hooks_of_the_users_own_go_on_acting(model_class: str) -> None:
    model: Any = models.model_of("gpt2", model_class)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda value, **_: value * 1.5)]):
        local = tlc.localize(model, models.transcoder(), torch.arange(9))
        feature = local.active()[0]
        cases = [[Do(feature, scale=0)], [Do(feature, scale=2)]]
        hooked = tlc.intervene(local, cases, mode="direct")
        graph = tlc.attribute(local)
        row = graph.adjacency()[: len(local.features), 0]
        changes = hooked[0].changes
        moved = (changes.preactivations_after - changes.preactivations_before)[changes.before != 0]
        torch.testing.assert_close(moved, -row.to(moved), atol=1e-9, rtol=1e-9)
    with refusal(tlc.FitError, "were on, now they are off", "Localize"):
        tlc.intervene(local, Do(feature, scale=0))


def test_inside_replace_mlps_it_is_refused(local: LocalReplacementModel) -> None:
    with tlc.replace_mlps(local.model, local.transcoder), pytest.raises(tlc.FitError):
        tlc.intervene(local, [])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["constrained", "iterative"])
def test_without_the_features_of_texas_dallas_does_not_lead_to_austin(mode: Any) -> None:
    model, clt = tlc.demo()
    local = tlc.localize(model, clt, "the capital of the state containing Dallas is")
    named = {str(node.id) for node in labelled(tlc.attribute(local), model, clt).find("Texas")}
    texas = [feature for feature in local.active() if str(feature) in named and feature.layer < 2]
    result = tlc.intervene(local, Do(texas, scale=-1), layers=(0, 1), mode=mode)
    (was,), (now,) = result.top_before(1), result.top_after(1)
    assert (was.text, now.text == " Austin") == (" Austin", False)
    assert was.probability > 0.9
    assert f"' Austin' {was.probability:.3f} ->" in repr(result)
    assert result.changes.strongest(3)[0][0] in texas
    assert result.changes.vanished > 0
    assert len(result.top_after(10, pos=0)) == 10


# What is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Do("L0/1@1"), "L0/1@1 was given nothing to do: give one of scale, value and add"),
        (lambda: Do("L0/1@1", scale=0, value=2), "scale=0, value=2 to do: give one of"),
        (lambda: Do("L0/1@1", scale=float("nan")), "scale=nan: give a finite number"),
        (lambda: Do("L0/1@1", value=float("inf")), "value=inf: give a finite number"),
        (lambda: Do("L0/1@1", value=10**400), "value=1000.*: give a finite number"),
        (lambda: Do([], scale=0), "on no feature was given: name at least one"),
    ],
)
def test_an_intervention_that_says_nothing_is_refused(make: Callable[[], object], says: str) -> None:
    with refusal(tlc.SettingError, says):
        make()
    with refusal(tlc.TargetError, "'Texas' does not name a feature: write it as"):
        Do("Texas", scale=0)


@pytest.mark.parametrize(
    ("done", "further", "says"),
    [
        (Do("L3/1@1", scale=0), {}, "L3/1@1 is of layer 3, but the transcoder has layers 0 to 2: name"),
        (Do("L1/24@1", scale=0), {}, r"whose layer 1 has 24 features \(0 to 23\); local.active\(\) lists"),
        (Do("L1/2@9", scale=0), {}, "Position 9 lies outside the prompt of 9 tokens: use 0 to 8"),
        (Do("L1/2@1", scale=0, positions=-10), {}, "Position -10 lies outside the prompt of 9 tokens"),
        (Do("L1/2@1", scale=0, positions=[2, 30]), {}, "Position 30 lies outside"),
        (Do("L1/2@1", scale=0, positions=[]), {}, r"Position \[\] is no position: give a whole number"),
        (Do("L1/2@1", scale=0, positions=slice(2, 12)), {}, r"reaches 12, outside the prompt of 9 tokens: use bounds"),
        (
            Do("L1/2@1", scale=0, positions=slice(4, 4)),
            {},
            r"holds no position of the prompt of 9 tokens, of which \[0\]",
        ),
        (Do("L1/2@1", scale=0, positions=slice(0, 9, 0)), {}, "a step that is not 0"),
        (Do("L1/2@0", scale=0), {}, r"Position 0 is masked .*localize with masked_positions=\(\)"),
        (Do("L0/2@1", scale=0), {"layers": (1, 2)}, r"L0/2@1 is of layer 0, which layers=\(1, 2\) excludes: begin at"),
        (Do("L2/2@1", scale=0), {"layers": (0, 1)}, r"of layer 2, which layers=\(0, 1\) excludes.*end there or above"),
        (Do("L1/2@1", scale=0), {"layers": (2, 1)}, r"layers=\(2, 1\) is no run of layers.*from 0 to 2, say"),
        (Do("L1/2@1", scale=0), {"layers": (0, 3)}, r"layers=\(0, 3\) is no run"),
        (
            Do("L1/2@1", scale=0),
            {"layers": (0, 1), "mode": "direct"},
            r"all 3 layers, but .*\(0, 1\) were given: leave",
        ),
        (Do("L1/2@1", scale=0), {"attention": "free", "mode": "direct"}, "attention='free' and .*mode='constrained'"),
    ],
)
def test_what_does_not_exist_is_refused(local: LocalReplacementModel, done: Any, further: Any, says: str) -> None:
    with refusal(tlc.SettingError, says):
        tlc.intervene(local, [done], **further)


def test_an_activation_that_overflows_is_refused(local: LocalReplacementModel) -> None:
    fine, beyond = Do("L1/2@8", value=3), Do("L1/2@8", value=1e308)
    with refusal(
        tlc.SettingError, r"after L1/2@8 value=1e\+308 are not finite: torch.float64 over", "activation on this"
    ):
        tlc.intervene(local, [[fine], [beyond]])


def test_contradictions_are_refused(local: LocalReplacementModel) -> None:
    with refusal(tlc.SettingError, "act on L1/2@8: L1/2@8 scale=0, and L1/2@-1 value=3", "Say once"):
        tlc.intervene(local, [Do("L1/2@8", scale=0), Do("L1/2@-1", value=3)])
    with refusal(tlc.SettingError, "act on L1/2@8", "Say once"):
        tlc.intervene(local, [Do("L1/2@8", add=1), Do("L1/2@8", add=1)])
    with refusal(tlc.SettingError, "are no interventions: give a list of tlc.Intervention"):
        tlc.intervene(local, [Do("L1/2@8", scale=0), [Do("L1/3@8", scale=0)]])  # pyright: ignore
