"""The folder layout of circuit-tracer, read and written so that either package reads what the other wrote.

A cross-layer transcoder of L layers (`model_kind: cross_layer_transcoder`), l = 0 … L−1:

    config.yaml             model_name, model_kind, feature_input_hook, feature_output_hook, scan
    W_enc_{l}.safetensors   W_enc_{l} (feature, d_model), b_enc_{l} (feature), b_dec_{l} (d_model),
                            threshold_{l} (feature)
    W_dec_{l}.safetensors   W_dec_{l} (feature, L−l, d_model): column k writes layer l+k

A per-layer transcoder (`model_kind: transcoder_set`):

    layer_{l}.safetensors   W_enc and W_dec (feature, d_model), b_enc (feature), b_dec (d_model),
                            activation_function.threshold (feature), W_skip (d_out, d_in), added as x @ W_skip.T

Where there are thresholds it is JumpReLU, else ReLU. A config.yaml may name another activation (`activation: topk` with
`k`), which is followed here; circuit-tracer 0.5 looks at the thresholds alone.

What circuit-tracer would compute otherwise (TopK, GroupMax, shifts, skips of a cross-layer transcoder) has a
`model_kind` of ours, `tl_circuits_cross_layer_transcoder` or `tl_circuits_transcoder_set`, which it refuses. Beside
`W_enc_{l}` lie `W_skip_{l}` (d_in, d_out) and `shift_{l}` (feature, L−l) then, and `shift` (feature, 1) in `layer_{l}`.
Only its `load_clt` and `load_transcoder_set`, called with paths, read no config.yaml and see none of this.

What else that layout has no place for is under the key `tl_circuits` of config.yaml, where circuit-tracer does not
look. A feature that writes fewer layers than it could is padded with zeros, which says the same to circuit-tracer;
BatchTopK is stored as the JumpReLU that it is at inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.activations import Activation, BatchTopK, JumpReLU, ReLU
from tl_circuits.transcoder.files.activations import build, describe, threshold_at
from tl_circuits.transcoder.files.configs import read_yaml
from tl_circuits.transcoder.files.folders import new_folder
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import Format, every_layer, listed, numbered
from tl_circuits.transcoder.files.listed import is_gemma_scope, resolve
from tl_circuits.transcoder.files.listed import load as load_listed
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors, write_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

CONFIG = "config.yaml"
CROSS_LAYER, PER_LAYER = "cross_layer_transcoder", "transcoder_set"
OWN = {kind: f"tl_circuits_{kind}" for kind in (CROSS_LAYER, PER_LAYER)}
"""What circuit-tracer must not take for one of its own."""
_KINDS = (CROSS_LAYER, PER_LAYER, *OWN.values())
_STEMS = ("W_enc", "W_dec", "layer")
_THRESHOLD = "activation_function.threshold"


def save(transcoder: CrossLayerTranscoder, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the folder; see `tl_circuits.save_transcoder`."""
    write_layer = _write_per_layer if transcoder.is_per_layer else _write_cross_layer
    with new_folder(folder, replaces=_is_ours if overwrite else None) as draft:
        for layer in range(transcoder.n_layers):
            write_layer(transcoder, layer, draft)
        config = yaml.safe_dump(_describe(transcoder), sort_keys=False, allow_unicode=True)
        (draft / CONFIG).write_text(config, encoding="utf-8")
    return folder


def choices(folder: Path) -> tuple[str, ...]:
    """`("",)` where the folder is in this layout, or looks as if it were meant to be; else nothing."""
    has_weights = any(_found(folder, stem) for stem in _STEMS)
    # These mark other formats, whose files are named alike.
    if (folder / "W_dec_norm.safetensors").is_file():
        return ()
    is_meant = (folder / CONFIG).is_file() and not (folder / "checkpoint.safetensors").is_file()
    return ("",) if has_weights or is_meant else ()


