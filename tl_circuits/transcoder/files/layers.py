"""What the files of any format hold of one layer, and the step from all layers to a transcoder."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    has_skip = [layer.W_skip is not None for layer in layers]
    if any(has_skip) and not all(has_skip):
        there = ", ".join(str(number) for number, flag in enumerate(has_skip) if flag)
        raise FileError(f"'{source}' has skip weights for layers {there} of {len(layers)} only: fetch it again.")
    try:
        return CrossLayerTranscoder(
            [layer.W_enc for layer in layers],
            [layer.b_enc for layer in layers],
            [layer.W_dec for layer in layers],
            torch.stack([layer.b_dec for layer in layers]),
            activation=activation,
            W_skip=[layer.W_skip for layer in layers if layer.W_skip is not None] if all(has_skip) else None,
            read=read,
            write=write,
            model_name=model_name,
            processed_weights=processed_weights,
        )
    except (FitError, SettingError) as error:
        raise FileError(f"'{source}' holds weights that make no transcoder. {error}") from error
