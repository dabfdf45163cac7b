"""What is read off curves of circuits, and what is said to those who ask for what cannot be."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_circuits as tlc
from tests import models
from tests.test_comparison import _SAE, CLEAN, CORRUPTED, basis_of, question, task, told_by_the_runs
from tests.test_refusals import refusal
from tl_circuits.comparison import Basis, Task, Unit, circuit_curve, edge_curve, scores
from tl_circuits.comparison.areas import at_size, mean_over_log, mean_over_share
from tl_circuits.errors import FitError, PromptError, SettingError, TLCircuitsWarning
from tl_circuits.transcoder import CrossLayerTranscoder, JumpReLU


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, CrossLayerTranscoder]:
    return tlc.demo("hooked")


# Areas


def test_an_area_is_that_under_straight_lines_over_the_logarithm() -> None:
    values = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    # At log2(1 + k) of 0, 1 and 3: .25 and 1.5 of 3 in all; up to k = 3, log2 of 4, .25 and .625 of 2.
    assert float(mean_over_log(values, [0, 1, 7], 7)) == pytest.approx(1.75 / 3)
    assert float(mean_over_log(values, [0, 1, 7], 3)) == pytest.approx(0.875 / 2)
    assert float(mean_over_log(values, [0, 1, 7], 63)) == pytest.approx((1.75 + 3) / 6)
    assert [float(at_size(values, [0, 1, 7], size)) for size in (0, 1, 3, 7, 100)] == [0, 0.5, 0.75, 1, 1]
    assert float(mean_over_share(values, [0, 1, 7])) == pytest.approx((0.25 + 4.5) / 7)


@pytest.mark.slow
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.integers(8, 10_000), st.integers(1, 20_000))
def test_units_that_change_nothing_change_no_area(ends: list[float], n_units: int, to: int) -> None:
    values = torch.tensor([0.0, *ends, ends[-1]], dtype=torch.float64)
    less, more = (mean_over_log(v, s, to) for v, s in ((values[:4], [0, 1, 2, 7]), (values, [0, 1, 2, 7, n_units])))
    torch.testing.assert_close(less, more)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["ig-inputs", "influence"])
def test_features_that_never_fire_change_no_area_of_a_transcoder(scorer: Any) -> None:
    model, clt = models.model_of("gpt2", "hooked"), models.transcoder()
    n_layers, d_model = clt.n_layers, clt.d_model
    dead, threshold = 40, clt.activation.threshold
    assert isinstance(threshold, torch.Tensor)
    wider = CrossLayerTranscoder(
        [torch.cat([w, w.new_zeros(dead, d_model)]) for w in clt.W_enc],
        [torch.cat([b, b.new_full((dead,), -1.0)]) for b in clt.b_enc],
        [torch.cat([w, w.new_ones(dead, n_layers - layer, d_model)]) for layer, w in enumerate(clt.W_dec)],
        clt.b_dec,
        activation=JumpReLU(torch.cat([threshold, torch.zeros(n_layers, dead)], 1)),
        read=clt.read,
        write=clt.write,
    )
    basis = Basis.features(model, clt)
    # Beyond those, units wake that are silent in both runs, and nothing tells them from those that never do.
    sizes = told_by_the_runs(basis)
    own, padded = (
        circuit_curve(model, of, task(model), scorer, sizes=sizes, progress=False)
        for of in (basis, Basis.features(model, wider))
    )
    assert padded.sizes[-1] > own.sizes[-1]
    for to in sizes[1:]:
        assert padded.area(to) == pytest.approx(own.area(to), abs=1e-9)
        assert padded.at(to) == pytest.approx(own.at(to), abs=1e-9)
    assert own.area(to=16) != pytest.approx(own.cpr, abs=1e-3)


def test_areas_and_sizes_that_are_none_are_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    curve = circuit_curve(model, Basis.neurons(model), task(model), sizes=[2], progress=False)
    with refusal(SettingError, "An area to 0 units is none: give 1 or more"):
        curve.area(to=0)
    with refusal(SettingError, "A circuit of -1 units is none: give 0 or more"):
        curve.at(-1)
    assert curve.at(2) == float(curve.faithfulness[1])


# Circuits


@pytest.mark.slow
def test_the_units_of_a_circuit_are_those_of_the_largest_scores() -> None:
    model = models.model_of("gpt2", "hooked")
    basis, asked = basis_of("CLT", model), task(model)
    found = scores(model, basis, asked, "ig-inputs")
    curve = circuit_curve(model, basis, asked, found, progress=False)
    for prompt in range(len(asked)):
        units = curve.circuit(prompt, 5)
        worth = [abs(float(found[unit.layer][prompt, unit.pos, unit.index])) for unit in units]
        every = torch.cat([part[prompt].flatten() for part in found]).abs().sort(descending=True).values
        assert worth == pytest.approx(every[:5].tolist())
        assert units[0].point == f"blocks.{units[0].layer}.hook_mlp_out"
    # With those five alone the measure is the curve's.
    kept = [torch.zeros_like(part) for part in found]
    for prompt in range(len(asked)):
        for place, unit in enumerate(curve.circuit(prompt, 5)):
            kept[unit.layer][prompt, unit.pos, unit.index] = 5 - place
    again = circuit_curve(model, basis, asked, tuple(kept), sizes=[5], progress=False)
    by_size = circuit_curve(model, basis, asked, found, sizes=[5], progress=False)
    torch.testing.assert_close(again.faithful[1], by_size.faithful[1])


@pytest.mark.slow
def test_circuits_that_are_not_kept_are_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    curve = circuit_curve(model, Basis.neurons(model), asked, progress=False)
    found = torch.cat([part[0].flatten() for part in scores(model, Basis.neurons(model), asked, "ig-inputs")])
    kept = min(512, int((found != 0).sum()))
    assert len(curve.circuit(0, kept)) == kept
    assert isinstance(curve.circuit(0, 1)[0], Unit)
    with refusal(SettingError, rf"circuit\(0, 9999\): {kept} units are kept, the best that have a score"):
        curve.circuit(0, 9999)
    with refusal(SettingError, r"circuit\(3, 1\): the task has 3 prompts, from 0"):
        curve.circuit(3, 1)
    of_edges = edge_curve(model, asked, "eap", sizes=[1], progress=False)
    with refusal(SettingError, "This curve is of edges", "edge_scores"):
        of_edges.circuit(0, 1)


@pytest.mark.slow
def test_a_curve_says_how_it_was_asked() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    some, rest = asked.part(0, "some"), asked.part([1, 2], "rest")
    assert (some.name, len(some), len(asked.part(slice(None, None, 2)))) == ("some", 1, 2)
    plain = circuit_curve(model, Basis.neurons(model), some, sizes=[1], progress=False)
    assert "attention" not in repr(plain)
    other = circuit_curve(
        model, Basis.neurons(model), some, attention="frozen", found_on=rest, sizes=[1], progress=False
    )
    assert "attention frozen, one circuit found on 'rest'" in repr(other)
    assert repr(some) == "Task('some', 1 prompts of 5 tokens)"


# Prompts that the model gets wrong


@pytest.mark.slow
def test_prompts_that_the_model_gets_wrong_are_said() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    right = circuit_curve(model, Basis.neurons(model), asked, sizes=[], progress=False)
    # The prompt on which it says least, so that the rest outweigh it.
    least = int((right.whole - right.empty).argmin())
    turned = torch.arange(len(asked)) == least
    one_wrong = replace(
        asked,
        answer=torch.where(turned, asked.corrupted_answer, asked.answer),
        corrupted_answer=torch.where(turned, asked.answer, asked.corrupted_answer),
        name="turned",
    )
    with pytest.warns(TLCircuitsWarning, match=rf"On 1 of the 3 prompts of 'turned' \(first: {least}\)"):
        circuit_curve(model, Basis.neurons(model), one_wrong, sizes=[1], progress=False)


def test_what_is_answered_is_what_the_model_prefers_here_and_not_there(shipped: Any) -> None:
    model, _ = shipped
    right = (question("Dallas"), question("Oakland"), " Austin", " Sacramento")
    wrong = (question("Oakland"), question("Dallas"), " Austin", " Sacramento")
    kept = Task.of(model, [wrong, right, wrong]).answered(model)
    torch.testing.assert_close(kept.clean, model.to_tokens(question("Dallas")))
    with refusal(PromptError, "Of the 1 prompts of 'x' the model answers none right"):
        Task.of(model, [wrong], "x").answered(model)


def test_where_several_answers_are_right_a_counterfactual_has_to_be_lower_and_no_more() -> None:
    model = models.model_of("gpt2", "hooked")
    here, there = (model(tokens)[:, -1].double().softmax(-1).detach() for tokens in (CLEAN, CORRUPTED))
    contrast = torch.zeros(3, models.D_VOCAB)
    for row in range(3):
        # Token 0 and whichever is likelier here than there: above 0 in both runs, less so there, but in the last.
        contrast[row, int((here - there)[row].argmax() if row < 2 else (here - there)[row].argmin())] = 1
    asked = Task("x", CLEAN, CORRUPTED, torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9]), contrast)
    assert len(asked.answered(model)) == 2


# What is none


def test_a_counterfactual_of_another_length_is_quoted(shipped: Any) -> None:
    with refusal(PromptError, "tokens, but", "give prompts of one length"):
        Task.of(shipped[0], [(question("Dallas"), "the state containing Dallas is", 3, 4)])


def test_what_is_no_sae_of_this_model_is_refused_by_name() -> None:
    model = models.model_of("gpt2", "hooked")
    with refusal(FitError, "was given list without any SAE in it: give a list"):
        Basis.saes(model, [])
    with refusal(FitError, "dict is no SAE of SAELens"):
        Basis.saes(model, [{}])
    with refusal(FitError, "before the first block"):
        Basis.saes(model, [_SAE("hook_embed")])
    with refusal(FitError, r"reads 7 numbers a token, but \d+ pass there"):
        Basis.saes(model, [_SAE("blocks.0.hook_mlp_out", d_in=7)])
    transcoder: Any = _SAE("blocks.0.hook_mlp_out")
    transcoder.cfg.d_out = 16
    with refusal(FitError, "is a transcoder, which reads one point", "tlc.load_transcoder", "tlc.Basis.features"):
        Basis.saes(model, [transcoder])


def test_a_model_whose_mlps_are_replaced_or_rounded_is_refused_or_said(shipped: Any) -> None:
    model, clt = shipped
    asked = Task.of(model, [(question("Dallas"), question("Oakland"), " Austin", " Sacramento")])
    with tlc.replace_mlps(model, clt), refusal(FitError, "MLPs are replaced at the moment"):
        circuit_curve(model, Basis.neurons(model), asked)
    small = models.model_of("gpt2", "hooked", torch.bfloat16)
    tokens = Task("x", CLEAN, CORRUPTED, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))
    with pytest.warns(TLCircuitsWarning, match="in torch.bfloat16: what circuits measure is rounded"):
        scores(small, Basis.neurons(small), tokens, "random")
