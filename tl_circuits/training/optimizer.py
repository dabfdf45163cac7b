"""Adam over named parameters, in one pass after the gradients, or inside the backward pass without keeping them."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tl_circuits.training.rules import alone
from tl_circuits.training.weights import Weights, is_sharded

CLIP = 1.0
"""The largest norm of a gradient, over all parameters of all shards together."""


class Optimizer:
    """Fused Adam with clipped gradients; `total` sums a number over the shards of the features.

    With `low_memory`, each parameter is updated as soon as its gradient is there, and the gradient is dropped: nothing
    but one layer's gradients is ever held. The norm that clips is then that of the step before.
    """

    def __init__(
        self, weights: Weights, *, low_memory: bool = False, total: Callable[[Tensor], Tensor] = alone
    ) -> None:
        self._parameters = dict(weights.parameters)
        self._total, self._low_memory = total, low_memory
        groups = [[p] for p in self._parameters.values()] if low_memory else [list(self._parameters.values())]
        self._adams = [torch.optim.Adam(group, fused=True) for group in groups]
        self._squares = {True: 0.0, False: 0.0}
        self._norm = 0.0
        self._handles = []
        if low_memory:
            for (name, parameter), adam in zip(self._parameters.items(), self._adams, strict=True):
                # Made between gradients that come and go, moments would leave holes in memory that hold none of them.
                adam.state[parameter] = {"step": parameter.new_zeros(()), **_moments_of(parameter)}
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._updating(name, adam)))

    def set_lr(self, lr: float) -> None:
        """The learning rate of the step to come; with `low_memory`, before its backward pass."""
        for adam in self._adams:
            adam.param_groups[0]["lr"] = lr

    def step(self) -> float:
        """Updates what the backward pass has not, and returns the norm of the whole gradient."""
        if self._low_memory:
            self._norm = self._joined(self._squares[True], self._squares[False])
            self._squares = {True: 0.0, False: 0.0}
            return self._norm
        squares = {True: 0.0, False: 0.0}
        gradients = [(name, p.grad) for name, p in self._parameters.items() if p.grad is not None]
        for name, gradient in gradients:
            squares[is_sharded(name)] += float(gradient.norm()) ** 2
        self._norm = self._joined(squares[True], squares[False])
        self._update(self._adams[0])
        self._adams[0].zero_grad()
        return self._norm

    def state(self) -> dict[str, Tensor]:
        """Moments and counts by the names of the parameters they belong to, and the last norm."""
        found = {"norm": torch.tensor(self._norm, dtype=torch.float64)}
        for name, parameter in self._parameters.items():
            held = self._adam_of(name).state.get(parameter, {})
            found |= {f"{part}/{name}": tensor for part, tensor in held.items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The state as it was."""
        self._norm = float(state["norm"])
        for name, parameter in self._parameters.items():
            parts = {part: state.get(f"{part}/{name}") for part in ("step", "exp_avg", "exp_avg_sq")}
            if parts["step"] is not None:
                self._adam_of(name).state[parameter] = {part: tensor.clone() for part, tensor in parts.items()}  # type: ignore[union-attr]

    def close(self) -> None:
        """Takes its hooks off the parameters, and lets go of the moments."""
        for handle in self._handles:
            handle.remove()
        for adam in self._adams:
            adam.state.clear()

    def _update(self, adam: torch.optim.Adam) -> None:
        # The fused update divides gradients by this on its way, which saves a pass over all of them.
        scale = max(1.0, self._norm / CLIP)
        adam.grad_scale = torch.tensor(scale, dtype=torch.float32)  # type: ignore[attr-defined]
        adam.step()

    def _adam_of(self, name: str) -> torch.optim.Adam:
        return self._adams[list(self._parameters).index(name) if self._low_memory else 0]

    def _joined(self, sharded: float, whole: float) -> float:
        return math.sqrt(float(self._total(torch.tensor(sharded, dtype=torch.float64))) + whole)

    def _updating(self, name: str, adam: torch.optim.Adam) -> Callable[[Tensor], None]:
        def update(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            self._squares[is_sharded(name)] += float(gradient.norm()) ** 2
            self._update(adam)
            parameter.grad = None

        return update


def _moments_of(parameter: Tensor) -> dict[str, Tensor]:
    return {part: torch.zeros_like(parameter, requires_grad=False) for part in ("exp_avg", "exp_avg_sq")}
