"""Keep a transcoder in a folder, in the layout that circuit-tracer reads and writes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import tl_circuits as tlc

draw = torch.Generator().manual_seed(0)
clt = tlc.CrossLayerTranscoder(
    W_enc=torch.randn(3, 16, 8, generator=draw),
    b_enc=torch.randn(3, 16, generator=draw),
    W_dec=[torch.randn(16, 3 - layer, 8, generator=draw).bfloat16() for layer in range(3)],
    b_dec=torch.randn(3, 8, generator=draw),
    activation=tlc.JumpReLU(torch.rand(3, 16, generator=draw)),
    model_name="my-model",
)

with TemporaryDirectory() as parent:
    folder = tlc.save_transcoder(clt, Path(parent) / "my-clt")
    print(*sorted(path.name for path in folder.iterdir()), sep="\n")

    # Dtypes are kept, and decoders stay on disk until their features become active.
    loaded = tlc.load_transcoder(folder)
    print(loaded.n_layers, "layers of", loaded.n_features[0], "features; decoders in", loaded.W_dec[0].dtype)
    print("the same to the last bit:", all(torch.equal(a, b) for a, b in zip(loaded.W_dec, clt.W_dec, strict=True)))

    # Whatever is wrong is said with its numbers and the next thing to try.
    (folder / "W_enc_1.safetensors").unlink()
    try:
        tlc.load_transcoder(folder)
    except tlc.FileError as error:
        print(str(error).replace(parent, "..."))
