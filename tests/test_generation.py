"""Continuations under interventions: the model's own, those of `intervene` step by step, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.test_laws import every_family
from tests.test_refusals import refusal
from tl_circuits.hooks import has_user_hooks
from tl_circuits.nodes import Feature
from tl_circuits.replacement import LocalReplacementModel

Do = tlc.Intervention
PROMPT = torch.arange(9)
both = pytest.mark.parametrize("model_class", models.CLASSES)
every_mode = pytest.mark.parametrize(
    ("mode", "attention"),
    [
        ("direct", "frozen"), ("constrained", "frozen"), ("constrained", "free"), ("iterative", "frozen"),
        ("added", "frozen"), ("added", "free"),
    ],
)  # fmt: skip


def local_of(family: str, model_class: str, *, skip: bool = False, tokens: Tensor = PROMPT) -> LocalReplacementModel:
    read = models.reads(family)[0]
    return tlc.localize(models.model_of(family, model_class), models.transcoder(skip=skip, read=read), tokens, (0,))


@pytest.fixture(scope="module")
def local() -> LocalReplacementModel:
    return local_of("gpt2", "hooked")


def strongest(local: LocalReplacementModel) -> Feature:
    return local.active()[int(local.activations.abs().argmax())]


def silent(local: LocalReplacementModel, pos: int) -> Feature:
    active = set(local.active())
    return next(f for index in range(models.N_FEATURES) if (f := Feature(0, pos, index)) not in active)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


# Laws


@pytest.mark.slow
@every_family
@both
def test_without_interventions_it_is_the_models_own_greedy_continuation(family: str, model_class: str) -> None:
    local = local_of(family, model_class)
    text, own = PROMPT, local.logits[-1]
    for logits in tlc.generate(local, [], 5).logits:
        assert torch.equal(logits, own)
        text = torch.cat([text, own.argmax()[None]])
        own = local.model(text[None])[0, -1]
    assert tlc.generate(local, max_new_tokens=5).tokens.tolist() == text[9:].tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_interventions_it_is_what_transformer_lens_generates(family: str) -> None:
    local = local_of(family, "hooked")
    model: Any = local.model
    own = model.generate(
        PROMPT[None],
        max_new_tokens=6,
        do_sample=False,
        stop_at_eos=False,
        verbose=False,
        return_type="tokens",
        use_past_kv_cache=False,
    )
    assert tlc.generate(local, [], 6).tokens.tolist() == own[0, 9:].tolist()


@pytest.mark.parametrize("changes", ["scale", "inactive", "after"])
def test_what_changes_nothing_leaves_the_models_own_continuation_bit_for_bit(
    local: LocalReplacementModel, changes: str
) -> None:
    done = {
        "scale": Do(strongest(local), scale=1, positions=slice(1, None)),
        "inactive": Do(silent(local, 5), scale=0),
        "after": Do(strongest(local), add=0, positions=slice(9, None)),
    }[changes]
    own, same = tlc.generate(local, [], 4), tlc.generate(local, done, 4)
    assert torch.equal(own.logits, same.logits)
    assert same.inactive == ((silent(local, 5),) if changes == "inactive" else same.inactive)


@pytest.mark.slow
@every_mode
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@both
def test_the_first_token_is_that_of_intervene(family: str, model_class: str, mode: Any, attention: Any) -> None:
    local = local_of(family, model_class, skip=True)
    done = [Do(strongest(local), scale=-4), Do(silent(local, 8), value=3)]
    found = tlc.generate(local, done, 3, mode=mode, attention=attention)
    once = tlc.intervene(local, done, mode=mode, attention=attention)
    assert not torch.equal(found.logits[0], local.logits[-1])
    near(found.logits[0], once.logits[-1])
    assert found.inactive == once.inactive


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma-2", "llama"])
@both
@pytest.mark.parametrize("positions", [slice(4, None), slice(-2, 11), 10])
def test_step_by_step_it_is_intervene_on_the_text_so_far(family: str, model_class: str, positions: Any) -> None:
    local = local_of(family, model_class)
    free: Any = {"mode": "added", "attention": "free"}
    feature = strongest(local)._replace(pos=8)
    done = [Do(feature, add=3.0, positions=positions), Do(silent(local, 3), value=2)]
    found = tlc.generate(local, done, 5, **free)
    for step in range(5):
        text = torch.cat([PROMPT, found.tokens[:step]])
        reach = range(13)[slice(7, 11) if positions == slice(-2, 11) else positions] if positions else [8]
        here = [pos for pos in (reach if isinstance(reach, range | list) else [reach]) if pos < len(text)]
        so_far = [*([Do(feature, add=3.0, positions=here)] if here else []), done[1]]
        again = local_of(family, model_class, tokens=text)
        near(found.logits[step], tlc.intervene(again, so_far, **free).logits[-1])


@pytest.mark.slow
@every_mode
@both
def test_a_prompt_keeps_its_changed_values_while_the_text_grows(model_class: str, mode: Any, attention: Any) -> None:
    """Causality: what later tokens read of the prompt is what `intervene` left there, whatever comes after it."""
    local = local_of("gpt2", model_class, skip=True)
    done = [Do(strongest(local), scale=-4), Do(strongest(local)._replace(index=0), value=1, positions=slice(9, None))]
    once = tlc.intervene(local, done[0], mode=mode, attention=attention)
    seen: list[Tensor] = []

    def keep(value: Tensor, **_: Any) -> None:
        seen.append(value[0])

    model: Any = local.model
    with model.hooks(fwd_hooks=[("unembed.hook_out" if model_class == "bridge" else "ln_final.hook_scale", keep)]):
        hooked = tlc.localize(model, local.transcoder, PROMPT, (0,))
        seen.clear()
        tlc.intervene(hooked, done[0], mode=mode, attention=attention)
        found = tlc.generate(hooked, done, 4, mode=mode, attention=attention)
    assert [len(value) for value in seen] == [9, 9, 10, 11, 12]
    for value in seen[1:]:
        near(value[:9], seen[0])
    near(found.logits[0], once.logits[-1])


@pytest.mark.slow
@every_mode
def test_where_the_prompt_hardly_changes_every_mode_goes_on_alike(
    local: LocalReplacementModel, mode: Any, attention: Any
) -> None:
    """Holding a prompt at its own values is holding nothing, so new tokens are acted on as if nothing were held."""
    feature = strongest(local)
    after = Do(feature, value=9, positions=slice(9, None))
    free = tlc.generate(local, after, 4)
    held = tlc.generate(local, [Do(feature, scale=1 + 1e-12), after], 4, mode=mode, attention=attention)
    torch.testing.assert_close(held.logits, free.logits, atol=1e-8, rtol=0)


@pytest.mark.slow
def test_after_the_prompt_attention_and_mlps_run_freely(local: LocalReplacementModel) -> None:
    """Were they held at the model's own pass over the same text, as `intervene` holds them, it would say otherwise."""
    done = Do(strongest(local), scale=-6)
    found = tlc.generate(local, done, 2)
    again = local_of("gpt2", "hooked", tokens=torch.cat([PROMPT, found.tokens[:1]]))
    held = tlc.intervene(again, Do(strongest(local), scale=-6))
    gap = (found.logits[1] - held.logits[-1]).abs().max()
    assert float(gap) > 1e-3 * float(held.logits.abs().max())


