"""SAELens's own folders, read and written, and Gemma Scope 2 as SAELens reads it: the same numbers as SAELens's."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.formats.formulas import assert_computes, numbers
from tests.formats.gemma_scope import write_gemma_scope_2
from tests.formats.saelens import D, F, config_of, write_saelens
from tests.test_saelens import ACTIVATIONS, assert_computes_the_same, per_layer
from tests.test_transcoder_files import assert_same
from tl_circuits.errors import FileError, FitError
from tl_circuits.saelens import LAYOUT
from tl_circuits.transcoder import BatchTopK, CrossLayerTranscoder, JumpReLU, ReLU, TopK
from tl_circuits.transcoder.files import load_folder
from tl_circuits.transcoder.files.saelens_folders import SAELENS, save
from tl_circuits.transcoder.files.saelens_layers import ARCHITECTURES
from tl_circuits.transcoder.saes import as_saes, from_saes, register_saelens_classes

THEIRS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def load_from_disk(path: Path) -> Any:
    from sae_lens import SAE

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        return SAE.load_from_disk(path)


def edit(folder: Path, **settings: object) -> None:
    """Changes settings of cfg.json; those named `metadata_…` are changed there."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    for name, value in settings.items():
        table = config["metadata"] if name.startswith("metadata_") else config
        table[name.removeprefix("metadata_")] = value
    path.write_text(json.dumps(config))


# Read


