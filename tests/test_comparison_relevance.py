"""RelP: its coefficients against passes made affine by plain hooks, with no gradient taken anywhere."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.test_comparison import BASES, basis_of, planted, runs, task
from tests.test_refusals import refusal
from tl_circuits.comparison import Basis, circuit_curve
from tl_circuits.comparison.passes import last_logits
from tl_circuits.comparison.relevance import _Rule, relevance_rules
from tl_circuits.comparison.scorers import scores
from tl_circuits.hooks import has_user_hooks, installed

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_family = pytest.mark.parametrize("family", models.FAMILIES)


def affine(model: Any, tokens: Tensor, frozen: bool) -> list[tuple[str, Any]]:
    """Plain hooks under which a pass is the model's own on these tokens, and affine in what is added to it."""
    _, cache = model.run_with_cache(tokens)
    ends = ("hook_scale", "hook_pattern") if frozen else ("hook_scale",)
    constant = [name for name in cache if name.endswith(ends)]
    hooks = [(name, lambda *_, held=cache[name], **__: held) for name in constant]
    for layer in range(models.N_LAYERS):
        hooks += _affine_neurons(model, cache, layer)
    return hooks


def _affine_neurons(model: Any, cache: Any, layer: int) -> list[tuple[str, Any]]:
    mlp = f"blocks.{layer}.mlp"
    point = f"{mlp}.hook_{'mid' if f'{mlp}.hook_mid' in cache else 'post'}"
    read, written = cache[f"{mlp}.hook_pre"], cache[point]
    gated = f"{mlp}.hook_pre_linear" in model.hook_dict
    factor = cache[f"{mlp}.hook_pre_linear"] if gated else torch.ones_like(read)
    # HookedTransformer adds b_in to the product; a bridge has it in the factor.
    added = model.blocks[layer].mlp.b_in if gated and not hasattr(model, "original_model") else 0
    activation = (written - added) / factor
    now: dict[str, Tensor] = {"factor": factor}

    def keep(name: str) -> Any:
        return lambda value, **_: now.__setitem__(name, value.clone())

    def write(_value: Tensor, **_: Any) -> Tensor:
        moved = activation / read * (now["read"] - read) * factor
        return written + ((moved + activation * (now["factor"] - factor)) / 2 if gated else moved)

    kept = [(f"{mlp}.hook_pre", keep("read")), *([(f"{mlp}.hook_pre_linear", keep("factor"))] if gated else [])]
    return [*kept, (point, write)]


# A bridge says of each norm that its scale was changed, as these hooks do.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@every_family
@pytest.mark.parametrize(
    ("model_class", "attention"), [("hooked", "frozen"), ("hooked", "running"), ("bridge", "frozen")]
)
def test_a_score_is_what_the_unit_moves_in_a_pass_that_was_made_affine(
    family: str, model_class: str, attention: Any
) -> None:
    # Where attention runs, and where a cap bends the logits, the slope is that of a small step; a bridge's norms, which
    # are in float32, would drown it.
    _check_against_affine(models.model_of(family, model_class), attention)


def test_a_norm_after_the_activation_divides_by_a_constant_too() -> None:
    _check_against_affine(models.hooked("gpt2", act_fn="solu_ln"), "frozen")


def _check_against_affine(model: Any, attention: Any) -> None:
    asked, basis = task(model), Basis.neurons(model)
    clean, corrupted = runs(model, basis, asked)
    found = scores(model, basis, asked, "relp", attention=attention)
    hooks, step = affine(model, asked.clean, attention == "frozen"), 1e-4
    for layer in range(models.N_LAYERS):
        point = f"blocks.{layer}.mlp.hook_post"
        differs = clean.units[layer] - corrupted.units[layer]
        for pos in (1, 4):
            unit = int(differs[:, pos].abs().sum(0).argmax())

            def push(value: Tensor, way: float, at: Any = (pos, unit), by: Tensor = differs) -> Tensor:
                value[:, *at] += way * step * by[:, *at]
                return value

            with torch.no_grad():
                ends = []
                for way in (-1, 1):
                    pushed = [*hooks, (point, lambda value, way=way, push=push, **_: push(value, way))]
                    with model.hooks(pushed):
                        ends.append(asked.measure(model(asked.clean)[:, -1]))
            moved = (ends[1] - ends[0]) / (2 * step)
            torch.testing.assert_close(found[layer][:, pos, unit], moved, atol=1e-7, rtol=1e-6)


