"""Training a transcoder: the losses by hand, the units, and short runs on a tiny random model."""

import math
from dataclasses import replace

import pytest
import torch

from models import D_VOCAB, N_LAYERS, bridge, hooked
from tl_circuits.errors import PromptError, SettingError
from tl_circuits.replacement import replace_mlps
from tl_circuits.training import TrainingSettings, losses, train
from tl_circuits.training.codes import DenseCodes
from tl_circuits.training.pairs import Normalisation, collect, kept_tokens
from tl_circuits.training.step import Costs
from tl_circuits.transcoder import CrossLayerTranscoder, JumpReLU

# Each trains a little: seconds, not milliseconds.
pytestmark = pytest.mark.slow

TINY = TrainingSettings(features=48, steps=150, batch_tokens=128, sparsity=1e-3, dead_after=30)


def prompts(n: int = 64, width: int = 8) -> torch.Tensor:
    return torch.randint(3, D_VOCAB, (n, width), generator=torch.Generator().manual_seed(5))


def unexplained(model, transcoder: CrossLayerTranscoder, tokens: torch.Tensor) -> list[float]:
    pairs = collect(model, tokens, torch.ones_like(tokens, dtype=torch.bool), transcoder.read, transcoder.write)
    active = [transcoder.encode(x, layer) for layer, x in enumerate(pairs.reads)]
    errors = [(transcoder.decode(active, layer) - y).square().sum() for layer, y in enumerate(pairs.writes)]
    return [float(e / (y - y.mean(0)).square().sum()) for e, y in zip(errors, pairs.writes, strict=True)]


def mean_active(model, transcoder: CrossLayerTranscoder, tokens: torch.Tensor) -> float:
    pairs = collect(model, tokens, torch.ones_like(tokens, dtype=torch.bool), transcoder.read, transcoder.write)
    return sum(float((transcoder.encode(x, layer) > 0).sum(-1).float().mean()) for layer, x in enumerate(pairs.reads))


def test_reconstruction_of_a_zero_prediction_is_one_per_layer_in_normalised_units() -> None:
    y = torch.randn(N_LAYERS, 4000, 16)
    assert float(losses.reconstruction(list(y))) == pytest.approx(N_LAYERS, rel=0.02)


def test_sparsity_counts_active_features_once_they_are_large() -> None:
    def paid(a: list[list[float]], norm: float) -> float:
        codes = DenseCodes(torch.tensor(a), torch.zeros(()), lambda: 1.0)
        return float(codes.charged(torch.full((3,), norm), Costs(saturation=4.0).charge))

    assert paid([[0.0, 50.0, 50.0], [0.0, 0.0, 50.0]], 1.0) == pytest.approx(1.5)
    assert paid([[0.1, 0.0, 0.0]], 2.0) == pytest.approx(math.tanh(4 * 2 * 0.1))


def test_a_decoder_is_charged_over_all_layers_it_writes_together() -> None:
    own, later = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 4.0]])
    assert losses.norms_together([own, later]).tolist() == [5.0]


