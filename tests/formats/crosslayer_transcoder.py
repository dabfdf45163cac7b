"""Goreg12345's crosslayer-transcoder, written as its modules save themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store, top

L, F, D = 3, 5, 4


def write_crosslayer_transcoder(
    folder: Path, *, nonlinearity: str = "JumpReLU", standardizer: str | None = "Dimensionwise", per_layer: bool = False
) -> Written:
    """Not folded, unless there is no standardizer; then as a folded one is saved."""
    new = numbers()
    arrays: Arrays = {"encoder.W": new(L, D, F), "encoder.b": new(L, F), "decoder.b": new(L, D)}
    if per_layer:
        arrays["decoder.W"] = new(L, F, D)
    else:
        arrays |= {f"decoder.W_{t}": new(t + 1, F, D) for t in range(L)}
    if nonlinearity == "JumpReLU":
        arrays["nonlinearity.theta"] = new(1, L, F)
        arrays["nonlinearity.bandwidth"] = np.array(0.01, np.float32)
    elif nonlinearity == "BatchTopK":
        arrays["nonlinearity.threshold"] = np.array([0.4], np.float32)
    elif nonlinearity == "PerLayerBatchTopK":
        arrays["nonlinearity.threshold"] = np.array([0.4, -0.2, 0.1], np.float32)
    for name in ("input_standardizer", "output_standardizer"):
        if standardizer is not None and standardizer != "Samplewise":
            shape = (L, D) if standardizer == "Dimensionwise" else (L,)
            arrays |= {f"{name}.mean": new(*shape), f"{name}.std": np.abs(new(*shape)) + np.float32(0.1)}
    store(folder / "checkpoint.safetensors", arrays)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": _config(nonlinearity, standardizer, per_layer)}))
    of = double(arrays)

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features = []
        for n in range(L):
            x_hat = (
                x[n]
                if standardizer is None
                else (x[n] - of["input_standardizer.mean"][n]) / (of["input_standardizer.std"][n])
            )
            features.append(_activate(nonlinearity, of, x_hat @ of["encoder.W"][n] + of["encoder.b"][n], n))
        outputs = []
        for n in range(L):
            y = of["decoder.b"][n]
            y = y + (
                features[n] @ of["decoder.W"][n]
                if per_layer
                else sum(features[s] @ of[f"decoder.W_{n}"][s] for s in range(n + 1))
            )
            outputs.append(
                y if standardizer is None else y * of["output_standardizer.std"][n] + of["output_standardizer.mean"][n]
            )
        return features, outputs

    return Written(formula, "hook_resid_mid", "hook_mlp_out")


def _activate(kind: str, of: Arrays, h: np.ndarray, layer: int) -> np.ndarray:
    match kind:
        case "JumpReLU":
            return h * ((h > of["nonlinearity.theta"][0, layer]) & (h > 0))
        case "PerLayerTopK":
            return relu(top(h, 2))
        case "BatchTopK":
            return h * (h > max(0, of["nonlinearity.threshold"][0]))
        case "PerLayerBatchTopK":
            return h * (h > max(0, of["nonlinearity.threshold"][layer]))
        case _:
            return relu(h)


def _config(nonlinearity: str, standardizer: str | None, per_layer: bool) -> dict[str, Any]:
    def part(module: str, name: str, **arguments: object) -> dict[str, object]:
        return {"class_path": f"crosslayer_transcoder.model.{module}.{name}", "init_args": arguments}

    sizes = {"d_acts": D, "d_features": F, "n_layers": L}
    module = "topk" if nonlinearity.endswith("TopK") else "jumprelu"
    ends = {
        f"{end.lower()}_standardizer": None
        if standardizer is None
        else part("standardize", f"{standardizer}{end}Standardizer")
        for end in ("Input", "Output")
    }
    whole = part(
        "clt",
        "CrossLayerTranscoder",
        nonlinearity=part(module, nonlinearity, k=2),
        encoder=part("clt", "Encoder", **sizes),
        decoder=part("clt", "Decoder" if per_layer else "CrosslayerDecoder", **sizes),
        **ends,
    )
    return whole | {"is_folded": standardizer is None}