def test_new_tokens_can_be_acted_on_alone(local: LocalReplacementModel) -> None:
    feature = strongest(local)
    own, done = tlc.generate(local, [], 4), tlc.generate(local, Do(feature, value=9, positions=slice(9, None)), 4)
    assert torch.equal(own.logits[0], done.logits[0])
    assert not torch.allclose(own.logits[1], done.logits[1])


# Drawing


def test_tokens_are_drawn_by_a_seed_and_nothing_else_moves(local: LocalReplacementModel) -> None:
    state = torch.get_rng_state()
    first, again, other = (tlc.generate(local, [], 7, temperature=3.0, seed=seed).tokens.tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)
    greedy = tlc.generate(local, [], 7).tokens.tolist()
    assert tlc.generate(local, [], 7, temperature=3.0, top_k=1).tokens.tolist() == greedy
    assert tlc.generate(local, [], 7, temperature=1e-9).tokens.tolist() == greedy


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_they_are_likely(local: LocalReplacementModel) -> None:
    drawn = [int(tlc.generate(local, [], 1, temperature=2.0, top_k=3, seed=seed).tokens) for seed in range(400)]
    top = local.logits[-1].topk(3)
    for token, chance in zip(top.indices.tolist(), (top.values / 2).softmax(-1).tolist(), strict=True):
        # Four standard deviations.
        assert abs(drawn.count(token) / 400 - chance) < 4 * (chance * (1 - chance) / 400) ** 0.5
    assert set(drawn) <= set(top.indices.tolist())


