"""CLT-Forge, written as its checkpoints are: packed pairs, and shards of features."""

import json
from pathlib import Path

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, store

L, F, D = 3, 6, 4


def write_clt_forge(folder: Path, *, cross_layer: bool = True, ranks: int = 1, scaled: bool = True) -> Written:
    """What lies in a checkpoint, with its counters; `ranks` shards where it is more than one."""
    new = numbers()
    pairs = [(s, t) for s in range(L) for t in range(s, L)] if cross_layer else [(n, n) for n in range(L)]
    arrays: Arrays = {
        "W_enc": new(L, D, F),
        "b_enc": new(L, F),
        "W_dec": new(len(pairs), F, D),
        "b_dec": new(len(pairs), D),
        "log_threshold": new(L, F) - 1,
        "estimated_norm_scaling_factor_in": np.abs(new(L)) + 1 if scaled else np.ones(L, np.float32),
        "estimated_norm_scaling_factor_out": np.abs(new(L)) + 1 if scaled else np.ones(L, np.float32),
    }
    for rank in range(ranks):
        part = slice(rank * F // ranks, (rank + 1) * F // ranks)
        shard = arrays | {
            "W_enc": arrays["W_enc"][:, :, part],
            "b_enc": arrays["b_enc"][:, part],
            "W_dec": arrays["W_dec"][:, part],
            "log_threshold": arrays["log_threshold"][:, part],
            "feature_count": np.zeros((L, F // ranks), np.int64),
        }
        store(folder / ("clt_weights.safetensors" if ranks == 1 else f"rank{rank}_clt_weights.safetensors"), shard)
    config = {"model_name": "gpt2", "d_in": D, "d_latent": F, "n_layers": L, "cross_layer_decoders": cross_layer}
    (folder / "clt_cfg.json").write_text(json.dumps(config | {"feature_sharding": ranks > 1, "dtype": "float32"}))
    of = double(arrays)

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features, outputs = [], []
        for n in range(L):
            h = (x[n] * of["estimated_norm_scaling_factor_in"][n]) @ of["W_enc"][n] + of["b_enc"][n]
            features.append(h * (h > np.exp(of["log_threshold"][n])))
            y = sum(features[s] @ of["W_dec"][p] + of["b_dec"][p] for p, (s, t) in enumerate(pairs) if t == n)
            outputs.append(np.asarray(y / of["estimated_norm_scaling_factor_out"][n]))
        return features, outputs

    return Written(formula, "ln2.hook_normalized", "hook_mlp_out", "gpt2")
