"""The activations of a few features of a layer, where the transcoder's activation lets them be had alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.transcoder import BatchTopK, CrossLayerTranscoder, JumpReLU, ReLU

CELLS = 2**22
"""Activations that are in memory at once."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Chosen features of one layer."""

    transcoder: CrossLayerTranscoder
    layer: int
    index: Int64[Tensor, " feature"]

    def slices(self, n_tokens: int) -> Iterator[slice]:
        """The features in parts, each as wide as `CELLS` allows for so many tokens."""
        width = max(1, CELLS // max(n_tokens, 1))
        return (slice(first, min(first + width, len(self.index))) for first in range(0, len(self.index), width))

    def encode(self, x: Float[Tensor, "*batch d_model"], columns: slice) -> Float[Tensor, "*batch feature"]:
        """The activations of the features of these columns, as the transcoder's `encode` has them."""
        layer, index = self.layer, self.index[columns].to(self.transcoder.W_enc[self.layer].device)
        kind = self.transcoder.activation
        if not alone(self.transcoder):
            return self.transcoder.encode(x, layer)[..., index.to(x.device)]
        h = x @ self.transcoder.W_enc[layer][index].to(x).T + self.transcoder.b_enc[layer][index].to(x)
        if isinstance(kind, JumpReLU):
            threshold = kind.at(layer)
            threshold = (threshold[index.to(threshold.device)] if threshold.ndim else threshold).to(h)
            return h * (h > threshold)
        return h.relu() if isinstance(kind, ReLU) else kind(h, layer)


def alone(transcoder: CrossLayerTranscoder) -> bool:
    """Whether a feature's activation does not depend on the other features'."""
    return isinstance(transcoder.activation, ReLU | JumpReLU | BatchTopK)
