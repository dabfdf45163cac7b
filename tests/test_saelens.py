"""SAELens's transcoder objects as ours, and ours as SAELens's: the same numbers either way, or a refusal."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.test_transcoder_files import assert_same, assert_same_bits
from tl_circuits.errors import FitError
from tl_circuits.transcoder import Activation, BatchTopK, CrossLayerTranscoder, GroupMax, JumpReLU, ReLU, TopK
from tl_circuits.transcoder.saes import as_saes, from_saes, register_saelens_classes

# Importing SAELens takes seconds.
pytestmark = pytest.mark.slow

L, F, D = 3, 6, 4

ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "jump_relu": lambda: JumpReLU(torch.linspace(0, 1.5, L * F).reshape(L, F)),
    "jump_relu at one threshold": lambda: JumpReLU(0.25),
    "topk": lambda: TopK(2),
    "topk of more than there are": lambda: TopK(50),
    "topk, rectified": lambda: TopK(4, relu=True),
    "groupmax": lambda: GroupMax(3),
    "batch_topk": lambda: BatchTopK(2, torch.tensor([0.3, -0.2, 0.6])),
}
CLASSES = {
    "relu": ("Transcoder", "SkipTranscoder"),
    "jump_relu": ("JumpReLUTranscoder", "JumpReLUSkipTranscoder"),
    "jump_relu at one threshold": ("JumpReLUTranscoder", "JumpReLUSkipTranscoder"),
    "batch_topk": ("JumpReLUTranscoder", "JumpReLUSkipTranscoder"),
    "groupmax": ("GroupMaxTranscoder", "GroupMaxSkipTranscoder"),
}


def per_layer(
    activation: Activation | None = None,
    *,
    skip: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **more: Any,
) -> CrossLayerTranscoder:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return CrossLayerTranscoder(
        normal(L, F, D),
        normal(L, F),
        normal(L, F, D),
        normal(L, D),
        activation=activation,
        W_skip=normal(L, D, D) if skip else None,
        **{"read": "mlp.hook_in", "model_name": "google/gemma-2-2b", **more},
    )


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(L, 2, 7, D))).to(dtype)


@torch.no_grad()
def assert_computes_the_same(sae: Any, ours: CrossLayerTranscoder, layer: int, *, tolerance: float = 1e-6) -> None:
    """Features, reconstruction and the whole, skip included, at one layer."""
    x = inputs(ours.b_dec.dtype)[layer]
    a = ours.encode(x, layer)
    assert bool((a != 0).any()), "features that are all silent show nothing"
    torch.testing.assert_close(sae.encode(x), a, rtol=tolerance, atol=tolerance)
    y = ours.decode([a] * (layer + 1), layer)
    torch.testing.assert_close(sae.decode(a), y, rtol=tolerance, atol=tolerance)
    skip = ours.skip(x, layer)
    torch.testing.assert_close(sae(x), y if skip is None else y + skip, rtol=tolerance, atol=tolerance)


# Ours as SAELens's


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_sae_computes_what_its_layer_computes(activation: str, skip: bool) -> None:
    ours = per_layer(ACTIVATIONS[activation](), skip=skip, dtype=torch.float64)
    saes = as_saes(ours)
    for layer, sae in enumerate(saes):
        assert_computes_the_same(sae, ours, layer)
        assert type(sae).__name__ == CLASSES.get(activation, ("TopKTranscoder", "TopKSkipTranscoder"))[skip]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saelens_loads_what_it_saved_of_ours(tmp_path: Path, activation: str, skip: bool) -> None:
    from sae_lens import SAE

    ours = per_layer(ACTIVATIONS[activation](), skip=skip, processed_weights=True, model_name="gpt2")
    for layer, sae in enumerate(as_saes(ours)):
        sae.save_model(tmp_path / str(layer))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            loaded = SAE.load_from_disk(tmp_path / str(layer))
        assert type(loaded) is type(sae)
        assert loaded.cfg.to_dict() == sae.cfg.to_dict()
        for name, tensor in sae.state_dict().items():
            assert_same_bits(loaded.state_dict()[name], tensor)


@given(
    st.sampled_from([name for name in ACTIVATIONS if name not in ("batch_topk", "jump_relu at one threshold")]),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.permutations(range(L)),
    st.sampled_from(["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in"]),
    st.sampled_from([None, "gpt2", "google/gemma-3-1b-it", "Qwen/Qwen3-0.6B", "a: b # ü"]),
    st.booleans(),
)
def test_there_and_back_is_the_same_to_the_last_bit(
    activation: str,
    skip: bool,
    dtype: torch.dtype,
    order: list[int],
    read: str,
    model_name: str | None,
    processed: bool,
) -> None:
    given_activation = ACTIVATIONS[activation]().to(dtype)
    more = {"read": read, "model_name": model_name, "processed_weights": processed}
    ours = per_layer(given_activation, skip=skip, dtype=dtype, **more)
    saes = as_saes(ours)
    assert_same(from_saes([saes[layer] for layer in order]), ours)


@pytest.mark.parametrize("activation", ["batch_topk", "jump_relu at one threshold"])
def test_thresholds_come_back_as_one_for_each_feature(activation: str) -> None:
    ours = per_layer(ACTIVATIONS[activation](), dtype=torch.float64)
    back = from_saes(as_saes(ours))
    assert isinstance(back.activation, JumpReLU)
    assert back.activation.threshold.shape == (L, F)
    for layer in range(L):
        x = inputs(torch.float64)[layer]
        torch.testing.assert_close(back.encode(x, layer), ours.encode(x, layer), rtol=1e-12, atol=1e-12)


def test_weights_of_several_dtypes_are_computed_in_one_that_holds_them_all() -> None:
    ours = per_layer()
    mixed = CrossLayerTranscoder(list(ours.W_enc), list(ours.b_enc), [w.bfloat16() for w in ours.W_dec], ours.b_dec)
    for layer, sae in enumerate(as_saes(mixed)):
        assert (sae.dtype, sae.cfg.dtype) == (torch.float32, "float32")
        assert torch.equal(sae.W_dec, mixed.W_dec[layer].squeeze(1).float())
        assert_computes_the_same(sae, mixed, layer, tolerance=1e-5)


def test_an_sae_has_weights_of_its_own() -> None:
    ours = per_layer(JumpReLU(torch.rand(L, F)), skip=True)
    before = copy.deepcopy(ours)
    for sae in as_saes(ours):
        sae.fold_W_dec_norm()
        for tensor in sae.state_dict().values():
            tensor.add_(1)
    assert_same(ours, before)


def test_what_is_made_of_saes_is_what_they_are() -> None:
    saes = as_saes(per_layer(ReLU(), skip=True))
    ours = from_saes(saes)
    assert ours.W_enc[0].data_ptr() == saes[0].W_enc.data_ptr(), "encoders may take gigabytes, and are not copied"
    assert ours.W_dec[0].data_ptr() == saes[0].W_dec.data_ptr()
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_metadata_say_where_it_was_trained() -> None:
    for model_name, read, hf_read, hf_write in (
        (
            "google/gemma-3-1b-it",
            "mlp.hook_in",
            "pre_feedforward_layernorm.output",
            "post_feedforward_layernorm.output",
        ),
        ("gemma-2-2b", "hook_resid_mid", "pre_feedforward_layernorm.input", "post_feedforward_layernorm.output"),
        ("Qwen/Qwen3-4B", "mlp.hook_in", "post_attention_layernorm.output", "mlp.output"),
        ("meta-llama/Llama-3.2-1B", "ln2.hook_normalized", None, "mlp.output"),
    ):
        sae = as_saes(per_layer(read=read, model_name=model_name))[2]
        metadata = sae.cfg.metadata
        assert metadata.model_name == model_name
        assert (metadata.hook_name, metadata.hook_name_out) == (f"blocks.2.{read}", "blocks.2.hook_mlp_out")
        assert metadata.hf_hook_name == (hf_read and f"model.layers.2.{hf_read}")
        assert metadata.hf_hook_name_out == f"model.layers.2.{hf_write}"
        assert metadata.model_from_pretrained_kwargs == {"fold_ln": False, "center_writing_weights": False}
    unknown = as_saes(per_layer(model_name=None))[0].cfg.metadata
    assert (unknown.model_name, unknown.hf_hook_name, unknown.hf_hook_name_out) == (None, None, None)


@pytest.mark.parametrize("model_class", models.CLASSES)
def test_saelens_runs_it_as_the_replacement_model_runs(model_class: str) -> None:
    model = _with_saes(model_class)
    # SAELens adds no skip in a model, so that a transcoder without one is what shows the rest.
    ours = models.transcoder(span=1, activation="jumprelu", read="mlp.hook_in", dtype=torch.float64)
    tokens = torch.tensor([[1, 5, 9, 3, 7]])
    with torch.no_grad():
        plain = model(tokens)
        theirs = model.run_with_saes(tokens, saes=as_saes(ours))
        with tlc.replace_mlps(model, ours, mask_bos=False):
            replaced = model(tokens)
    torch.testing.assert_close(theirs, replaced, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(plain, replaced)


@cache
def _with_saes(model_class: str) -> Any:
    from sae_lens import HookedSAETransformer
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    if model_class == "hooked":
        plain = models.hooked("gpt2")
        with models.quiet():
            model = HookedSAETransformer(plain.cfg)
        model.load_state_dict(plain.state_dict())
        return model.eval()
    bridge = models.bridge.__wrapped__("gpt2")
    bridge.__class__ = SAETransformerBridge
    bridge._acts_to_saes, bridge._transcoder_output_hooks = {}, {}
    return bridge


def test_a_cross_layer_transcoder_is_no_list_of_saes() -> None:
    cross_layer = CrossLayerTranscoder(
        torch.ones(2, F, D), torch.ones(2, F), [torch.ones(F, 2, D), torch.ones(F, 1, D)], torch.ones(2, D)
    )
    with pytest.raises(FitError, match=r"write up to 2 layers, and a SAELens transcoder writes one.*save_transcoder"):
        as_saes(cross_layer)


def test_negative_thresholds_cannot_be_said() -> None:
    ours = per_layer(JumpReLU(torch.tensor([[-0.1, 0.2, -3, 0, 1, 1]] * L)))
    with pytest.raises(FitError, match=r"6 of 18 JumpReLU thresholds are negative .*clamp them at 0 if that is meant"):
        as_saes(ours)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(FitError, match=r"divide the 6 features of layer 0 into k=4 groups: k has to divide them"):
        as_saes(per_layer(GroupMax(4)))


def test_an_activation_of_somebody_else_is_refused() -> None:
    class Square(Activation):
        name = "square"

        def forward(self, preactivations: Tensor, layer: int) -> Tensor:
            return preactivations**2

    with pytest.raises(FitError, match=r"activation Square has no form in SAELens: use ReLU, JumpReLU, TopK, GroupMax"):
        as_saes(per_layer(Square()))


def test_shifts_are_refused() -> None:
    zero = torch.zeros(L, F)
    assert len(as_saes(per_layer(shift=zero))) == L
    zero[1, 2] = 0.5
    with pytest.raises(FitError, match=r"1 of 18 features have a shift .*keep the transcoder with save_transcoder"):
        as_saes(per_layer(shift=zero))


def test_decoder_norms_are_not_folded_where_that_would_choose_other_features() -> None:
    for activation in (TopK(2), GroupMax(2)):
        sae = copy.deepcopy(as_saes(per_layer(activation))[0])
        with pytest.raises(FitError, match=r"fold_W_dec_norm would scale .*leave the norms as they are"):
            sae.fold_W_dec_norm()


# Registration


def test_a_fresh_process_loads_ours_after_one_call(tmp_path: Path) -> None:
    as_saes(per_layer(TopK(2)))[1].save_model(tmp_path)
    code = """
