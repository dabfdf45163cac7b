"""Gemma Scope 1 and 2, written as their releases describe them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store


def write_gemma_scope_1(
    folder: Path, *, n_layers: int = 3, sparsities: tuple[int, ...] = (40,), compressed: bool = False
) -> Written:
    """One archive for each layer, its average L0 a little off the next one's. The formula is the first sparsity's."""
    layers: list[Arrays] = []
    for layer in range(n_layers):
        for number, l0 in enumerate(sparsities):
            new = numbers(10 * layer + number)
            arrays = {"W_enc": new(4, 6), "W_dec": new(6, 4), "b_enc": new(6), "b_dec": new(4), "threshold": new(6)}
            path = folder / f"layer_{layer}" / "width_16k" / f"average_l0_{l0 + layer}" / "params.npz"
            path.parent.mkdir(parents=True)
            (np.savez_compressed if compressed else np.savez)(path, allow_pickle=False, **arrays)
            if number == 0:
                layers.append(double(arrays))

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        hidden = [x[n] @ layer["W_enc"] + layer["b_enc"] for n, layer in enumerate(layers)]
        features = [relu(h) * (h > layer["threshold"]) for h, layer in zip(hidden, layers, strict=True)]
        return features, [a @ layer["W_dec"] + layer["b_dec"] for a, layer in zip(features, layers, strict=True)]

    return Written(formula, "ln2.hook_normalized", "hook_mlp_out")


CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-1b-it",
    "hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.0.post_feedforward_layernorm.output",
}


def write_gemma_scope_2(
    folder: Path,
    *,
    cross_layer: bool,
    affine: bool = True,
    n_layers: int = 3,
    variant: str = "width_16k_l0_small",
    config: Mapping[str, object] | None = None,
) -> Written:
    """A cross-layer transcoder's files in the folder itself, a per-layer one's each in a folder below."""
    layers: list[Arrays] = []
    for layer in range(n_layers):
        new = numbers(layer)
        arrays = {"w_enc": new(4, 6), "b_enc": new(6), "threshold": new(6), "b_dec": new(4)}
        arrays["w_dec"] = new(6, n_layers, 4) if cross_layer else new(6, 4)
        if affine:
            arrays["affine_skip_connection"] = new(4, 4)
        below = folder / f"layer_{layer}_{variant}"
        store(folder / f"params_layer_{layer}.safetensors" if cross_layer else below / "params.safetensors", arrays)
        if not cross_layer:
            (below / "config.json").write_text(json.dumps(config or CONFIG))
        layers.append(double(arrays))
    if cross_layer:
        (folder / "config.json").write_text(json.dumps(config or CONFIG))

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features, outputs = [], []
        for n, layer in enumerate(layers):
            h = x[n] @ layer["w_enc"] + layer["b_enc"]
            features.append(relu(h) * (h > layer["threshold"]))
            y = layer["b_dec"] + (x[n] @ layer["affine_skip_connection"] if affine else 0)
            if cross_layer:
                y = y + sum(a @ layers[s]["w_dec"][:, n] for s, a in enumerate(features))
            else:
                y = y + features[n] @ layer["w_dec"]
            outputs.append(y)
        return features, outputs

    return Written(formula, "mlp.hook_in", "hook_mlp_out", "google/gemma-3-1b-it")
