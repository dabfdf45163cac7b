"""What the files of any format hold of one layer, and the step from all layers to a transcoder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.errors import FileError, FitError, SettingError
from tl_circuits.transcoder.activations import Activation
from tl_circuits.transcoder.files.tensors import PICKLES
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
    source: Path,
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


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """What lies in a folder under a name that matches, by the number in it, lowest first: 2 comes before 10."""
    found = {
        int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name)) is not None
    }
    return dict(sorted(found.items()))


def every_layer(folder: Path, found: Mapping[int, Path], name: str) -> list[Path]:
    """The paths in the order of their layers. Raises `FileError` where one of layers 0, 1, … is missing.

    `name` is what the missing one is called, with `{}` for its number.
    """
    if not found:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
        refused = (
            f" {pickled[0]} was left shut, since such files can run code: convert it to safetensors." if pickled else ""
        )
        raise FileError(f"'{folder}' has no {name.format(0)} (it holds {listed(folder)}): fetch it whole.{refused}")
    n_layers = max(found) + 1
    if len(found) < n_layers:
        missing = next(layer for layer in range(n_layers) if layer not in found)
        raise FileError(
            f"'{folder}' has no {name.format(missing)}; files of layers {', '.join(map(str, sorted(found)))} are "
            f"there, and {n_layers - len(found)} of {n_layers} are missing: fetch them, or undo the renaming."
        )
    return [found[layer] for layer in sorted(found)]


def listed(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:6]) or "nothing") + (f" and {len(names) - 6} more" if len(names) > 6 else "")
