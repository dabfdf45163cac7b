"""Validation: verdicts on paths, on circuits whose effects are known and on graphs that were made to lie."""

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import ladders, models
from tests.test_refusals import refusal
from tl_circuits.hooks import has_user_hooks
from tl_circuits.intervention import Effect, PathVerdict
from tl_circuits.zoo import compiled


def by_nodes(validation: Any) -> dict[str, PathVerdict]:
    return {" ".join(name.split("@")[0] for name in path.nodes[1:-1]): path for path in validation.paths}


# Known circuits


@pytest.mark.slow
def test_every_path_of_a_known_circuit_is_confirmed_with_the_size_that_was_compiled() -> None:
    found = tlc.validate(ladders.graph(), ladders.local())
    paths = by_nodes(found)
    assert set(paths) == {"L0/0 L1/0", "L0/1 L1/1", "L0/2"}
    assert found.count("confirmed") == 3
    for features, path in paths.items():
        layer, index = map(int, features.split()[0][1:].split("/"))
        effect = ladders.TO_ANSWER[layer, index]
        assert path.effects[-1].measured == pytest.approx(-effect)
        assert path.effects[-1].predicted == pytest.approx(-effect)
        assert path.effect == pytest.approx(effect)
        assert path.effects[-1].by_path == pytest.approx(-effect)
        assert not path.effects[-1].forced
    first, second, last = paths["L0/1 L1/1"].effects
    assert (first.on, first.forced, first.measured) == ("L1/1@2", True, pytest.approx(-2))
    assert (second.ablated, second.forced, second.measured) == ("L1/1@2", True, pytest.approx(-2))
    assert (last.ablated, last.on) == ("L0/1@2", "target 4@2")


@pytest.mark.slow
def test_a_feature_stops_at_its_threshold_and_moves_less_than_the_path_says() -> None:
    # The second feature falls from 2 to 0, and not to -1: 2 · 1.5 · 2 of the 9 that are in proportion.
    chain = compiled.chain_at_one_token()
    (path,) = tlc.validate(ladders.graph(chain), ladders.local(chain)).paths
    assert path.verdict == "confirmed"
    assert (path.effects[-1].predicted, path.effects[-1].measured) == pytest.approx((-9, -6))


@pytest.mark.slow
def test_a_decoder_that_stands_for_a_neuron_which_the_feature_does_not_drive_has_the_wrong_sign() -> None:
    # In the model that neuron reads the word itself: without the feature only what it inhibits is gone.
    circuit = compiled.parallel_paths()
    paths = by_nodes(tlc.validate(ladders.graph(circuit), ladders.local(circuit)))
    assert {name: path.verdict for name, path in paths.items()} == {
        "L0/0 L1/0": "confirmed",
        "L0/0 L1/1": "confirmed",
        "L0/0": "confirmed",
        "L0/1": "wrong sign",
        "L0/1 L1/1": "wrong sign",
    }
    effect = paths["L0/1"].effects[-1]
    assert (effect.predicted, effect.by_path, effect.measured) == pytest.approx((-1.5, -2, 0.5))


# Graphs that lie


@pytest.mark.slow
def test_an_edge_that_the_model_does_not_have_has_no_effect_beyond_the_control() -> None:
    lie = ladders.with_edge(ladders.graph(), "L0/2@2", "target 4@2", 50.0)
    (path,) = tlc.validate(lie, ladders.local(), n_paths=1).paths
    assert path.nodes[1:] == ("L0/2@2", "target 4@2")
    (effect,) = path.effects
    assert path.verdict == effect.verdict == "no effect beyond control"
    # The others of its layer move the answer by 1 and by 2.
    assert effect.n_control == 2
    assert effect.control == pytest.approx(1.9)
    assert effect.measured == pytest.approx(-0.5)


@pytest.mark.slow
def test_an_edge_of_the_other_sign_is_told() -> None:
    lie = ladders.with_edge(ladders.graph(), "L1/1@2", "target 4@2", -2.0)
    (path,) = tlc.validate(lie, ladders.local(), n_paths=1).paths
    assert path.nodes[1:3] == ("L0/1@2", "L1/1@2")
    assert path.verdict == "wrong sign"
    assert path.effects[-1].predicted == pytest.approx(2)
    assert path.effects[-1].measured == pytest.approx(-2)
    assert [effect.verdict for effect in path.effects] == ["confirmed", "wrong sign", "wrong sign"]


