"""That every function put on a model is called where it should be, and taken off again."""

from contextlib import ExitStack
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.test_sites import expected
from tests.test_works import state
from tl_circuits.hooks import Tap, has_user_hooks, installed

TOKENS = torch.tensor([[1, 5, 9, 3, 7, 22]])

both = pytest.mark.parametrize("model_class", models.CLASSES)


@both
@pytest.mark.parametrize("leave", ["at the end", "by an exception", "by an exception in a pass"])
def test_every_hook_comes_off_by_whatever_way(model_class: str, leave: str) -> None:
    model = models.model_of("gpt2", model_class)
    model(TOKENS)
    before = state(model)
    with ExitStack() as stack:
        if leave != "at the end":
            stack.enter_context(pytest.raises(RuntimeError, match="gone"))
        stack.enter_context(installed(model, all_taps(model_class, fail=leave.endswith("pass"))))
        assert state(model) != before
        assert has_user_hooks(model)
        if leave.endswith("pass"):
            model(TOKENS)
        elif leave != "at the end":
            raise RuntimeError("gone")
    assert state(model) == before
    assert not has_user_hooks(model)


def all_taps(model_class: str, *, fail: bool = False) -> dict[Tap, Any]:
    def function(_value: Tensor) -> None:
        if fail:
            raise RuntimeError("gone")

    points = ("hook_resid_pre", "mlp.hook_in", "mlp.hook_out", "hook_mlp_out", "attn.hook_pattern")
    taps = [expected(model_class, f"blocks.{layer}", point) for layer in range(3) for point in points]
    return dict.fromkeys([Tap("embed", "input"), Tap("unembed", "input"), *taps], function)


@both
def test_a_tap_that_does_not_exist_leaves_no_hook_behind(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    before = state(model)
    taps = all_taps(model_class) | {Tap("blocks.9.hook_nowhere"): lambda _: None}
    with pytest.raises(KeyError, match="hook_nowhere"), installed(model, taps):
        pass
    assert state(model) == before


@both
@pytest.mark.parametrize("outer_first", [False, True])
def test_nested_uses_are_independent_in_whatever_order_they_end(model_class: str, outer_first: bool) -> None:
    model, tap, fired = models.model_of("gpt2", model_class), Tap("blocks.0.hook_mlp_out"), []
    model(TOKENS)
    before = state(model)
    outer = installed(model, {tap: lambda _: fired.append("outer")})
    inner = installed(model, {tap: lambda _: fired.append("inner")})
    outer.__enter__()
    inner.__enter__()
    model(TOKENS)
    assert fired == ["outer", "inner"]
    first, last, left = (outer, inner, "inner") if outer_first else (inner, outer, "outer")
    first.__exit__(None, None, None)
    del fired[:]
    model(TOKENS)
    assert fired == [left]
    last.__exit__(None, None, None)
    assert state(model) == before


@both
def test_the_users_hooks_act_first_and_are_left_on(model_class: str) -> None:
    model, name, seen = models.model_of("gpt2", model_class), "blocks.0.hook_mlp_out", []
    with model.hooks(fwd_hooks=[(name, lambda value, **_: torch.zeros_like(value))]):
        edited = model(TOKENS)
        with installed(model, {Tap(name): lambda value: seen.append(value.abs().max())}):
            model(TOKENS)
        assert torch.equal(model(TOKENS), edited)
    assert [float(value) for value in seen] == [0.0]


@both
def test_a_reset_of_hooks_by_the_user_does_not_break_the_exit(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    model(TOKENS)
    before = state(model)
    with installed(model, all_taps(model_class)):
        model.reset_hooks(including_permanent=False)
    assert state(model) == before


@pytest.mark.slow
@both
def test_replacing_inside_replacing_replaces_by_the_inner_and_then_by_the_outer_again(model_class: str) -> None:
    model, outer, inner = models.model_of("gpt2", model_class), models.transcoder(), models.transcoder(seed=3)
    plain = model(TOKENS).detach()
    with tlc.replace_mlps(model, inner):
        by_inner = model(TOKENS).detach()
    with tlc.replace_mlps(model, outer) as outer_features:
        by_outer = model(TOKENS).detach()
        kept = {key: value.detach() for key, value in outer_features.items()}
        with tlc.replace_mlps(model, inner):
            torch.testing.assert_close(model(TOKENS), by_inner)
        torch.testing.assert_close(model(TOKENS), by_outer)
        torch.testing.assert_close({key: value.detach() for key, value in outer_features.items()}, kept)
    assert torch.equal(model(TOKENS), plain)
    assert not torch.allclose(by_inner, by_outer)


@both
@pytest.mark.parametrize("part", ["attn", "mlp", "ln1"])
def test_a_plain_torch_hook_on_any_module_is_seen(model_class: str, part: str) -> None:
    model = models.model_of("gpt2", model_class)
    # A bridge puts hooks of its own on what it wraps, at the first pass.
    model(TOKENS)
    assert not has_user_hooks(model)
    handle = getattr(cast(Any, model).blocks[1], part).register_forward_hook(lambda *_: None)
    assert has_user_hooks(model)
    handle.remove()
    assert not has_user_hooks(model)
