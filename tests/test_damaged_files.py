"""Files of every format, incomplete, damaged or malicious: one clear error each."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests.formats import WRITERS
from tests.formats.clt_forge import write_clt_forge
from tests.formats.clt_training import Run, write_clt_training
from tests.formats.crosslayer_coding import write_crosslayer_coding
from tests.formats.crosslayer_transcoder import write_crosslayer_transcoder
from tests.formats.formulas import assert_computes
from tests.formats.gemma_scope import write_gemma_scope_1, write_gemma_scope_2
from tl_circuits.errors import FileError
from tl_circuits.transcoder.files import load_folder


@pytest.mark.parametrize("writer", WRITERS)
def test_a_half_downloaded_file_is_refused(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](tmp_path / "set")
    path = sorted(tmp_path.glob("**/*.safetensors"))[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"is truncated: its header asks for .* bytes and \d+ are there"):
        load_folder(tmp_path / "set")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_tensor_of_another_shape_is_refused_with_both(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](tmp_path / "set")
    path = sorted(tmp_path.glob("**/*.safetensors"))[0]
    arrays = load_file(path)
    name = next(name for name in arrays if "b_enc" in name or "encoder.b" in name or "bias_param" in name)
    save_file(arrays | {name: np.ones((9, 9), np.float32)}, path)
    with pytest.raises(FileError, match=r"has shape \(9, 9\), but \(.*\) was expected"):
        load_folder(tmp_path / "set")


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_settings_that_are_no_table_are_refused(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](tmp_path / "set")
    configs = [path for path in sorted(tmp_path.glob("**/*")) if path.suffix in (".json", ".yaml")]
    whole = configs[0].read_text()
    for text, message in (
        ("[1, 2]", r"holds list, not a table of settings"),
        ("{" + whole, r"is not (JSON|plain YAML) \("),
        ("[" * 100_000, r"is not (JSON|plain YAML) \("),
        ("\x00\x01", r"is not (JSON|plain YAML) \("),
    ):
        configs[0].write_text(text)
        with pytest.raises(FileError, match=message):
            load_folder(tmp_path / "set")


MISSING = {
    "gemma-scope-1": (lambda f: write_gemma_scope_1(f, n_layers=9), "layer_7", r"no layer_7; .*0, 1, 2, 3, 4, 5, 6, 8"),
    "gemma-scope-2 cross-layer": (
        lambda f: write_gemma_scope_2(f, cross_layer=True, n_layers=9),
        "params_layer_7.safetensors",
        r"no params_layer_7.safetensors; files of layers .* and 1 of 9 are missing",
    ),
    "gemma-scope-2 the last": (
        lambda f: write_gemma_scope_2(f, cross_layer=True, n_layers=9),
        "params_layer_8.safetensors",
        r"w_dec in .* has columns for 9 layers, but files of 8 layers are there",
    ),
    "gemma-scope-2 per-layer": (
        lambda f: write_gemma_scope_2(f, cross_layer=False, n_layers=9),
        "layer_7_width_16k_l0_small",
        r"no layer_7_width_16k_l0_small; files of layers .* and 1 of 9 are missing",
    ),
    "clt-training": (
        lambda f: write_clt_training(f, Run(n_layers=9, cross_layer=2)),
        "h.7.mlp",
        r"has no h.7.mlp; files of layers .* and 1 of 9 are missing",
    ),
    "clt-training the last": (
        lambda f: write_clt_training(f, Run(n_layers=9, cross_layer=2)),
        "h.8.mlp",
        r"n_targets: 2 in .*h.7.mlp/cfg.json' reaches layer 8, but hookpoints of 8 layers are there",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_layer_is_named(tmp_path: Path, case: str) -> None:
    write, name, message = MISSING[case]
    write(tmp_path / "set")
    (tmp_path / "set" / name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileError, match=message):
        load_folder(tmp_path / "set")


def test_nothing_is_imported_that_a_config_names(tmp_path: Path) -> None:
    write_crosslayer_transcoder(tmp_path)
    path = tmp_path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["nonlinearity"]["class_path"] = "antigravity.Fly"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(FileError, match=r"class_path: 'antigravity.Fly' in .* is no class that can be read exactly"):
        load_folder(tmp_path)
    path.write_text("model: !!python/object/apply:pytest.fail ['a tag was executed']")
    with pytest.raises(FileError, match=r"not plain YAML .*tags that make objects are refused"):
        load_folder(tmp_path)


def test_two_formats_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    forge = write_clt_forge(tmp_path)
    coding = write_crosslayer_coding(tmp_path, file="model.safetensors")
    with pytest.raises(FileError, match=r"holds 2 transcoders \(clt-forge, crosslayer-coding\)"):
        load_folder(tmp_path)
    assert_computes(load_folder(tmp_path, variant="clt-forge"), forge)
    assert_computes(load_folder(tmp_path, variant="crosslayer-coding"), coding)


def test_a_folder_of_something_else_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match=r"holds thesis.tex, and no transcoder in a format .*circuit-tracer, gemma-sco"):
        load_folder(tmp_path)
