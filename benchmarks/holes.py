"""A cross-layer transcoder on disk that is as large as it says, and holds numbers for a few features of each layer.

The rest are holes: they take no room on the disk, and as much memory as zeros once they are read.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_clt(
    folder: Path, reads: list[Tensor], n_features: int, numbered: int, l0: int, generator: torch.Generator
) -> None:
    """circuit-tracer's layout, in bfloat16. Of `numbered` features a layer, `l0` a token are active on these reads."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    n_layers, d_model = len(reads), reads[0].shape[1]
    for layer, read in enumerate(reads):
        features = torch.randperm(n_features, generator=generator)[:numbered].tolist()
        encoders = (torch.randn(numbered, d_model, generator=generator) / d_model**0.5).bfloat16()
        decoders = torch.randn(numbered, n_layers - layer, d_model, generator=generator) / d_model**0.5
        top = (read.float() @ encoders.float().T).flatten().topk(l0 * len(read) + 1).values
        write_rows(
            folder / f"W_enc_{layer}.safetensors",
            {
                f"W_enc_{layer}": ((n_features, d_model), dict(zip(features, encoders, strict=True))),
                f"b_enc_{layer}": ((n_features,), {}),
                f"b_dec_{layer}": ((d_model,), {}),
                f"threshold_{layer}": ((n_features,), {0: ((top[-1] + top[-2]) / 2).expand(n_features)}),
            },
        )
        shape = (n_features, n_layers - layer, d_model)
        write_rows(
            folder / f"W_dec_{layer}.safetensors",
            {f"W_dec_{layer}": (shape, dict(zip(features, decoders, strict=True)))},
        )


def write_rows(path: Path, tensors: dict[str, tuple[tuple[int, ...], dict[int, Tensor]]]) -> None:
    """A safetensors file of bfloat16 tensors, each by its shape and those of its rows that are not zero."""
    header: dict[str, Any] = {}
    end = 0
    for name, (shape, _) in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, (_, rows) in tensors.items():
            for number, row in rows.items():
                file.seek(8 + len(text) + header[name]["data_offsets"][0] + number * 2 * row.numel())
                file.write(row.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
