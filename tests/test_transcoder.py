"""Transcoders and their activations, held to their definitions."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tl_circuits as tlc
from tests import models
from tl_circuits.transcoder import CrossLayerTranscoder

# The layers that each layer's features write: a column per source.
SPANS = {"CLT": (3, 2, 1), "PLT": (1, 1, 1), "limited": (2, 2, 1), "ragged": (3, 1, 1)}
FEATURES = (5, 7, 4)

every_span = pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
numbers = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4)
# Their differences are exact in float32, so that the edge of a window is where the formula says.
sixteenths = st.lists(st.integers(-48, 48).map(lambda n: n / 16), min_size=4, max_size=4)


def ragged(
    span: Sequence[int], *, skip: bool = True, shift: bool = False, activation: Any = None
) -> CrossLayerTranscoder:
    """A random transcoder whose layers differ in their number of features and of layers written."""
    rng, d_model = torch.Generator().manual_seed(0), 6

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    return CrossLayerTranscoder(
        [normal(n, d_model) for n in FEATURES],
        [normal(n) for n in FEATURES],
        [normal(n, written, d_model) for n, written in zip(FEATURES, span, strict=True)],
        normal(3, d_model),
        W_skip=normal(3, d_model, d_model) if skip else None,
        shift=[normal(n, written) for n, written in zip(FEATURES, span, strict=True)] if shift else None,
        activation=activation,
    )


def inputs(d_model: int = 6) -> Tensor:
    return torch.randn(3, 2, 5, d_model, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_relu_keeps_what_is_positive() -> None:
    assert tlc.ReLU()(torch.tensor([-1.0, 0.0, 2.0]), 0).tolist() == [0.0, 0.0, 2.0]


@given(h=numbers, threshold=st.floats(-2, 2, width=32))
def test_jumprelu_keeps_what_is_strictly_above_its_threshold_and_nothing_else(h: list[float], threshold: float) -> None:
    out = tlc.JumpReLU(threshold)(torch.tensor([*h, threshold]), 0)
    assert out.tolist() == [value if value > threshold else 0.0 for value in [*h, threshold]]


def test_a_negative_jumprelu_threshold_lets_negative_values_through() -> None:
    out = tlc.JumpReLU(torch.tensor([[-0.5, -0.5]]))(torch.tensor([-0.25, -0.75]), 0)
    assert out.tolist() == [-0.25, 0.0]


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4)])
def test_each_layer_has_its_own_jumprelu_thresholds(shape: tuple[int, ...]) -> None:
    activation = tlc.JumpReLU(torch.arange(12.0).view(shape))
    for layer in range(3):
        h = torch.arange(12.0).view(3, 4)[layer]
        assert activation(h, layer).tolist() == [0.0] * 4
        assert torch.equal(activation(h + 0.5, layer), h + 0.5)


@given(h=sixteenths, gradient=sixteenths, bandwidth=st.sampled_from([0.25, 1.0, 2.0]))
def test_a_jumprelu_threshold_learns_by_the_straight_through_estimate(
    h: list[float], gradient: list[float], bandwidth: float
) -> None:
    activation = tlc.JumpReLU(torch.tensor([[0.5, -0.5, 1.0, 0.0]] * 2), bandwidth=bandwidth).requires_grad_()
    preactivations = torch.tensor([h, h[::-1]], requires_grad=True)
    upstream = torch.tensor([gradient, gradient[::-1]])
    activation(preactivations, 1).backward(upstream)
    assert activation.threshold.grad is not None
    assert activation.threshold.grad[0].tolist() == [0.0] * 4
    # ∂a/∂θ ≈ -(θ/ε)·K((h - θ)/ε) with a rectangular K of width 1, summed over positions; ∂a/∂h = 1[h > θ].
    for feature, theta in enumerate([0.5, -0.5, 1.0, 0.0]):
        expected = 0.0
        for row in range(2):
            value, g = float(preactivations[row, feature].detach()), float(upstream[row, feature])
            expected -= g * theta / bandwidth * (abs((value - theta) / bandwidth) < 0.5)
            assert preactivations.grad is not None
            assert float(preactivations.grad[row, feature]) == (g if value > theta else 0.0)
        assert float(activation.threshold.grad[1, feature]) == pytest.approx(expected, abs=1e-5)


def test_a_jumprelu_threshold_that_was_not_asked_to_does_not_learn() -> None:
    activation, h = tlc.JumpReLU(torch.zeros(1, 2)), torch.tensor([0.1, -0.1], requires_grad=True)
    activation(h, 0).sum().backward()
    assert activation.threshold.grad is None
    assert h.grad is not None
    assert h.grad.tolist() == [1.0, 0.0]


@given(h=st.lists(st.integers(-2, 2), min_size=1, max_size=8), k=st.integers(1, 9), relu=st.booleans())
def test_topk_keeps_the_k_largest_of_each_position_ties_and_negatives_too(h: list[int], k: int, relu: bool) -> None:
    values = torch.tensor([h, h[::-1]], dtype=torch.float32)
    out = tlc.TopK(k, relu=relu)(values, 0)
    for row, kept in zip(values.tolist(), out.tolist(), strict=True):
        largest = sorted((max(value, 0.0) if relu else value for value in row), reverse=True)[:k]
        assert sorted(value for value in kept if value) == sorted(value for value in largest if value)
        assert all(value in (0.0, before) for value, before in zip(kept, row, strict=True))


def test_batch_topk_shares_its_budget_over_the_batch_while_it_trains() -> None:
    activation = tlc.BatchTopK(1, torch.tensor([9.0]))
    out = activation.train()(torch.tensor([[3.0, 2.0, -5.0], [1.0, 0.5, 0.0]]), 0)
    assert out.tolist() == [[3.0, 2.0, 0.0], [0.0, 0.0, 0.0]]


def test_batch_topk_is_a_threshold_at_inference_one_for_each_layer_and_never_below_zero() -> None:
    activation = tlc.BatchTopK(1, torch.tensor([1.0, -1.0])).eval()
    h = torch.tensor([[3.0, 1.0, -0.5], [1.5, 2.0, 0.5]])
    assert activation(h, 0).tolist() == [[3.0, 0.0, 0.0], [1.5, 2.0, 0.0]]
    assert activation(h, 1).tolist() == [[3.0, 1.0, 0.0], [1.5, 2.0, 0.5]]
    assert torch.equal(activation(h, 0)[1], activation(h[1], 0)), "a position must not see the others"


@every_span
def test_encoding_decoding_and_skipping_are_what_the_formula_says(span: tuple[int, ...]) -> None:
    transcoder, x = ragged(span), inputs()
    a = [
        torch.einsum("bpd,fd->bpf", x[layer], transcoder.W_enc[layer]).add(transcoder.b_enc[layer]).clamp(min=0)
        for layer in range(3)
    ]
    for layer in range(3):
        torch.testing.assert_close(transcoder.encode(x[layer], layer), a[layer])
        expected = transcoder.b_dec[layer].expand(2, 5, 6).clone()
        for source in range(layer + 1):
            if layer - source < span[source]:
                expected += torch.einsum("bpf,fd->bpd", a[source], transcoder.W_dec[source][:, layer - source])
        torch.testing.assert_close(transcoder.decode(a, layer), expected)
        assert transcoder.W_skip is not None
        skipped = torch.einsum("bpi,io->bpo", x[layer], transcoder.W_skip[layer])
        torch.testing.assert_close(transcoder.skip(x[layer], layer), skipped)
        assert transcoder.sources(layer) == tuple(s for s in range(layer + 1) if s + span[s] > layer)


@every_span
def test_a_shift_is_added_to_what_an_active_feature_writes_and_to_nothing_else(span: tuple[int, ...]) -> None:
    transcoder = ragged(span, shift=True)
    x = inputs()
    a = [transcoder.encode(x[layer], layer) for layer in range(3)]
    # TopK lets negative activations through: such a feature is active too.
    a[0][0, 0, 0] = -0.5
    assert transcoder.shift is not None
    for layer in range(3):
        expected = transcoder.b_dec[layer].expand(2, 5, 6).clone()
        for source in transcoder.sources(layer):
            decoder, shift = transcoder.W_dec[source][:, layer - source], transcoder.shift[source][:, layer - source]
            for at in a[source].nonzero().tolist():
                *place, feature = at
                expected[tuple(place)] += (a[source][tuple(at)] + shift[feature]) * decoder[feature]
        torch.testing.assert_close(transcoder.decode(a, layer), expected)
        silent = [torch.zeros_like(part) for part in a]
        assert torch.equal(transcoder.decode(silent, layer), transcoder.b_dec[layer].expand(2, 5, 6))
    picked = torch.tensor([6, 0, 6])
    torch.testing.assert_close(
        transcoder.outgoing(a[1][..., picked], 1, 1, picked), transcoder.outgoing(a[1], 1, 1)[..., picked]
    )


def test_a_plain_one_dimensional_shift_is_of_the_own_layer() -> None:
    W_dec, shift, a = torch.randn(2, 5, 6), torch.randn(2, 5), torch.rand(3, 5) + 0.1
    transcoder = CrossLayerTranscoder(torch.zeros(2, 5, 6), torch.zeros(2, 5), W_dec, torch.zeros(2, 6), shift=shift)
    torch.testing.assert_close(transcoder.decode([a, a], 1), (a + shift[1]) @ W_dec[1])


def test_a_transcoder_without_skip_skips_nothing() -> None:
    assert ragged(SPANS["CLT"], skip=False).skip(inputs()[0], 0) is None


@every_span
def test_it_knows_its_size_and_says_it(span: tuple[int, ...]) -> None:
    transcoder = ragged(span)
    assert (transcoder.n_layers, transcoder.d_model, transcoder.n_features) == (3, 6, FEATURES)
    assert transcoder.span == max(span)
    assert transcoder.is_per_layer == (max(span) == 1)
    said = repr(transcoder)
    for part in ("layers=3", "features=(5, 7, 4)", "d_model=6", "skip", "hook_resid_mid -> hook_mlp_out"):
        assert part in said
    assert ("per-layer" if max(span) == 1 else f"span={max(span)}") in said
    assert "skip" not in repr(ragged(span, skip=False))
    assert "shift" not in said
    assert ", shift, hook_resid_mid" in repr(ragged(span, shift=True))
    assert ragged(span, shift=True).span == max(span)


def test_a_plain_two_dimensional_decoder_writes_its_own_layer() -> None:
    W_dec = torch.randn(2, 5, 6)
    transcoder = CrossLayerTranscoder(torch.zeros(2, 5, 6), torch.zeros(2, 5), W_dec, torch.zeros(2, 6))
    assert transcoder.is_per_layer
    a = torch.rand(3, 5)
    torch.testing.assert_close(transcoder.decode([a, a], 1), a @ W_dec[1])


@every_span
@pytest.mark.parametrize(
    "activation", [tlc.ReLU(), tlc.JumpReLU(0.3), tlc.BatchTopK(2, torch.tensor([0.1, 0.2, 0.3]))], ids=lambda a: a.name
)
def test_a_state_dict_brings_everything_back(span: tuple[int, ...], activation: nn.Module) -> None:
    saved = ragged(span, activation=activation, shift=True)
    other = ragged(span, activation=type(activation)(**_like(activation)), shift=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(saved.state_dict())
    for (name, here), there in zip(saved.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(here, there), name
    names = " ".join(saved.state_dict())
    assert all(part in names for part in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip", "shift"))
    assert ("threshold" in names) == hasattr(activation, "threshold")


def _like(activation: nn.Module) -> dict[str, Any]:
    match activation:
        case tlc.JumpReLU():
            return {"threshold": activation.threshold.detach().clone()}
        case tlc.BatchTopK():
            return {"k": activation.k, "threshold": activation.threshold.detach().clone()}
    return {}


def test_no_parameter_requires_grad_until_asked() -> None:
    transcoder = ragged(SPANS["CLT"], activation=tlc.JumpReLU(torch.tensor(0.1)))
    assert not any(parameter.requires_grad for parameter in transcoder.parameters())
    assert all(parameter.requires_grad for parameter in transcoder.requires_grad_().parameters())


def test_weights_are_not_copied() -> None:
    W_enc, W_dec = torch.zeros(2, 5, 6), torch.zeros(2, 5, 6)
    transcoder = CrossLayerTranscoder(W_enc, torch.zeros(2, 5), W_dec, torch.zeros(2, 6))
    W_enc[1, 2, 3] = W_dec[1, 2, 3] = 7.0
    assert float(transcoder.W_enc[1][2, 3]) == 7.0
    assert float(transcoder.W_dec[1][2, 0, 3]) == 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_computes_in_the_dtype_of_what_it_reads(dtype: torch.dtype) -> None:
    transcoder, x = models.transcoder(skip=True, shift=True), torch.randn(4, models.D_MODEL).to(dtype)
    a = [transcoder.encode(x, layer) for layer in range(3)]
    skip = transcoder.skip(x, 2)
    assert skip is not None
    assert {part.dtype for part in (*a, transcoder.decode(a, 2), skip)} == {dtype}


@every_span
def test_decoder_rows_are_what_the_named_features_write(span: tuple[int, ...]) -> None:
    transcoder = ragged(span)
    rows = transcoder.decoder_rows(1, torch.tensor([6, 0, 6]))
    assert torch.equal(rows, transcoder.W_dec[1][[6, 0, 6]])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads this process's memory from /proc")
def test_of_a_mapped_decoder_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    d_model, n_features, megabyte = 1024, 65536, 2**20
    size = n_features * d_model
    with (tmp_path / "W_dec").open("wb") as file:
        file.truncate(4 * size)
    mapped = torch.from_file(str(tmp_path / "W_dec"), shared=True, size=size).view(n_features, 1, d_model)
    little = torch.zeros(n_features, 1).expand(n_features, d_model)
    before = resident()
    transcoder = CrossLayerTranscoder([little], [torch.zeros(n_features)], [mapped], torch.zeros(1, d_model))
    made = resident()
    mapped[[3, 60000], 0, 5] = torch.tensor([1.0, 2.0])
    rows = transcoder.decoder_rows(0, torch.tensor([60000, 3]))
    assert rows[:, 0, 5].tolist() == [2.0, 1.0]
    assert resident() - made < 64 * megabyte < 4 * size, "256 MiB of zeros were read for two rows"
    assert made - before < 2 * size, "making it read the decoder"


def resident() -> int:
    """Bytes of this process's memory that are really there."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
