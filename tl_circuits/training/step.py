"""One batch through the weights: what it loses, and what its features did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import tl_circuits.training.losses as losses
from tl_circuits.training.codes import Backend, Charge, Codes, decode, encode
from tl_circuits.training.rules import NOBODY, Others, Rule, alone
from tl_circuits.training.weights import Weights

Penalty = Literal["tanh", "l1"]
Per = Literal["feature", "write", "direction"]
# Below these shares of entries with a gradient the sparse products are cheaper: a GPU's dense ones are far faster.
CROSSOVER = {"cpu": 0.15, "cuda": 0.005}


Squares = Mapping[tuple[int, int], Float[Tensor, " feature"]]
"""Squared norms of decoders' rows, by source and layer written."""


@dataclass(frozen=True)
class Costs:
    """What activations cost: by saturating tanh or by size (L1, of a·‖W_dec‖), by feature, layer written or direction.

    Per feature is the paper's. Per write charges ‖W_dec into one layer‖·a for every layer written, so that one feature
    writing two layers is no cheaper than two features writing one each. Per direction charges what a feature writes
    along the row into its own layer once, into however many layers, and what it writes beside that for every layer: a
    feature that is amplified over layers stays one, and one that takes a further step pays for it.
    """

    penalty: Penalty = "tanh"
    per: Per = "feature"
    saturation: float = 4.0

    @property
    def charge(self) -> Charge:
        """The cost of one activation times the norm of its decoder."""
        return partial(losses.saturating, saturation=self.saturation) if self.penalty == "tanh" else _as_it_is

    def of(self, weights: Weights, codes: Sequence[Codes]) -> Float[Tensor, ""]:
        """Σ over layers of what a token's activations cost on average."""
        parts = [self.of_layer(weights, source, code, squares_of(weights, source)) for source, code in enumerate(codes)]
        return torch.stack([part for of_layer in parts for part in of_layer]).sum()

    def of_layer(self, weights: Weights, source: int, code: Codes, squares: Squares) -> list[Float[Tensor, ""]]:
        """What a token's activations of one layer cost on average, by each norm that they are charged for."""
        return [code.charged(norm, self.charge) for norm in self._norms(weights, source, squares)]

    def _norms(self, weights: Weights, source: int, squares: Squares) -> list[Float[Tensor, " feature"]]:
        written = weights.shape.written(source)
        match self.per:
            case "feature":
                return [losses.norm_of([squares[source, layer] for layer in written])]
            case "write":
                return [losses.norm_of([squares[source, layer]]) for layer in written]
            case "direction":
                first, *further = (weights.table(source, layer) for layer in written)
                return losses.norms_by_direction(first, further)


def squares_of(weights: Weights, source: int) -> Squares:
    """The squared norms of a layer's decoders, by source and layer written."""
    written = weights.shape.written(source)
    return {(source, layer): losses.squared_norms(weights.table(source, layer)) for layer in written}


def _as_it_is(scaled: Tensor) -> Tensor:
    return scaled


@dataclass(frozen=True, eq=False)
class Passed:
    """A batch's codes, and what they lose, all still differentiable: errors, ŷ − y by layer, and what they `paid`.

    `means` are each layer's mean pre-activations, and `squares` squared norms of decoders.
    """

    codes: list[Codes]
    errors: list[Float[Tensor, "token d_model"]]
    squares: Squares
    means: list[Float[Tensor, " feature"]]
    paid: list[Float[Tensor, ""]]

    @property
    def reconstruction(self) -> Float[Tensor, ""]:
        """Σ_l FVU_l."""
        return losses.reconstruction(self.errors)

    @property
    def cost(self) -> Float[Tensor, ""]:
        """Σ over layers of what a token's activations cost on average."""
        return torch.stack(self.paid).sum()

    def fvu(self) -> list[float]:
        """Each layer's mean squared error, in normalised units its fraction of variance unexplained."""
        return [float(error.detach().square().mean()) for error in self.errors]

    def l0(self) -> list[float]:
        """Features active per token, by layer."""
        return [code.n_active() / code.n_tokens for code in self.codes]

    def fired(self) -> Bool[Tensor, "layer feature"]:
        """Which features were on at all."""
        return torch.stack([code.fired() for code in self.codes])

    def density(self) -> float:
        """The share of entries that are on or have a gradient."""
        return sum(code.density() for code in self.codes) / len(self.codes)


def passed(
    weights: Weights,
    x: Float[Tensor, "layer token d_model"],
    y: Float[Tensor, "layer token d_model"],
    rule: Rule,
    backend: Backend,
    others: Others = NOBODY,
    total: Callable[[Tensor], Tensor] = alone,
    working: torch.dtype = torch.float32,
    costs: Costs | None = None,
) -> Passed:
    """The batch through encoders and decoders; `others` and `total` join processes, `working` copies multiply.

    Without `costs` nothing is paid. All that a layer's features do comes together: the backward pass, which goes the
    same way back, then ends with a layer's activations and the gradients of its parameters before it begins with those
    of another.
    """
    shape = weights.shape
    outs = [x.new_zeros(x.shape[1:]) for _ in range(shape.n_layers)]
    codes, squares, means, paid = [], {}, [], []
    for source in range(shape.n_layers):
        W_enc, b_enc = weights[f"W_enc.{source}"], weights[f"b_enc.{source}"]
        code = encode(x[source], W_enc, b_enc, weights.threshold(source), rule, backend, others, working)
        means.append(torch.addmv(b_enc, W_enc, x[source].mean(0)))
        for layer in shape.written(source):
            table = weights.table(source, layer)
            outs[layer], squares[source, layer] = decode(outs[layer], code, table, working)
        paid += [] if costs is None else costs.of_layer(weights, source, code, squares)
        codes.append(code)
    return Passed(codes, _errors(weights, total(torch.stack(outs)), x, y), squares, means, paid)


def _errors(
    weights: Weights,
    written: Float[Tensor, "layer token d_model"],
    x: Float[Tensor, "layer token d_model"],
    y: Float[Tensor, "layer token d_model"],
) -> list[Float[Tensor, "token d_model"]]:
    errors = []
    for layer in range(weights.shape.n_layers):
        out = written[layer] + weights["b_dec"][layer]
        out = out + x[layer] @ weights[f"W_skip.{layer}"] if weights.shape.skip else out
        errors.append(out - y[layer])
    return errors


def revived(weights: Weights, batch: Passed, dead: Bool[Tensor, "layer feature"]) -> Float[Tensor, ""]:
    """The dead-feature term of the batch. None of the dead may have fired in it."""
    parts = []
    for layer, (code, mean) in enumerate(zip(batch.codes, batch.means, strict=True)):
        norm = losses.norm_of([batch.squares[layer, to] for to in weights.shape.written(layer)])
        parts.append(losses.revival_of_silent(mean, code.cut, norm, dead[layer]))
    return torch.stack(parts).sum()


def cheaper(density: float, device: str) -> Backend:
    """The backend whose step costs less at a density of entries with a gradient, as measured on processors."""
    return "sparse" if density < CROSSOVER.get(device, CROSSOVER["cuda"]) else "dense"