def load(folder: Path) -> CrossLayerTranscoder:
    """Read the folder; see `tl_circuits.load_transcoder`."""
    config = _read_config(folder)
    paths = resolve(config.get("transcoders") or [], folder / CONFIG)
    if is_gemma_scope(paths):
        return load_listed(
            folder,
            paths,
            read=config["feature_input_hook"],
            write=config["feature_output_hook"],
            model_name=config.get("model_name"),
        )
    if config["model_kind"] in (CROSS_LAYER, OWN[CROSS_LAYER]):
        _refuse_strays(paths, folder)
        layers = _read_cross_layer(folder)
    else:
        layers = _read_per_layer(folder, paths)
    ours = _read_ours(folder, config, layers)
    return assemble(
        folder,
        [layer.weights.up_to(written) for layer, written in zip(layers, ours["written"], strict=True)],
        _activation(folder, config, ours, layers),
        read=config["feature_input_hook"],
        write=config["feature_output_hook"],
        model_name=config.get("model_name"),
        processed_weights=ours["processed_weights"],
    )


def load_layers(
    source: Path, paths: Sequence[Path], *, read: str, write: str, model_name: str | None = None
) -> CrossLayerTranscoder:
    """The per-layer transcoder of files `layer_{l}.safetensors`, in the order of their layers, without a config.yaml.

    Raises `FileError`, quoting the file, where they make none.
    """
    layers = _read_per_layer(source, paths)
    activation = _activation(source, {}, {"activation": None}, layers)
    return assemble(
        source, [layer.weights for layer in layers], activation, read=read, write=write, model_name=model_name
    )


@dataclass(frozen=True)
class _Layer:
    """One layer as the files hold it."""

    weights: Layer
    threshold: Tensor | None
    k: int | None = None


# Writing


def _describe(transcoder: CrossLayerTranscoder) -> dict[str, Any]:
    kind = PER_LAYER if transcoder.is_per_layer else CROSS_LAYER
    config: dict[str, Any] = {
        "model_name": transcoder.model_name,
        "model_kind": kind if _is_circuit_tracers(transcoder) else OWN[kind],
        "feature_input_hook": transcoder.read,
        "feature_output_hook": transcoder.write,
        "scan": None,
    }
    if isinstance(transcoder.activation, ReLU):
        config["activation"] = "relu"
    ours = {
        "format": 1,
        "activation": describe(transcoder.activation),
        "written": [rows.shape[1] for rows in transcoder.W_dec],
        "processed_weights": transcoder.processed_weights,
    }
    return config | {"tl_circuits": ours}


def _is_circuit_tracers(transcoder: CrossLayerTranscoder) -> bool:
    """Whether circuit-tracer computes the same from what is written."""
    has_its_activation = isinstance(transcoder.activation, ReLU | JumpReLU | BatchTopK)
    has_its_skip = transcoder.W_skip is None or transcoder.is_per_layer
    return has_its_activation and has_its_skip and transcoder.shift is None


