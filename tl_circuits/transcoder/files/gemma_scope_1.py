"""Gemma Scope 1: per-layer transcoders of Gemma 2, one NumPy archive for each layer (Lieberum et al. 2024).

    layer_{l}/width_16k/average_l0_{N}/params.npz   W_enc (d_model, feature), W_dec (feature, d_model), b_enc (feature),
                                                    b_dec (d_model), threshold (feature)

    a = max(h, 0)·1[h > threshold],  h = x W_enc + b_enc,  ŷ = a W_dec + b_dec

x is `ln2.hook_normalized`: the norm's gain was folded into the MLP before training. ŷ is what is added to the residual
stream, after the second norm: `hook_mlp_out` (section "Language model technical details" and the release's README).

A width is a variant. Where the layers offer several sparsities, a variant is `width_16k/average_l0_{N}`: at each layer,
the one whose average L0 is nearest to N, since no N is offered at all layers.
"""

import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.activations import jump_relu
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import Format, every_layer, numbered
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_PARAMS = "params.npz"


def choices(folder: Path) -> tuple[str, ...]:
    """The widths that lie in the folder, each with its average L0 where a layer offers more than one."""
    widths: dict[str, dict[int, int]] = {}
    for layer, path in numbered(folder, r"layer_(\d+)").items():
        for width in sorted(path.glob("width_*")):
            widths.setdefault(width.name, {})[layer] = len(_sparsities(width))
    found: list[str] = []
    for width, layers in sorted(widths.items()):
        if max(layers.values()) > 1:
            found += [f"{width}/average_l0_{l0}" for l0 in sorted(_sparsities(folder / f"layer_{min(layers)}" / width))]
        elif any(layers.values()):
            found.append(width)
    return tuple(found) if len(found) > 1 else ("",) * len(found)


def load(folder: Path, choice: str) -> CrossLayerTranscoder:
    """Read all layers of one width, each memory-mapped from its archive."""
    layers, thresholds, d_model = [], [], None
    for path in _paths(folder, choice):
        layer, threshold = read_layer(path, d_model)
        d_model = len(layer.b_dec)
        layers.append(layer)
        thresholds.append(threshold)
    activation = jump_relu(thresholds, folder, rectified=True)
    return assemble(folder, layers, activation, read="ln2.hook_normalized", write="hook_mlp_out")


def read_layer(path: Path, d_model: int | None) -> tuple[Layer, Tensor]:
    """One layer and its thresholds, `d_model` wide where that is known already."""
    arrays = _open(path)
    W_enc = _get(path, arrays, "W_enc", d_model, None)
    d_model, n_features = W_enc.shape
    layer = Layer(
        W_enc.T,
        _get(path, arrays, "b_enc", n_features),
        _get(path, arrays, "W_dec", n_features, d_model).unsqueeze(1),
        _get(path, arrays, "b_dec", d_model),
    )
    return layer, _get(path, arrays, "threshold", n_features)


def _paths(folder: Path, choice: str) -> list[Path]:
    layers = every_layer(folder, numbered(folder, r"layer_(\d+)"), "layer_{}")
    width, _, sparsity = choice.partition("/")
    paths = []
    for layer in layers:
        here = layer / width if width else next(iter(sorted(layer.glob("width_*"))), layer / "width_16k")
        found = _sparsities(here)
        if not found:
            raise FileError(f"'{here}' has no average_l0_*/{_PARAMS}: fetch this layer again, or choose another width.")
        wanted = int(sparsity.removeprefix("average_l0_")) if sparsity else next(iter(found))
        paths.append(found[min(found, key=lambda l0: (abs(l0 - wanted), l0))])
    return paths


def _sparsities(width: Path) -> dict[int, Path]:
    """The archives of one layer and width by their average L0."""
    found = {
        int(match[1]): path / _PARAMS
        for path in sorted(width.glob("average_l0_*"))
        if (match := re.fullmatch(r"average_l0_(\d+)", path.name)) and (path / _PARAMS).is_file()
    }
    return dict(sorted(found.items()))


def _open(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive. Nothing in it is unpickled, and what is stored uncompressed is mapped, not read."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    arrays[member.filename.removesuffix(".npy")] = torch.from_numpy(_array(path, archive, member))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, TypeError, SyntaxError, struct.error) as error:
        raise FileError(
            f"'{path}' is not a whole NumPy archive of plain numbers ({error}): fetch it again. Arrays of Python "
            "objects are pickles, and are not opened."
        ) from error
    return arrays


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    with path.open("rb") as file:
        # The member's own header lies before its data; two of its fields vary in length, and say so at bytes 26 to 30.
        file.seek(member.header_offset)
        names = struct.unpack("<HH", file.read(30)[26:])
        file.seek(member.header_offset + 30 + sum(names))
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        start = file.tell()
    if start + dtype.itemsize * int(np.prod(shape)) > path.stat().st_size:
        raise ValueError(f"{member.filename} ends beyond the end of the file")
    # Copy on write: torch asks for memory that may be written to, and the file stays as it is.
    return np.memmap(path, dtype, mode="c", offset=start, shape=shape, order="F" if by_column else "C")


def _get(path: Path, arrays: dict[str, Tensor], name: str, *shape: int | None) -> Tensor:
    if name not in arrays:
        raise FileError(f"'{path}' holds {', '.join(sorted(arrays)) or 'no array'}, but no {name}: is it another file?")
    tensor = arrays[name]
    fits = tensor.ndim == len(shape) and all(w in (None, h) for w, h in zip(shape, tensor.shape, strict=True))
    if not fits or not tensor.is_floating_point():
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise FileError(
            f"{name} in '{path}' is {tensor.dtype} of shape {tuple(tensor.shape)}, but floating point numbers of shape "
            f"({expected}) were expected from the layout and the files before it: fetch the file again."
        )
    return tensor


GEMMA_SCOPE_1 = Format("gemma-scope-1", choices, _paths, load)
