"""The benchmark of circuits: its tasks are what they say, its figures are the curves', and every script runs."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from benchmarks.circuits import measure, plots, sentences, summary, tables
from benchmarks.circuits.dictionaries import load, n_parameters, path_of, train_all
from benchmarks.circuits.intervals import Readings, estimate, of_seeds
from benchmarks.circuits.measure import Ledger, exact_transcoder, planted, untrained, written
from benchmarks.circuits.roster import Told, equal_parameters, equal_writes, roster
from benchmarks.circuits.suites import Suite, Width, answered, planted_suite
from tests import models
from tests.test_comparison import task
from tl_circuits.comparison import Basis
from tl_circuits.comparison.areas import mean_over_log
from tl_circuits.comparison.passes import recorded, through

ROOT = Path(__file__).parents[1]
NARROW = Width(16, 1, 4, 64)


@pytest.fixture(scope="module")
def chain() -> Suite:
    """A small suite whose truth is known."""
    return planted_suite("pure chain", 4, 0, NARROW)


# Tasks


@pytest.mark.parametrize("name", sentences.TASKS)
def test_a_counterfactual_is_as_long_differs_and_has_another_answer(name: str) -> None:
    known = set(sentences.vocabulary())
    drawn = list(itertools.islice(sentences.pairs(name, 0), 50))
    for pair in drawn:
        assert len(pair.clean) == len(pair.corrupted)
        changed = sum(a != b for a, b in zip(pair.clean, pair.corrupted, strict=True))
        assert changed == 1
        assert pair.answer != pair.other
        assert {*pair.clean, *pair.corrupted, pair.answer, pair.other} <= known
        assert not pair.right or (pair.answer in pair.right and pair.other in pair.wrong)
    assert len({len(pair.clean) for pair in drawn}) == 1
    assert drawn == list(itertools.islice(sentences.pairs(name, 0), 50))
    assert drawn != list(itertools.islice(sentences.pairs(name, 1), 50))


def test_answers_follow_from_what_is_said() -> None:
    for pair in itertools.islice(sentences.pairs("modular addition", 0), 50):
        a, b = (int(pair.clean[place][1:]) for place in (0, 2))
        assert pair.answer == f"n{(a + b) % sentences.PRIME}"
    for pair in itertools.islice(sentences.pairs("induction", 0), 50):
        last = max(place for place, word in enumerate(pair.clean[:-1]) if word == pair.clean[-1])
        assert pair.clean[last + 1] == pair.answer
        assert pair.corrupted[last + 1] == pair.other
    for pair in itertools.islice(sentences.pairs("greater-than", 0), 50):
        year = int(pair.clean[7][1:])
        assert all(int(word[1:]) > year for word in pair.right)
        assert all(int(word[1:]) <= year for word in pair.wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pure chain", "Boolean gates"])
def test_a_compiled_model_answers_and_its_exact_dictionary_finds_the_truth(name: str) -> None:
    suite = planted_suite(name, 8, 0, NARROW)
    made = suite.planted
    assert made is not None
    assert torch.equal(made.model(made.tokens)[:, -1].argmax(-1), made.answers)
    exact = Basis.features(suite.model, exact_transcoder(suite))
    found = planted(suite, exact)
    # An answer of the chains is one neuron's; in the others several neurons say one, and no single unit tells it.
    assert (found["AUPRC, layer 1"] == 1) == ("chain" in name)
    curve = tlc.circuit_curve(suite.model, exact, suite.tasks[name], "ablation", sizes=[])
    assert float(curve.faithfulness[-1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_a_chain_of_one_neuron_a_step_is_found_whole_and_a_random_dictionary_finds_less() -> None:
    suite = planted_suite("pure chain", 4, 0, NARROW)
    made = suite.planted
    assert made is not None
    # Of each state one feature: the decoder of all its neurons is the same, so their sum is exact.
    exact = exact_transcoder(suite)
    neurons, states = exact.W_dec[0].shape[0], made.variables[0].shape[1]
    state_of = exact.W_dec[0][:, 0].argmax(-1)
    assert (neurons, len(state_of.unique())) == (36, states)
    found, random = (planted(suite, Basis.features(suite.model, each)) for each in (exact, untrained(suite, 0)))
    assert found["AUPRC, layer 1"] == 1
    assert random["AUPRC, layer 1"] < 0.9
    assert random["AUPRC, layer 0"] < 0.9
    assert found["F1, layer 1"] == 1 > random["F1, layer 1"]
    for metric in ("AUPRC of edges", "F1 of edges"):
        assert found[metric] > random[metric] + 0.1, metric


# Dictionaries


@pytest.mark.parametrize(("n_layers", "d_model"), [(3, 64), (2, 16), (6, 32)])
@pytest.mark.parametrize("skip", [False, True])
def test_as_many_parameters_are_as_many(n_layers: int, d_model: int, skip: bool) -> None:
    def size(features: int, span: int, skip: bool) -> int:
        return n_parameters(_transcoder(n_layers, d_model, features, span, skip))

    wider = equal_parameters(96, n_layers, d_model, skip=skip)
    assert abs(size(wider, 1, skip) - size(96, n_layers, False)) <= n_layers * (2 * d_model + 1)
    assert wider > 96 or skip


def _transcoder(n_layers: int, d_model: int, features: int, span: int, skip: bool) -> tlc.CrossLayerTranscoder:
    shape = range(n_layers)
    return tlc.CrossLayerTranscoder(
        [torch.zeros(features, d_model) for _ in shape],
        [torch.zeros(features) for _ in shape],
        [torch.zeros(features, min(span, n_layers - layer), d_model) for layer in shape],
        torch.zeros(n_layers, d_model),
        W_skip=torch.zeros(n_layers, d_model, d_model) if skip else None,
    )


def test_as_many_writes_are_what_a_clts_features_write_on_average() -> None:
    assert [equal_writes(8, n_layers) for n_layers in (1, 2, 3, 12)] == [8, 12, 16, 52]


def test_every_kind_and_match_is_trained_once_for_each_seed() -> None:
    found = roster(Width(32, 4, 10, 64), 3, 16, [0, 1], [2])
    assert len({told.folder for told in found}) == len(found) == 2 * (5 + 6 + 2)
    assert {told.k for told in found if told.match == "writes"} == {8}


@pytest.mark.slow
def test_what_is_trained_is_not_trained_again(chain: Suite, tmp_path: Path) -> None:
    tolds = [Told(kind, "L0", 16, 1, 4, 64, 0) for kind in ("CLT", "PLT", "skip PLT", "SAE")]
    train_all(chain, tmp_path, tolds)
    bases = [load(chain, tmp_path, told) for told in tolds]
    assert [basis.name for basis in bases] == ["CLT", "PLT", "skip PLT", "SAE"]
    times = [(path_of(tmp_path, chain.name, told) / "done.json").stat().st_mtime_ns for told in tolds]
    train_all(chain, tmp_path, tolds)
    assert times == [(path_of(tmp_path, chain.name, told) / "done.json").stat().st_mtime_ns for told in tolds]
    with pytest.raises(FileNotFoundError, match=r"run python -m benchmarks\.circuits\.dictionaries"):
        load(chain, tmp_path, Told("CLT", "L0", 16, 1, 5, 64, 0))
    # L0 is what was asked for, of SAEs too.
    for basis in bases:
        assert measure.fidelity(chain, basis, chain.tasks[chain.name])["L0"][0] <= 1


# Figures


def readings(n_seeds: int = 3) -> tuple[list[tlc.CircuitCurve], Readings]:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    curves = [
        tlc.circuit_curve(model, Basis.features(model, models.transcoder(seed=seed)), asked, "attribution-patching")
        for seed in range(n_seeds)
    ]
    return curves, Readings.of([written(curve) for curve in curves])


@pytest.mark.slow
def test_of_one_dictionary_figures_are_the_curves() -> None:
    (curve,), found = readings(1)
    drawn = found.drawn(0, 0)
    for name in ("cpr", "cmd", "cpr_linear", "cmd_linear"):
        assert float(getattr(drawn, name)[0]) == pytest.approx(getattr(curve, name), abs=1e-4)
    assert (drawn.k80(), drawn.kc20()) == (curve.k80, curve.kc20)
    for name, values in (("left", curve.completeness), ("kl", curve.recovered)):
        assert values is not None
        assert float(getattr(drawn, name)[0]) == pytest.approx(float(mean_over_log(values, curve.sizes, 512)), abs=1e-3)
    at = curve.sizes.index(8)
    assert float(drawn.at(8)[0]) == pytest.approx(float(curve.faithfulness[at]), abs=1e-4)
    assert float(drawn.accuracy[0, -1]) == pytest.approx(float(curve.accuracy[-1]))
    assert curve.recovered is not None
    assert drawn.recovered is not None
    torch.testing.assert_close(drawn.recovered[0], curve.recovered, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_intervals_hold_their_figure_and_are_the_same_again() -> None:
    _, found = readings()
    one, other = (estimate(found.drawn(200, 3).cpr) for _ in range(2))
    assert one == other
    assert one["low"] <= one["value"] <= one["high"]
    assert one["low"] < one["high"]
    assert of_seeds([0.5]) == {"value": 0.5}
    assert of_seeds([]) == {}


def test_an_interval_over_five_seeds_holds_what_they_are_drawn_about_as_often_as_it_says() -> None:
    draws = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = [found["low"] <= 0 <= found["high"] for found in (of_seeds(row) for row in draws.tolist())]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.02)


def test_a_reading_is_taken_once_by_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def take() -> dict[str, Any]:
        taken.append(1)
        return {"value": 3}

    ledger = Ledger(tmp_path)
    assert ledger.of("one, of two", take)["value"] == ledger.of("one, of two", take)["value"] == 3
    assert len(taken) == 1
    monkeypatch.setattr(measure, "code", lambda: "another")
    assert ledger.of("one, of two", take)["value"] == 3
    assert len(taken) == 2


@pytest.mark.slow
def test_what_is_asked_otherwise_is_asked_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.model_of("gpt2", "hooked")
    asked, basis = task(model), Basis.neurons(model)
    suite: Any = SimpleNamespace(model=model)
    monkeypatch.setattr(measure, "LARGEST", 3)
    whole, frozen = (
        tlc.circuit_curve(model, basis, asked, steps=measure.STEPS, sizes=[1, 2, 4, 8], attention=attention)
        for attention in ("running", "frozen")
    )
    found = measure.with_attention_frozen(suite, basis, asked)["corrupted"]
    assert found == written(frozen) != written(whole)
    one = measure.of_one_circuit(suite, basis, asked)["corrupted"]
    there = tlc.circuit_curve(
        model, basis, asked.part([1]), steps=measure.STEPS, sizes=[1, 2, 4, 8], found_on=asked.part([0, 2])
    )
    assert one == written(there)


@pytest.mark.slow
def test_graphs_are_asked_with_the_errors_that_are_named(chain: Suite) -> None:
    exact, asked = measure.untrained(chain, 0), chain.tasks["pure chain"].part([0, 1])
    kept, corrupted = (
        measure.graph_edges(chain, exact, asked, errors, control=False) for errors in ("kept", "corrupted")
    )
    assert kept["influence"]["faithful"] != corrupted["influence"]["faithful"]


@pytest.mark.slow
def test_what_graphs_say_is_what_they_say() -> None:
    model, clt = models.model_of("gpt2", "hooked"), models.transcoder()
    suite: Any = SimpleNamespace(model=model)
    asked = task(model).part(0)
    found = measure.of_graphs(suite, clt, asked, None)
    local = tlc.localize(model, clt, asked.clean[0], masked_positions=())
    graph = tlc.attribute(local, tlc.Targets.tokens([int(asked.answer[0])]), progress=False)
    scores = graph.scores()
    assert found["replacement"] == [scores.replacement]
    assert found["completeness"] == [scores.completeness]
    assert found["written across into layer 1"] == [tlc.write_shares(local).across[1]]
    reached = graph.path_lengths()
    by_length = [float(reached[0]), *(float(b - a) for a, b in pairwise(reached))]
    mean = sum(n * share for n, share in enumerate(by_length, 1)) / sum(by_length)
    assert found["path length"] == [pytest.approx(mean)]
    assert found["features at 0.95"] > found["features at 0.7"]
    for share in (0.95, 0.7):
        cut = graph.prune(nodes=share)
        assert found[f"features at {share}"] == [len(cut.nodes.features())]
        assert found[f"completeness at {share}"] == [cut.scores().completeness]


def test_of_a_suite_the_prompts_are_those_that_the_model_gets_right() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    here, there = (model(tokens)[:, -1].detach() for tokens in (asked.clean, asked.corrupted))
    # By how much one token is ahead of another here, and behind it there, whichever is less.
    ahead = torch.minimum(here[:, :, None] - here[:, None], there[:, None] - there[:, :, None])
    best = ahead.flatten(1).argmax(1)
    assert bool((ahead.flatten(1).amax(1) > 0).all())
    fitting = replace(asked, answer=best // models.D_VOCAB, corrupted_answer=best % models.D_VOCAB)
    turned = replace(
        fitting,
        answer=torch.stack([fitting.corrupted_answer[0], *fitting.answer[1:]]),
        corrupted_answer=torch.stack([fitting.answer[0], *fitting.corrupted_answer[1:]]),
    )
    kept, share = answered(model, {"any": turned}, 9)
    assert torch.equal(kept["any"].clean, asked.clean[1:])
    assert share["any"] == pytest.approx(2 / 3)
    assert len(answered(model, {"any": turned}, 1)[0]["any"]) == 1


@pytest.mark.slow
def test_agreement_with_perturbations_is_that_of_the_report() -> None:
    model, clt = tlc.demo("hooked")
    texts = [f"the capital of the state containing {city} is" for city in ("Dallas", "Oakland")]
    pair = (texts[0], texts[1], " Austin", " Sacramento")
    suite: Any = SimpleNamespace(model=model)
    found = measure.faithful(suite, clt, tlc.Task.of(model, [pair]))
    local = tlc.localize(model, clt, texts[0], masked_positions=())
    report = tlc.faithfulness([local], max_features=48, n_pushes=4, n_controls=1, progress=False)
    assert len(found) == 4
    for name, values in found.items():
        assert values == [pytest.approx(value) for value in report.values[name]], name


def test_fidelity_is_that_of_a_pass_without_errors(chain: Suite) -> None:
    asked = chain.tasks["pure chain"]
    neurons, random = (
        measure.fidelity(chain, basis, asked)
        for basis in (Basis.neurons(chain.model), Basis.features(chain.model, measure.untrained(chain, 0)))
    )
    assert (neurons["same answer"], neurons["KL"]) == (1, pytest.approx(0, abs=1e-6))
    assert random["same answer"] < 1
    assert random["KL"] > 0.01
    n_units = sum(part[0].numel() for part in recorded(chain.model, Basis.neurons(chain.model), asked.clean).units)
    assert neurons["bits of 32"] == pytest.approx(math.log2(math.comb(n_units, 32)))
    assert neurons["CE recovered"] == pytest.approx(1)
    assert random["CE recovered"] < 0.5


def test_the_floor_of_fidelity_is_the_model_with_its_mlps_at_their_means(chain: Suite) -> None:
    model, asked = chain.model, chain.tasks["pure chain"]
    points = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(chain.tokens[: measure.MEAN_OF])
    means = {point: cache[point][chain.kept[: measure.MEAN_OF]].mean(0) for point in points}
    held = [(point, lambda value, hook: means[hook.name].expand_as(value)) for point in points]
    whole = model(asked.clean)[:, -1].double().log_softmax(-1)
    with model.hooks(held):
        floor = model(asked.clean)[:, -1].double().log_softmax(-1)
    basis = Basis.features(model, measure.untrained(chain, 0))
    found = measure.fidelity(chain, basis, asked)
    assert found["KL, at means"] == pytest.approx(float((whole.exp() * (whole - floor)).sum(-1).mean()), abs=1e-5)
    assert found["same answer, at means"] == float((whole.argmax(-1) == floor.argmax(-1)).double().mean())
    clean, corrupted = (recorded(model, basis, tokens) for tokens in (asked.clean, asked.corrupted))
    every = [torch.ones(units.shape[:3], dtype=torch.bool) for units in clean.units]
    replaced = through(model, basis, asked.clean, corrupted, every, "zero").log_softmax(-1)
    losses = [float(-of.gather(1, asked.answer[:, None]).mean()) for of in (floor, replaced, whole)]
    assert found["CE recovered"] == pytest.approx((losses[0] - losses[1]) / (losses[0] - losses[2]), abs=1e-5)


@pytest.mark.slow
def test_what_graphs_mediate_is_weighed_by_the_effects_that_it_is_of(
    chain: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cancelling = tlc.HopCollapse(0.2, 0.5, 2.0, -3.0), tlc.HopCollapse(-90.0, 70.0, 1e-6, 1e-6)
    told = iter([cancelling, whole, cancelling])
    monkeypatch.setattr(tlc, "hop_collapse", lambda *_, **__: next(told))
    exact = exact_transcoder(chain)
    asked = next(iter(chain.tasks.values())).part(slice(0, 3))
    found = measure.of_graphs(chain, exact, asked, exact)
    (of,) = dict(summary._means({"graphs | chain | PLT | 0": found}, "graphs")).values()
    for name, share in (("graph", 0.2), ("model", 0.5), ("collapse", 0.3)):
        said = of["mediated collapse" if name == "collapse" else f"mediated, {name}"]
        assert said["value"] == pytest.approx(share, abs=1e-3)


def test_what_a_random_dictionary_writes_is_as_large_as_least_squares_make_it(chain: Suite) -> None:
    found = untrained(chain, 0)
    assert found.n_features == (16, 16)
    again = untrained(chain, 0)
    torch.testing.assert_close(found.W_dec[0], again.W_dec[0])
    assert not torch.equal(found.W_dec[0], untrained(chain, 1).W_dec[0])


# The scripts


@pytest.mark.slow
def test_the_smoke_tier_runs_from_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.circuits", "--tier", "smoke", "--folder", str(tmp_path / "kept")]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["script"] == "circuits"
    curves = found["figures"]["demo"]["curves"]["two-hop"]
    assert {"CLT", "PLT", "skip PLT", "SAE", "SFC", "neurons", "heads and MLPs", "untrained CLT"} <= set(curves)
    assert {"PLT, parameters", "PLT, writes", "SAE, parameters", "SAE, writes"} <= set(curves)
    for of in curves.values():
        assert of["F"][0] == 0
        assert of["C"][-1] == pytest.approx(0, abs=1e-3)
    assert curves["neurons"]["F(all)"]["value"] == pytest.approx(1, abs=1e-3)
    assert found["figures"]["pure chain"]["planted"]["neurons"]["AUPRC, layer 1"]["value"] == 1
    for name, table in tables.TABLES.items():
        # An untaught model answers nothing, or little: which tasks there are is chance.
        if name not in ("greater-than", "agreement"):
            assert table(found).count("\n") > 2, name
    assert plots.draw(found, tmp_path / "circuits.png").stat().st_size > 10_000
