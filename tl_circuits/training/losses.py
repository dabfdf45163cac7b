"""The losses of transcoder training, each a pure function of tensors. Normalised units throughout.

Ameisen et al. 2025, "Circuit Tracing", appendix on training cross-layer transcoders; the penalty on dead features is
that of Anthropic's January 2025 update on dictionary learning.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reconstruction(errors: Sequence[Float[Tensor, "*batch d_model"]]) -> Float[Tensor, ""]:
    """Σ_l E‖ŷ_l − y_l‖² / d_model: in normalised units, the sum over layers of the fraction of variance unexplained."""
    return torch.stack([error.square().mean() for error in errors]).sum()


class _SquaredNorms(torch.autograd.Function):
    """Σ_j W_ij² of each row, without keeping squares."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return torch.linalg.vector_norm(rows, dim=1).square_()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows * (2 * grad_outputs[0])[:, None]


def squared_norms(rows: Float[Tensor, "feature d_model"]) -> Float[Tensor, " feature"]:
    """Σ_j W_ij² of each row."""
    return cast(Tensor, _SquaredNorms.apply(rows))


def norm_of(squares: Sequence[Float[Tensor, " feature"]]) -> Float[Tensor, " feature"]:
    """The root of a sum of squared norms."""
    # A norm has no gradient at zero, where decoders start.
    return torch.stack(list(squares)).sum(0).clamp_min(1e-20).sqrt()


def norms_together(tables: Sequence[Float[Tensor, "feature d_model"]]) -> Float[Tensor, " feature"]:
    """‖W_dec,i‖ over all tables of a feature's decoders together, one for each layer that it writes."""
    return norm_of([squared_norms(rows) for rows in tables])


def norms_by_direction(
    first: Float[Tensor, "feature d_model"], further: Sequence[Float[Tensor, "feature d_model"]]
) -> list[Float[Tensor, " feature"]]:
    """The norm of all that a feature writes along its first row, and of what each further row writes beside that.

    A feature that writes one thing into many layers has one norm; one that writes another thing into a later layer has
    a second.
    """
    axis = first / norms_together([first])[:, None]
    along = [(rows * axis).sum(1) for rows in further]
    beside = [rows - part[:, None] * axis for rows, part in zip(further, along, strict=True)]
    together = norm_of([squared_norms(first), *[part.square() for part in along]])
    return [together, *[norms_together([rows]) for rows in beside]]


def saturating(scaled: Float[Tensor, "*entries"], saturation: float) -> Float[Tensor, "*entries"]:
    """tanh(c·‖W_dec,i‖·a_i), of ‖W_dec,i‖·a_i: summed, close to a count of active features, and smooth."""
    return torch.tanh(saturation * scaled)


def revival_of_silent(
    mean: Float[Tensor, " feature"],
    cut: Float[Tensor, "..."],
    norm: Float[Tensor, " feature"],
    dead: Bool[Tensor, " feature"],
) -> Float[Tensor, ""]:
    """Σ_{i dead} E max(θ_i − h_i, 0)·‖W_dec,i‖ of one layer: pulls silent features up to their cut θ_i, in rank one.

    No dead feature may pass its cut at any token of the batch. Then max(θ_i − h_i, 0) is θ_i − h_i throughout, and its
    mean needs only the `mean` pre-activation, of the mean of x: the gradient of W_enc is an outer product instead of a
    matrix product over the batch.
    """
    rows = dead.nonzero()[:, 0]
    floor = cut[rows] if cut.ndim else cut
    return ((floor - mean[rows]) * norm.detach()[rows]).sum()


def divergence(logits: Float[Tensor, "*batch d_vocab"], replaced: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, ""]:
    """E KL(model ‖ replacement model) over next tokens, in nats."""
    exact = torch.promote_types(logits.dtype, torch.float32)
    log_p, log_q = logits.to(exact).log_softmax(-1), replaced.to(exact).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
