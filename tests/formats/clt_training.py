"""EleutherAI's clt-training, written as its coders save themselves, and run as its runner runs them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.formats.formulas import Arrays, Written, double, numbers, relu, store, top

F, D, K = 6, 4, 3


@dataclass(frozen=True)
class Run:
    """The settings of a run, by the names of its cfg.json."""

    n_layers: int = 3
    cross_layer: int = 3
    coalesce_topk: str = "none"
    per_source_tied: bool = False
    secondary_target_tied: bool = False
    skip_connection: bool = False
    normalize_io: bool = False
    divide_cross_layer: bool = False
    post_encoder_scale: bool = False
    train_post_encoder: bool = False
    activation: str = "topk"
    hookpoints: str = "h.{}.mlp"
    hookpoints_in: str | None = None
    model: str = "openai-community/gpt2"
    places: tuple[str, str] = ("mlp.hook_in", "hook_mlp_out")
    seed: str = ""
    more: dict[str, object] = field(default_factory=dict)

    def n_targets(self, layer: int) -> int:
        return min(self.cross_layer, self.n_layers - layer)

    def sources(self, target: int) -> list[int]:
        return [s for s in range(target) if s + self.n_targets(s) > target] + [target]


def write_clt_training(folder: Path, run: Run) -> Written:
    """One folder for each hookpoint. What is shared under two names is stored under both, as it is there."""
    coders = [_coder(run, layer) for layer in range(run.n_layers)]
    for layer, arrays in enumerate(coders):
        below = folder / run.hookpoints.format(layer) / run.seed
        store(below / "sae.safetensors", arrays)
        config = {
            "activation": run.activation, "k": K, "d_in": D, "num_latents": F, "expansion_factor": 32,
            "transcode": True, "n_targets": run.n_targets(layer), "n_sources": len(run.sources(layer)),
            "topk_coalesced": False,
        }  # fmt: skip
        for name in (
            "coalesce_topk", "per_source_tied", "secondary_target_tied", "skip_connection", "normalize_io",
            "divide_cross_layer", "post_encoder_scale", "train_post_encoder",
        ):  # fmt: skip
            config[name] = getattr(run, name)
        (below / "cfg.json").write_text(json.dumps(config | run.more))
    ins = [] if run.hookpoints_in is None else [run.hookpoints_in.format(n) for n in range(run.n_layers)]
    outs = [run.hookpoints.format(n) for n in range(run.n_layers)]
    (folder / "config.json").write_text(
        json.dumps({"model": run.model, "hookpoints": outs, "hookpoints_in": ins, "cross_layer": run.cross_layer})
    )
    return Written(_Formula(run, [double(arrays) for arrays in coders]), *run.places, run.model)


def _coder(run: Run, layer: int) -> Arrays:
    new = numbers(layer)
    arrays: Arrays = {"encoder.weight": new(F, D), "encoder.bias": new(F)}
    lists_targets = run.cross_layer > 0
    n_targets = run.n_targets(layer) if lists_targets else 1
    coalesced = run.coalesce_topk != "none"
    if not lists_targets or coalesced or run.per_source_tied:
        arrays["W_dec"] = new(F * (len(run.sources(layer)) if run.coalesce_topk == "per-layer" else 1), D)
    else:
        arrays |= {f"W_decs.{k}": new(F, D) for k in range(n_targets)}
        arrays["W_dec"] = arrays["W_decs.0"]
    if lists_targets and not coalesced:
        arrays |= {f"b_decs.{k}": new(D) for k in range(n_targets)}
        arrays["b_dec"] = arrays["b_decs.0"]
        if run.skip_connection:
            arrays |= {f"W_skips.{k}": new(D, D) * np.float32(k == 0) for k in range(n_targets)}
            arrays["W_skip"] = arrays["W_skips.0"]
    else:
        arrays["b_dec"] = new(D)
        if run.skip_connection:
            arrays["W_skip"] = new(D, D)
    names = [f"s.{k}" for k in range(n_targets)] if lists_targets else [""]
    arrays |= {f"post_enc{name}": new(F) if run.train_post_encoder else np.zeros(F, np.float32) for name in names}
    if run.post_encoder_scale:
        arrays |= {f"post_enc_scale{name}": new(F) for name in names}
    if run.normalize_io:
        arrays |= {"in_norm": np.abs(new(1)) + 1, "out_norm": np.abs(new(1)) + 1}
    return arrays


@dataclass(frozen=True)
class _Formula:
    run: Run
    coders: list[Arrays]

    def __call__(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        x_hats = [x[n] * (D**0.5 / c["in_norm"] if self.run.normalize_io else 1) for n, c in enumerate(self.coders)]
        features = [
            self._activate(relu(x_hat @ c["encoder.weight"].T + c["encoder.bias"]))
            for x_hat, c in zip(x_hats, self.coders, strict=True)
        ]
        outputs = []
        for t, coder in enumerate(self.coders):
            z = self._coalesced(features, t) if self.run.coalesce_topk != "none" else self._summed(features, t)
            if self.run.skip_connection:
                z = z + (2 if self.run.secondary_target_tied else 1) * (x_hats[t] @ coder["W_skip"].T)
            outputs.append(z * (coder["out_norm"] / D**0.5 if self.run.normalize_io else 1))
        return features, outputs

    def _activate(self, h: np.ndarray) -> np.ndarray:
        if self.run.activation == "topk":
            return top(h, K)
        groups = h.reshape(len(h), K, F // K)
        return (groups * (groups == groups.max(-1, keepdims=True))).reshape(h.shape)

    def _post_encoded(self, features: list[np.ndarray], s: int, t: int) -> np.ndarray:
        shift, scale = (
            f"post_enc{part}s.{t - s}" if self.run.cross_layer else f"post_enc{part}" for part in ("", "_scale")
        )
        shifted = features[s] + self.coders[s][shift] * (features[s] > 0)
        return shifted * (self.coders[s][scale] if self.run.post_encoder_scale else 1)

    def _summed(self, features: list[np.ndarray], t: int) -> np.ndarray:
        below = np.zeros_like(features[t] @ self.coders[t]["W_dec"])
        own = below
        *sources, _ = self.run.sources(t)
        for s in [*sources, t]:
            coder, k = self.coders[s], t - s
            W = coder["W_dec"] if self.run.per_source_tied or not self.run.cross_layer else coder[f"W_decs.{k}"]
            part = self._post_encoded(features, s, t) @ W + coder[f"b_decs.{k}" if self.run.cross_layer else "b_dec"]
            below, own = (below, part) if s == t else (below + part, own)
        y = own + below / (max(1, len(sources)) if self.run.divide_cross_layer else 1)
        if self.run.secondary_target_tied:
            together = sum(self._post_encoded(features, s, t) for s in [*sources, t])
            y = y + together @ self.coders[t]["W_dec"] + self.coders[t]["b_dec"]
        return y

    def _coalesced(self, features: list[np.ndarray], t: int) -> np.ndarray:
        parts = [self._post_encoded(features, s, t) for s in self.run.sources(t)]
        together = sum(parts) if self.run.coalesce_topk == "concat" else np.concatenate(parts, axis=1)
        return together @ self.coders[t]["W_dec"] + self.coders[t]["b_dec"]
