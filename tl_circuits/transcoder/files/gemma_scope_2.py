"""Gemma Scope 2: transcoders of Gemma 3, cross-layer and per-layer, with or without an affine skip connection.

    clt/width_262k_l0_medium_affine/   config.json, params_layer_{l}.safetensors
    transcoder_all/layer_{l}_width_16k_l0_small_affine/   config.json, params.safetensors

    w_enc (d_model, feature), b_enc (feature), threshold (feature), b_dec (d_model), affine_skip_connection
    (d_model, d_model), and w_dec: (feature, d_model) per layer, (feature, L, d_model) cross-layer, whose column t is
    for layer t; those below the feature's own layer are not used

    a = max(h, 0)·1[h > threshold],  h = x w_enc + b_enc,  ŷ^t = Σ_{s≤t} a^s w_dec^s[:, t] + b_dec^t + x^t affine^t

x is what the norm before the MLP gives, gain included (`mlp.hook_in`), ŷ what the norm after it gives (`hook_mlp_out`):
config.json's `hf_hook_point_in` and `hf_hook_point_out` say so, and are followed where they are there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.activations import jump_relu
from tl_circuits.transcoder.files.configs import Config, read_json
from tl_circuits.transcoder.files.hf_names import read_point, write_point
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import Format, every_layer, numbered
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_CONFIG = "config.json"
_CROSS_LAYER = r"params_layer_(\d+)\.safetensors"


def choices(folder: Path) -> tuple[str, ...]:
    """One cross-layer transcoder, or the widths and sparsities of the per-layer ones in the folder."""
    # Autoencoders of the same releases lie in files of the same names, below folders named for what they read.
    if folder.name.startswith(("resid_", "attn_", "mlp_", "crosscoder")):
        return ()
    if numbered(folder, _CROSS_LAYER):
        return ("",)
    names = (re.fullmatch(r"layer_\d+_(width_.+)", path.parent.name) for path in folder.glob("*/params.safetensors"))
    return tuple(sorted({match[1] for match in names if match is not None}))


def load(folder: Path, choice: str) -> CrossLayerTranscoder:
    """Read a cross-layer transcoder, or all layers of one width and sparsity."""
    weights = _weights(folder, choice)
    files = [open_tensors(path) for path in weights]
    configs = _configs(weights)
    layers, thresholds, d_model = [], [], None
    for number, file in enumerate(files):
        layer, threshold = read_layer(file, number, d_model, len(files))
        d_model = len(layer.b_dec)
        layers.append(layer)
        thresholds.append(threshold)
    read, write, model_name = _places([read_json(path) for path in configs])
    activation = jump_relu(thresholds, folder, rectified=True)
    return assemble(folder, layers, activation, read=read, write=write, model_name=model_name)


def _weights(folder: Path, choice: str) -> list[Path]:
    """The weights of every layer, in order."""
    if not choice:
        return every_layer(folder, numbered(folder, _CROSS_LAYER), "params_layer_{}.safetensors")
    found = every_layer(folder, numbered(folder, rf"layer_(\d+)_{re.escape(choice)}"), f"layer_{{}}_{choice}")
    return [path / "params.safetensors" for path in found]


def _configs(weights: Sequence[Path]) -> list[Path]:
    """Those that lie beside the weights, each once."""
    beside = dict.fromkeys(path.parent / _CONFIG for path in weights)
    return [path for path in beside if path.is_file()]


def _files(folder: Path, choice: str) -> list[Path]:
    weights = _weights(folder, choice)
    return [*weights, *_configs(weights)]


def read_layer(file: TensorFile, number: int, d_model: int | None, n_layers: int) -> tuple[Layer, Tensor]:
    """Layer `number` of `n_layers` and its thresholds, `d_model` wide where that is known already."""
    W_enc = file.get("w_enc", d_model, None)
    d_model, n_features = W_enc.shape
    layer = Layer(
        W_enc.T,
        file.get("b_enc", n_features),
        _decoder(file, number, n_features, d_model, n_layers),
        file.get("b_dec", d_model),
        file.find("affine_skip_connection", d_model, d_model),
    )
    return layer, file.get("threshold", n_features)


def _decoder(file: TensorFile, number: int, n_features: int, d_model: int, n_layers: int) -> Tensor:
    written = file.shapes.get("w_dec", ())
    if len(written) == 2:
        return file.get("w_dec", n_features, d_model).unsqueeze(1)
    if len(written) == 3 and written[1] != n_layers:
        raise FileError(
            f"w_dec in '{file.path}' has columns for {written[1]} layers, but files of {n_layers} layers are there: "
            "fetch the missing ones."
        )
    return file.get("w_dec", n_features, n_layers, d_model)[:, number:]


def _places(configs: Sequence[Config]) -> tuple[str, str, str | None]:
    """Where all layers read and write, and the model's name on the hub."""
    reads, writes, names = {"mlp.hook_in"}, {"hook_mlp_out"}, {None}
    if configs:
        reads = {point for config in configs for point in _read_points(config)}
        writes = {point for config in configs for point in _write_points(config)}
        names = {_hub_name(config.text("model_name")) for config in configs}
    for what, found in (("read", reads), ("write", writes), ("name as their model", names)):
        if len(found) > 1:
            raise FileError(
                f"The layers in '{configs[0].path.parent.parent}' {what} different things, {sorted(map(str, found))}: "
                "one read point, one write point and one model serve all; fetch the files again."
            )
    return reads.pop(), writes.pop(), names.pop()


def _read_points(config: Config) -> set[str]:
    name = config.text("model_name")
    points = set()
    for place in _listed(config, "hf_hook_point_in", "model.layers.{}.pre_feedforward_layernorm.output"):
        module, _, side = place.rpartition(".")
        points.add(read_point(module, "input" if side == "input" else "output", name, config.path))
    return points


def _write_points(config: Config) -> set[str]:
    places = _listed(config, "hf_hook_point_out", "model.layers.{}.post_feedforward_layernorm.output")
    return {write_point(place.removesuffix(".output"), config.text("model_name"), config.path) for place in places}


def _listed(config: Config, name: str, default: str) -> list[str]:
    value = config.get(name, default)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        raise config.error(name, "neither the name of a place nor a list of them")
    return values


def _hub_name(name: str | None) -> str | None:
    """gemma-v3-1b-it is google/gemma-3-1b-it on the hub, where the smallest pretrained model has no suffix."""
    if name is None:
        return None
    hub = ("" if "/" in name else "google/") + name.replace("-v3", "-3")
    return hub.removesuffix("-pt") if "270m" in hub else hub


GEMMA_SCOPE_2 = Format("gemma-scope-2", choices, _files, load)
