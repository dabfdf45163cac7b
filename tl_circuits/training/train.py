"""Training a cross-layer or per-layer transcoder on a model's prompts.

Ameisen et al. 2025, "Circuit Tracing", section 2 and appendix: features of every layer are trained jointly to
reconstruct the outputs of all MLPs that they write. A last short stage also minimises the divergence of the
full replacement model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

import tl_circuits.training.losses as losses
from tl_circuits.errors import SettingError
from tl_circuits.progress import stage
from tl_circuits.replacement import replace_mlps
from tl_circuits.sites import Model
from tl_circuits.training.pairs import Normalisation, Pairs, collect, kept_tokens
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.transcoder import CrossLayerTranscoder, JumpReLU


def train(
    model: Model,
    tokens: Int64[Tensor, "prompt pos"],
    settings: TrainingSettings,
    *,
    weights: Float[Tensor, " _"] | None = None,
    scored: Bool[Tensor, "prompt pos"] | None = None,
) -> CrossLayerTranscoder:
    """A JumpReLU transcoder for these prompts (right-padded tokens, beginning-of-sequence token included).

    Prompts are drawn in proportion to `weights` (default: all tokens alike); the fine-tuning counts the divergence of
    next-token predictions at `scored` positions (default: at all kept ones). Deterministic by `settings.seed`; the
    model is borrowed and left as it was.
    """
    prompts = _Prompts.of(tokens, weights, scored, model.tokenizer)
    draw = torch.Generator().manual_seed(settings.seed)
    pairs = collect(model, tokens, prompts.kept, settings.read, settings.write)
    per_token = prompts.weights[pairs.prompt]
    units = _units(pairs, per_token, draw)
    transcoder = _initial(units, settings, getattr(model.cfg, "model_name", None), draw)
    _fit(transcoder, units.normalise(pairs), per_token, settings, draw)
    if settings.finetune_steps:
        _finetune(model, transcoder, units, prompts, settings, draw)
    return units.fold(transcoder)


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Tokens, which of them count, after which the prediction counts, and how often each prompt is drawn."""

    tokens: Int64[Tensor, "prompt pos"]
    kept: Bool[Tensor, "prompt pos"]
    scored: Bool[Tensor, "prompt pos"]
    weights: Float[Tensor, " prompt"]

    @classmethod
    def of(cls, tokens: Tensor, weights: Tensor | None, scored: Tensor | None, tokenizer: Any) -> "_Prompts":
        weights = torch.ones(len(tokens)) if weights is None else weights
        if weights.shape != (len(tokens),) or not bool((weights >= 0).all() and weights.sum() > 0):
            raise SettingError(
                f"weights has shape {tuple(weights.shape)} for {len(tokens)} prompts: "
                "give each a number, none negative, and not all 0."
            )
        kept = kept_tokens(tokens, tokenizer)
        return cls(tokens, kept, kept if scored is None else scored & kept, weights)


def _units(pairs: Pairs, weights: Float[Tensor, " token"], draw: torch.Generator) -> Normalisation:
    sample = torch.multinomial(weights, 40_000, replacement=True, generator=draw)
    return Normalisation.of(pairs.reads[:, sample], pairs.writes[:, sample])


def _initial(
    units: Normalisation, settings: TrainingSettings, model_name: str | None, draw: torch.Generator
) -> CrossLayerTranscoder:
    # Decoders start at zero, so that a feature first learns what helps and is charged for it only then.
    n_layers, d_model = units.read_mean.shape
    written = [n_layers - layer if settings.cross_layer else 1 for layer in range(n_layers)]
    return CrossLayerTranscoder(
        (2 * torch.rand(n_layers, settings.features, d_model, generator=draw) - 1) / d_model**0.5,
        torch.zeros(n_layers, settings.features),
        [torch.zeros(settings.features, n, d_model) for n in written],
        torch.zeros(n_layers, d_model),
        activation=JumpReLU(
            torch.full((n_layers, settings.features), settings.threshold), bandwidth=settings.bandwidth
        ),
        read=settings.read,
        write=settings.write,
        model_name=model_name,
    )


