"""The replacement model in the user's own passes: right numbers, batches, caches, generation and gradients."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import tl_circuits as tlc
from tests import models, texts
from tests.test_works import state
from tl_circuits.transcoder import CrossLayerTranscoder

TOKENS = torch.tensor([[1, 5, 9, 3, 7, 22], [4, 4, 8, 30, 2, 11]])

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_family = pytest.mark.parametrize("family", models.FAMILIES)


def by_hand(transcoder: CrossLayerTranscoder, x: list[Tensor], layer: int) -> Tensor:
    """ŷ of one layer by the formula, from what every layer up to it read."""
    assert isinstance(transcoder.activation, tlc.JumpReLU)
    out = x[layer] @ transcoder.W_skip[layer].double() if transcoder.W_skip is not None else torch.zeros_like(x[layer])
    for source in range(layer + 1):
        h = x[source] @ transcoder.W_enc[source].double().T + transcoder.b_enc[source].double()
        a = h * (h > transcoder.activation.threshold[source].double())
        if layer - source < transcoder.W_dec[source].shape[1]:
            shift = 0 if transcoder.shift is None else transcoder.shift[source][:, layer - source].double()
            out = out + (a + shift * (a != 0)) @ transcoder.W_dec[source][:, layer - source].double()
    return out + transcoder.b_dec[layer].double()


def normalized(x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


@cache
def gpt2_twice() -> tuple[Any, Any]:
    """A bridge, and a copy of the module that it wraps as it was before."""
    torch.manual_seed(0)
    config = models._hf_config("gpt2")
    module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    module.config.dtype = torch.float64
    models._shake(module, 0.1)
    plain = copy.deepcopy(module)
    with models.quiet():
        return build_bridge_from_module(module, type(module).__name__, hf_config=config, tokenizer=None), plain


def hooked_by_hand(model: Any, transcoder: CrossLayerTranscoder) -> Tensor:
    """A GPT-2 of HookedTransformer's modules, without its hooks on MLPs."""
    x, reads = model.embed(TOKENS) + model.pos_embed(TOKENS), []
    for layer, block in enumerate(model.blocks):
        entered = block.ln1(x)
        x = x + block.attn(query_input=entered, key_input=entered, value_input=entered)
        reads.append(normalized(x, model.cfg.eps) if transcoder.read == "ln2.hook_normalized" else x)
        x = x + by_hand(transcoder, reads, layer)
    return model.unembed(model.ln_final(x))


def module_by_hand(module: Any, transcoder: CrossLayerTranscoder) -> Tensor:
    """A GPT-2 of transformers' modules."""
    body, positions = module.transformer, torch.arange(TOKENS.shape[1])
    x, reads = body.wte(TOKENS) + body.wpe(positions), []
    causal = torch.full((len(positions), len(positions)), -torch.inf, dtype=x.dtype).triu(1)[None, None]
    for layer, block in enumerate(body.h):
        x = x + block.attn(block.ln_1(x), attention_mask=causal)[0]
        reads.append(normalized(x, block.ln_2.eps) if transcoder.read == "ln2.hook_normalized" else x)
        x = x + by_hand(transcoder, reads, layer)
    return module.lm_head(body.ln_f(x))


@both
@pytest.mark.parametrize("read", ["ln2.hook_normalized", "hook_resid_mid"])
@pytest.mark.parametrize(("span", "skip", "shift"), [(3, False, False), (1, False, True), (2, True, True)])
def test_a_pass_is_the_replacement_model_written_by_hand(
    model_class: str, read: str, span: int, skip: bool, shift: bool
) -> None:
    transcoder = models.transcoder(span=span, skip=skip, shift=shift, read=read)
    model, module = (models.hooked("gpt2"), None) if model_class == "hooked" else gpt2_twice()
    expected = hooked_by_hand(model, transcoder) if module is None else module_by_hand(module, transcoder)
    plain = model(TOKENS)
    with tlc.replace_mlps(model, transcoder):
        replaced = model(TOKENS)
    torch.testing.assert_close(replaced, expected)
    assert not torch.allclose(replaced, plain)
    assert torch.equal(model(TOKENS), plain)


