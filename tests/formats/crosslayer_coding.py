"""curt-tigges' crosslayer-coding, written as its checkpoints are, with the statistics of its activation dataset."""

import json
from pathlib import Path

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store, top

L, F, D = 3, 5, 4


def write_crosslayer_coding(
    folder: Path,
    *,
    tying: str = "none",
    activation: str = "jumprelu",
    normalization: str = "none",
    skip: bool = False,
    scale: bool = False,
    offset: bool = False,
    file: str = "model.safetensors",
) -> Written:
    """Skips between layers are there wherever that package makes them, and are 0, as offsets are at first."""
    new = numbers()
    arrays: Arrays = {}
    for n in range(L):
        arrays |= {f"encoder_module.encoders.{n}.weight": new(F, D), f"encoder_module.encoders.{n}.bias_param": new(F)}
    pairs = [f"{s}->{t}" for s in range(L) for t in range(s, L)] if tying == "none" else [str(n) for n in range(L)]
    for pair in pairs:
        decoder = f"decoder_module.decoders.{pair}"
        arrays |= {f"{decoder}.weight": new(D, F), f"{decoder}.bias_param": new(D)}
        if skip:
            own = tying != "none" or pair[0] == pair[-1]
            arrays[f"decoder_module.skip_weights.{pair}"] = new(D, D) if own else np.zeros((D, D), np.float32)
    for n in range(L) if scale else ():
        arrays |= {f"decoder_module.feature_scale.{n}": new(F)}
        arrays |= {f"decoder_module.feature_offset.{n}": new(F) if offset else np.zeros(F, np.float32)}
    if activation == "jumprelu":
        arrays["theta_manager.log_threshold"] = new(L, F) - 1
    store(folder / file, arrays)
    statistics = {
        str(n): {end: {"mean": new(D).tolist(), "std": np.abs(new(D)).tolist()} for end in ("inputs", "targets")}
        for n in range(L)
    }
    if normalization == "mean_std":
        (folder / "norm_stats.json").write_text(json.dumps(statistics))
    settings = {
        "num_features": F, "num_layers": L, "d_model": D, "model_name": "gpt2", "activation_fn": activation,
        "normalization_method": normalization, "decoder_tying": tying, "skip_connection": skip,
        "enable_feature_offset": scale, "enable_feature_scale": scale, "topk_k": 0.3, "topk_mode": "per_layer",
        "mlp_input_template": "transformer.h.{}.mlp.input", "mlp_output_template": "transformer.h.{}.mlp.output",
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(settings))
    of = double(arrays)

    def units(n: int, end: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation by which this end of a layer was normalised."""
        if normalization == "mean_std":
            return np.array(statistics[str(n)][end]["mean"]), np.array(statistics[str(n)][end]["std"]) + 1e-6
        return np.zeros(D), np.full(D, D**-0.5 if normalization == "sqrt_d_model" else 1.0)

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features, x_hats, outputs = [], [], []
        for n in range(L):
            mean, std = units(n, "inputs")
            x_hats.append((x[n] - mean) / std)
            h = x_hats[n] @ of[f"encoder_module.encoders.{n}.weight"].T
            h = h + of[f"encoder_module.encoders.{n}.bias_param"]
            if activation == "jumprelu":
                features.append(h * (h >= np.exp(of["theta_manager.log_threshold"][n])))
            else:
                features.append(top(h, 2) if activation == "topk" else relu(h))
        for t in range(L):
            y = np.zeros_like(x[t])
            for s in range(t + 1):
                pair = {"none": f"{s}->{t}", "per_source": str(s), "per_target": str(t)}[tying]
                a = features[s]
                if scale:
                    a = a + of[f"decoder_module.feature_offset.{t}"] * (a != 0)
                    a = a * of[f"decoder_module.feature_scale.{t}"]
                y = y + a @ of[f"decoder_module.decoders.{pair}.weight"].T
                if tying != "per_target" or s == t:
                    y = y + of[f"decoder_module.decoders.{pair}.bias_param"]
            if skip:
                own = f"{t}->{t}" if tying == "none" else str(t)
                y = y + x_hats[t] @ of[f"decoder_module.skip_weights.{own}"].T
            mean, std = units(t, "targets")
            outputs.append(y * std + mean)
        return features, outputs

    return Written(formula, "mlp.hook_in", "hook_mlp_out", "gpt2")
