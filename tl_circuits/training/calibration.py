"""Biases and thresholds set from data: how many features are on, before training and after it."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.training.rules import Gather, alone
from tl_circuits.training.weights import Weights

# So many pre-activations are looked at together, at most.
ENTRIES = 2**26
TOKENS_OF_BIASES = 4096


@torch.no_grad()
def set_initial_biases(weights: Weights, x: Float[Tensor, "layer token d_model"], share: float) -> None:
    """Biases by which every feature is on at this share of the tokens."""
    for layer in range(weights.shape.n_layers):
        W_enc, b_enc, threshold = weights[f"W_enc.{layer}"], weights[f"b_enc.{layer}"], weights.threshold(layer)
        tokens = x[layer, :TOKENS_OF_BIASES]
        place = max(1, min(len(tokens), round((1 - share) * len(tokens))))
        for rows in torch.arange(len(W_enc)).split(max(1, ENTRIES // len(tokens))):
            quantile = (tokens @ W_enc[rows].T).kthvalue(place, dim=0).values
            b_enc[rows] = (0.0 if threshold is None else threshold[rows]) - quantile


@torch.no_grad()
def threshold_for_l0(h: Float[Tensor, "token feature"], l0: int, gather: Gather = alone) -> float:
    """The threshold that `l0` pre-activations per token exceed on average; 0 where so many are not positive."""
    above = l0 * len(h)
    largest = gather(h.flatten().topk(min(above + 1, h.numel())).values)
    return max(0.0, float(largest.topk(min(above + 1, len(largest))).values[-1]))


@torch.no_grad()
def with_thresholds(
    weights: Weights, x: Float[Tensor, "layer token d_model"], l0: int, gather: Gather = alone
) -> Weights:
    """The weights with one threshold in each layer, such that `l0` of its features are on per token on average."""
    parameters = dict(weights.parameters)
    for layer in range(weights.shape.n_layers):
        W_enc, b_enc = weights[f"W_enc.{layer}"], weights[f"b_enc.{layer}"]
        tokens = x[layer, : max(1, ENTRIES // weights.shape.features)]
        h = torch.addmm(b_enc, tokens, W_enc.T)
        parameters[f"threshold.{layer}"] = torch.full_like(b_enc, threshold_for_l0(h, l0, gather))
    return Weights(weights.shape, parameters)
