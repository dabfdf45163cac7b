"""circuit-tracer and we compute the same of one folder. Set TL_CIRCUITS_PEER to a Python that has circuit-tracer."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.formats.circuit_tracer import write_circuit_tracer
from tl_circuits.transcoder import BatchTopK, CrossLayerTranscoder, GroupMax, JumpReLU, ReLU, TopK
from tl_circuits.transcoder.files import load_folder, save_transcoder

PEER = os.environ.get("TL_CIRCUITS_PEER")
L, F, D = 11, 8, 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PEER is None, reason="TL_CIRCUITS_PEER names no Python with circuit-tracer"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody else wrote, and every kind of ours, read by circuit-tracer."""
    top = tmp_path_factory.mktemp("folders")
    for cross_layer in (True, False):
        for threshold in (True, False):
            name = f"written{' cross-layer' if cross_layer else ''}{' threshold' if threshold else ''}"
            write_circuit_tracer(top / name, cross_layer=cross_layer, n_layers=L, threshold=threshold)
    for name, transcoder in every_kind().items():
        save_transcoder(transcoder, top / name)
    random = np.random.default_rng(0)
    for folder in top.iterdir():
        transcoder = load_folder(folder)
        np.save(folder / "x.npy", random.normal(size=(L, 7, transcoder.d_model)))
    script = Path(__file__).with_name("read_by_circuit_tracer.py")
    done = subprocess.run([str(PEER), script, top], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return top


def every_kind() -> dict[str, CrossLayerTranscoder]:
    torch.manual_seed(0)
    activations = {
        "relu": ReLU(),
        "jump_relu": JumpReLU(torch.randn(L, F)),
        "jump_relu at one threshold": JumpReLU(-0.25),
        "batch_topk": BatchTopK(3, torch.randn(L)),
        "topk": TopK(3),
        "groupmax": GroupMax(4),
    }
    found = {}
    for span in (1, 3, L):
        written = [min(span, L - layer) for layer in range(L)]
        for name, activation in activations.items():
            for more in ("", " skip", " shift"):
                found[f"{name} {span}{more}"] = CrossLayerTranscoder(
                    torch.randn(L, F, D), torch.randn(L, F), [torch.randn(F, n, D) for n in written], torch.randn(L, D),
                    activation=activation,
                    W_skip=torch.randn(L, D, D) if more == " skip" else None,
                    shift=[torch.randn(F, n) for n in written] if more == " shift" else None,
                )  # fmt: skip
    return found


def test_what_circuit_tracer_takes_it_computes_as_we_do(folders: Path) -> None:
    taken = [folder for folder in folders.iterdir() if (folder / "features.npy").is_file()]
    assert len(taken) == 4 + 16
    for folder in taken:
        transcoder, x = load_folder(folder), torch.from_numpy(np.load(folder / "x.npy"))
        features = [transcoder.encode(x[layer], layer) for layer in range(L)]
        theirs, outputs = np.load(folder / "features.npy"), np.load(folder / "outputs.npy")
        for layer in range(L):
            skip = transcoder.skip(x[layer], layer)
            output = transcoder.decode(features, layer) + (0 if skip is None else skip)
            np.testing.assert_allclose(features[layer], theirs[layer], atol=1e-6, rtol=1e-6, err_msg=folder.name)
            np.testing.assert_allclose(output, outputs[layer], atol=1e-6, rtol=1e-6, err_msg=folder.name)


def test_what_circuit_tracer_would_compute_otherwise_it_refuses(folders: Path) -> None:
    refused = {folder.name for folder in folders.iterdir() if (folder / "refused.txt").is_file()}
    assert refused == {
        name
        for name, transcoder in every_kind().items()
        if transcoder.activation.name in ("topk", "groupmax")
        or transcoder.shift is not None
        or (transcoder.W_skip is not None and not transcoder.is_per_layer)
    }
