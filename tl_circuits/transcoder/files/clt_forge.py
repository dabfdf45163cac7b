"""CLT-Forge: cross-layer transcoders with their decoders packed by pairs, and one bias for each pair.

    clt_cfg.json                                   n_layers, d_in, d_latent, cross_layer_decoders, feature_sharding
    clt_weights.safetensors, or rank{r}_clt_weights.safetensors with d_latent/ranks features each

    W_enc (L, d_model, feature), b_enc and log_threshold (L, feature),
    W_dec (pair, feature, d_model) and b_dec (pair, d_model), the pairs (s, t ≥ s) being 00, 01, …, 11, 12, …
    estimated_norm_scaling_factor_in and _out (L)

    a = h·1[h > exp(log_threshold)],  h = (x·in) W_enc + b_enc
    ŷ^t = (Σ_{s≤t} a^s W_dec[st] + b_dec[st]) / out^t

x is `ln2.hook_normalized` and ŷ `hook_mlp_out`. Without cross_layer_decoders the pairs are the layers. Where the scales
are all 1 and there is one file, the weights stay mapped; else they are folded, or put together, in memory.
"""

from pathlib import Path

import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.activations import jump_relu
from tl_circuits.transcoder.files.configs import read_json
from tl_circuits.transcoder.files.folding import Normalisation, fold
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import Format, every_layer, matching, numbered
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_CONFIG, _WEIGHTS = "clt_cfg.json", "clt_weights.safetensors"


def choices(folder: Path) -> tuple[str, ...]:
    """`("",)` where its settings file is there."""
    return ("",) if (folder / _CONFIG).is_file() else ()


def load(folder: Path) -> CrossLayerTranscoder:
    """Read one file, or the shards of all ranks."""
    config = read_json(folder / _CONFIG)
    n_layers, d_model, n_features = config.count("n_layers"), config.count("d_in"), config.count("d_latent")
    cross_layer = config.flag("cross_layer_decoders", True)
    files = _files(folder, sharded=config.flag("feature_sharding", False))
    n_pairs = n_layers * (n_layers + 1) // 2 if cross_layer else n_layers
    local = n_features // len(files)
    if local * len(files) != n_features:
        raise FileError(
            f"d_latent: {n_features} in '{config.path}' cannot lie in {len(files)} equal shards: fetch the other ranks."
        )
    W_enc = _joined(files, "W_enc", (n_layers, d_model, local), dim=2)
    b_enc = _joined(files, "b_enc", (n_layers, local), dim=1)
    W_dec = _joined(files, "W_dec", (n_pairs, local, d_model), dim=1)
    threshold = _joined(files, "log_threshold", (n_layers, local), dim=1).exp()
    b_dec = files[0].get("b_dec", n_pairs, d_model)
    scale_in, scale_out = (files[0].get(f"estimated_norm_scaling_factor_{end}", n_layers) for end in ("in", "out"))
    layers = []
    for layer in range(n_layers):
        # Pairs of one source lie side by side, so that its decoders are one stretch of the file.
        start = sum(n_layers - earlier for earlier in range(layer)) if cross_layer else layer
        pairs = W_dec[start : start + (n_layers - layer if cross_layer else 1)]
        bias = b_dec[_into(layer, n_layers)].double().sum(0) if cross_layer else b_dec[layer]
        layers.append(Layer(W_enc[layer].T, b_enc[layer], pairs.transpose(0, 1), bias.to(torch.float32)))
    zeros = torch.zeros(n_layers, 1)
    by = Normalisation(scale_in[:, None], zeros, 1 / scale_out[:, None].double(), zeros)
    activation = jump_relu(list(threshold), folder)
    return assemble(
        folder,
        fold(layers, by),
        activation,
        read="ln2.hook_normalized",
        write="hook_mlp_out",
        model_name=config.text("model_name"),
    )


def _files(folder: Path, *, sharded: bool) -> list[TensorFile]:
    if not sharded:
        return [open_tensors(folder / _WEIGHTS)]
    ranks = numbered(folder, rf"rank(\d+)_{_WEIGHTS.replace('.', '[.]')}")
    return [open_tensors(path) for path in every_layer(folder, ranks, f"rank{{}}_{_WEIGHTS}")]


def _joined(files: list[TensorFile], name: str, shape: tuple[int, ...], dim: int) -> Tensor:
    parts = [file.get(name, *shape) for file in files]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _into(layer: int, n_layers: int) -> list[int]:
    """The pairs that write a layer."""
    starts = [sum(n_layers - earlier for earlier in range(source)) for source in range(layer + 1)]
    return [start + layer - source for source, start in enumerate(starts)]


CLT_FORGE = Format(
    "clt-forge", choices, matching(_CONFIG, _WEIGHTS, f"rank*_{_WEIGHTS}"), lambda folder, _: load(folder)
)
