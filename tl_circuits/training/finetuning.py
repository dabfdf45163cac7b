"""The last stage of training: the divergence of the replacement model, beside reconstruction and sparsity there."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import tl_circuits.training.losses as losses
from tl_circuits.harvest import collect
from tl_circuits.hooks import Model
from tl_circuits.replacement import replace_mlps
from tl_circuits.training.codes import DenseCodes
from tl_circuits.training.pairs import Normalisation, as_transcoder
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, seeded
from tl_circuits.training.weights import Weights
from tl_circuits.transcoder import CrossLayerTranscoder


@dataclass(frozen=True, eq=False)
class Tuned:
    """What one fine-tuning step lost."""

    kl: float
    fvu: float


def finetune_step(
    model: Model,
    weights: Weights,
    units: Normalisation,
    data: Data,
    settings: TrainingSettings,
    step: int,
    shards: Shards,
) -> Tuned:
    """Leaves in the weights the gradient of KL + Σ FVU + λ·penalty on some whole prompts, run through the replacement.

    Activations are as at inference. Replicas take some of the prompts each, by whose tokens their means are weighted:
    the mean of their gradients is the gradient of all prompts.
    """
    drawn = _drawn(data, settings, step)
    batch = drawn.some(shards.prompts(settings.finetune_prompts))
    by_scored, by_kept = (
        shards.n_replicas * int(mine.sum()) / max(1, int(whole.sum()))
        for mine, whole in ((batch.scored, drawn.scored), (batch.prompts.kept, drawn.prompts.kept))
    )
    folded = units.folded(weights.stacked())
    in_model = as_transcoder(folded, weights.activation(settings.rule), settings.read, settings.write, None)
    in_model.requires_grad_()
    divergence, errors, active = _replaced(model, in_model, batch, settings)
    scaled = [error / scale for error, scale in zip(errors, units.write_scale, strict=True)]
    reconstruction = losses.reconstruction(scaled)
    costs = settings.costs.of(weights, [DenseCodes(a, a.new_zeros(()), lambda: 1.0) for a in active])
    divergence, reconstruction = by_scored * divergence, by_kept * reconstruction
    _backward(divergence + reconstruction + settings.sparsity * by_kept * costs, weights, folded, in_model)
    return Tuned(float(divergence.detach()), float(reconstruction.detach()))


def _drawn(data: Data, settings: TrainingSettings, step: int) -> Data:
    draw = seeded(settings.seed, step)
    rows = torch.multinomial(data.prompt_weights, settings.finetune_prompts, replacement=True, generator=draw)
    return data.some(rows)


def _replaced(
    model: Model, transcoder: CrossLayerTranscoder, batch: Data, settings: TrainingSettings
) -> tuple[Float[Tensor, ""], list[Tensor], list[Tensor]]:
    tokens, kept = batch.prompts.tokens, batch.prompts.kept
    with torch.no_grad():
        logits = model(tokens)
    wrote = collect(model, tokens, kept, settings.read, settings.write).writes
    with replace_mlps(model, transcoder) as features:
        replaced = model(tokens)
    layers = range(transcoder.n_layers)
    recons = [features[f"blocks.{layer}.{settings.write}.hook_transcoder_recons"][kept] for layer in layers]
    errors = [recons[layer] - wrote[layer] for layer in layers]
    at = batch.scored
    divergence = losses.divergence(logits[at], replaced[at]) if bool(at.any()) else 0.0 * replaced.sum()
    return divergence, errors, [features[layer][kept] for layer in layers]


def _backward(loss: Tensor, weights: Weights, folded: dict[str, Tensor], in_model: CrossLayerTranscoder) -> None:
    # The loss is a function of the weights, and of copies of what they fold into: those gradients are handed on. The
    # model's own parameters are to get none.
    own, copies = list(weights.parameters.values()), dict(in_model.named_parameters())
    found = torch.autograd.grad(loss, [*own, *copies.values()], allow_unused=True)
    for parameter, gradient in zip(own, found, strict=False):
        parameter.grad = gradient
    handed = [(folded[name], g) for name, g in zip(copies, found[len(own) :], strict=True) if g is not None]
    torch.autograd.backward([tensor for tensor, _ in handed], [gradient for _, gradient in handed])