import sys, torch
from sae_lens import SAE
try:
    SAE.load_from_disk(sys.argv[1])
except KeyError as error:
    print(error)
from tl_circuits.transcoder.saes import register_saelens_classes
register_saelens_classes()
register_saelens_classes()
print(int((SAE.load_from_disk(sys.argv[1]).encode(torch.ones(1, 4)) != 0).sum()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["'tl_circuits_topk_transcoder'", "2"]


def test_a_name_that_somebody_else_has_taken_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens import Transcoder, TranscoderConfig, registry

    theirs = dict(registry.SAE_CLASS_REGISTRY, tl_circuits_topk_transcoder=(Transcoder, TranscoderConfig))
    monkeypatch.setattr(registry, "SAE_CLASS_REGISTRY", theirs)
    with pytest.raises(
        FitError, match=r"has sae_lens.saes.transcoder.Transcoder under the name 'tl_circuits_topk_transcoder'.*upgrade"
    ):
        register_saelens_classes()
    assert theirs["tl_circuits_topk_transcoder"] == (Transcoder, TranscoderConfig)


def test_nothing_of_it_imports_saelens_before_it_is_needed() -> None:
    code = "import sys, tl_circuits.transcoder.saes; print('sae_lens' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# SAELens's as ours


def saes_with(**metadata: object) -> list[Any]:
    saes = as_saes(per_layer(ReLU(), skip=True))
    for layer, sae in enumerate(saes):
        for name, value in metadata.items():
            sae.cfg.metadata[name] = value.format(layer) if isinstance(value, str) else value
    return saes


@pytest.mark.parametrize("theta", [-0.5, 0.0, 0.5])
def test_a_negative_threshold_of_saelens_rectifies(theta: float) -> None:
    saes = as_saes(per_layer(JumpReLU(0.5)))
    for sae in saes:
        sae.threshold.data.fill_(theta)
    ours = from_saes(saes)
    for layer, sae in enumerate(saes):
        assert_computes_the_same(sae, ours, layer)


def test_gemma_scope_2_reads_where_its_hf_name_says_and_not_where_saelens_says() -> None:
    names = {"model_name": "google/gemma-3-1b-it", "hook_name": "blocks.{}.hook_mlp_in"}
    norm = "model.layers.{}.pre_feedforward_layernorm"
    assert from_saes(saes_with(**names, hf_hook_name=f"{norm}.output")).read == "mlp.hook_in"
    assert from_saes(saes_with(**names, hf_hook_name=f"{norm}.input")).read == "hook_resid_mid"
    assert from_saes(saes_with(**names, hf_hook_name=None)).read == "mlp.hook_in"


def test_weights_of_a_processed_model_are_known_by_their_metadata() -> None:
    for kwargs, processed in (
        ({"fold_ln": True}, True),
        ({"center_writing_weights": True}, True),
        ({"fold_ln": False}, False),
        ({}, False),
        (None, False),
    ):
        assert from_saes(saes_with(model_from_pretrained_kwargs=kwargs)).processed_weights is processed


def faulty(**metadata: object) -> Callable[[], list[Any]]:
    return lambda: saes_with(**metadata)


def changed(change: Callable[[Any], object], layer: int = 1) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        saes = saes_with()
        change(saes[layer])
        return saes

    return make


def _autoencoder() -> list[Any]:
    from sae_lens import StandardSAE, StandardSAEConfig

    return [StandardSAE(StandardSAEConfig(d_in=D, d_sae=F))]


def _subclass() -> list[Any]:
    from sae_lens import Transcoder, TranscoderConfig

    class Doubled(Transcoder):
        def encode(self, x: Tensor) -> Tensor:
            return 2 * super().encode(x)

    return [Doubled(TranscoderConfig(d_in=D, d_sae=F, d_out=D, apply_b_dec_to_input=False))]


def _narrow() -> list[Any]:
    from sae_lens import Transcoder, TranscoderConfig
    from sae_lens.saes.sae import SAEMetadata

    names = SAEMetadata(hook_name="blocks.0.mlp.hook_in", hook_name_out="blocks.0.hook_mlp_out")
    return [Transcoder(TranscoderConfig(d_in=5, d_sae=F, d_out=D, apply_b_dec_to_input=False, metadata=names))]


def _two_widths() -> list[Any]:
    saes = as_saes(per_layer(JumpReLU(0.5)))
    small = CrossLayerTranscoder(
        torch.ones(L, 2, D),
        torch.ones(L, 2),
        torch.ones(L, 2, D),
        torch.ones(L, D),
        activation=JumpReLU(0.5),
        read="mlp.hook_in",
        model_name="google/gemma-2-2b",
    )
    return [saes[0], as_saes(small)[1], saes[2]]


def _wide() -> list[Any]:
    wide = CrossLayerTranscoder(
        torch.ones(L, F, 7),
        torch.ones(L, F),
        torch.ones(L, F, 7),
        torch.ones(L, 7),
        read="mlp.hook_in",
        model_name="google/gemma-2-2b",
    )
    return [*as_saes(per_layer(ReLU()))[:2], as_saes(wide)[2]]


def _set(name: str, value: object) -> Callable[[Any], object]:
    return lambda sae: setattr(sae.cfg, name, value)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (list, r"No SAE was given: give one transcoder for each layer"),
    "one SAE and no list": (lambda: saes_with()[0], r"SkipTranscoder is no list of SAEs: give one .*as \[sae, ...\]"),
    "a name": (lambda: "gemma-scope", r"str is no list of SAEs: give one SAELens transcoder for each layer"),
    "something else in the list": (lambda: [*saes_with(), 7], r"Item 3 of 4 is int, and no SAE: give one"),
    "what the longer loader gives": (
        lambda: [(sae, {}, None) for sae in saes_with()],
        r"Item 0 of 3 is tuple, .*from_pretrained_with_cfg_and_sparsity gives three values, the SAE first",
    ),
    "an autoencoder": (_autoencoder, r"SAE 0 of 1 is StandardSAE, and no transcoder: it reads and writes the same"),
    "a class of its own": (_subclass, r"SAE 0 of 1 is Doubled, which is not SAELens's class for .*'transcoder', so"),
    "a missing layer": (
        lambda: saes_with()[::2],
        r"no transcoder of layer 1: layers 0, 2 are there, and 1 of 3 are missing. Every layer of the model needs one",
    ),
    "one layer twice": (
        lambda: [*saes_with(), saes_with()[1]],
        r"SAE 1 of 4 and SAE 3 of 4 are both of layer 1: give one transcoder for each layer",
    ),
    "two models": (
        changed(lambda sae: sae.cfg.metadata.__setitem__("model_name", "gemma-2-9b")),
        r"SAE 0 of 3 and SAE 1 of 3 differ in their model_name, 'google/gemma-2-2b' and 'gemma-2-9b': one serves all",
    ),
    "two read points": (
        changed(lambda sae: sae.cfg.metadata.__dict__.update(hook_name="blocks.1.hook_resid_mid", hf_hook_name=None)),
        r"differ in their read point, 'mlp.hook_in' and 'hook_resid_mid': one serves all layers",
    ),
    "two write points": (
        changed(lambda sae: sae.cfg.metadata.__setitem__("hook_name_out", "blocks.1.mlp.hook_out")),
        r"differ in their write point, 'hook_mlp_out' and 'mlp.hook_out': one serves all layers",
    ),
    "one processed model": (
        changed(lambda sae: sae.cfg.metadata.__setitem__("model_from_pretrained_kwargs", {"fold_ln": True})),
        r"differ in their fold_ln, False and True: one serves all layers",
    ),
    "two architectures": (
        lambda: [saes_with()[0], *as_saes(per_layer(ReLU()))[1:]],
        r"differ in their architecture, 'skip_transcoder' and 'transcoder': one serves all layers",
    ),
    "two k": (
        lambda: [as_saes(per_layer(TopK(2)))[0], *as_saes(per_layer(TopK(3)))[1:]],
        r"differ in their k, 2 and 3: one serves all layers",
    ),
    "two widths of thresholds": (_two_widths, r"layers have \[6, 2, 6\] features: JumpReLU is read where all layers"),
    "two widths of the model": (_wide, r"SAE 0 of 3 and SAE 2 of 3 differ in their d_model, 4 and 7: one serves all"),
    "two devices": (
        changed(lambda sae: sae.to("meta")),
        r"SAE 0 of 3 and SAE 1 of 3 differ in their device, 'cpu' and 'meta': one serves all layers",
    ),
    "another width in than out": (_narrow, r"SAE 0 of 1 reads d_in=5 numbers and writes d_out=4: a transcoder here"),
    "normalised": (
        changed(_set("normalize_activations", "layer_norm")),
        r"SAE 1 of 3 has normalize_activations='layer_norm', which changes what it reads.*fold it into them",
    ),
    "scaled by a number that is not there": (
        changed(_set("normalize_activations", "expected_average_only_in")),
        r"SAE 1 of 3 has normalize_activations='expected_average_only_in'.* set it to 'none'",
    ),
    "reshaped": (changed(_set("reshape_activations", "hook_z")), r"has reshape_activations='hook_z', which changes"),
    "a bias on the input": (changed(_set("apply_b_dec_to_input", True)), r"has apply_b_dec_to_input=True, which chan"),
    "no hook name": (faulty(hook_name=None), r"SAE 0 of 3 has hook_name=None in its metadata, and a name such as"),
    "no name to write to": (faulty(hook_name_out=None), r"SAE 0 of 3 has hook_name_out=None in its metadata"),
    "a name of another kind": (faulty(hook_name="layers.{}.mlp"), r"hook_name='layers.0.mlp' in its metadata, and a"),
    "a place before attention": (
        faulty(hook_name="blocks.{}.hook_resid_pre"),
        r"reads 'blocks.0.hook_resid_pre', which is not a read point .*hook_resid_mid, ln2.hook_normalized, mlp",
    ),
    "an output elsewhere": (
        faulty(hook_name_out="blocks.{}.hook_attn_out"),
        r"writes 'blocks.0.hook_attn_out', which is not a write point .*hook_mlp_out, mlp.hook_out",
    ),
    "another layer's output": (
        faulty(hook_name_out="blocks.2.hook_mlp_out"),
        r"SAE 0 of 3 reads layer 0 and writes layer 2: a per-layer transcoder writes the layer that it reads",
    ),
    "two names of two places": (
        faulty(hf_hook_name="model.layers.{}.pre_feedforward_layernorm.input"),
        r"reads 'mlp.hook_in' by its hook_name and 'hook_resid_mid' by its hf_hook_name .*correct its metadata",
    ),
    "a module that no transcoder reads": (
        faulty(hf_hook_name="model.layers.{}.self_attn.o_proj.input"),
        r"input of 'model.layers.0.self_attn.o_proj', read according to 'SAE 0 of 3'",
    ),
    "hook_mlp_in of an unknown kind": (
        faulty(hook_name="blocks.{}.hook_mlp_in", hf_hook_name=None),
        r"reads 'blocks.0.hook_mlp_in', which may mean .*'blocks.0.hook_resid_mid' or 'blocks.0.mlp.hook_in'",
    ),
    "a model that is no name": (faulty(model_name=7), r"SAE 0 of 3 has model_name=7 in its metadata: give a text"),
    "keywords that are no table": (
        faulty(model_from_pretrained_kwargs="fold"),
        r"SAE 0 of 3 has model_from_pretrained_kwargs='fold' in its metadata: give a table such as {'fold_ln': False}",
    ),
    "weights of another shape": (
        changed(lambda sae: setattr(sae.W_enc, "data", torch.ones(D, 9))),
        r"W_enc of SAE 1 of 3 has shape \(4, 9\), but its settings \(d_in=4, d_sae=6, d_out=4\) say \(4, 6\): load it",
    ),
    "a weight that is no transcoder's": (
        changed(lambda sae: sae.register_buffer("scaling", torch.ones(1))),
        r"SAE 1 of 3 holds scaling, which no transcoder has: give it without",
    ),
    "a NaN": (
        changed(lambda sae: sae.W_enc.data.fill_(torch.nan)),
        r"W_enc\[1\] holds 24 NaN or infinite numbers of 24",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_transcoder_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(FitError, match=message):
        from_saes(make())


def test_what_is_no_transcoder_has_no_saes() -> None:
    code = (
        "from tl_circuits.transcoder.saes import as_saes\ntry: as_saes('folder')\nexcept Exception as e: print(repr(e))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FitError" in done.stdout
    assert "'folder' is no transcoder: give a CrossLayerTranscoder" in done.stdout
