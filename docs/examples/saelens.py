"""Per-layer transcoders as SAELens objects and back, and as folders that SAELens loads."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sae_lens import SAE

import tl_circuits as tlc

model, plt = tlc.demo(transcoder="plt")
saes = tlc.as_saes(plt)
print(len(saes), "of SAELens's", type(saes[0]).__name__)
print(saes[1].cfg.metadata.hook_name, "->", saes[1].cfg.metadata.hook_name_out)

x = torch.randn(4, plt.d_model, generator=torch.Generator().manual_seed(0))
print("the same features:", torch.allclose(saes[1].encode(x), plt.encode(x, 1), atol=1e-5))

# SAELens transcoders, one for each layer, are a transcoder.
again = tlc.load_transcoder(saes)
print("the same to the last bit:", all(torch.equal(a, b) for a, b in zip(again.W_dec, plt.W_dec, strict=True)))

with TemporaryDirectory() as parent:
    folder = tlc.save_transcoder(plt, Path(parent) / "plt", layout="saelens")
    print(*sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*")))
    tlc.register_saelens_classes()  # for TopK and groupmax, which SAELens does not know; others load without
    print("SAELens loads it:", type(SAE.load_from_disk(folder / "layer_1")).__name__)
    print("so does load_transcoder:", tlc.load_transcoder(folder).n_layers, "layers")
