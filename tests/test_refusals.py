"""What is refused: each by one of our errors, with the numbers that disagree and what to do next."""

import re
from collections.abc import Callable
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc
from tests import models
from tl_circuits.errors import _SAID
from tl_circuits.sites import activation_taps
from tl_circuits.transcoder import CrossLayerTranscoder

TOKENS = torch.arange(6)

both = pytest.mark.parametrize("model_class", models.CLASSES)


@contextmanager
def refusal(error: type[Exception], *says: str) -> Any:
    """The block raises this error, and its message says all of these."""
    with pytest.raises(error) as caught:
        yield
    for part in says:
        assert re.search(part, str(caught.value)), f"{part!r} is not in: {caught.value}"


def fresh(family: str = "gpt2", **overrides: Any) -> HookedTransformer:
    """A model that a test may change."""
    with models.quiet():
        return HookedTransformer(
            HookedTransformerConfig(**{**models._COMMON, **models._HOOKED[family], **overrides})
        ).eval()


def changed(**parts: Any) -> CrossLayerTranscoder:
    """A transcoder with some of its arguments replaced by a function of what they were."""
    plain = models.transcoder()
    arguments: dict[str, Any] = {
        "W_enc": [p.data for p in plain.W_enc], "b_enc": [p.data for p in plain.b_enc],
        "W_dec": [p.data for p in plain.W_dec], "b_dec": plain.b_dec.data,
        "activation": plain.activation, "read": plain.read, "write": plain.write,
    }  # fmt: skip
    arguments |= {
        name: change(arguments.get(name)) if isinstance(change, FunctionType) else change
        for name, change in parts.items()
    }
    return CrossLayerTranscoder(**arguments)


@both
@pytest.mark.parametrize("prompt", ["", [], torch.empty(0, dtype=torch.int64), torch.empty(1, 0, dtype=torch.int64)])
def test_an_empty_prompt(model_class: str, prompt: Any) -> None:
    with refusal(tlc.PromptError, "at least one"):
        tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), prompt)


@both
def test_a_prompt_longer_than_the_context(model_class: str) -> None:
    with refusal(tlc.PromptError, "19 tokens", "context holds 16", "by 3"):
        tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), torch.zeros(19, dtype=torch.int64))


@both
@pytest.mark.parametrize("token", [-1, models.D_VOCAB, 10**6])
def test_token_ids_outside_the_vocabulary(model_class: str, token: int) -> None:
    with refusal(tlc.PromptError, str(token), "37 tokens", "0 to 36"):
        tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), [1, token])


@both
def test_text_without_a_tokenizer(model_class: str) -> None:
    with refusal(tlc.PromptError, "no tokenizer", "token ids"):
        tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), "hello")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), r"\(2, 5\).*one prompt at a time"),
        (torch.zeros(5), "float32.*integers"),
        (torch.ones(5, dtype=torch.bool), "bool.*integers"),
        (["a", "b"], "several prompts"),
        ([1, True], "several prompts"),
    ],
)
def test_what_is_no_prompt(prompt: Any, says: str) -> None:
    with refusal(tlc.PromptError, says):
        tlc.localize(models.hooked("gpt2"), models.transcoder(), prompt)


@pytest.mark.parametrize("masked", [[6], [-7], [0, 99]])
def test_masked_positions_outside_the_prompt(masked: list[int]) -> None:
    with refusal(tlc.PromptError, re.escape(str([position for position in masked if position])), "6 tokens"):
        tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS, masked)


@both
def test_a_transcoder_of_the_wrong_width(model_class: str) -> None:
    wide = CrossLayerTranscoder(torch.zeros(3, 8, 20), torch.zeros(3, 8), torch.zeros(3, 8, 20), torch.zeros(3, 20))
    with refusal(tlc.FitError, "20 wide", "d_model 16", "another model"):
        tlc.localize(models.model_of("gpt2", model_class), wide, TOKENS)


