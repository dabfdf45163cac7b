"""What the files of any format hold of one layer, and the step from all layers to a transcoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.errors import FileError, FitError, SettingError
from tl_circuits.transcoder.activations import Activation
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


@dataclass(frozen=True)
class Layer:
    """One layer in the type's own orientation, whatever the file's: rows of W_enc and W_dec are features."""

    W_enc: Float[Tensor, "feature d_model"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature written d_model"]
    b_dec: Float[Tensor, " d_model"]
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    shift: Float[Tensor, "feature written"] | None = None

    def up_to(self, written: int) -> "Layer":
        """The same layer with only so many of the layers that it writes."""
        shift = None if self.shift is None else self.shift[:, :written]
        return replace(self, W_dec=self.W_dec[:, :written], shift=shift)


def without_zero_shifts(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers, without shifts where all of them are 0: such shifts were never trained."""
    shifted = any(layer.shift is not None and bool(layer.shift.any()) for layer in layers)
    return list(layers) if shifted else [replace(layer, shift=None) for layer in layers]


def assemble(
    source: object,
    layers: Sequence[Layer],
    activation: Activation,
    *,
    read: str,
    write: str,
    model_name: str | None = None,
    processed_weights: bool = False,
) -> CrossLayerTranscoder:
    """The transcoder of these layers. Raises `FileError`, quoting `source`, where they make none."""
    W_skip = _of_all_or_none(source, "skip weights", [layer.W_skip for layer in layers])
    shift = _of_all_or_none(source, "shifts", [layer.shift for layer in layers])
    try:
        return CrossLayerTranscoder(
            [layer.W_enc for layer in layers],
            [layer.b_enc for layer in layers],
            [layer.W_dec for layer in layers],
            torch.stack([layer.b_dec for layer in layers]),
            activation=activation,
            W_skip=W_skip,
            shift=shift,
            read=read,
            write=write,
            model_name=model_name,
            processed_weights=processed_weights,
        )
    except (FitError, SettingError) as error:
        raise FileError(f"'{source}' holds weights that make no transcoder. {error}") from error


def _of_all_or_none(source: object, what: str, parts: Sequence[Tensor | None]) -> list[Tensor] | None:
    found = {number: part for number, part in enumerate(parts) if part is not None}
    if found and len(found) < len(parts):
        there = ", ".join(map(str, found))
        raise FileError(f"'{source}' has {what} for layers {there} of {len(parts)} only: fetch it again.")
    return list(found.values()) or None