@pytest.mark.parametrize("name", ["layer_{}", "{}", "blocks.{}.hook_mlp_in", "the one of {} with much more"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folders_compute_what_their_formula_says(tmp_path: Path, architecture: str, name: str) -> None:
    written = write_saelens(tmp_path / "set", architecture, name=name)
    assert_computes(load_folder(tmp_path / "set"), written)


def test_the_layer_is_what_the_settings_say_and_not_the_name(tmp_path: Path) -> None:
    written = write_saelens(tmp_path / "set", n_layers=12, name="sae-{}")
    for layer in range(12):
        (tmp_path / "set" / f"sae-{layer}").rename(tmp_path / "set" / f"layer_{(layer + 5) % 12}")
    assert_computes(load_folder(tmp_path / "set"), written)


def test_a_model_of_one_layer_needs_no_folder_around_it(tmp_path: Path) -> None:
    written = write_saelens(tmp_path, n_layers=1)
    assert_computes(load_folder(tmp_path / "layer_0"), written)


def test_settings_from_before_saelens_6_are_read(tmp_path: Path) -> None:
    written = write_saelens(tmp_path, "transcoder")
    for layer in range(3):
        config = config_of("transcoder", layer)
        metadata = config.pop("metadata")
        metadata.pop("sae_lens_version")
        metadata["hook_point"] = metadata.pop("hook_name")
        old = {"activation_fn_str": "relu", "hook_layer": layer, "normalize_activations": False}
        (tmp_path / f"layer_{layer}" / "cfg.json").write_text(json.dumps(config | metadata | old))
    assert_computes(load_folder(tmp_path), written)


def test_gemma_scope_2_in_saelens_folders_reads_where_its_hf_name_says(tmp_path: Path) -> None:
    write_saelens(tmp_path)
    for layer in range(3):
        edit(
            tmp_path / f"layer_{layer}",
            metadata_hook_name=f"blocks.{layer}.hook_mlp_in",
            metadata_hf_hook_name=f"model.layers.{layer}.pre_feedforward_layernorm.output",
        )
    assert load_folder(tmp_path).read == "mlp.hook_in"


def test_a_scaling_factor_of_one_is_left_out_as_saelens_leaves_it_out(tmp_path: Path) -> None:
    written = write_saelens(tmp_path)
    path = tmp_path / "layer_1" / "sae_weights.safetensors"
    save_file(load_file(path) | {"scaling_factor": np.ones(F, np.float32)}, path)
    assert_computes(load_folder(tmp_path), written)


def test_weights_keep_the_dtype_of_the_file_and_never_write_to_it(tmp_path: Path) -> None:
    save(per_layer(ReLU(), dtype=torch.bfloat16), tmp_path / "set")
    found = load_folder(tmp_path / "set")
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.bfloat16}
    path = tmp_path / "set" / "layer_0" / "sae_weights.safetensors"
    whole = path.read_bytes()
    found.W_dec[0].data.zero_()
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_reading_and_writing_import_no_saelens(tmp_path: Path) -> None:
    write_saelens(tmp_path / "theirs")
    code = """
import sys
from pathlib import Path
from tl_circuits.transcoder.files import load_folder
from tl_circuits.transcoder.files.saelens_folders import save
save(load_folder(sys.argv[1] + "/theirs"), Path(sys.argv[1]) / "ours")
print("sae_lens" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_files_of_a_set_are_known_by_name(tmp_path: Path) -> None:
    write_saelens(tmp_path, n_layers=2)
    (tmp_path / "layer_0" / "sparsity.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_text("about")
    names = {path.relative_to(tmp_path).as_posix() for path in SAELENS.files(tmp_path, "")}
    assert names == {f"layer_{n}/{name}" for n in range(2) for name in ("cfg.json", "sae_weights.safetensors")}


# Written


@pytest.mark.slow
@given(
    st.sampled_from(list(ACTIVATIONS)),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from(["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in"]),
    st.sampled_from([None, "gpt2", "google/gemma-3-1b-it", "a: b # ü"]),
    st.booleans(),
)
def test_load_undoes_save_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    activation: str,
    skip: bool,
    dtype: torch.dtype,
    read: str,
    model_name: str | None,
    processed: bool,
) -> None:
    more = {"read": read, "model_name": model_name, "processed_weights": processed}
    ours = per_layer(ACTIVATIONS[activation]().to(dtype), skip=skip, dtype=dtype, **more)
    back = load_folder(save(ours, tmp_path_factory.mktemp("saved") / "set"))
    if isinstance(ours.activation, BatchTopK):
        ours.activation = JumpReLU(ours.activation.threshold.clamp(min=0)[:, None].expand(-1, F).clone())
    assert_same(back, ours)


@pytest.mark.slow
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saelens_loads_what_was_written_and_computes_the_same(tmp_path: Path, activation: str, skip: bool) -> None:
    register_saelens_classes()
    ours = per_layer(ACTIVATIONS[activation](), skip=skip, dtype=torch.float64)
    save(ours, tmp_path / "set")
    for layer in range(ours.n_layers):
        sae = load_from_disk(tmp_path / "set" / f"layer_{layer}")
        assert_computes_the_same(sae, ours, layer)
        assert sae.cfg.metadata.hook_name == f"blocks.{layer}.mlp.hook_in"


@pytest.mark.slow
def test_the_files_are_those_that_saelens_saves(tmp_path: Path) -> None:
    ours = per_layer(JumpReLU(torch.rand(3, F)), skip=True)
    save(ours, tmp_path / "ours")
    for layer, sae in enumerate(as_saes(ours)):
        sae.save_model(tmp_path / "theirs" / f"layer_{layer}")
        here, there = (tmp_path / who / f"layer_{layer}" for who in ("ours", "theirs"))
        assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
        assert json.loads((here / "cfg.json").read_text()) == json.loads((there / "cfg.json").read_text())
        mine, yours = (load_file(folder / "sae_weights.safetensors") for folder in (here, there))
        assert mine.keys() == yours.keys()
        assert all(np.array_equal(mine[name], yours[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", THEIRS)
def test_what_saelens_wrote_computes_what_saelens_computes(tmp_path: Path, architecture: str) -> None:
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(architecture)
    saes = []
    for layer in range(3):
        saes.append(sae_class(config_class.from_dict(config_of(architecture, layer))))
        new = numbers(layer)
        for parameter in saes[-1].parameters():
            parameter.data = torch.from_numpy(new(*parameter.shape))
        saes[-1].save_model(tmp_path / f"blocks.{layer}.whatever")
    ours = load_folder(tmp_path)
    assert_same(ours, from_saes(saes))
    for layer, sae in enumerate(saes):
        assert_computes_the_same(sae, ours, layer, tolerance=2e-6)


@pytest.mark.slow
def test_the_installed_saelens_is_not_older_than_the_layout() -> None:
    import sae_lens

    def numbered(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:2]]

    assert numbered(sae_lens.__version__) >= numbered(LAYOUT)


def test_a_folder_is_replaced_only_when_told_and_only_where_it_holds_saes(tmp_path: Path) -> None:
    folder = save(per_layer(ReLU()), tmp_path / "set")
    with pytest.raises(FileError, match=r"exists and holds 3 files: give overwrite=True \(--overwrite\) to replace it"):
        save(per_layer(TopK(2)), folder)
    assert_same(load_folder(save(per_layer(TopK(2)), folder, overwrite=True)), per_layer(TopK(2)))
    assert_same(load_folder(save(load_folder(folder), folder, overwrite=True)), per_layer(TopK(2)))
    (folder / "layer_1" / "notes.txt").write_text("by hand")
    with pytest.raises(FileError, match=r"holds more than a transcoder \(layer_1\), so it is not replaced"):
        save(per_layer(ReLU()), folder, overwrite=True)
    assert (folder / "layer_1" / "notes.txt").read_text() == "by hand"


def test_what_saelens_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    cross_layer = CrossLayerTranscoder(
        torch.ones(2, F, D), torch.ones(2, F), [torch.ones(F, 2, D), torch.ones(F, 1, D)], torch.ones(2, D)
    )
    with pytest.raises(FitError, match=r"write up to 2 layers, and a SAELens transcoder writes one"):
        save(cross_layer, tmp_path / "set")
    with pytest.raises(FitError, match=r"18 of 18 JumpReLU thresholds are negative"):
        save(per_layer(JumpReLU(-torch.ones(3, F))), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        if "layer_1" in str(path):
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr("tl_circuits.transcoder.files.saelens_folders.write_tensors", full)
    with pytest.raises(FileError, match=r"cannot be written \(\[Errno 28\] No space left.*free space there"):
        save(per_layer(ReLU()), tmp_path / "set")
    assert not list(tmp_path.iterdir())


# Refused


def faulty(**settings: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "layer_1", **settings)


def with_tensor(name: str, value: np.ndarray | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "layer_1" / "sae_weights.safetensors"
        arrays = {key: array for key, array in load_file(path).items() if key != name}
        save_file(arrays | ({} if value is None else {name: value}), path)

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in sorted(folder.glob(name)):
            path.unlink()

    return change


def move(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder.parent / new)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing layer": (
        move("layer_1", "elsewhere"),
        r"set' holds no transcoder that can be read. There is no transcoder of layer 1: layers 0, 2 are there, and 1",
    ),
    "weights that have not arrived": (
        remove("layer_2/sae_weights.safetensors"),
        r"layer_2/sae_weights.safetensors' cannot be read \(.*No such file.*check that it is a file",
    ),
    "no settings": (remove("layer_1/cfg.json"), r"layer_1/cfg.json' cannot be read .*check that it is there, or fetch"),
    "one layer twice": (
        faulty(metadata_hook_name="blocks.0.mlp.hook_in", metadata_hook_name_out="blocks.0.hook_mlp_out"),
        r"layer_0' and '.*layer_1' are both of layer 0: give one transcoder for each layer",
    ),
    "another model": (
        faulty(metadata_model_name="gemma-2-9b"),
        r"layer_0' and '.*layer_1' differ in their model_name, 'gemma-2-2b' and 'gemma-2-9b': one serves all",
    ),
    "an autoencoder": (
        faulty(architecture="standard"),
        r"architecture: 'standard' in .*cfg.json' is unknown: groupm|jum",
    ),
    "no architecture": (faulty(architecture=None), r"architecture: None in .*cfg.json' is unknown"),
    "normalised": (
        faulty(normalize_activations="layer_norm"),
        r"layer_1' has normalize_activations='layer_norm', which changes what it reads .*fold it into them",
    ),
    "scaled": (faulty(normalize_activations="expected_average_only_in"), r"='expected_average_only_in', which changes"),
    "scaled before SAELens 6": (faulty(normalize_activations=True), r"has normalize_activations=True, which changes"),
    "a bias on the input": (faulty(apply_b_dec_to_input=True), r"has apply_b_dec_to_input=True, which changes what it"),
    "another activation": (faulty(activation_fn="tanh-relu"), r"has activation_fn='tanh-relu', which changes what it"),
    "reshaped": (
        faulty(reshape_activations="hook_z"),
        r"has reshape_activations='hook_z', which changes what it reads",
    ),
    "a scaling factor": (
        with_tensor("scaling_factor", np.full(F, 2, np.float32)),
        r"layer_1/.*holds scaling_factor, which an SAE of architecture 'jumprelu_skip_transcoder' does not have .*fold",
    ),
    "a threshold too few": (
        with_tensor("threshold", None),
        r"holds W_dec, W_enc, W_skip, b_dec, b_enc, but no threshold",
    ),
    "settings of another kind": (
        faulty(architecture="skip_transcoder"),
        r"holds threshold, which an SAE of architecture 'skip_transcoder' does not have .*correct architecture in cfg",
    ),
    "a layer of another kind": (
        lambda folder: (faulty(architecture="jumprelu_transcoder")(folder), with_tensor("W_skip", None)(folder)),
        r"differ in their architecture, 'jumprelu_skip_transcoder' and 'jumprelu_transcoder'",
    ),
    "a NaN threshold": (
        with_tensor("threshold", np.full(F, np.nan, np.float32)),
        r"holds no transcoder that can be read. 6 of 18 JumpReLU thresholds are NaN",
    ),
    "an infinite encoder": (
        with_tensor("W_enc", np.full((D, F), np.inf, np.float32)),
        r"holds no transcoder that can be read. W_enc\[1\] holds 24 NaN or infinite numbers of 24",
    ),
    "a transposed encoder": (
        with_tensor("W_enc", np.ones((F, D), np.float32)),
        r"W_enc in .*has shape \(6, 4\), but \(4, 6\) was expected",
    ),
    "a size that is none": (faulty(d_sae="many"), r"d_sae: 'many' in .*cfg.json' is not a whole number of at least 1"),
    "no width of the output": (faulty(d_out=None), r"d_out: None in .*cfg.json' is not a whole number of at least 1"),
    "no hook name": (faulty(metadata_hook_name=None), r"layer_1' has hook_name=None in its metadata, and a name such"),
    "a hook name that is no text": (faulty(metadata_hook_name=[1]), r"hook_name: \[1\] in .*cfg.json' is no text"),
    "a path": (faulty(metadata_hook_name="blocks.../../etc/passwd"), r"has hook_name='blocks.../../etc/passwd' in its"),
    "a layer beyond counting": (
        faulty(metadata_hook_name=f"blocks.{'9' * 5000}.mlp.hook_in"),
        r"in its metadata, and a name such as 'blocks.3.hook_mlp_out' is needed",
    ),
    "metadata that are no table": (faulty(metadata=[1]), r"metadata: \[1\] in .*cfg.json' is not a table of settings"),
    "keywords that are no table": (
        faulty(metadata_model_from_pretrained_kwargs="fold"),
        r"model_from_pretrained_kwargs: 'fold' in .*cfg.json' is not a table of settings",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_transcoder_is_refused(tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    write_saelens(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(FileError, match=message):
        load_folder(tmp_path / "set")


def test_weights_that_have_not_arrived_make_it_no_other_format(tmp_path: Path) -> None:
    write_saelens(tmp_path, name="blocks.{}.mlp.hook_in")
    remove("blocks.2.mlp.hook_in/sae_weights.safetensors")(tmp_path)
    with pytest.raises(FileError, match=r"blocks.2.mlp.hook_in/sae_weights.safetensors' cannot be read"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"k: 0 in .*cfg.json' is not a whole number of at least 1"),
        ({"k": None}, r"k: None in .*cfg.json' is not a whole number of at least 1"),
        ({"k": 2}, r"differ in their k, 3 and 2: one serves all layers"),
        ({"relu": "yes"}, r"relu: 'yes' in .*cfg.json' is neither true nor false"),
    ],
)
def test_a_topk_without_a_number_is_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    write_saelens(tmp_path, "tl_circuits_topk_transcoder")
    edit(tmp_path / "layer_1", **settings)
    with pytest.raises(FileError, match=message):
        load_folder(tmp_path)


# Gemma Scope 2


@pytest.mark.slow
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
    all_of_theirs = []
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
        all_of_theirs.append(theirs)
    assert_same(from_saes(all_of_theirs), ours)
