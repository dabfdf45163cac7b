"""circuit-tracer's layout, as mntss and mwhanna publish it: encoders with rows for features, a config.yaml."""

from pathlib import Path

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store

F, D = 6, 4


def write_circuit_tracer(
    folder: Path,
    *,
    cross_layer: bool,
    n_layers: int = 3,
    threshold: bool = True,
    read: str = "hook_resid_mid",
    model_name: str = "google/gemma-2-2b",
) -> Written:
    """JumpReLU here keeps h where h > threshold, a threshold below zero included."""
    layers: list[Arrays] = []
    for layer in range(n_layers):
        new = numbers(layer)
        arrays = {"W_enc": new(F, D), "b_enc": new(F), "b_dec": new(D)}
        arrays["W_dec"] = new(F, n_layers - layer, D) if cross_layer else new(F, D)
        if threshold:
            arrays["threshold"] = new(F)
        _store(folder, layer, arrays, cross_layer)
        layers.append(double(arrays))
    folder.mkdir(parents=True, exist_ok=True)
    kind = "cross_layer_transcoder" if cross_layer else "transcoder_set"
    (folder / "config.yaml").write_text(
        f"model_name: {model_name}\nmodel_kind: {kind}\nfeature_input_hook: {read}\n"
        "feature_output_hook: hook_mlp_out\nscan: somebody/somewhere\n"
    )

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features, outputs = [], []
        for n, layer in enumerate(layers):
            h = x[n] @ layer["W_enc"].T + layer["b_enc"]
            features.append(h * (h > layer["threshold"]) if threshold else relu(h))
            written = range(n + 1) if cross_layer else [n]
            rows = (layers[s]["W_dec"][:, n - s] if cross_layer else layer["W_dec"] for s in written)
            outputs.append(layer["b_dec"] + sum(features[s] @ row for s, row in zip(written, rows, strict=True)))
        return features, outputs

    return Written(formula, read, "hook_mlp_out", model_name)


def _store(folder: Path, layer: int, arrays: Arrays, cross_layer: bool) -> None:
    if cross_layer:
        encoder = {f"{name}_{layer}": array for name, array in arrays.items() if name != "W_dec"}
        store(folder / f"W_enc_{layer}.safetensors", encoder)
        store(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": arrays["W_dec"]})
    else:
        theirs = {"threshold": "activation_function.threshold"}
        store(folder / f"layer_{layer}.safetensors", {theirs.get(name, name): array for name, array in arrays.items()})
