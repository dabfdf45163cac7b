"""SAELens's folders of one SAE each, written as its `save_model` writes them, and computed as its classes compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store, top

F, D = 6, 4

METADATA = {
    "sae_lens_version": "6.54.12",
    "sae_lens_training_version": "6.54.12",
    "model_name": "gemma-2-2b",
    "prepend_bos": True,
    "neuronpedia_id": None,
    "context_size": 1024,
}


def config_of(architecture: str, layer: int, **metadata: object) -> dict[str, Any]:
    """cfg.json, with the settings in the order in which SAELens 6.54 writes them."""
    config: dict[str, Any] = {
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **METADATA,
            "hook_name": f"blocks.{layer}.ln2.hook_normalized",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            **metadata,
        },
        "d_out": D,
    }
    if "topk" in architecture:
        config |= {"k": 3, "relu": True}
    if "groupmax" in architecture:
        config |= {"k": 2}
    return config | {"architecture": architecture}


def write_saelens(
    folder: Path, architecture: str = "jumprelu_skip_transcoder", *, n_layers: int = 3, name: str = "layer_{}"
) -> Written:
    """One folder for each layer. `name` is what they are called, with `{}` for the layer."""
    layers: list[Arrays] = []
    for layer in range(n_layers):
        new = numbers(layer)
        arrays = {"W_enc": new(D, F), "b_enc": new(F), "W_dec": new(F, D), "b_dec": new(D)}
        if "jumprelu" in architecture:
            arrays["threshold"] = new(F)
        if "skip" in architecture:
            arrays["W_skip"] = new(D, D)
        below = folder / name.format(layer)
        store(below / "sae_weights.safetensors", arrays)
        (below / "cfg.json").write_text(json.dumps(config_of(architecture, layer)))
        layers.append(double(arrays))

    def activate(h: np.ndarray, layer: Arrays) -> np.ndarray:
        if "topk" in architecture:
            return top(relu(h), 3)
        if "groupmax" in architecture:
            groups = relu(h).reshape(len(h), 2, F // 2)
            return (groups * (groups == groups.max(-1, keepdims=True))).reshape(h.shape)
        return relu(h) * (h > layer["threshold"]) if "threshold" in layer else relu(h)

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features, outputs = [], []
        for n, layer in enumerate(layers):
            features.append(activate(x[n] @ layer["W_enc"] + layer["b_enc"], layer))
            skip = x[n] @ layer["W_skip"].T if "W_skip" in layer else 0
            outputs.append(features[n] @ layer["W_dec"] + layer["b_dec"] + skip)
        return features, outputs

    return Written(formula, "ln2.hook_normalized", "hook_mlp_out", "gemma-2-2b")
