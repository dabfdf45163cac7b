"""The two checks of every graph: they speak up when an edge, a freeze or a hook is wrong, and only then."""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tl_circuits import sites
from tl_circuits.nodes import Kind
from tl_circuits.replacement.sweep import Readouts, Sweep

TOKENS = torch.tensor([1, 5, 9, 3, 7, 22])

both = pytest.mark.parametrize("model_class", models.CLASSES)


def changed_edges(monkeypatch: pytest.MonkeyPatch, change: Callable[[Sweep, Tensor], Tensor]) -> None:
    """From now on every sweep answers something else than it computed."""
    honest = Sweep.rows

    def rows(sweep: Sweep, readouts: Readouts) -> Tensor:
        return change(sweep, honest(sweep, readouts))

    monkeypatch.setattr(Sweep, "rows", rows)


def complaint(name: str, work: Callable[[], Any]) -> float:
    """The number in the one warning of this name that the work gives; its message has to say what it means."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    said = [str(warning.message) for warning in caught if warning.category is tlc.TLCircuitsWarning]
    about = [message for message in said if f"fails its {name} check" in message]
    assert len(about) == 1, said
    assert "do not trust its edges" in about[0]
    found = re.search(r"off by (\S+) of its inputs, and (\S+) allows (\S+)\.", about[0])
    assert found is not None, about[0]
    assert found[2] == "torch.float64"
    assert float(found[1]) > float(found[3])
    return float(found[1])


@pytest.mark.slow
@both
def test_edges_that_are_too_large_fail_conservation(model_class: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS)
    changed_edges(monkeypatch, lambda _sweep, rows: rows * 1.01)
    assert complaint("conservation", lambda: tlc.attribute(local)) < 0.011


@pytest.mark.slow
@both
def test_a_missing_source_fails_both_checks(model_class: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS)

    def forget_tokens(sweep: Sweep, rows: Tensor) -> Tensor:
        rows[:, sweep.sources.span(Kind.TOKEN)] = 0
        return rows

    changed_edges(monkeypatch, forget_tokens)
    assert complaint("conservation", lambda: tlc.attribute(local)) > 0.01
    assert complaint("finite-difference probe", lambda: tlc.attribute(local)) > 0.01


@pytest.mark.slow
@both
def test_edges_of_the_wrong_source_fail_the_probe_though_they_conserve(
    model_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS)

    def shift_tokens(sweep: Sweep, rows: Tensor) -> Tensor:
        tokens = sweep.sources.span(Kind.TOKEN)
        rows[:, tokens] = rows[:, tokens].roll(1, dims=1)
        return rows

    honest = tlc.attribute(local)
    changed_edges(monkeypatch, shift_tokens)
    with pytest.warns(tlc.TLCircuitsWarning, match="finite-difference probe") as caught:
        graph = tlc.attribute(local)
    assert len(caught) == 1
    assert graph.conservation_error == pytest.approx(honest.conservation_error, abs=1e-12)
    assert graph.probe_error > 1e3 * honest.probe_error


@pytest.mark.slow
@both
@pytest.mark.parametrize("loose", ["ln1.hook_scale", "ln_final.hook_scale", "attn.hook_pattern"])
def test_a_norm_or_pattern_that_is_not_frozen_fails_the_probe(
    model_class: str, loose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = sites._is_frozen
    monkeypatch.setattr(sites, "_is_frozen", lambda name: frozen(name) and not name.endswith(loose))
    model, transcoder = models.model_of("gpt2", model_class), models.transcoder()
    assert complaint("finite-difference probe", lambda: tlc.trace(model, transcoder, TOKENS)) > 1e-3


@pytest.mark.slow
@both
@pytest.mark.parametrize("point", ["blocks.1.hook_resid_pre", "blocks.1.hook_attn_out"])
def test_a_nonlinear_hook_of_the_users_fails_the_probe(model_class: str, point: str) -> None:
    model = models.model_of("gpt2", model_class)
    with model.hooks(fwd_hooks=[(point, lambda value, **_: value + value.tanh())]):
        assert complaint("finite-difference probe", lambda: tlc.trace(model, models.transcoder(), TOKENS)) > 1e-3


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("point", "scale"),
    [("blocks.1.hook_attn_out", 0.5), ("blocks.1.attn.hook_z", 0.0), ("blocks.1.hook_resid_pre", 1.0)],
)
def test_a_hook_of_the_users_that_scales_inside_a_block_or_adds_passes_both_checks(
    model_class: str, point: str, scale: float
) -> None:
    model = models.model_of("gpt2", model_class)
    with model.hooks(fwd_hooks=[(point, lambda value, **_: scale * value + 1)]):
        graph = tlc.trace(model, models.transcoder(), TOKENS)
    assert graph.conservation_error < 1e-10
    assert graph.probe_error < 1e-9


@pytest.mark.slow
@both
def test_a_hook_of_the_users_that_scales_between_blocks_is_traced_exactly(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda value, **_: 0.5 * value)]):
        graph = tlc.trace(model, models.transcoder(), TOKENS)
    assert graph.conservation_error < 1e-12
    assert graph.probe_error < 1e-12


@pytest.mark.slow
@both
def test_a_hook_of_the_users_that_bends_between_blocks_fails_the_probe(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda value, **_: value.relu())]):
        assert complaint("finite-difference probe", lambda: tlc.trace(model, models.transcoder(), TOKENS)) > 1e-2


def test_errors_that_are_not_numbers_fail_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    local = tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS)
    monkeypatch.setattr("tl_circuits.attribution.checks.probe", lambda *_: math.nan)
    with pytest.warns(tlc.TLCircuitsWarning, match="off by nan"):
        tlc.attribute(local)


@pytest.mark.slow
def test_a_row_whose_terms_cancel_is_not_blamed_for_its_rounding() -> None:
    # On this prompt one feature has one input, of size 8e-4, out of d_model terms that add up to 2.9 in magnitude.
    model = models.hooked("pythia", torch.float32)
    graph = tlc.trace(model, models.transcoder(skip=True, activation="relu"), [0, 0, 0, 16])
    assert graph.conservation_error < 1e-3


@pytest.mark.slow
@both
def test_a_hook_of_the_users_that_needs_every_position_of_an_mlp_finds_them_in_every_pass(model_class: str) -> None:
    model, lengths = models.model_of("gpt2", model_class), []

    def third_again(value: Tensor, **_: Any) -> Tensor:
        lengths.append(value.shape[1])
        value[:, 3] = value[:, 2]
        return value

    with model.hooks([("blocks.1.mlp.hook_post", third_again)]):
        tlc.attribute(tlc.localize(model, models.transcoder(), TOKENS))
    assert set(lengths) == {len(TOKENS)}