def _write_cross_layer(transcoder: CrossLayerTranscoder, layer: int, folder: Path) -> None:
    whole = transcoder.n_layers - layer
    tensors: dict[str, Tensor | None] = {
        f"W_enc_{layer}": transcoder.W_enc[layer],
        f"b_enc_{layer}": transcoder.b_enc[layer],
        f"b_dec_{layer}": transcoder.b_dec[layer],
        f"threshold_{layer}": threshold_at(transcoder.activation, layer, transcoder.n_features[layer]),
        f"W_skip_{layer}": None if transcoder.W_skip is None else transcoder.W_skip[layer],
        f"shift_{layer}": None if transcoder.shift is None else _padded(transcoder.shift[layer], to=whole),
    }
    write_tensors(folder / f"W_enc_{layer}.safetensors", _present(tensors))
    write_tensors(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": _padded(transcoder.W_dec[layer], to=whole)})


def _padded(written: Tensor, *, to: int) -> Tensor:
    """What a layer says of the layers that it writes, with zeros for those up to the last that it does not."""
    missing = to - written.shape[1]
    return torch.cat([written, written.new_zeros(len(written), missing, *written.shape[2:])], 1) if missing else written


def _write_per_layer(transcoder: CrossLayerTranscoder, layer: int, folder: Path) -> None:
    # circuit-tracer refuses a layer file with a name that it does not know, so nothing may be added that it can miss.
    tensors: dict[str, Tensor | None] = {
        "W_enc": transcoder.W_enc[layer],
        "W_dec": transcoder.W_dec[layer].squeeze(1),
        "b_enc": transcoder.b_enc[layer],
        "b_dec": transcoder.b_dec[layer],
        _THRESHOLD: threshold_at(transcoder.activation, layer, transcoder.n_features[layer]),
        "W_skip": None if transcoder.W_skip is None else transcoder.W_skip[layer].T,
        "shift": None if transcoder.shift is None else transcoder.shift[layer],
    }
    write_tensors(folder / f"layer_{layer}.safetensors", _present(tensors))


def _present(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _is_ours(path: Path) -> bool:
    return path.name == CONFIG or (path.suffix == ".safetensors" and path.is_file())


# Reading


def _config_of(folder: Path) -> Path:
    path = folder / CONFIG
    if not path.is_file():
        raise FileError(
            f"'{folder}' has no {CONFIG} (it holds {listed(folder)}): circuit-tracer's layout needs one, with "
            f"model_kind ({CROSS_LAYER} or {PER_LAYER}), feature_input_hook and feature_output_hook."
        )
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    path = _config_of(folder)
    config = dict(read_yaml(path).settings)
    kind = config.get("model_kind")
    if kind not in _KINDS:
        raise FileError(f"model_kind: {kind!r:.200} in '{path}' is unknown: {', '.join(_KINDS)} are read.")
    for name in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(config.get(name), str):
            raise FileError(
                f"{name}: {config.get(name)!r:.200} in '{path}' names no hook point: give one such as hook_resid_mid."
            )
    if not isinstance(config.get("model_name"), str | None):
        raise FileError(
            f"model_name: {config['model_name']!r:.200} in '{path}' is no name: give text, or leave it out."
        )
    return config


def _refuse_strays(paths: Sequence[Path], folder: Path) -> None:
    strays = [path for path in paths if path.parent != folder or not path.name.startswith(("W_enc_", "W_dec_"))]
    if strays:
        raise FileError(
            f"'{folder / CONFIG}' lists {len(strays)} files that are no part of a cross-layer transcoder in this "
            f"layout, first '{strays[0]}': its weights are W_enc_0.safetensors, W_dec_0.safetensors and so on, beside "
            f"the config. Leave `transcoders` out, or say model_kind: {PER_LAYER} if these are the layers of one."
        )


def _read_cross_layer(folder: Path) -> list[_Layer]:
    encoders, decoders = _numbered(folder, "W_enc"), _numbered(folder, "W_dec")
    n_layers, d_model = len(encoders), None
    if len(decoders) != n_layers:
        raise FileError(
            f"'{folder}' has W_enc files for layers {_span(n_layers)} and W_dec files for layers "
            f"{_span(len(decoders))}: one of each belongs to every layer; fetch the missing ones."
        )
    layers = []
    for layer, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        written = decoder.shapes.get(f"W_dec_{layer}", ())
        if len(written) == 3 and written[1] > n_layers - layer:
            raise FileError(
                f"W_dec_{layer} in '{folder}' writes layers {layer} to {layer + written[1] - 1}, but only files of "
                f"layers {_span(n_layers)} are there: fetch the missing ones."
            )
        W_enc = encoder.get(f"W_enc_{layer}", None, d_model)
        n_features, d_model = W_enc.shape
        b_enc, b_dec = encoder.get(f"b_enc_{layer}", n_features), encoder.get(f"b_dec_{layer}", d_model)
        W_dec = decoder.get(f"W_dec_{layer}", n_features, n_layers - layer, d_model)
        threshold = encoder.find(f"threshold_{layer}", n_features)
        W_skip = encoder.find(f"W_skip_{layer}", d_model, d_model)
        shift = encoder.find(f"shift_{layer}", n_features, n_layers - layer)
        layers.append(_Layer(Layer(W_enc, b_enc, W_dec, b_dec, W_skip, shift), threshold))
    return layers


def _read_per_layer(folder: Path, paths: Sequence[Path]) -> list[_Layer]:
    files = [open_tensors(path) for path in paths] or _numbered(folder, "layer")
    d_model, layers = None, []
    for file in files:
        W_enc = file.get("W_enc", None, d_model)
        n_features, d_model = W_enc.shape
        b_enc, b_dec = file.get("b_enc", n_features), file.get("b_dec", d_model)
        W_dec = file.get("W_dec", n_features, d_model).unsqueeze(1)
        threshold = file.find(_THRESHOLD, n_features)
        skip = file.find("W_skip", d_model, d_model)
        W_skip = None if skip is None else skip.T
        k = int(file.get("k", dtypes=("I64", "I32"))) if "k" in file.shapes else None
        shift = file.find("shift", n_features, 1)
        layers.append(_Layer(Layer(W_enc, b_enc, W_dec, b_dec, W_skip, shift), threshold, k))
    return layers


def _numbered(folder: Path, stem: str) -> list[TensorFile]:
    """The files `{stem}_{l}.safetensors`, in the order of l."""
    return [open_tensors(path) for path in _ordered(folder, stem)]


def _ordered(folder: Path, stem: str) -> list[Path]:
    return every_layer(folder, _found(folder, stem), f"{stem}_{{}}.safetensors")


def _found(folder: Path, stem: str) -> dict[int, Path]:
    return numbered(folder, rf"{stem}_(\d+)\.safetensors")


def _files(folder: Path, _: str) -> list[Path]:
    """The config, and of those kinds of files that are there, one for each layer."""
    weights = [path for stem in _STEMS if _found(folder, stem) for path in _ordered(folder, stem)]
    return [_config_of(folder), *weights]


def _read_ours(folder: Path, config: dict[str, Any], layers: list[_Layer]) -> dict[str, Any]:
    """The key that only this package writes, with what a folder from elsewhere means by its absence."""
    whole = [layer.weights.W_dec.shape[1] for layer in layers]
    ours = {"format": 1, "activation": None, "written": whole, "processed_weights": False} | _table(
        folder, "tl_circuits", config.get("tl_circuits") or {}
    )
    if ours["format"] != 1:
        raise FileError(
            f"'{folder}' was written in format {ours['format']!r:.200} of tl_circuits, and this version reads format 1"
            ": upgrade it."
        )
    written = ours["written"]
    if not isinstance(written, list) or not all(type(number) is int and number > 0 for number in written):
        raise FileError(f"written: {written!r:.200} in '{folder / CONFIG}' is not a count of layers for each layer.")
    if len(written) != len(layers):
        raise FileError(
            f"'{folder / CONFIG}' tells of {len(written)} layers, but files of layers {_span(len(layers))} are there: "
            "fetch the rest."
        )
    if any(number > most for number, most in zip(written, whole, strict=True)):
        raise FileError(
            f"written: {written} in '{folder / CONFIG}' is more than the decoders hold, {whole}: fetch the folder "
            "again."
        )
    if type(ours["processed_weights"]) is not bool:
        raise FileError(
            f"processed_weights: {ours['processed_weights']!r:.200} in '{folder / CONFIG}' is neither true nor false."
        )
    return ours


def _activation(folder: Path, config: dict[str, Any], ours: dict[str, Any], layers: list[_Layer]) -> Activation:
    """What the folder says, or else what circuit-tracer infers: a name in the config, thresholds, ReLU."""
    thresholds = [layer.threshold for layer in layers]
    details = ours["activation"]
    if details is None:
        k = _k(folder, config, layers)
        inferred = "jump_relu" if any(theta is not None for theta in thresholds) else "relu" if k is None else "topk"
        name = config.get("activation") or inferred
        details = {"name": "jump_relu" if name in ("jumprelu", "jump-relu") else name} | ({} if k is None else {"k": k})
    return build(details, thresholds, str(folder / CONFIG))


def _k(folder: Path, config: dict[str, Any], layers: list[_Layer]) -> Any:
    """What the config says, or else all layer files."""
    stored = {layer.k for layer in layers}
    known = {config["k"]} | (stored - {None}) if type(config.get("k")) is int else stored
    if len(known) > 1:
        raise FileError(
            f"'{folder}' has more than one k, {sorted(map(str, known))} in {CONFIG} and the layers' files: one serves "
            "all layers here; take transcoders that were trained together."
        )
    return config.get("k", *stored)


def _table(folder: Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileError(
            f"{name}: {value!r:.200} in '{folder / CONFIG}' is not a table of settings: fetch the file again."
        )
    return value


def _span(n_layers: int) -> str:
    return f"0 to {n_layers - 1}"


CIRCUIT_TRACER = Format("circuit-tracer", choices, _files, lambda folder, _: load(folder))