@every_family
@both
def test_under_the_rules_a_pass_computes_what_the_model_does(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    asked = task(model)
    expected = model(asked.clean)[:, -1]
    # A bridge divides by RMS norms in float32, in another order where a scale is held.
    rounded = model_class == "bridge" and family not in ("gpt2", "pythia")
    with installed(model, relevance_rules(model)):
        found = last_logits(model, asked.clean)
    torch.testing.assert_close(found, expected, atol=1e-5 if rounded else 1e-10, rtol=0)
    assert not has_user_hooks(model)


@pytest.mark.parametrize("name", BASES)
def test_of_units_that_make_up_an_output_the_scores_are_the_outputs(name: str) -> None:
    # Scores of whole MLP outputs, taken apart by what units write there: each basis goes through the same rules.
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    found = scores(model, basis_of(name, model), asked, "relp")
    assert all(bool(part.isfinite().all()) for part in found)
    assert any(float(part.abs().max()) > 0 for part in found)
    last = models.N_LAYERS - 1
    if name == "neurons":
        whole = scores(model, Basis.blocks(model), asked, "relp")[2 * last + 1]
        torch.testing.assert_close(found[last].sum(2), whole.sum(2), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_without_norms_and_with_relus_it_is_attribution_patching() -> None:
    made, asked = planted()
    basis = Basis.features(made.model, made.transcoder)
    one, other = (scores(made.model, basis, asked, scorer) for scorer in ("relp", "attribution-patching"))
    for found, expected in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_model_that_does_not_show_its_neurons_is_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    basis, asked = Basis.blocks(model), task(model)
    hidden = {name: point for name, point in model.hook_dict.items() if not name.endswith("hook_pre")}
    shown = model.hook_dict
    model.hook_dict = hidden
    try:
        with refusal(tlc.FitError, "blocks.0.mlp.hook_pre", "activation functions"):
            scores(model, basis, asked, "relp")
    finally:
        model.hook_dict = shown


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["relp", "ig-inputs", "ig-activations"])
def test_gradients_are_taken_where_they_are_switched_off(scorer: Any) -> None:
    model = models.model_of("llama", "hooked")
    basis, asked = Basis.neurons(model), task(model)
    expected = scores(model, basis, asked, scorer, attention="frozen")
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = scores(model, basis, asked, scorer, attention="frozen")
            curve = circuit_curve(model, basis, asked, found, attention="frozen", sizes=[4])
        assert float(curve.faithfulness[0]) == 0
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trained", ["", "blocks.0.mlp.W_gate", "blocks.1.attn.W_V", "blocks.1.mlp.W_in", "blocks.1.mlp.W_gate"]
)
def test_which_parameters_are_trained_does_not_matter(trained: str) -> None:
    model = models.model_of("llama", "hooked")
    basis, asked = Basis.neurons(model), task(model)
    expected = scores(model, basis, asked, "relp")
    held = copy.deepcopy(model)
    for name, parameter in held.named_parameters():
        parameter.requires_grad_(name == trained)
    for one, other in zip(scores(held, basis, asked, "relp"), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_an_activation_function_that_reads_gate_and_factor_as_one_is_refused() -> None:
    rule = _Rule()
    rule.read(torch.zeros(1, 2, 8))
    with refusal(tlc.FitError, "reads 8 numbers a token and gives 4", "ig-inputs"):
        rule.written(torch.zeros(1, 2, 4, requires_grad=True))
