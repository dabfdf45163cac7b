"""An activation as a file states it: a name, a few numbers, and one tensor of thresholds per layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import FileError, SettingError
from tl_circuits.transcoder.activations import Activation, BatchTopK, GroupMax, JumpReLU, ReLU, TopK

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def describe(activation: Activation) -> dict[str, Any]:
    """The name and the numbers of an activation, all but JumpReLU's thresholds. `build` undoes it."""
    if isinstance(activation, ReLU):
        return {"name": "relu"}
    if isinstance(activation, JumpReLU):
        return {"name": "jump_relu", "bandwidth": activation.bandwidth}
    if isinstance(activation, TopK):
        return {"name": "topk", "k": activation.k, "relu": activation.relu}
    if isinstance(activation, GroupMax):
        return {"name": "groupmax", "k": activation.k}
    if isinstance(activation, BatchTopK):
        dtype = str(activation.threshold.dtype).removeprefix("torch.")
        # A double holds every number of the smaller dtypes, and is printed so that it reads back the same.
        threshold = activation.threshold.detach().double().tolist()
        return {"name": "batch_topk", "k": activation.k, "threshold": threshold, "dtype": dtype}
    raise FileError(
        f"The activation {type(activation).__name__} has no name in this file format: use ReLU, JumpReLU, TopK, "
        "GroupMax or BatchTopK."
    )


def threshold_at(activation: Activation, layer: int, n_features: int) -> Tensor | None:
    """θ of each feature of a layer, where the activation is h·1[h > θ] at inference; None where it is not."""
    if isinstance(activation, JumpReLU):
        return activation.at(layer).expand(n_features)
    if isinstance(activation, BatchTopK):
        return activation.threshold[layer].clamp(min=0).expand(n_features)
    return None


def build(details: object, thresholds: Sequence[Tensor | None], file: str) -> Activation:
    """The activation that `details` describes, with one tensor of thresholds per layer where there are any.

    Raises `FileError`, quoting `file`, where the two do not agree or say nothing that is known.
    """
    name = details.get("name") if isinstance(details, dict) else None
    if not isinstance(details, dict) or name not in ("relu", "jump_relu", "topk", "groupmax", "batch_topk"):
        raise FileError(
            f"activation: {details if name is None else name!r:.200} in '{file}' is unknown: relu, jump_relu, topk, "
            "groupmax and batch_topk are read."
        )
    present = [layer for layer, threshold in enumerate(thresholds) if threshold is not None]
    listed = ", ".join(map(str, present)) or "none"
    if name in ("jump_relu", "batch_topk") and len(present) < len(thresholds):
        raise FileError(
            f"Beside '{file}' there are thresholds for layers {listed} of {len(thresholds)} only: fetch the folder "
            "again."
        )
    if name in ("relu", "topk", "groupmax") and present:
        raise FileError(
            f"'{file}' says activation: {name}, but there are thresholds for layers {listed}. Leave activation out for "
            "JumpReLU, or take the thresholds out of the files."
        )
    try:
        return _build(details, [threshold for threshold in thresholds if threshold is not None])
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise FileError(
            f"'{file}' describes its activation as {details!s:.200}, and {problem}: correct it, or fetch the file "
            "again."
        ) from error
    except SettingError as error:
        raise FileError(f"'{file}' describes an activation that cannot be: {error}") from error


def jump_relu(thresholds: Sequence[Tensor], source: object, *, rectified: bool = False) -> Activation:
    """JumpReLU at these thresholds, one tensor per layer; `rectified` where the original takes max(h, 0) as well.

    h·1[h > θ]·1[h > 0] is h·1[h > max(θ, 0)], so a negative θ becomes 0. Raises `FileError`, quoting `source`.
    """
    if rectified:
        thresholds = [threshold.clamp(min=0) for threshold in thresholds]
    return build({"name": "jump_relu"}, thresholds, str(source))


def _build(details: dict[str, Any], thresholds: list[Tensor]) -> Activation:
    match details["name"]:
        case "relu":
            return ReLU()
        case "jump_relu":
            return JumpReLU(_stacked(thresholds), bandwidth=float(details.get("bandwidth", 1.0)))
        case "topk":
            return TopK(_count(details["k"]), relu=bool(details.get("relu", False)))
        case "groupmax":
            return GroupMax(_count(details["k"]))
        case _:
            numbers = [float(number) for number in details["threshold"]]
            if len(numbers) != len(thresholds):
                raise ValueError(f"{len(numbers)} thresholds do not suit {len(thresholds)} layers")
            return BatchTopK(_count(details["k"]), torch.tensor(numbers, dtype=_DTYPES[details["dtype"]]))


def _stacked(thresholds: list[Tensor]) -> Tensor:
    lengths = [len(threshold) for threshold in thresholds]
    if len(set(lengths)) == 1:
        return torch.stack(thresholds)
    values = torch.cat(thresholds).unique()
    if len(values) > 1:
        raise ValueError(
            f"its layers have {lengths} thresholds: JumpReLU is read where all layers have as many features"
        )
    return values[0]


def _count(k: object) -> int:
    if type(k) is not int or k < 1:
        raise ValueError(f"k: {k!r} is not a positive whole number")
    return k
