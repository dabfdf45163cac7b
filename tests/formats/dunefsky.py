"""Dunefsky et al.'s transcoders, pickled with their settings as an object of a class that is not installed here."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.formats.formulas import Arrays, Written, double, numbers, relu

L, F, D = 3, 5, 4


class LanguageModelSAERunnerConfig:
    """Pickled under the module that the original's is in."""


LanguageModelSAERunnerConfig.__module__ = "sae_training.config"


def write_dunefsky(folder: Path, *, n_layers: int = L, **settings: object) -> Written:
    """One file for each layer, its settings as that package leaves them."""
    folder.mkdir(parents=True)
    module: Any = ModuleType("sae_training.config")
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig
    sys.modules |= {"sae_training": ModuleType("sae_training"), "sae_training.config": module}
    layers: list[Arrays] = []
    for layer in range(n_layers):
        new = numbers(layer)
        arrays = {"W_enc": new(D, F), "b_enc": new(F), "W_dec": new(F, D), "b_dec": new(D), "b_dec_out": new(D)}
        config: Any = LanguageModelSAERunnerConfig()
        config.__dict__ |= {
            "model_name": "gpt2-small", "hook_point": f"blocks.{layer}.ln2.hook_normalized", "hook_point_layer": layer,
            "out_hook_point": f"blocks.{layer}.hook_mlp_out", "dtype": torch.float32, "device": torch.device("cpu"),
            "lr": 4e-4, "is_transcoder": True, "feature_sampling_method": None,
        }  # fmt: skip
        config.__dict__ |= settings
        content = {"cfg": config, "state_dict": {name: torch.from_numpy(array) for name, array in arrays.items()}}
        torch.save(content, folder / f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.pt")
        layers.append(double(arrays))
    del sys.modules["sae_training"], sys.modules["sae_training.config"]

    def formula(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        features = [relu((x[n] - c["b_dec"]) @ c["W_enc"] + c["b_enc"]) for n, c in enumerate(layers)]
        return features, [a @ c["W_dec"] + c["b_dec_out"] for a, c in zip(features, layers, strict=True)]

    return Written(formula, "ln2.hook_normalized", "hook_mlp_out", "gpt2-small")
