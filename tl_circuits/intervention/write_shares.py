"""Which layers' features write what is explained of each MLP: how far a cross-layer transcoder reaches over layers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64

from tl_circuits.errors import SettingError
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import decoded


@dataclass(frozen=True, eq=False)
class WriteShares:
    """What features of each layer (row) write of what is explained of each MLP (column), b_dec apart.

    - `projection`: Σ ⟨ŷ_s, ŷ⟩ / Σ ‖ŷ‖² over positions. A column sums to 1; a share is below 0 where a layer writes
      against the others. NaN where nothing is written.
    - `norm`: Σ ‖ŷ_s‖ as a share of its sum over layers.

    A per-layer transcoder has ones on the diagonal. A cross-layer share alone does not tell hop collapse from one
    feature that stands for a chain of alike ones.
    """

    projection: Float64[torch.Tensor, "source written"]
    norm: Float64[torch.Tensor, "source written"]

    @property
    def across(self) -> list[float]:
        """For each MLP, the share of the projection that features of lower layers write."""
        return (1 - self.projection.diagonal()).tolist()

    def to_dict(self) -> dict[str, Any]:
        """Both matrices as lists of rows; None where nothing is written."""
        return {
            name: [[None if value != value else value for value in row] for row in getattr(self, name).tolist()]
            for name in ("projection", "norm")
        }

    def __repr__(self) -> str:
        return f"WriteShares(across layers {', '.join(f'{share:.2f}' for share in self.across)})"


def write_shares(local: LocalReplacementModel) -> WriteShares:
    """The cross-layer write shares of one prompt, over its positions that are not masked."""
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"{type(local).__name__} is no local replacement model: give tlc.localize(model, clt, prompt)."
        )
    features, activations = local.features, local.activations
    parts = []
    for layer in range(local.n_layers):
        here = features[:, 0] == layer
        parts.append(decoded(local.transcoder, features[here], activations[here], local.n_pos))
    written = torch.stack(parts).to(torch.float64).cpu()
    whole = written.sum(0)
    projection = (written * whole).sum((2, 3)) / whole.square().sum((1, 2))
    norms = written.norm(dim=3).sum(2)
    return WriteShares(projection, norms / norms.sum(0))