@both
@pytest.mark.parametrize("n_layers", [2, 4])
def test_a_transcoder_of_the_wrong_number_of_layers(model_class: str, n_layers: int) -> None:
    other = CrossLayerTranscoder(
        torch.zeros(n_layers, 8, 16), torch.zeros(n_layers, 8), torch.zeros(n_layers, 8, 16), torch.zeros(n_layers, 16)
    )
    with refusal(tlc.FitError, f"{n_layers} layers", "has 3", "missing"):
        tlc.localize(models.model_of("gpt2", model_class), other, TOKENS)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"b_enc": lambda b: b[:2]}, r"W_enc has 3 layers and b_enc has 2"),
        ({"W_dec": lambda W: W[:2]}, r"W_enc has 3 layers and W_dec has 2"),
        ({"W_enc": lambda W: [w.T.contiguous() for w in W]}, r"\(16, 24\).*\(16, 16\).*Transpose"),
        ({"W_dec": lambda W: [W[0], W[0], W[2]]}, r"W_dec\[1\] writes 3 layers.*1 to 2"),
        ({"W_dec": lambda W: [W[0][:5], W[1], W[2]]}, r"W_dec\[0\] has shape \(5, 3, 16\).*\(24, 3, 16\)"),
        ({"activation": tlc.JumpReLU(torch.zeros(3, 9))}, r"\(3, 9\).*3 layers"),
        ({"activation": tlc.JumpReLU(torch.zeros(2, 24))}, r"\(2, 24\).*3 layers"),
        ({"W_skip": torch.zeros(3, 16, 9)}, r"W_skip\[0\].*\(16, 9\).*\(16, 16\)"),
        ({"shift": lambda _: [torch.zeros(24, 3)] * 2}, r"W_enc has 3 layers and shift has 2"),
        ({"shift": torch.zeros(3, 24)}, r"shift\[0\] has shape \(24, 1\).*24 features that write 3 layers.*\(24, 3\)"),
        ({"shift": torch.zeros(3, 24, 3).int()}, "shift has dtype torch.int32: give floating point"),
        ({"b_enc": lambda b: [row.long() for row in b]}, "int64.*floating point"),
        ({"activation": tlc.BatchTopK(3, torch.zeros(4))}, r"\(4,\) for 3 layers"),
    ],
)
def test_transcoder_shapes_that_disagree(parts: dict[str, Any], says: str) -> None:
    with refusal(tlc.FitError, says):
        changed(**parts)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "b_dec", "W_skip", "shift"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_in_weights(name: str, value: float) -> None:
    poisoned = [part.detach().clone() for part in getattr(models.transcoder(skip=True, shift=True), name)]
    poisoned[1][..., 0] = value
    with refusal(tlc.FitError, name, "NaN or infinite", "damaged"):
        changed(**{name: torch.stack(poisoned) if name == "b_dec" else poisoned})


def test_nan_in_a_decoder_row_that_is_used() -> None:
    W_dec = [rows.data.clone() for rows in models.transcoder().W_dec]
    W_dec[0][:, 1, 3] = float("nan")
    with refusal(tlc.FitError, r"W_dec\[0\]", "NaN or infinity"):
        tlc.localize(models.hooked("gpt2"), changed(W_dec=W_dec), TOKENS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tlc.JumpReLU(torch.full((3, 4), float("nan"))), "12 of 12.*NaN"),
        (lambda: tlc.JumpReLU(torch.zeros(2, 2, 2)), r"\(2, 2, 2\)"),
        (lambda: tlc.JumpReLU(0.1, bandwidth=0.0), "bandwidth=0.0"),
        (lambda: tlc.JumpReLU(0.1, bandwidth=float("nan")), "bandwidth=nan must be positive and finite"),
        (lambda: tlc.TopK(0), "k=0"),
        (lambda: tlc.BatchTopK(3, torch.tensor([float("nan")])), "NaN"),
    ],
)
def test_activations_that_make_no_sense(make: Callable[[], Any], says: str) -> None:
    with refusal(tlc.SettingError, says):
        make()


@both
@pytest.mark.parametrize(
    ("point", "says"),
    [("read", "hook_resid_mid, ln2.hook_normalized, mlp.hook_in"), ("write", "hook_mlp_out, mlp.hook_out")],
)
def test_an_unknown_read_or_write_point(model_class: str, point: str, says: str) -> None:
    with refusal(tlc.FitError, "hook_nowhere", says):
        tlc.localize(models.model_of("gpt2", model_class), changed(**{point: "hook_nowhere"}), TOKENS)


@both
def test_a_read_point_that_this_architecture_lacks(model_class: str) -> None:
    with refusal(tlc.FitError, "hook_resid_mid", "ln2.hook_normalized", "parallel"):
        tlc.localize(models.model_of("pythia", model_class), changed(read="hook_resid_mid"), TOKENS)


def test_an_attention_only_model() -> None:
    with refusal(tlc.FitError, "attention-only", "no MLP"):
        tlc.localize(fresh(attn_only=True), models.transcoder(), TOKENS)


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_split_attention_inputs_on_a_bridge(flag: str) -> None:
    model = models.bridge("gpt2")
    setattr(model.cfg, flag, True)
    try:
        with refusal(tlc.FitError, flag, f"set_{flag}"):
            tlc.localize(model, models.transcoder(), TOKENS)
    finally:
        setattr(model.cfg, flag, False)


