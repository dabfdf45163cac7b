"""Gemma Scope 2 as SAELens itself reads it: the same features and the same reconstruction, skip included."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.formats.gemma_scope import write_gemma_scope_2
from tl_circuits.transcoder.files import load_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2_computes_what_saelens_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affine: bool
) -> None:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        return str(tmp_path / repo_id / subfolder / filename)

    def shapes(repo_id: str, filename: str, **_: object) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in load_file(local(repo_id, filename)).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    config = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-1b-it",
        "affine_connection": affine,
        "hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.0.post_feedforward_layernorm.output",
    }
    folder = tmp_path / "google" / "set"
    write_gemma_scope_2(folder / "transcoder_all", cross_layer=False, affine=affine, config=config)
    ours = load_folder(folder)
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32))
    for layer in range(3):
        theirs = SAE.from_pretrained(
            "google/set",
            f"transcoder_all/layer_{layer}_width_16k_l0_small",
            converter=loaders.gemma_3_sae_huggingface_loader,
        )
        with torch.no_grad():
            activations = theirs.encode(x)
            np.testing.assert_allclose(ours.encode(x, layer), activations, rtol=1e-6, atol=1e-6)
            y, skip = ours.decode([ours.encode(x, n) for n in range(3)], layer), ours.skip(x, layer)
            np.testing.assert_allclose(y if skip is None else y + skip, theirs(x), rtol=1e-6, atol=1e-5)
        assert theirs.cfg.metadata.model_name == ours.model_name
