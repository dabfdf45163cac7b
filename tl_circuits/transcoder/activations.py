"""From pre-activations to sparse activations: the nonlinearities of transcoders.

Each is a module called as `activation(preactivations, layer)` on a `... feature` tensor of one layer, and is applied to
each position on its own, except `BatchTopK` while training.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_circuits.errors import SettingError


class Activation(nn.Module, ABC):
    """What a transcoder applies to its pre-activations. `name` is how files call it."""

    name: str

    @abstractmethod
    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        """The activations of one layer's features."""


class ReLU(Activation):
    """a = max(h, 0)."""

    name = "relu"

    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        return preactivations.relu()


class _Jump(torch.autograd.Function):
    """h·1[h > θ] with the straight-through gradient to θ of Rajamanoharan et al. 2024 (JumpReLU SAEs, eq. 11)."""

    @staticmethod
    def forward(ctx: Any, preactivations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(preactivations, threshold)
        ctx.bandwidth = bandwidth
        return preactivations * (preactivations > threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        preactivations, threshold = ctx.saved_tensors
        near = (preactivations - threshold).abs() < ctx.bandwidth / 2
        to_threshold = (-(threshold / ctx.bandwidth) * near * grad).sum_to_size(threshold.shape)
        return grad * (preactivations > threshold), to_threshold, None


def jump(
    preactivations: Float[Tensor, "*batch feature"], threshold: Float[Tensor, "..."], bandwidth: float
) -> Float[Tensor, "*batch feature"]:
    """h·1[h > θ], through which θ learns by the straight-through estimate of this width."""
    return cast(Tensor, _Jump.apply(preactivations, threshold, bandwidth))


class JumpReLU(Activation):
    """a = h·1[h > θ], strictly, and no ReLU on top: a negative θ lets negative values through, as files in use expect.

    `threshold` holds θ as `layer feature` (a scalar, or anything that broadcasts to it such as `layer 1 feature`, is
    taken too). While it requires grad, θ learns by a straight-through estimate of width `bandwidth`, in units of h.
    """

    name = "jump_relu"

    def __init__(self, threshold: Tensor | float, *, bandwidth: float = 1.0) -> None:
        super().__init__()
        threshold = torch.as_tensor(threshold)
        if not threshold.is_floating_point():
            threshold = threshold.to(torch.get_default_dtype())
        if threshold.ndim == 3 and threshold.shape[1] == 1:
            threshold = threshold.squeeze(1)
        if threshold.ndim not in (0, 2):
            raise SettingError(f"A JumpReLU threshold has shape (layer, feature); {tuple(threshold.shape)} was given.")
        if bool(threshold.isnan().any()):
            raise SettingError(
                f"{int(threshold.isnan().sum())} of {threshold.numel()} JumpReLU thresholds are NaN: repair the "
                "weights."
            )
        if not 0 < bandwidth < math.inf:
            raise SettingError(
                f"bandwidth={bandwidth} must be positive and finite; the CLT paper uses 1.0 in normalised units."
            )
        self.threshold = nn.Parameter(threshold, requires_grad=False)
        self.bandwidth = bandwidth

    def at(self, layer: int) -> Float[Tensor, "..."]:
        """θ of one layer, as `feature` or a scalar."""
        return self.threshold[layer] if self.threshold.ndim == 2 else self.threshold

    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        threshold = self.at(layer).to(preactivations)
        if torch.is_grad_enabled() and threshold.requires_grad:
            return jump(preactivations, threshold, self.bandwidth)
        return preactivations * (preactivations > threshold)


class TopK(Activation):
    """Keeps the k largest pre-activations at each position, negative ones too unless `relu`, and zeroes the rest."""

    name = "topk"

    def __init__(self, k: int, *, relu: bool = False) -> None:
        super().__init__()
        self.k, self.relu = _positive(k), relu

    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        values = preactivations.relu() if self.relu else preactivations
        top = values.topk(min(self.k, values.shape[-1]), dim=-1)
        return torch.zeros_like(values).scatter(-1, top.indices, top.values)


class GroupMax(Activation):
    """The largest positive pre-activation in each of k equal groups of neighbouring features; the rest is zeroed.

    Raises `SettingError` where the number of features is no multiple of k.
    """

    name = "groupmax"

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = _positive(k)

    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        n_features = preactivations.shape[-1]
        if n_features % self.k:
            raise SettingError(
                f"GroupMax cannot divide {n_features} features into k={self.k} equal groups: k has to divide them."
            )
        groups = preactivations.relu().unflatten(-1, (self.k, -1))
        top = groups.max(dim=-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, top.indices, top.values).flatten(-2)


class BatchTopK(Activation):
    """Positive pre-activations above one threshold per layer, learned while the k·batch largest of a batch were kept.

    Bussmann et al. 2024 ("BatchTopK SAEs"). In training mode the k largest per position *on average over the batch* are
    kept and no threshold is used; otherwise a = h·1[h > max(threshold[layer], 0)], which looks at each position alone.
    """

    name = "batch_topk"

    def __init__(self, k: int, threshold: Float[Tensor, " layer"]) -> None:
        super().__init__()
        self.k = _positive(k)
        if bool(torch.as_tensor(threshold).isnan().any()):
            raise SettingError(
                "A BatchTopK threshold is NaN: calibrate it on data after training, one number per layer."
            )
        self.threshold = nn.Parameter(torch.as_tensor(threshold), requires_grad=False)
        self.eval()

    def forward(self, preactivations: Float[Tensor, "*batch feature"], layer: int) -> Float[Tensor, "*batch feature"]:
        values = preactivations.relu()
        if not self.training:
            return values * (values > self.threshold[layer].to(values))
        kept = min(self.k * values[..., 0].numel(), values.numel())
        top = values.flatten().topk(kept)
        return torch.zeros_like(values).flatten().scatter(0, top.indices, top.values).view_as(values)


def _positive(k: int) -> int:
    if not isinstance(k, int) or k < 1:
        raise SettingError(f"k={k} keeps no feature: give the number of features active per position, at least 1.")
    return k