@pytest.mark.slow
def test_a_bridge_that_scales_what_its_mlps_write() -> None:
    model = models.bridge("granite", torch.float32)
    with refusal(tlc.FitError, "multiply .* by 1.0", "writes 'mlp.hook_out'"):
        tlc.localize(model, models.transcoder(), TOKENS)
    graph = tlc.attribute(tlc.localize(model, models.transcoder(write="mlp.hook_out"), TOKENS))
    assert graph.conservation_error < 1e-5


@pytest.mark.slow
def test_neurons_of_a_mixture_of_experts_on_a_bridge() -> None:
    model = models.bridge("mixtral", torch.float32)
    for neurons in (tlc.Basis.neurons, activation_taps):
        with refusal(tlc.FitError, "layer 0 is a mixture of experts", "'blocks.0.mlp.hook_post'", "Basis.blocks"):
            neurons(model)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["mlp.hook_in", "hook_resid_mid"])
def test_a_read_point_that_weight_processing_has_changed(read: str) -> None:
    model = fresh()
    model.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=True)
    with refusal(tlc.FitError, read, "folded", "centred", "processed_weights=True"):
        tlc.localize(model, changed(read=read), TOKENS)
    assert tlc.localize(model, changed(read=read, processed_weights=True), TOKENS).n_pos == 6
    assert tlc.localize(model, changed(read="ln2.hook_normalized"), TOKENS).n_pos == 6


@pytest.mark.slow
def test_writing_weights_that_were_centred_without_folding() -> None:
    model = fresh()
    model.process_weights_(fold_ln=False, center_writing_weights=True, center_unembed=True)
    with refusal(tlc.FitError, "hook_resid_mid", "writing weights centred", "processed_weights=True"):
        tlc.localize(model, changed(read="hook_resid_mid"), TOKENS)
    assert tlc.localize(model, changed(read="hook_resid_mid", processed_weights=True), TOKENS).n_pos == 6
    assert tlc.localize(model, changed(read="mlp.hook_in"), TOKENS).n_pos == 6


def test_a_read_point_that_compatibility_mode_has_changed() -> None:
    models.bridge.cache_clear()
    model = models.bridge("gpt2", torch.float32)
    models.bridge.cache_clear()
    with models.quiet():
        model.enable_compatibility_mode()
    with refusal(tlc.FitError, "mlp.hook_in", "processed_weights=True"):
        tlc.localize(model, changed(read="mlp.hook_in"), TOKENS)


def test_a_transcoder_of_processed_weights_on_a_model_without() -> None:
    with refusal(tlc.FitError, "processed_weights=True", "process_weights_"):
        tlc.localize(fresh(), changed(processed_weights=True), TOKENS)


def test_active_dropout() -> None:
    model = models.bridge("gpt2")
    model.train()
    try:
        with refusal(tlc.FitError, "Dropout of 0.1", "eval"):
            tlc.localize(model, models.transcoder(), TOKENS)
    finally:
        model.eval()


def test_a_config_dtype_that_is_not_the_parameters() -> None:
    model = fresh().double()
    model.cfg.dtype = torch.float32
    with refusal(tlc.FitError, "float32", "float64", "cfg.dtype"):
        tlc.localize(model, models.transcoder(), TOKENS)


