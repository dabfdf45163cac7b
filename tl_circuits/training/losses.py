"""The losses of transcoder training, each a pure function of tensors. Normalised units throughout.

Ameisen et al. 2025, "Circuit Tracing", appendix on training cross-layer transcoders; the penalty on dead features is
that of Anthropic's January 2025 update on dictionary learning.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reconstruction(errors: Sequence[Float[Tensor, "*batch d_model"]]) -> Float[Tensor, ""]:
    """Σ_l E‖ŷ_l − y_l‖² / d_model: in normalised units, the sum over layers of the fraction of variance unexplained."""
    return torch.stack([error.square().mean() for error in errors]).sum()


def decoder_norms(W_dec: Sequence[Float[Tensor, "feature _ d_model"]]) -> list[Float[Tensor, " feature"]]:
    """‖W_dec,i‖ over all layers that a feature writes together, for each source layer."""
    # A norm has no gradient at zero, where decoders start.
    return [rows.square().sum((1, 2)).clamp_min(1e-20).sqrt() for rows in W_dec]


def sparsity(
    activations: Sequence[Float[Tensor, "*batch feature"]],
    norms: Sequence[Float[Tensor, " feature"]],
    saturation: float,
) -> Float[Tensor, ""]:
    """Σ_l Σ_i E tanh(c·‖W_dec,i‖·a_i): close to a count of active features, and smooth."""
    charged = [torch.tanh(saturation * norm * a).sum(-1).mean() for a, norm in zip(activations, norms, strict=True)]
    return torch.stack(charged).sum()


def revival(
    preactivations: Sequence[Float[Tensor, "batch feature"]],
    thresholds: Sequence[Float[Tensor, " feature"]],
    norms: Sequence[Float[Tensor, " feature"]],
    dead: Bool[Tensor, "layer feature"],
) -> Float[Tensor, ""]:
    """Σ_l Σ_{i dead} E max(θ_i − h_i, 0)·‖W_dec,i‖: pulls a silent feature's pre-activations up to its threshold."""
    missing = [
        ((threshold - h).relu() * norm.detach() * silent).sum(-1).mean()
        for h, threshold, norm, silent in zip(preactivations, thresholds, norms, dead, strict=True)
    ]
    return torch.stack(missing).sum()


def divergence(logits: Float[Tensor, "*batch d_vocab"], replaced: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, ""]:
    """E KL(model ‖ replacement model) over next tokens, in nats."""
    log_p, log_q = logits.log_softmax(-1), replaced.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
