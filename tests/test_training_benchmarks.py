"""Benchmarks of training: the compiled chains hold what they say, and every script runs on a tiny case."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training_tables
from benchmarks.chains import chain
from benchmarks.mediation import mediation
from benchmarks.training_presets import GAIN, steering
from benchmarks.training_quality import interval
from tests.test_benchmarks import script
from tl_circuits import HopCollapse
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


@pytest.mark.parametrize("exponent", [-0.25, -0.5, -1.0])
def test_steering_brings_a_sparsity_to_what_is_wanted_and_leaves_it_there(exponent: float) -> None:
    weight = 1e-3
    for _ in range(400):
        weight *= steering(40 * (weight / 1e-3) ** exponent, 8)
    assert 40 * (weight / 1e-3) ** exponent == pytest.approx(8, rel=0.05)
    assert steering(8, 8) == 1
    assert steering(0, 8) == pytest.approx(math.exp(-GAIN))


def test_questions_count_in_what_is_mediated_by_how_large_their_effects_are() -> None:
    whole, cancelling = HopCollapse(0.2, 0.5, 2.0, -3.0), HopCollapse(-90.0, 70.0, 1e-6, 1e-6)
    found = mediation([whole, cancelling, HopCollapse(float("nan"), 0.5, 0.0, 1.0)])
    assert found == pytest.approx({"mediated, graph": 0.2, "mediated, model": 0.5, "mediated collapse": 0.3}, abs=1e-3)
    assert mediation([]) == {}


def test_an_interval_over_seeds_needs_several() -> None:
    assert interval([0.5]) == {"mean": 0.5}
    # 1, 2, 3: the standard error is 1/√3, and t with two degrees of freedom 4.303.
    assert interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "low": -0.4843, "high": 4.4843}


def test_tables_have_a_row_for_each_recipe_lowest_to_highest_seed() -> None:
    rows = [
        {"answers written by layer 0": share, "states written again by layer 0": None, "FVU": [0.1, 0.2], "L0": [3, 4]}
        for share in (-1e-7, 0.25)
    ]
    chains = {"script": "hop_collapse", "case": {"chain": "plain"}, "measured": {"1 relations, paper, λ 0.01": rows}}
    *_, last = training_tables.chains([chains]).splitlines()
    assert last == "| each has an answer | 1 | `paper` | 0.01 | 0.00 to 0.25 |  | 0.100, 0.200 | 3.0, 4.0 |"
    found = dict.fromkeys(training_tables.PRESET_COLUMNS, 0.5)
    presets = {
        "script": "training_presets", "figures": {"paper": found, "paper, per layer": found}, "machine": {"cpu": "one"},
        "settings": {"features": 1, "steps": 2, "batch_tokens": 5, "finetune_steps": 3, "l0": 4, "k": None},
        "measured": {"paper": [found, found], "paper, per layer": [found]}, "when": "2026-01-02T03",
    }  # fmt: skip
    lines = training_tables.presets([chains, presets]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| `paper`", "| paper, per layer"]
    assert "Means over 1 or 2 seeds" in lines[5]
    assert {line.count("|") for line in lines[:4]} == {len(training_tables.PRESET_COLUMNS) + 2}
    found = dict.fromkeys(training_tables.WIDTH_COLUMNS, 0.5)
    widths = presets | {"script": "training_bandwidth", "figures": {"0.01": found}, "measured": {"0.01": [found] * 3}}
    lines = training_tables.bandwidths([presets, widths]).splitlines()
    assert lines[2] == "| 0.01 | 0.5 | 0.500 | 50.0% | 50.0% | 50.0% | 50% | 0.50 |"
    assert "means over 3 seeds" in lines[4]
    of = {"on": 0.01, "density": 0.02, "sparse": 1.0, "dense": 3.0, "dense over sparse": 3.0}
    crossed = {
        "script": "training_crossover", "figures": {"1": of}, "machine": {"cpu": "one", "load": 1.0},
        "case": {"n_layers": 2, "d_model": 3, "features": 4}, "settings": {"tokens": 5, "bandwidth": 0.2},
        "when": "2026",
    }  # fmt: skip
    lines = training_tables.crossovers([presets, crossed]).splitlines()
    assert lines[2] == "| 1.0% | 2.0% | 1.00 | 3.00 | 3.00 |"
    assert "2 layers, 3 wide, 4 features a layer, 5 tokens a step" in lines[4]
    assert training_tables.crossovers([presets]) == "Not measured yet.\n"


@pytest.mark.slow
def test_where_sparse_steps_cost_less_is_measured(tmp_path: Path) -> None:
    options = ["--size", "tiny", "--shares", "5,50", "--tokens", "32", "--steps", "1", "--runs", "1"]
    figures = script("training_crossover", tmp_path / "crossover.json", *options)["figures"]
    assert [of["on"] for of in figures.values()] == [pytest.approx(share, abs=0.02) for share in (0.05, 0.5)]
    for of in figures.values():
        assert of["density"] > of["on"]
        assert of["dense over sparse"] == of["dense"] / of["sparse"]


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


@pytest.mark.slow
def test_widths_of_the_band_are_compared_on_the_demo(tmp_path: Path) -> None:
    options = ["--widths", "0.5", "--features", "16", "--l0", "4", "--steps", "4", "--finetune-steps", "1"]
    first, both = tmp_path / "first.json", tmp_path / "both.json"
    script("training_bandwidth", first, "--seeds", "0", *options)
    found = script("training_bandwidth", both, "--seeds", "1", "--onto", str(first), *options)
    assert [row["seed"] for row in found["measured"]["0.5"]] == [0, 1]
    assert set(training_tables.WIDTH_COLUMNS) <= set(found["figures"]["0.5"])


@pytest.mark.slow
def test_presets_are_compared_on_the_demo(tmp_path: Path) -> None:
    options = ["--presets", "topk", "--seeds", "0", "--features", "16", "--l0", "4", "--steps", "4", "--graphs", "1"]
    found = script("training_presets", tmp_path / "presets.json", *options, "--finetune-steps", "1")
    # Shares of an effect are there only where there is one.
    shares = set(mediation([HopCollapse(1.0, 1.0, 1.0, 1.0)]))
    assert set(training_tables.PRESET_COLUMNS) - shares <= set(found["figures"]["topk"])
    assert 0 < found["figures"]["topk"]["L0"] <= 4