def test_a_bridge_without_attention_patterns() -> None:
    model = models.bridge("gpt2")
    shown = {name: point for name, point in model.hook_dict.items() if not name.endswith("hook_pattern")}

    class Hidden:
        cfg, tokenizer, W_U, W_E, original_model = model.cfg, None, model.W_U, model.W_E, None
        hook_dict = shown
        parameters, modules, __call__ = model.parameters, model.modules, model.__call__

    with refusal(tlc.FitError, "3 of 3", "eager"):
        tlc.localize(Hidden(), models.transcoder(), TOKENS)


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("targets", "error", "says"),
    [
        (["a"], tlc.TargetError, "no tokenizer"),
        ([99], tlc.TargetError, "99.*37 tokens"),
        ([], tlc.TargetError, "at least one"),
        ([tlc.Feature(9, 0, 0)], tlc.TargetError, "layers 0 to 2"),
        ([tlc.Feature(0, 0, 99)], tlc.TargetError, "24 features"),
        ([tlc.Feature(0, 6, 0)], tlc.TargetError, "Position 6.*6 tokens"),
        ([3, tlc.Feature(0, 0, 0)], tlc.TargetError, "mix"),
    ],
)
def test_targets_that_do_not_exist(model_class: str, targets: Any, error: type[Exception], says: str) -> None:
    with refusal(error, says):
        tlc.attribute(tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS), targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: tlc.Targets.tokens([1, 2], [1.0, float("nan")]), tlc.TargetError, "nan.*finite"),
        (lambda: tlc.Targets.tokens([1, 2], [1.0]), tlc.TargetError, "1 weights.*2 targets"),
        (lambda: tlc.Targets.tokens([1, 2], [0.0, 0.0]), tlc.TargetError, "all zero"),
        (lambda: tlc.Targets.features([]), tlc.TargetError, "at least one"),
        (lambda: tlc.Targets.features(["L3-4"]), tlc.TargetError, "L3-4.*L3/120@-1"),
        (lambda: tlc.Targets.top(0), tlc.SettingError, "max_targets=0"),
        (lambda: tlc.Targets.top(3, 1.5), tlc.SettingError, r"1.5.*\(0, 1\]"),
        (lambda: tlc.Targets.tokens([1], pos=6), tlc.TargetError, "Position 6"),
        (lambda: tlc.Targets.direction(torch.ones(9)), tlc.TargetError, r"\(16,\).*\(9,\)"),
        (lambda: tlc.Targets.direction(torch.zeros(16)), tlc.TargetError, "zero"),
        (lambda: tlc.Targets.directions([torch.ones(16)], labels=["a", "b"]), tlc.TargetError, "1 directions"),
        (lambda: tlc.Targets.difference(5, 5), tlc.TargetError, "5 and itself"),
        (lambda: tlc.Targets.tokens("95"), tlc.TargetError, "'95'.*brackets"),
        (lambda: tlc.Targets.direction(torch.ones(16), layer=5), tlc.TargetError, "layer=5.*0 to 2"),
    ],
)
def test_targets_that_make_no_sense(make: Callable[[], tlc.Targets], error: type[Exception], says: str) -> None:
    local = tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS)
    with refusal(error, says):
        tlc.attribute(local, make())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"coverage": 0.0}, r"coverage=0.0.*\(0, 1\]"),
        ({"coverage": 1.2}, "coverage=1.2"),
        ({"coverage": float("nan")}, "coverage=nan"),
        ({"max_features": 0}, "max_features=0"),
        ({"max_targets": 0}, "max_targets=0"),
        ({"target_probability": 0.0}, "target_probability=0.0"),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], says: str) -> None:
    local = tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS)
    with refusal(tlc.SettingError, says):
        tlc.attribute(local, **settings)


@pytest.mark.slow
@both
def test_tracing_a_model_whose_mlps_are_replaced(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    with tlc.replace_mlps(model, models.transcoder()), refusal(tlc.FitError, "seem perfect", "error_terms=True"):
        tlc.localize(model, models.transcoder(), TOKENS)
    with tlc.replace_mlps(model, models.transcoder(), error_terms=True):
        assert tlc.localize(model, models.transcoder(), TOKENS).n_pos == 6
    assert tlc.localize(model, models.transcoder(), TOKENS).n_pos == 6


@both
def test_hooks_put_on_between_localizing_and_attributing(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    local = tlc.localize(model, models.transcoder(), TOKENS)
    hooked = model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda value, **_: value)])
    with hooked, refusal(tlc.FitError, "were off, now they are on", "inside the same"):
        tlc.attribute(local)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_warned_about_and_works(dtype: torch.dtype) -> None:
    model = models.hooked("gpt2", dtype)
    _SAID.clear()
    with pytest.warns(tlc.TLCircuitsWarning, match=f"{dtype}.*float32"):
        tlc.localize(model, models.transcoder(), TOKENS)
    # The second time nothing is said, which would be an error here.
    local = tlc.localize(model, models.transcoder(), TOKENS)
    graph = tlc.attribute(local)
    assert 0 < graph.conservation_error < 0.1
    assert graph.provenance.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.slow
def test_another_models_transcoder_is_warned_about() -> None:
    model = fresh(model_name="gpt2")
    _SAID.clear()
    with pytest.warns(tlc.TLCircuitsWarning, match="'EleutherAI/pythia-70m'.*'gpt2'"):
        tlc.localize(model, changed(model_name="EleutherAI/pythia-70m"), TOKENS)
    assert tlc.localize(model, changed(model_name="EleutherAI/pythia-70m"), TOKENS).n_pos == 6
    for same in ("openai-community/gpt2", "gpt2-small", "GPT2-small"):
        assert tlc.localize(model, changed(model_name=same), TOKENS).n_pos == 6