def test_the_norm_of_a_decoder_that_is_zero_has_a_finite_gradient() -> None:
    rows = torch.zeros(2, 3, requires_grad=True)
    losses.norms_together([rows]).sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def test_divergence_is_zero_for_the_same_logits_and_kl_otherwise() -> None:
    logits, other = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    assert float(losses.divergence(logits, logits + 3.0)) == pytest.approx(0, abs=1e-7)
    assert float(losses.divergence(logits, other)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_leading_bos_and_trailing_padding_are_left_out_and_nothing_else() -> None:
    class Tokenizer:
        bos_token_id, pad_token_id = 1, 0

    tokens = torch.tensor([[1, 5, 0, 6, 0, 0], [5, 1, 6, 7, 8, 9]])
    assert kept_tokens(tokens, Tokenizer()).tolist() == [
        [False, True, True, True, False, False],
        [True, True, True, True, True, True],
    ]


def test_units_fold_into_a_transcoder_with_the_same_features_and_scaled_outputs() -> None:
    draw = torch.Generator().manual_seed(2)
    reads, writes = (torch.randn(N_LAYERS, 500, 16, generator=draw) * k + k for k in (3.0, 0.2))
    units = Normalisation.of(reads, writes)
    shapes = [(N_LAYERS, 24, 16), (N_LAYERS, 24), (N_LAYERS, 16)]
    W_enc, b_enc, b_dec = (torch.randn(shape, generator=draw) for shape in shapes)
    W_dec = [torch.randn(24, N_LAYERS - layer, 16, generator=draw) for layer in range(N_LAYERS)]
    normalised = CrossLayerTranscoder(W_enc, b_enc, W_dec, b_dec, activation=JumpReLU(torch.rand(N_LAYERS, 24)))
    folded = units.fold(normalised)
    scaled = [(reads[layer] - units.read_mean[layer]) / units.read_scale[layer] for layer in range(N_LAYERS)]
    active = [normalised.encode(x, layer) for layer, x in enumerate(scaled)]
    in_model = [folded.encode(x, layer) for layer, x in enumerate(reads)]
    for layer in range(N_LAYERS):
        torch.testing.assert_close(in_model[layer], active[layer], atol=1e-4, rtol=1e-4)
        wanted = normalised.decode(active, layer) * units.write_scale[layer] + units.write_mean[layer]
        torch.testing.assert_close(folded.decode(in_model, layer), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cross_layer", [True, False])
def test_a_short_run_explains_most_of_what_the_mlps_write(cross_layer: bool) -> None:
    model, tokens = bridge("gpt2", torch.float32), prompts()
    transcoder = train(model, tokens, replace(TINY, cross_layer=cross_layer))
    assert transcoder.is_per_layer is not cross_layer
    assert max(unexplained(model, transcoder, tokens)) < 0.25


def test_a_higher_penalty_leaves_fewer_features_active() -> None:
    model, tokens = bridge("gpt2", torch.float32), prompts()
    light, heavy = (train(model, tokens, replace(TINY, sparsity=weight)) for weight in (1e-4, 2e-2))
    assert mean_active(model, heavy, tokens) < 0.7 * mean_active(model, light, tokens)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    model, tokens = bridge("gpt2", torch.float32), prompts()
    short = replace(TINY, steps=5, finetune_steps=3, finetune_prompts=8)
    first, again, other = (train(model, tokens, replace(short, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.W_enc[0], other.W_enc[0])


def test_fine_tuning_brings_the_replacement_model_closer() -> None:
    model, tokens = bridge("gpt2", torch.float32), prompts()

    def divergence(transcoder: CrossLayerTranscoder) -> float:
        with torch.no_grad():
            logits = model(tokens)
            with replace_mlps(model, transcoder):
                return float(losses.divergence(logits, model(tokens)))

    short = replace(TINY, steps=30, finetune_prompts=16, finetune_lr=3e-3)
    before, after = (divergence(train(model, tokens, replace(short, finetune_steps=n))) for n in (0, 30))
    assert after < 0.7 * before


@pytest.mark.parametrize("kind", [bridge, hooked])
def test_the_model_is_left_as_it_was(kind) -> None:
    model = kind("gpt2", torch.float32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state, random = [p.requires_grad for p in model.parameters()], torch.random.get_rng_state()
    train(model, prompts(8), replace(TINY, steps=2, finetune_steps=2, finetune_prompts=4))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [p.requires_grad for p in model.parameters()] == state
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_prompts_with_no_weight_are_never_drawn() -> None:
    model, tokens = bridge("gpt2", torch.float32), prompts(8)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    short = replace(TINY, steps=4, finetune_steps=2, finetune_prompts=4)
    changed = torch.cat([tokens[:4], tokens[:4]])
    a, b = (train(model, t, short, weights=weights) for t in (tokens, changed))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_trained_transcoder_is_frozen_and_knows_where_it_reads() -> None:
    transcoder = train(bridge("gpt2", torch.float32), prompts(8), replace(TINY, steps=2, read="hook_resid_mid"))
    assert (transcoder.read, transcoder.write) == ("hook_resid_mid", "hook_mlp_out")
    assert not any(parameter.requires_grad for parameter in transcoder.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [("features", 0), ("steps", 0), ("lr", 0.0), ("ramp", 0.0), ("ramp", 1.5), ("sparsity", -1.0), ("bandwidth", 0.0)],
)
def test_settings_out_of_range_are_refused_with_their_value(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{name}={value}"):
        replace(TINY, **{name: value})


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match=r"\(3,\) for 8 prompts"):
        train(bridge("gpt2", torch.float32), prompts(8), TINY, weights=torch.ones(3))


def test_prompts_of_padding_alone_are_refused() -> None:
    with pytest.raises(PromptError, match="None of the 6 tokens"):
        collect(
            bridge("gpt2", torch.float32),
            torch.ones(1, 6, dtype=torch.int64),
            torch.zeros(1, 6, dtype=torch.bool),
            "ln2.hook_normalized",
            "hook_mlp_out",
        )
