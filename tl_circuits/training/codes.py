"""What one layer's features are on a batch, dense or sparse: the same numbers and gradients, at different cost.

Dense codes are a matrix and ordinary autograd. Sparse codes are the entries that are on or have a gradient, with
gradients written out. The forward product with the encoder is dense in both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import tl_circuits.training.losses as losses
from tl_circuits.training.pattern import Pattern
from tl_circuits.training.rules import NOBODY, Others, Rule, candidates, share_of_candidates
from tl_circuits.transcoder.activations import jump

Backend = Literal["dense", "sparse"]
Charge = Callable[[Tensor], Tensor]
"""What an activation, times the norm of its decoder, costs."""


class Codes(ABC):
    """One layer's activations on a batch. `cut` is what pre-activations had to pass, by feature or for all."""

    cut: Tensor

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """The tokens of the batch."""

    @abstractmethod
    def charged(self, norm: Float[Tensor, " feature"], charge: Charge) -> Float[Tensor, ""]:
        """E_token Σ_i charge(norm_i · a_i), for a charge of nothing on nothing."""

    @abstractmethod
    def fired(self) -> Bool[Tensor, " feature"]:
        """Which features are on at any token."""

    @abstractmethod
    def n_active(self) -> int:
        """How many activations of the batch are on."""

    @abstractmethod
    def density(self) -> float:
        """The share of entries that are on or have a gradient."""


class DenseCodes(Codes):
    """Activations as a matrix."""

    def __init__(self, values: Float[Tensor, "token feature"], cut: Tensor, density: Callable[[], float]) -> None:
        self.values, self.cut, self._density = values, cut, density

    @property
    def n_tokens(self) -> int:
        return len(self.values)

    def charged(self, norm: Float[Tensor, " feature"], charge: Charge) -> Float[Tensor, ""]:
        return charge(norm * self.values).sum() / self.n_tokens

    def fired(self) -> Bool[Tensor, " feature"]:
        return (self.values > 0).any(0)

    def n_active(self) -> int:
        return int((self.values > 0).sum())

    def density(self) -> float:
        return self._density()


class SparseCodes(Codes):
    """Activations as a list. Values are of all entries with a gradient, 0 where a feature is off; `on` says which."""

    def __init__(
        self, values: Float[Tensor, " entry"], pattern: Pattern, on: Bool[Tensor, " entry"] | None, cut: Tensor
    ) -> None:
        self.values, self.pattern, self.on, self.cut = values, pattern, on, cut
        self.active = pattern if on is None else pattern.where(on)

    @property
    def n_tokens(self) -> int:
        return self.pattern.shape[0]

    def charged(self, norm: Float[Tensor, " feature"], charge: Charge) -> Float[Tensor, ""]:
        return charge(norm[self.pattern.features] * self.values).sum() / self.n_tokens

    def fired(self) -> Bool[Tensor, " feature"]:
        return torch.bincount(self.active.features, minlength=self.pattern.shape[1]) > 0

    def n_active(self) -> int:
        return len(self.active.features)

    def density(self) -> float:
        return len(self.pattern.features) / max(1, self.pattern.shape[0] * self.pattern.shape[1])


def encode(
    x: Float[Tensor, "token d_model"],
    W_enc: Float[Tensor, "feature d_model"],
    b_enc: Float[Tensor, " feature"],
    threshold: Float[Tensor, " feature"] | None,
    rule: Rule,
    backend: Backend,
    others: Others = NOBODY,
    working: torch.dtype = torch.float32,
) -> Codes:
    """The codes of one layer. No gradient flows to x, which is data; `working` is what is multiplied with W_enc."""
    if backend == "sparse":
        with torch.no_grad():
            h = _preactivations(x, W_enc, b_enc, working)
            tokens, features, cut = candidates(h, rule, threshold, others)
            at, pattern = h[tokens, features], Pattern(tokens, features, (h.shape[0], h.shape[1]))
            on = None if threshold is None else at > threshold[features]
        values = cast(Tensor, _Values.apply(W_enc, b_enc, threshold, x, at, pattern, on, rule.bandwidth))
        return SparseCodes(values, pattern, on, cast(Tensor, threshold if cut is None else cut))
    h = _preactivations(x, W_enc, b_enc, working)

    def density() -> float:
        return share_of_candidates(h.detach(), rule, threshold)

    if threshold is not None:
        return DenseCodes(jump(h, threshold, rule.bandwidth), threshold, density)
    tokens, features, cut = candidates(h.detach(), rule, None, others)
    kept = torch.zeros_like(h).index_put((tokens, features), h.new_ones(()))
    return DenseCodes(h * kept, cast(Tensor, cut), density)