def _fit(
    transcoder: CrossLayerTranscoder,
    pairs: Pairs,
    weights: Float[Tensor, " token"],
    settings: TrainingSettings,
    draw: torch.Generator,
) -> None:
    """Reconstruction, sparsity and the revival of dead features, on tokens drawn from all prompts."""
    transcoder.requires_grad_()
    optimizer = torch.optim.Adam(transcoder.parameters(), fused=True)
    layers = range(transcoder.n_layers)
    silent = torch.zeros(len(layers), settings.features)
    with stage("transcoder" if settings.cross_layer else "per-layer transcoder", settings.steps) as bar:
        for step in range(settings.steps):
            sample = torch.multinomial(weights, settings.batch_tokens, replacement=True, generator=draw)
            x, y = pairs.reads[:, sample], pairs.writes[:, sample]
            h = [transcoder.preactivations(x[layer], layer) for layer in layers]
            a = [transcoder.activation(h[layer], layer) for layer in layers]
            errors = [transcoder.decode(a, layer) - y[layer] for layer in layers]
            fired = torch.stack([(acts > 0).any(0) for acts in a])
            silent = torch.where(fired, 0.0, silent + 1)
            norms = losses.decoder_norms(list(transcoder.W_dec))
            loss = losses.reconstruction(errors) + settings.sparsity_at(step) * losses.sparsity(
                a, norms, settings.saturation
            )
            dead = silent > settings.dead_after
            if settings.revival and bool(dead.any()):
                loss = loss + settings.revival * losses.revival(h, list(_threshold(transcoder)), norms, dead)
            loss.backward()
            _step(optimizer, transcoder, settings.lr_at(step))
            bar.update(1)
    transcoder.requires_grad_(False)


def _finetune(
    model: Model,
    transcoder: CrossLayerTranscoder,
    units: Normalisation,
    prompts: _Prompts,
    settings: TrainingSettings,
    draw: torch.Generator,
) -> None:
    """The replacement model's divergence, beside reconstruction and sparsity on what it reads there."""
    transcoder.requires_grad_()
    in_model = units.fold(transcoder).requires_grad_()
    optimizer = torch.optim.Adam(transcoder.parameters(), fused=True)
    with stage("fine-tuning", settings.finetune_steps) as bar:
        for step in range(settings.finetune_steps):
            rows = torch.multinomial(prompts.weights, settings.finetune_prompts, replacement=True, generator=draw)
            batch = _Prompts(prompts.tokens[rows], prompts.kept[rows], prompts.scored[rows], prompts.weights[rows])
            folded = units.folded(transcoder)
            _load(in_model, folded)
            loss = _replacement_loss(model, in_model, units, batch, settings)
            _backward_through(folded, in_model, loss)
            _step(optimizer, transcoder, settings.finetune_lr_at(step))
            bar.update(1)
    transcoder.requires_grad_(False)


def _replacement_loss(
    model: Model, transcoder: CrossLayerTranscoder, units: Normalisation, batch: _Prompts, settings: TrainingSettings
) -> Float[Tensor, ""]:
    layers = range(transcoder.n_layers)
    with torch.no_grad():
        logits = model(batch.tokens)
    wrote = collect(model, batch.tokens, batch.kept, settings.read, settings.write).writes
    with replace_mlps(model, transcoder) as features:
        replaced = model(batch.tokens)
    recons = [features[f"blocks.{layer}.{settings.write}.hook_transcoder_recons"][batch.kept] for layer in layers]
    errors = [(recons[layer] - wrote[layer]) / units.write_scale[layer] for layer in layers]
    active = [features[layer][batch.kept] for layer in layers]
    scales = [units.write_scale[layer : layer + transcoder.W_dec[layer].shape[1], None] for layer in layers]
    norms = losses.decoder_norms([rows / scale for rows, scale in zip(transcoder.W_dec, scales, strict=True)])
    loss = losses.divergence(logits[batch.scored], replaced[batch.scored]) + losses.reconstruction(errors)
    return loss + settings.sparsity * losses.sparsity(active, norms, settings.saturation)


def _step(optimizer: torch.optim.Optimizer, transcoder: CrossLayerTranscoder, lr: float) -> None:
    torch.nn.utils.clip_grad_norm_(transcoder.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        # A negative threshold would let negative activations through, which no penalty here charges.
        _threshold(transcoder).clamp_min_(0)


def _threshold(transcoder: CrossLayerTranscoder) -> Tensor:
    assert isinstance(transcoder.activation, JumpReLU)
    return transcoder.activation.threshold


@torch.no_grad()
def _load(transcoder: CrossLayerTranscoder, values: dict[str, Tensor]) -> None:
    for name, parameter in transcoder.named_parameters():
        parameter.copy_(values[name])


def _backward_through(folded: dict[str, Tensor], in_model: CrossLayerTranscoder, loss: Tensor) -> None:
    # The loss is a function of the folded parameters' copies: its gradient is handed to what they were folded from.
    named = dict(in_model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    torch.autograd.backward([folded[name] for name in named], gradients)
