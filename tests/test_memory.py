"""What loading and tracing large transcoders holds in memory: encoders, and of decoders the rows that are needed.

The files are as large as they say and hold numbers for a few features only; the rest are holes, which take no room on
the disk and as much memory as zeros once they are read.
"""

import io
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc
from tl_circuits.nodes import Kind

D_MODEL, N_FEATURES, N_TOKENS = 2304, 16_384, 16
GB = 1e9
THRESHOLD = 1.0
_FEW = 40
"""Features of a layer that have numbers. With encoders as `_rows` draws them, each is active at a token in six."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]


class Figures(NamedTuple):
    """What a child process measured. Bytes are those of the model, and above it: once loaded, and at most."""

    features: int
    conservation_error: float
    probe_error: float
    model: int
    loaded: int
    peak: int


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes with the test: pytest keeps its own."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def measured(folder: Path, n_layers: int) -> Figures:
    """Loads and traces in a process of its own, whose peak memory is nobody else's."""
    command = [sys.executable, "-m", "tests.test_memory", str(folder), str(n_layers)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    figures = Figures(*json.loads(done.stdout))
    sys.stdout.write(f"{figures.peak / GB:.2f} GB at most beside a model of {figures.model / GB:.2f} GB; {figures}\n")
    return figures


def test_a_clt_of_26_layers_and_16384_features_each_is_traced_below_5_gb(folder: Path) -> None:
    n_layers = 26
    on_disk = write_cross_layer(folder, n_layers)
    figures = measured(folder, n_layers)
    encoders = n_layers * N_FEATURES * D_MODEL * 2
    assert on_disk > 28 * GB
    assert 5 < figures.features / (N_TOKENS * n_layers) < 20
    # At least half of them: a system that is short of memory takes back pages that were read.
    assert encoders / 2 < figures.peak < 5 * GB
    # A model in float32 with decoders in bfloat16: their numbers are taken as they are stored, and all else is float32.
    assert figures.conservation_error < 1e-5
    assert figures.probe_error < 1e-5


def test_of_gemma_scopes_archives_no_decoder_is_read_whole(folder: Path) -> None:
    n_layers = 6
    write_gemma_scope_1(folder, n_layers)
    figures = measured(folder, n_layers)
    weights = n_layers * N_FEATURES * D_MODEL * 4
    assert figures.features > 5 * N_TOKENS * n_layers
    # Decoders take as much as encoders.
    assert weights / 2 < figures.peak < 1.5 * weights


def write_cross_layer(folder: Path, n_layers: int) -> int:
    """circuit-tracer's layout, in bfloat16; its size in bytes is returned, of which the disk holds a thousandth."""
    (folder / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    for layer in range(n_layers):
        features, encoders, decoders = _few(layer, n_layers - layer)
        write_sparse(
            folder / f"W_enc_{layer}.safetensors",
            {
                f"W_enc_{layer}": ((N_FEATURES, D_MODEL), dict(zip(features, encoders, strict=True))),
                f"b_enc_{layer}": ((N_FEATURES,), {}),
                f"b_dec_{layer}": ((D_MODEL,), {}),
                f"threshold_{layer}": ((N_FEATURES,), {0: torch.full((N_FEATURES,), THRESHOLD)}),
            },
        )
        written = {
            f"W_dec_{layer}": ((N_FEATURES, n_layers - layer, D_MODEL), dict(zip(features, decoders, strict=True)))
        }
        write_sparse(folder / f"W_dec_{layer}.safetensors", written)
    return sum(path.stat().st_size for path in folder.iterdir())


def write_sparse(path: Path, tensors: dict[str, tuple[tuple[int, ...], dict[int, Tensor]]]) -> None:
    """A safetensors file of bfloat16 tensors, each by its shape and those of its rows that are not zero."""
    header: dict[str, Any] = {}
    size = 0
    for name, (shape, _) in tensors.items():
        end = size + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
        for name, (_, rows) in tensors.items():
            for number, row in rows.items():
                file.seek(8 + len(text) + header[name]["data_offsets"][0] + number * 2 * row.numel())
                file.write(row.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())


def write_gemma_scope_1(folder: Path, n_layers: int) -> None:
    """Gemma Scope 1's layout, in float32, uncompressed as it is published."""
    for layer in range(n_layers):
        # Encoders lie in columns here: features all over the layer would leave no holes.
        features, encoders, decoders = _few(layer, 1, among=512)
        W_enc, W_dec = np.zeros((D_MODEL, N_FEATURES), np.float32), np.zeros((N_FEATURES, D_MODEL), np.float32)
        W_enc[:, features], W_dec[features] = encoders.T.numpy(), decoders[:, 0].numpy()
        path = folder / f"layer_{layer}" / "width_16k" / "average_l0_6" / "params.npz"
        path.parent.mkdir(parents=True)
        with Holes(path) as file:
            np.savez(
                file,
                W_enc=W_enc,
                W_dec=W_dec,
                b_enc=np.zeros(N_FEATURES, np.float32),
                b_dec=np.zeros(D_MODEL, np.float32),
                threshold=np.full(N_FEATURES, THRESHOLD, np.float32),
            )
        assert all(member.compress_type == zipfile.ZIP_STORED for member in zipfile.ZipFile(path).infolist())


class Holes(io.FileIO):
    """A file to write, in which runs of zeros are left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")

    def write(self, data: Any) -> int:
        """Pages of zeros are passed over; the file's end is written always, so nothing is lost."""
        view, page = memoryview(data).cast("B"), 1 << 12
        for start in range(0, len(view), page):
            part = view[start : start + page]
            if len(part) == page and not np.frombuffer(part, np.uint8).any():
                self.seek(page, io.SEEK_CUR)
            else:
                super().write(part)
        return len(view)


def _few(layer: int, written: int, *, among: int = N_FEATURES) -> tuple[Sequence[int], Tensor, Tensor]:
    """Some of the first so many features of a layer, with their encoders and decoders."""
    generator = torch.Generator().manual_seed(layer)
    features = torch.randperm(among, generator=generator)[:_FEW]
    encoders = torch.randn(_FEW, D_MODEL, generator=generator) / D_MODEL**0.5
    decoders = torch.randn(_FEW, written, D_MODEL, generator=generator) / D_MODEL
    return features.tolist(), encoders, decoders


def random_model(n_layers: int) -> HookedTransformer:
    """As wide as Gemma 2 2B, with next to no attention, MLP and vocabulary."""
    config = HookedTransformerConfig(
        n_layers=n_layers, d_model=D_MODEL, n_heads=2, d_head=8, d_mlp=16, d_vocab=64, n_ctx=N_TOKENS, act_fn="silu",
        normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8, gated_mlp=True, final_rms=True,
        device="cpu", seed=0,
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    with torch.no_grad():
        # The residual stream of a token is of unit variance, as the encoders expect.
        model.W_E.normal_(generator=torch.Generator().manual_seed(1))
    return model


def memory(kind: str) -> int:
    """This process's resident memory in bytes: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(f"{kind}:"))
    return 1024 * int(found.split()[1])


def main(folder: Path, n_layers: int) -> Figures:
    """Loads, traces and measures."""
    torch.set_num_threads(1)
    model = random_model(n_layers)
    before = memory("VmRSS")
    transcoder = tlc.load_transcoder(folder)
    loaded = memory("VmRSS")
    # Batches have a budget of memory, so that a whole graph takes longer and no more of it.
    graph = tlc.trace(model, transcoder, torch.arange(N_TOKENS), masked_positions=(0,), max_features=200)
    return Figures(
        features=graph.nodes.count(Kind.FEATURE),
        conservation_error=graph.conservation_error,
        probe_error=graph.probe_error,
        model=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        loaded=loaded - before,
        peak=memory("VmHWM") - before,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