@both
@every_family
@pytest.mark.parametrize("skip", [False, True])
def test_with_error_terms_the_logits_are_the_models_own(family: str, model_class: str, skip: bool) -> None:
    model = models.model_of(family, model_class)
    plain = model(TOKENS)
    with tlc.replace_mlps(model, models.transcoder(skip=skip, shift=True), error_terms=True):
        torch.testing.assert_close(model(TOKENS), plain, atol=1e-9, rtol=1e-9)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:The model is in torch")
def test_a_model_in_16_bits_stays_in_them(model_class: str, dtype: torch.dtype) -> None:
    model, transcoder = models.model_of("gpt2", model_class, dtype), models.transcoder(skip=True)
    plain = model(TOKENS)
    with tlc.replace_mlps(model, transcoder):
        said = model(TOKENS)
    assert said.dtype == dtype
    assert bool(said.isfinite().all())
    assert not torch.allclose(said, plain)
    with tlc.replace_mlps(model, transcoder, error_terms=True):
        torch.testing.assert_close(model(TOKENS), plain)


@both
@every_family
@pytest.mark.parametrize("write", ["hook_mlp_out", "mlp.hook_out"])
def test_the_features_of_the_last_pass_are_cached_by_name(family: str, model_class: str, write: str) -> None:
    model, transcoder = models.model_of(family, model_class), models.transcoder(write=write)
    with tlc.replace_mlps(model, transcoder) as features:
        assert len(features) == 0
        model(TOKENS[:1, :3])
        _, cache = model.run_with_cache(TOKENS)
    names = [f"blocks.{layer}.{write}.hook_transcoder_{what}" for layer in range(3) for what in SHAPES]
    assert sorted(features) == sorted(names)
    for layer in range(models.N_LAYERS):
        x = cache[f"blocks.{layer}.ln2.hook_normalized"]
        for what, width in SHAPES.items():
            assert features[f"blocks.{layer}.{write}.hook_transcoder_{what}"].shape == (*TOKENS.shape, width)
        torch.testing.assert_close(features[layer], transcoder.encode(x, layer), atol=1e-6, rtol=1e-6)
        recons = features[f"blocks.{layer}.{write}.hook_transcoder_recons"]
        torch.testing.assert_close(recons, transcoder.decode([features[source] for source in range(layer + 1)], layer))
        sparse = features.sparse(layer)
        assert sparse.is_sparse
        assert torch.equal(sparse.to_dense(), features[layer])
        if write == "hook_mlp_out":
            torch.testing.assert_close(cache[f"blocks.{layer}.hook_mlp_out"], recons)


SHAPES = {"acts_post": models.N_FEATURES, "recons": models.D_MODEL, "error": models.D_MODEL}


