"""Normalisation of what a transcoder reads and writes, folded into its weights once and for all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.transcoder.files.layers import Layer


@dataclass(frozen=True)
class Normalisation:
    """x̂ = x·read_scale − read_shift is what was encoded, and y = ŷ·write_scale + write_shift what was meant, per layer.

    Each is (layer, d_model), or (layer, 1) where one number serves the whole layer.
    """

    read_scale: Float[Tensor, "layer _"]
    read_shift: Float[Tensor, "layer _"]
    write_scale: Float[Tensor, "layer _"]
    write_shift: Float[Tensor, "layer _"]


def fold(layers: Sequence[Layer], by: Normalisation) -> list[Layer]:
    """The same transcoder for x and y as they are in the model. Its own units of activation stay as they were.

        W_enc x̂ + b_enc = (W_enc·read_scale) x + (b_enc − W_enc read_shift)
        ŷ^t·write_scale^t + write_shift^t: every decoder that writes layer t, b_dec^t and the skip into t are scaled;
        shifts are in units of activation, and stay

    Weights of 16 bits become float32, since scaling them in 16 would round; what is not changed stays mapped.
    """
    return [_fold_layer(layer, number, by) for number, layer in enumerate(layers)]


def _fold_layer(layer: Layer, number: int, by: Normalisation) -> Layer:
    d_model = len(layer.b_dec)
    shift = by.read_shift[number].double().expand(d_model)
    write_scale = by.write_scale[number]
    b_dec = layer.b_dec.double() * write_scale.double() + by.write_shift[number].double()
    W_skip = layer.W_skip
    if W_skip is not None:
        b_dec = b_dec - (shift @ W_skip.double()) * write_scale.double()
        W_skip = _times(_times(W_skip, by.read_scale[number].expand(d_model)[:, None]), write_scale)
    b_enc = layer.b_enc.double()
    if bool(shift.any()):
        b_enc = b_enc - layer.W_enc.double() @ shift
    written = slice(number, number + layer.W_dec.shape[1])
    return replace(
        layer,
        W_enc=_times(layer.W_enc, by.read_scale[number]),
        b_enc=b_enc.to(_wide(layer.b_enc)),
        W_dec=_times(layer.W_dec, by.write_scale[written]),
        b_dec=b_dec.to(_wide(layer.b_dec)),
        W_skip=W_skip,
    )


def _times(weights: Tensor, scale: Tensor) -> Tensor:
    return weights if bool((scale == 1).all()) else weights.to(_wide(weights)) * scale.to(_wide(weights))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
