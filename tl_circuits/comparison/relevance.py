"""The rules of relevance propagation, by which RelP goes backward where attribution patching takes gradients.

A pass under these rules computes what the model computes; only what a change is worth is told differently. A norm
divides by a constant (LN-rule), an activation function multiplies its input by the constant act(x) / x (identity rule),
and of a gate's product each factor is worth one half (half rule). With attention patterns held as well (AH-rule) all
that is left is affine. Jafari et al. 2025, "RelP"; the rules are of Ali et al. 2022 (norms, attention),
Jafari et al. 2024 (activations) and Arras et al. 2019 (products).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_circuits.errors import FitError
from tl_circuits.hooks import Model, Tap
from tl_circuits.sites import activation_taps, gate_taps, scale_taps


def relevance_rules(model: Model) -> Mapping[Tap, Callable[[Tensor], Tensor | None]]:
    """What to install for a backward pass by these rules. Raises `FitError` where the model does not show its neurons.

    A cap on logits, where there is one, keeps its own slope: no rule is given for it.
    """
    functions: dict[Tap, Callable[[Tensor], Tensor | None]] = dict.fromkeys(scale_taps(model), torch.detach)
    ends, gates = activation_taps(model), gate_taps(model)
    for layer, (before, after) in enumerate(ends):
        rule = _Rule()
        functions |= {before: rule.read, after: rule.written}
        if gates:
            functions[gates[layer]] = rule.gated
    return functions


@dataclass(eq=False)
class _Rule:
    """One layer's neurons: what their activation function has read in this pass, and what it is multiplied with."""

    entered: Tensor | None = None
    factor: Tensor | None = None

    def read(self, value: Tensor) -> None:
        self.entered, self.factor = value, None

    def gated(self, value: Tensor) -> Tensor:
        # Where nothing before it is asked for, as where parameters are held, its slope is asked for all the same.
        self.factor = value if value.requires_grad else value.detach().requires_grad_()
        return self.factor

    def written(self, value: Tensor) -> Tensor | None:
        entered, factor = self.entered, self.factor
        if entered is None or not value.requires_grad:
            return None
        if entered.shape != value.shape:
            raise FitError(
                f"An activation function of this model reads {entered.shape[-1]} numbers a token and gives "
                f"{value.shape[-1]}, as where gate and input are one: its rules are not known. Score by 'ig-inputs'."
            )
        if factor is None:
            return value.detach() + _moved(entered) * _ratio(value.detach(), entered.detach())
        # By its slope in the other factor: HookedTransformer adds b_in to the product, so a quotient would not do.
        (activation,) = torch.autograd.grad(value.sum(), factor, retain_graph=True)
        ratio = _ratio(activation, entered.detach()) * factor.detach()
        return value.detach() + (_moved(factor) * activation + _moved(entered) * ratio) / 2


def _moved(value: Tensor) -> Tensor:
    """Zero, that moves as the value does."""
    return value - value.detach()


def _ratio(written: Tensor, entered: Tensor) -> Tensor:
    # All activation functions give 0 for 0, which explains nothing.
    return torch.where(entered == 0, 0, written / entered)