# What comes back


@pytest.mark.slow
def test_texas_is_swapped_and_the_demo_ends_its_sentence() -> None:
    model, clt = tlc.demo()
    local = tlc.localize(model, clt, "36+59=")
    assert tlc.generate(local).text == "95<eos>"
    assert len(tlc.generate(local, stop_at_eos=False, max_new_tokens=4)) == 4
    result = tlc.generate(local, Do(strongest(local), scale=-3), 3)
    assert repr(result).startswith(f"GenerationResult({strongest(local)} scale=-3; constrained, layers 0 to 2, att")
    assert f"{len(result)} new tokens, {result.text!r}" in repr(result)


@pytest.mark.slow
@both
def test_nothing_is_left_on_the_model(model_class: str) -> None:
    local = local_of("gpt2", model_class)
    own = local.model(PROMPT[None])
    assert tlc.generate(local, Do(strongest(local), scale=-9), 3).text.count(" ") == 2
    with refusal(tlc.SettingError, "not in the transcoder"):
        tlc.generate(local, Do("L0/99@1", scale=0), 3)
    assert not has_user_hooks(local.model)
    assert torch.equal(local.model(PROMPT[None]), own)


# What is refused


@pytest.mark.parametrize(
    ("done", "further", "says"),
    [
        (Do("L3/1@1", scale=0), {}, "is of layer 3, but the transcoder has layers 0 to 2"),
        (Do("L1/24@1", scale=0), {}, "is not in the transcoder, whose layer 1 has 24 features"),
        (
            Do("L1/2@1", scale=0, positions=12),
            {},
            r"Position 12 lies outside the prompt of 9 .* the 3 new .*use 0 to 11",
        ),
        (Do("L1/2@1", scale=0, positions=slice(2, 13)), {}, r"reaches 13, outside .*use bounds from -9 to 12"),
        (Do("L1/2@1", scale=0, positions=slice(-10, None)), {}, r"reaches -10, outside the prompt of 9"),
        (Do("L1/2@1", scale=0, positions=slice(12, None)), {}, r"holds no position of the prompt of 9 .* 3 new ones"),
        (Do("L0/2@1", scale=0), {"layers": (1, 2)}, r"which layers=\(1, 2\) excludes: begin at layer 0"),
        (Do("L1/2@1", scale=0), {"mode": "direct", "attention": "free"}, "mode='direct' holds attention"),
        (Do("L1/2@8", value=1e308), {}, r"after L1/2@8 value=1e\+308 are not finite"),
        (Do("L1/2@8", value=1e308, positions=9), {}, r"after L1/2@8 at 9 value=1e\+308 are not finite"),
        ([], {"max_new_tokens": 0}, r"generate\(max_new_tokens=0\): ask for at least 1"),
        ([], {"temperature": -1}, "temperature=-1: give a finite number, 0 for the likeliest"),
        ([], {"temperature": float("nan")}, "temperature=nan: give a finite"),
        ([], {"temperature": 1, "top_k": 0}, r"generate\(top_k=0\): ask for at least 1"),
        ([], {"seed": -1}, "seed=-1: give a whole number from 0"),
        ([], {"top_k": 3}, "top_k=3 says what to draw from, but temperature=0 .*give temperature=1, or leave"),
    ],
)
def test_what_cannot_be_done_is_refused(local: LocalReplacementModel, done: Any, further: Any, says: str) -> None:
    with refusal(tlc.SettingError, says):
        tlc.generate(local, done, **{"max_new_tokens": 4, **further})


def test_a_text_longer_than_the_context_is_refused(local: LocalReplacementModel) -> None:
    assert len(tlc.generate(local, [], 8)) == 8
    with refusal(tlc.PromptError, "9 tokens and 8 new .* context of 16: give max_new_tokens=8 or fewer"):
        tlc.generate(local, [], 9)


def test_nan_is_refused_before_anything_runs() -> None:
    for value in (float("nan"), float("inf")):
        with refusal(tlc.SettingError, f"value={value}: give a finite number"):
            Do("L1/2@8", value=value, positions=slice(9, None))