@pytest.mark.parametrize(
    ("predicted", "measured", "control", "verdict"),
    [
        (-2.0, -1.0, 0.5, "confirmed"),
        (-2.0, 1.0, 0.5, "wrong sign"),
        (-2.0, -0.5, 0.5, "no effect beyond control"),
        (-2.0, 0.0, 0.0, "no effect beyond control"),
        (0.0, 1.0, 0.5, "wrong sign"),
    ],
)
def test_an_effect_has_to_exceed_the_control_and_have_the_sign(
    predicted: float, measured: float, control: float, verdict: str
) -> None:
    effect = Effect("L0/1@2", "L1/1@2", predicted, predicted, measured, control, 5, True)
    assert effect.verdict == verdict
    assert PathVerdict((), (), 1.0, 1.0, (effect,)).verdict == verdict


# On other models


@pytest.mark.slow
def test_effects_are_those_of_one_ablation_at_a_time_and_the_control_is_of_other_features() -> None:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(5), (0,))
    graph = tlc.attribute(local, [3, 5])
    found = tlc.validate(graph, local, n_controls=4, seed=1)
    assert len(found.paths) == 5
    for effect in (effect for path in found.paths for effect in path.effects):
        feature = tlc.Feature.parse(effect.ablated)
        result = tlc.intervene(local, tlc.Intervention(feature, scale=0), (feature.layer, feature.layer))
        if effect.on.startswith("target"):
            row = result.logits[-1] - local.logits[-1]
            token = int(effect.on.split("@")[0].split()[1])
            assert effect.measured == pytest.approx(float(row[token] - row.mean()), abs=1e-9)
        else:
            changes, node = result.changes, tlc.Feature.parse(effect.on)
            (at,) = (changes.features == torch.tensor(node)).all(1).nonzero().flatten().tolist()
            moved = changes.preactivations_after[at] - changes.preactivations_before[at]
            assert effect.measured == pytest.approx(float(moved), abs=1e-9)
        assert 0 < effect.n_control <= 4
        assert effect.control > 0
    assert not has_user_hooks(local.model)
    again = tlc.validate(graph, local, n_controls=4, seed=1)
    assert again.to_dict() == found.to_dict()
    assert tlc.validate(graph, local, n_controls=4, seed=2).to_dict() != found.to_dict()


@pytest.mark.slow
def test_a_pruned_graph_may_be_tested_and_verdicts_can_be_kept() -> None:
    model, clt = tlc.demo()
    local = tlc.localize(model, clt, "the capital of the state containing Dallas is")
    found = tlc.validate(tlc.attribute(local).prune(), local, n_paths=3)
    kept = json.loads(found.to_json())
    assert kept["prompt"].endswith("Dallas is")
    assert [path["verdict"] for path in kept["paths"]] == [path.verdict for path in found.paths]
    assert set(kept["paths"][0]["effects"][0]) >= {"ablated", "on", "predicted", "measured", "control", "verdict"}
    assert kept["paths"][0]["labels"][-1] == " Austin"
    assert f"of {len(found.paths)} paths confirmed" in repr(found)
    assert len(repr(found).splitlines()) == 4
    with pytest.raises(FrozenInstanceError):
        found.level = 0.5  # pyright: ignore


# What is refused


@pytest.mark.slow
def test_what_cannot_be_tested_is_refused() -> None:
    local, graph = ladders.local(), ladders.graph()
    wrong: Any = tlc.validate
    for name in ("n_paths", "n_controls"):
        with refusal(tlc.SettingError, rf"validate\({name}=0\): ask for at least 1"):
            wrong(graph, local, **{name: 0})
    with refusal(tlc.SettingError, "level=2.0 is no share: give one above 0"):
        wrong(graph, local, level=2.0)
    chain = compiled.chain_at_one_token()
    with refusal(tlc.GraphError, "another model or transcoder|another prompt"):
        wrong(graph, ladders.local(chain))
    gate = compiled.conjunction()
    shut = tlc.localize(gate.model, gate.transcoder, gate.prompts[1].tokens)
    with refusal(tlc.SettingError, "None of the 50 strongest paths of this graph leads through a feature"):
        wrong(tlc.attribute(shut, [gate.prompts[1].answer]), shut)
    with refusal(tlc.TargetError, "no token's logit"):
        wrong(tlc.attribute(local, tlc.Targets.difference(4, 5)), local)
