"""How pre-activations become activations while a transcoder is trained, and which of them have a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

ActivationName = Literal["jump_relu", "topk", "batch_topk", "relu"]
Gather = Callable[[Tensor], Tensor]
"""Lays the last dimensions of every shard's tensor side by side."""


def alone(values: Tensor) -> Tensor:
    """The gathering of a single shard: what it has."""
    return values


@dataclass(frozen=True)
class Others:
    """How values of the other processes are had, beside one's own.

    `of_features`: those of the same tokens, for the features that other shards have. `of_all`: those of every process,
    in one dimension. `n_replicas` have as many other tokens each.
    """

    of_features: Gather = alone
    of_all: Gather = alone
    n_replicas: int = 1


NOBODY = Others()


@dataclass(frozen=True)
class Rule:
    """An activation function and its numbers: `k` of TopK and BatchTopK, `bandwidth` of JumpReLU's estimate."""

    name: ActivationName
    k: int = 0
    bandwidth: float = 1.0


def candidates(
    h: Float[Tensor, "token feature"], rule: Rule, threshold: Float[Tensor, " feature"] | None, others: Others = NOBODY
) -> tuple[Int64[Tensor, " entry"], Int64[Tensor, " entry"], Float[Tensor, ""] | None]:
    """Tokens and features of all that is on or has a gradient, and the cut that had to be passed (None: by feature).

    JumpReLU: all above the lower end of the band in which its threshold learns. TopK: the positive ones among the k
    largest of each token, over all shards; the cut is the mean over tokens. BatchTopK: the positive ones among the k·B
    largest of the batch, over all processes' tokens and features, ties included. ReLU: the positive ones.
    """
    match rule.name:
        case "jump_relu":
            assert threshold is not None
            tokens, features = (h > threshold - rule.bandwidth / 2).nonzero(as_tuple=True)
            return tokens, features, None
        case "relu":
            tokens, features = (h > 0).nonzero(as_tuple=True)
            return tokens, features, h.new_zeros(())
        case "topk":
            top = h.topk(min(rule.k, h.shape[1]), sorted=False)
            everywhere = others.of_features(top.values)
            cut = everywhere.topk(min(rule.k, everywhere.shape[1])).values[:, -1:].clamp_min(0)
            index, order = top.indices.sort(-1)
            values = top.values.gather(1, order)
            tokens, place = ((values >= cut) & (values > 0)).nonzero(as_tuple=True)
            return tokens, index[tokens, place], cut.mean()
        case "batch_topk":
            n = rule.k * len(h) * others.n_replicas
            everywhere = others.of_all(h.flatten().topk(min(n, h.numel()), sorted=False).values)
            cut = everywhere.topk(min(n, len(everywhere)), sorted=False).values.min().clamp_min(0)
            # All that tie with the last, as a token does that is in the batch twice: which process has it is no matter.
            tokens, features = ((h >= cut) & (h > 0)).nonzero(as_tuple=True)
            return tokens, features, cut


def share_of_candidates(
    h: Float[Tensor, "token feature"], rule: Rule, threshold: Float[Tensor, " feature"] | None
) -> float:
    """How much of a dense matrix of activations is on or has a gradient: what the choice of backend goes by."""
    if rule.name in ("topk", "batch_topk"):
        return min(1.0, rule.k / h.shape[1])
    floor = 0 if threshold is None else threshold - rule.bandwidth / 2
    return float((h > floor).float().mean())
