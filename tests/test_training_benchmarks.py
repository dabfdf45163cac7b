"""Benchmarks of training: the compiled chains hold what they say, and every script runs on a tiny case."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.chains import chain
from tests.test_benchmarks import script
from tl_circuits.harvest import collect


@pytest.mark.parametrize("relations", [1, 3])
@pytest.mark.parametrize("amplified", [False, True])
def test_layer_0_writes_one_state_and_layer_1_one_answer_to_it(relations: int, amplified: bool) -> None:
    made = chain(relations, names=3, states=4, amplified=amplified)
    model: Any = made.model
    found = collect(model, made.tokens, made.last, "hook_resid_mid", "hook_mlp_out").writes
    states, answers = found[:, :, made.states], found[:, :, made.answers]
    torch.testing.assert_close(states[0].sum(-1), torch.ones(len(made.tokens)))
    torch.testing.assert_close(answers[1].sum(-1), torch.ones(len(made.tokens)))
    torch.testing.assert_close(states[1], states[0] if amplified else torch.zeros_like(states[0]))
    assert float(answers[0].abs().max()) == 0
    state, relation = states[0].argmax(-1), made.tokens[:, 1] - 1
    assert torch.equal(answers[1].argmax(-1), state * relations + relation)


def test_apart_half_of_the_states_are_answered_and_the_other_half_is_written_again() -> None:
    made = chain(1, names=3, states=4, amplified=True, apart=True)
    model: Any = made.model
    found = collect(model, made.tokens, made.last, "hook_resid_mid", "hook_mlp_out").writes
    states, answers = found[:, :, made.states], found[:, :, made.answers]
    torch.testing.assert_close(answers[1][:, :2], states[0][:, :2])
    torch.testing.assert_close(states[1][:, 2:], states[0][:, 2:])
    assert not states[1][:, :2].any()
    assert not answers[1][:, 2:].any()


@pytest.mark.slow
def test_the_step_is_measured(tmp_path: Path) -> None:
    found = script("training_step", tmp_path / "step.json", "--size", "tiny", "--l0", "6", "--tokens", "32")
    figures = found["figures"]
    assert figures["largest relative difference of gradients, dense and sparse"] < 1e-5
    assert figures["mean L0"]["ours, sparse"] == figures["mean L0"]["ours, dense"]
    assert figures["times the sparse step"]["ours, sparse"] == 1


@pytest.mark.slow
def test_hop_collapse_is_measured_for_every_preset(tmp_path: Path) -> None:
    options = ["--seeds", "0", "--relations", "1", "--sparsities", "0.01", "--features", "32", "--steps", "20"]
    found = script("hop_collapse", tmp_path / "hops.json", *options, "--amplified")
    assert list(found["figures"]) == [
        f"1 relations, {name}, λ 0.01" for name in ("paper", "per-write", "per-direction")
    ]
    for figures in found["figures"].values():
        assert len(figures["FVU"]) == len(figures["L0"]) == 2