def _preactivations(x: Tensor, W_enc: Tensor, b_enc: Tensor, working: torch.dtype) -> Float[Tensor, "token feature"]:
    return torch.addmm(b_enc, x, W_enc.T) if _exact(working) else b_enc + x.to(working) @ W_enc.to(working).T


def _exact(working: torch.dtype) -> bool:
    return working is torch.float32


def decode(
    out: Float[Tensor, "token d_model"],
    code: Codes,
    table: Float[Tensor, "feature d_model"],
    working: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, " feature"]]:
    """out + a @ table, what the features of one layer write into another, and each row's squared norm.

    Both come together, so that the gradient of a table is written once; `out` is used up. With bfloat16 for `working`,
    copies of the tables are multiplied and sums over layers are float32; where codes are sparse, gradients are those of
    the tables themselves.
    """
    if isinstance(code, SparseCodes):
        return cast(tuple[Tensor, Tensor], _Decoded.apply(out, code.values, table, code, working))
    values, square = cast(DenseCodes, code).values, losses.squared_norms(table)
    if _exact(working):
        return torch.addmm(out, values, table), square
    return out + values.to(working) @ table.to(working), square


class _Values(torch.autograd.Function):
    """Activations at a list of entries, of pre-activations that were computed for all."""

    @staticmethod
    def forward(
        ctx: Any,
        _W_enc: Tensor,
        _b_enc: Tensor,
        threshold: Tensor | None,
        x: Tensor,
        h: Tensor,
        pattern: Pattern,
        on: Tensor | None,
        bandwidth: float,
    ) -> Tensor:
        ctx.save_for_backward(threshold, x, h, on)
        ctx.pattern, ctx.bandwidth = pattern, bandwidth
        return h.clone() if on is None else h * on

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        assert grad is not None
        threshold, x, h, on = ctx.saved_tensors
        pattern, to_threshold = ctx.pattern, None
        to_h = grad if on is None else grad * on
        n_features = pattern.shape[1]
        if threshold is not None:
            at = threshold[pattern.features]
            near = (h - at).abs() < ctx.bandwidth / 2
            pulled = -(at / ctx.bandwidth) * near * grad
            to_threshold = grad.new_zeros(n_features).index_add_(0, pattern.features, pulled)
        to_bias = grad.new_zeros(n_features).index_add_(0, pattern.features, to_h)
        return pattern.to_features(to_h, x), to_bias, to_threshold, None, None, None, None, None


class _Decoded(torch.autograd.Function):
    """What sparse codes of one layer add to what is written into another."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, values: Tensor, table: Tensor, code: SparseCodes, working: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, table)
        ctx.code = code
        ctx.mark_dirty(out)
        # Norms first: read row after row, the table is in the cache when bags pick rows of it.
        square = torch.linalg.vector_norm(table, dim=1).square_()
        on = values if code.on is None else values[code.on]
        exact = _exact(working)
        out += code.active.to_tokens(on, table) if exact else code.active.to_tokens(on.to(working), table.to(working))
        return out, square

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        code: SparseCodes = ctx.code
        values, table = ctx.saved_tensors
        to_out, to_square = grad_outputs
        out = table.new_zeros(code.n_tokens, table.shape[1]) if to_out is None else to_out.contiguous()
        to_table = code.active.to_features(values if code.on is None else values[code.on], out)
        if to_square is not None:
            to_table.addcmul_(table, (2 * to_square)[:, None])
        return to_out, code.pattern.inner(out, table), to_table, None, None
