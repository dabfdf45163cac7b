"""Folders as SAELens's `SAE.save_model` writes them, one for each layer, read and written without SAELens.

    {any name}/cfg.json                  architecture, d_in, d_sae, d_out, dtype, and under metadata: model_name,
                                         hook_name, hook_name_out, hf_hook_name, model_from_pretrained_kwargs
    {any name}/sae_weights.safetensors   W_enc (d_in, d_sae), b_enc (d_sae), W_dec (d_sae, d_out), b_dec (d_out),
                                         threshold (d_sae) where it is JumpReLU, W_skip (d_out, d_in), x @ W_skip.T

The layer is what `hook_name` says, whatever the folder is called. Before SAELens 6 the metadata lay beside the rest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError, FitError, SettingError
from tl_circuits.saelens import CONFIG, NAMES, WEIGHTS, SAETranscoder, shapes, strays
from tl_circuits.transcoder.files.configs import Config, read_json
from tl_circuits.transcoder.files.folders import new_folder
from tl_circuits.transcoder.files.layout import Format, matching
from tl_circuits.transcoder.files.saelens_layers import ARCHITECTURES, Architecture, records_of, transcoder_of
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors, write_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def save(transcoder: CrossLayerTranscoder, folder: Path, *, overwrite: bool = False) -> Path:
    """Write `layer_0`, `layer_1`, … into a folder; SAELens reads one by `SAE.load_from_disk(folder / "layer_0")`.

    TopK and GroupMax need `register_saelens_classes()` first in the process that loads them with SAELens. The folder
    appears whole or not at all; one that exists is replaced only with `overwrite`, and only where nothing else lies in
    it. Raises `FitError` where SAELens cannot say what the transcoder is, `FileError` where the folder cannot be
    written.
    """
    records = records_of(transcoder)
    with new_folder(folder, replaces=_is_ours if overwrite else None) as draft:
        for layer, record in enumerate(records):
            below = draft / f"layer_{layer}"
            below.mkdir()
            write_tensors(below / WEIGHTS, record.tensors)
            (below / CONFIG).write_text(json.dumps(record.config), encoding="utf-8")
    return folder


def choices(folder: Path) -> tuple[str, ...]:
    """`("",)` where folders of SAELens's are in the folder, or it is one itself."""
    return ("",) if (folder / WEIGHTS).is_file() or any((below / WEIGHTS).is_file() for below in _below(folder)) else ()


def load(folder: Path) -> CrossLayerTranscoder:
    """Read the folders of all layers. Weights are memory-mapped, in the dtype that they are stored in.

    Raises `FileError` where `from_saes` raises `FitError`, and where files are missing, damaged or of another kind.
    """
    # A folder whose weights have not arrived counts, or a download that broke off would pass for a smaller model.
    paths = [path for path in _below(folder) if (path / WEIGHTS).is_file() or (path / CONFIG).is_file()]
    if (folder / WEIGHTS).is_file():
        paths = [folder]
    records = [_read(path) for path in paths]
    try:
        return transcoder_of(records)
    except (FitError, SettingError) as error:
        raise FileError(f"'{folder}' holds no transcoder that can be read. {error}") from error


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read(folder: Path) -> SAETranscoder:
    config = read_json(folder / CONFIG)
    architecture = ARCHITECTURES[config.choice("architecture", ARCHITECTURES)]
    weights = _weights(folder, config, architecture)
    metadata = config.table("metadata") if "metadata" in config else config
    names: dict[str, Any] = {name: metadata.text(name) for name in NAMES}
    names["hook_name"] = names["hook_name"] or metadata.text("hook_point")
    return SAETranscoder(
        source=f"'{folder}'",
        architecture=architecture.name,
        **weights,
        **names,
        model_from_pretrained_kwargs=metadata.table("model_from_pretrained_kwargs").settings,
        settings=_settings(config, architecture),
        strays=strays(config.settings),
    )


def _settings(config: Config, architecture: Architecture) -> Mapping[str, Any]:
    """Those of the architecture alone: whole numbers and flags."""
    return {
        name: config.flag(name, default) if type(default) is bool else config.count(name)
        for name, default in architecture.settings.items()
    }


def _weights(folder: Path, config: Config, architecture: Architecture) -> dict[str, Any]:
    file = open_tensors(folder / WEIGHTS)
    expected = shapes(config.count("d_in"), config.count("d_sae"), config.count("d_out"))
    _refuse_strange(file, architecture)
    return {name: file.get(name, *expected[name]) for name in architecture.tensors}


def _refuse_strange(file: TensorFile, architecture: Architecture) -> None:
    """SAELens once stored a scaling factor, and leaves it out where it is 1."""
    strange = sorted(set(file.shapes) - set(architecture.tensors))
    if strange == ["scaling_factor"] and bool((file.get("scaling_factor", *file.shapes["scaling_factor"]) == 1).all()):
        return
    if strange:
        raise FileError(
            f"'{file.path}' holds {', '.join(strange[:6])}, which an SAE of architecture {architecture.name!r} does "
            f"not have (it has {', '.join(architecture.tensors)}): fold a scaling factor into the weights, or correct "
            "architecture in cfg.json."
        )


def _is_ours(path: Path) -> bool:
    return path.is_dir() and {each.name for each in path.iterdir()} <= {CONFIG, WEIGHTS}


SAELENS = Format(
    "saelens", choices, matching(CONFIG, WEIGHTS, f"*/{CONFIG}", f"*/{WEIGHTS}"), lambda folder, _: load(folder)
)
