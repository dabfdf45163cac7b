"""Run by a Python that has circuit-tracer: what it computes of each folder below one, or that it refuses it.

    python read_by_circuit_tracer.py FOLDERS

Each folder holds x.npy (layer, pos, d_model); features.npy and outputs.npy are written beside it, or refused.txt.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from circuit_tracer.utils import hf_utils  # pyright: ignore[reportMissingImports]


def read(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"repo_id": "org/name"}
    hf_utils.snapshot_download = lambda *_, **__: str(folder)
    x = torch.from_numpy(np.load(folder / "x.npy"))
    try:
        transcoder = hf_utils.load_transcoders(config, torch.device("cpu"), torch.float64, lazy_decoder=False)
    except ValueError as error:
        (folder / "refused.txt").write_text(str(error))
        return
    features = torch.stack([transcoder.encode_layer(x[layer], layer) for layer in range(len(x))])
    outputs = transcoder.decode(features.to_sparse() if "cross_layer" in config["model_kind"] else features, x)
    np.save(folder / "features.npy", features.numpy())
    np.save(folder / "outputs.npy", outputs.numpy())


if __name__ == "__main__":
    with torch.no_grad():
        for each in sorted(Path(sys.argv[1]).iterdir()):
            read(each)