@both
@every_family
def test_a_batch_is_its_prompts_one_by_one(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    with tlc.replace_mlps(model, models.transcoder()) as features:
        together, acts = model(TOKENS), features[2]
        for row, prompt in enumerate(TOKENS):
            # Bridges compute RMS norms in float32.
            torch.testing.assert_close(model(prompt[None])[0], together[row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(features[2][0], acts[row], atol=1e-5, rtol=1e-5)


@both
def test_the_users_own_hooks_act_inside(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    silence = [("blocks.1.hook_attn_out", lambda value, **_: torch.zeros_like(value))]
    with tlc.replace_mlps(model, models.transcoder()) as features:
        plain, acts = model(TOKENS), (features[0], features[1])
        silenced = model.run_with_hooks(TOKENS, fwd_hooks=silence)
        assert torch.equal(features[0], acts[0])
        assert not torch.allclose(features[1], acts[1])
        assert not torch.allclose(silenced, plain)
        assert torch.equal(model(TOKENS), plain), "the user's hooks are off and the replacement is still on"


@pytest.mark.slow
@both
@pytest.mark.parametrize("cached", [False, True])
def test_text_is_generated_by_the_replacement_model(model_class: str, cached: bool) -> None:
    model = texts.reader(model_class)
    prompt = model.to_tokens(" Austin is in")
    options = {"max_new_tokens": 5, "do_sample": False, "verbose": False, "stop_at_eos": False}
    alone = model.generate(prompt, use_past_kv_cache=cached, **options)
    with tlc.replace_mlps(model, models.transcoder()):
        expected = prompt
        for _ in range(5):
            expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], 1)
        generated = model.generate(prompt, use_past_kv_cache=cached, **options)
    assert generated.tolist() == expected.tolist()
    assert generated.tolist() != alone.tolist()


@pytest.mark.slow
@both
def test_leading_bos_tokens_keep_the_models_mlp(model_class: str) -> None:
    model, transcoder = texts.reader(model_class), models.transcoder()
    tokens = torch.tensor([[0, 0, 5, 0, 7], [0, 9, 5, 6, 7], [3, 0, 5, 6, 7]])
    kept = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    _, plain = model.run_with_cache(tokens)
    with tlc.replace_mlps(model, transcoder) as features:
        _, replaced = model.run_with_cache(tokens)
    name = "blocks.0.hook_mlp_out"
    torch.testing.assert_close(replaced[name][kept], plain[name][kept])
    recons = features[f"{name}.hook_transcoder_recons"]
    torch.testing.assert_close(replaced[name][~kept], recons[~kept])
    for layer in range(models.N_LAYERS):
        assert bool((features[layer][kept] == 0).all())
        assert bool((features[layer][~kept] != 0).any(-1).all())
    with tlc.replace_mlps(model, transcoder, mask_bos=False) as features:
        model(tokens)
    assert bool((features[0][kept] != 0).any())


@both
def test_prompts_padded_on_the_left_keep_their_bos_too(model_class: str) -> None:
    model, pad = texts.reader(model_class), 2
    assert model.tokenizer.pad_token_id == pad
    tokens = torch.tensor([[pad, pad, 0, 5, 7], [0, 6, 9, 5, 7]])
    with tlc.replace_mlps(model, models.transcoder()) as features:
        model(tokens)
    assert bool((features[0][0, 2] == 0).all())
    assert bool((features[0][1, 0] == 0).all())
    assert bool((features[0][:, 3:] != 0).any(-1).all())


@pytest.mark.slow
@both
@every_family
def test_the_model_is_left_alone(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    plain, _ = model.run_with_cache(TOKENS)  # Its first run puts hooks of a bridge's own in place.
    before = state(model)
    with tlc.replace_mlps(model, models.transcoder(skip=True)):
        model(TOKENS)
        model.run_with_cache(TOKENS)
    assert state(model) == before
    with pytest.raises(ZeroDivisionError), tlc.replace_mlps(model, models.transcoder(), error_terms=True):
        raise ZeroDivisionError
    assert state(model) == before
    assert torch.equal(model(TOKENS), plain)


@pytest.mark.slow
@both
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip"])
def test_passes_are_differentiable_in_the_transcoders_parameters(model_class: str, name: str) -> None:
    model = models.model_of("gpt2", model_class)
    transcoder = copy.deepcopy(models.transcoder(skip=True)).double().requires_grad_()
    parameter = getattr(transcoder, name)
    parameter = parameter if name == "b_dec" else parameter[1]

    def loss() -> Tensor:
        with tlc.replace_mlps(model, transcoder):
            return model(TOKENS).log_softmax(-1)[..., 3].mean()

    gradient = torch.autograd.grad(loss(), parameter)[0]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        parameter += 1e-6 * direction
        above = loss()
        parameter -= 2e-6 * direction
        slope = (above - loss()) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-6, rtol=1e-4)
    assert abs(float(slope)) > 1e-5


@both
def test_error_terms_are_constants_for_gradients(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    transcoder = copy.deepcopy(models.transcoder()).requires_grad_()
    with tlc.replace_mlps(model, transcoder, error_terms=True) as features:
        model(TOKENS)[0, -1, 3].backward()
    assert not features["blocks.1.hook_mlp_out.hook_transcoder_error"].requires_grad
    assert transcoder.b_dec.grad is not None
    assert bool((transcoder.b_dec.grad != 0).any(1).all())
    model.zero_grad()


@both
def test_a_transcoder_that_does_not_fit_is_refused_before_any_pass(model_class: str) -> None:
    narrow = CrossLayerTranscoder(torch.zeros(3, 4, 8), torch.zeros(3, 4), torch.zeros(3, 4, 8), torch.zeros(3, 8))
    with (
        pytest.raises(tlc.FitError, match=r"8 wide.*d_model 16"),
        tlc.replace_mlps(models.model_of("gpt2", model_class), narrow),
    ):
        pass
