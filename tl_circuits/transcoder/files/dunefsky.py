"""Dunefsky et al. 2024 ("Transcoders find interpretable LLM feature circuits"): pickled, so only converted.

A file for each layer, {"cfg": settings of the training run, "state_dict": {W_enc (d_model, feature), b_enc, W_dec
(feature, d_model), b_dec (d_model), b_dec_out (d_model)}}:

    a = max((x − b_dec) W_enc + b_enc, 0),  ŷ = a W_dec + b_dec_out

cfg.hook_point names x, such as blocks.8.ln2.hook_normalized, and cfg.out_hook_point ŷ. They were trained on models
with processed weights (norms folded, writing weights centred, as HookedTransformer does unasked): trace such a one.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.activations import ReLU
from tl_circuits.transcoder.files.circuit_tracer import save
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import every_layer, listed
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


class _Settings:
    """Stands in for the class of `cfg`: its attributes are filled in as plain data, and nothing of it is run."""


def convert(source: str | Path, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Convert a folder of Dunefsky et al.'s `.pt` files, one for each layer, to a folder that is loaded; returns it.

    This is the only place where a `.pt` file is opened, by `torch.load(weights_only=True)`, which builds tensors and
    plain data and refuses everything else.

    Raises `FileError` where a layer is missing, a file holds anything else, or `folder` cannot be written.
    """
    return save(read(Path(source).expanduser()), Path(folder), overwrite=overwrite)


def read(source: Path) -> CrossLayerTranscoder:
    """The transcoder in a folder of `.pt` files; see `convert`."""
    paths = sorted(source.glob("*.pt")) if source.is_dir() else []
    if not paths:
        held = f"it holds {listed(source)}" if source.is_dir() else "it is no folder"
        raise FileError(f"'{source}' has no .pt files ({held}): give the folder with one transcoder for each layer.")
    opened = {path: _open(path) for path in paths}
    found: dict[int, Path] = {}
    for path, (settings, _) in opened.items():
        layer = _point(path, settings, "hook_point")[0]
        if layer in found:
            raise FileError(f"'{found[layer]}' and '{path}' are both of layer {layer}: leave one of them there.")
        found[layer] = path
    ordered = every_layer(source, dict(sorted(found.items())), "transcoder of layer {}")
    layers = [_layer(path, opened[path][1]) for path in ordered]
    places = {
        tuple(_point(path, opened[path][0], end)[1] for end in ("hook_point", "out_hook_point")) for path in paths
    }
    names = {opened[path][0].get("model_name") for path in paths}
    if len(places) > 1 or len(names) > 1:
        raise FileError(f"The files in '{source}' are of {sorted(places)} in {names}: keep those of one kind there.")
    hook, out = places.pop()
    name = names.pop()
    model_name = name if isinstance(name, str) else None
    return assemble(source, layers, ReLU(), read=hook, write=out, model_name=model_name, processed_weights=True)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the weights of a file, as plain data."""
    stand_in: Any = (_Settings, "sae_training.config.LanguageModelSAERunnerConfig")
    try:
        # Files of an early protocol are warned about before they are refused.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([stand_in]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # Whatever a damaged or hostile file does to its reader, it is the file that is at fault.
    except Exception as error:
        problem = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise FileError(
            f"'{path}' cannot be read as weights and plain settings ({problem}): it is damaged, or holds what could "
            "run code, and was left unread. Fetch it again."
        ) from error
    settings = content.get("cfg") if isinstance(content, dict) else None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(settings, _Settings) or not isinstance(weights, dict):
        raise FileError(f"'{path}' does not hold cfg and state_dict of a transcoder by Dunefsky et al.: is it another?")
    return vars(settings), weights


def _point(path: Path, settings: dict[str, Any], name: str) -> tuple[int, str]:
    """The layer and the hook point of a setting such as blocks.8.ln2.hook_normalized."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(settings.get(name)))
    if match is None:
        raise FileError(
            f"cfg.{name} in '{path}' is {settings.get(name)!r}, but the hook point of a block was expected, such as "
            "blocks.8.ln2.hook_normalized: is it a transcoder?"
        )
    return int(match[1]), match[2]


def _layer(path: Path, weights: dict[str, Tensor]) -> Layer:
    W_enc = _get(path, weights, "W_enc", None, None)
    d_model, n_features = W_enc.shape
    b_dec, b_enc = _get(path, weights, "b_dec", d_model), _get(path, weights, "b_enc", n_features)
    return Layer(
        W_enc.T,
        (b_enc.double() - b_dec.double() @ W_enc.double()).to(b_enc.dtype),
        _get(path, weights, "W_dec", n_features, d_model).unsqueeze(1),
        _get(path, weights, "b_dec_out", d_model),
    )


def _get(path: Path, weights: dict[str, Tensor], name: str, *shape: int | None) -> Tensor:
    tensor = weights.get(name)
    fits = (
        isinstance(tensor, Tensor)
        and tensor.ndim == len(shape)
        and all(want in (None, have) for want, have in zip(shape, tensor.shape, strict=True))
    )
    if tensor is None or not fits:
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "not there"
        raise FileError(f"{name} in '{path}' is {found}, but shape ({expected}) was expected: is it another file?")
    return tensor
