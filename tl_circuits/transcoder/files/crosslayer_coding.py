"""crosslayer-coding (curt-tigges): one decoder for each pair of layers, or tied ones; normalisation kept elsewhere.

    cfg.json   num_layers, num_features, d_model, activation_fn, decoder_tying, skip_connection, normalization_method, …
    model.safetensors, clt_checkpoint_{step}.safetensors or clt_checkpoint_latest.safetensors
    norm_stats.json   of the activations that it was trained on: copy it here where normalization_method is mean_std

    encoder_module.encoders.{l}.weight (feature, d_model), .bias_param (feature)
    decoder_module.decoders.{s}->{t}.weight (d_model, feature), .bias_param (d_model); tied: decoders.{s} or .{t}
    decoder_module.feature_scale.{t}, .feature_offset.{t} (feature); skip_weights.{s}->{t} or .{t} (d_out, d_in)
    theta_manager.log_threshold (L, feature)

    untied      ŷ^t = Σ_{s≤t} W[s->t] a^s + b[s->t]
    per_source  ŷ^t = Σ_{s≤t} W[s] ((a^s + offset^t·1[a^s ≠ 0])·scale^t) + b[s]
    per_target  ŷ^t = Σ_{s≤t} W[t] ((a^s + offset^t·1[a^s ≠ 0])·scale^t) + b[t]

a is max(h, 0), h·1[h ≥ exp(log_threshold)] (here >: the two differ only where h equals the threshold to the last bit)
or, with `topk_mode: per_layer`, the k largest of each layer, as that package's table of activations defines it. What
is refused, because it would join layers that are apart here: skips between layers, top-k over all layers together
(topk_mode: global), and BatchTopK, for which that package has a conversion to JumpReLU.
Our decoders have features as rows, so the weights are put together in memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.activations import Activation, ReLU
from tl_circuits.transcoder.files.activations import build, jump_relu
from tl_circuits.transcoder.files.configs import Config, read_json
from tl_circuits.transcoder.files.folding import Normalisation, fold
from tl_circuits.transcoder.files.hf_names import read_point, write_point
from tl_circuits.transcoder.files.layers import Layer, assemble, without_zero_shifts
from tl_circuits.transcoder.files.layout import Format, matching
from tl_circuits.transcoder.files.refusals import BETWEEN_LAYERS, refuse_nonzero
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_CONFIG, _STATISTICS = "cfg.json", "norm_stats.json"
_DECODER = "decoder_module"
# How earlier versions called the same.
_NORMALISATIONS = {
    "none": "none",
    "mean_std": "mean_std",
    "auto": "mean_std",
    "estimated_mean_std": "mean_std",
    "sqrt_d_model": "sqrt_d_model",
    "auto_sqrt_d_model": "sqrt_d_model",
    "estimated_mean_std_sqrt_d_model": "sqrt_d_model",
}


def choices(folder: Path) -> tuple[str, ...]:
    """The checkpoints in the folder, where its settings file is there too."""
    if not (folder / _CONFIG).is_file():
        return ()
    found = _checkpoints(folder)
    return tuple(found) if len(found) > 1 else ("",) * len(found)


def load(folder: Path, choice: str) -> CrossLayerTranscoder:
    """Read one checkpoint."""
    config = read_json(folder / _CONFIG)
    path = folder / f"{choice or _checkpoints(folder)[0]}.safetensors"
    reader = _Reader(
        config, open_tensors(path), config.count("num_layers"), config.count("num_features"), config.count("d_model")
    )
    layers = without_zero_shifts([reader.layer(number) for number in range(reader.n_layers)])
    by = _normalisation(config, reader.n_layers, reader.d_model)
    read, write = _places(config)
    return assemble(
        folder,
        layers if by is None else fold(layers, by),
        _activation(reader),
        read=read,
        write=write,
        model_name=config.text("model_name"),
    )


def _checkpoints(folder: Path) -> list[str]:
    return sorted(
        path.stem
        for pattern in ("model.safetensors", "clt.safetensors", "clt_checkpoint_*.safetensors")
        for path in folder.glob(pattern)
    )


@dataclass(frozen=True)
class _Reader:
    """One checkpoint and its sizes."""

    config: Config
    file: TensorFile
    n_layers: int
    n_features: int
    d_model: int

    @property
    def tying(self) -> str:
        return self.config.choice("decoder_tying", {"none", "per_source", "per_target"}, "none")

    def layer(self, number: int) -> Layer:
        encoder = f"encoder_module.encoders.{number}"
        into = [self._bias(source, number) for source in range(number + 1)]
        # One decoder for a target is applied once, and so is its bias.
        b_dec = into[-1] if self.tying == "per_target" else torch.stack(into).double().sum(0).to(into[0].dtype)
        return Layer(
            self.file.get(f"{encoder}.weight", self.n_features, self.d_model),
            self.file.get(f"{encoder}.bias_param", self.n_features),
            torch.stack([self._rows(number, target) for target in range(number, self.n_layers)], dim=1),
            b_dec,
            self._skip(number),
            self._shift(number),
        )

    def _name(self, source: int, target: int) -> str:
        pair = {"none": f"{source}->{target}", "per_source": str(source), "per_target": str(target)}[self.tying]
        return f"{_DECODER}.decoders.{pair}"

    def _bias(self, source: int, target: int) -> Tensor:
        return self.file.get(f"{self._name(source, target)}.bias_param", self.d_model)

    def _rows(self, source: int, target: int) -> Tensor:
        rows = self.file.get(f"{self._name(source, target)}.weight", self.d_model, self.n_features).T
        if self.tying == "none":
            return rows
        if self.config.flag("enable_feature_scale", False):
            rows = rows * self.file.get(f"{_DECODER}.feature_scale.{target}", self.n_features)[:, None]
        return rows

    def _shift(self, number: int) -> Tensor | None:
        if self.tying == "none" or not self.config.flag("enable_feature_offset", False):
            return None
        offsets = range(number, self.n_layers)
        return torch.stack(
            [self.file.get(f"{_DECODER}.feature_offset.{target}", self.n_features) for target in offsets], dim=1
        )

    def _skip(self, number: int) -> Tensor | None:
        if not self.config.flag("skip_connection", False):
            return None
        if self.tying != "none":
            return self.file.get(f"{_DECODER}.skip_weights.{number}", self.d_model, self.d_model).T
        for source in range(number):
            name = f"{_DECODER}.skip_weights.{source}->{number}"
            refuse_nonzero(self.file, name, (self.d_model, self.d_model), BETWEEN_LAYERS)
        return self.file.get(f"{_DECODER}.skip_weights.{number}->{number}", self.d_model, self.d_model).T


def _activation(reader: _Reader) -> Activation:
    config, file = reader.config, reader.file
    kind = config.choice("activation_fn", {"jumprelu", "relu", "topk", "batchtopk"}, "jumprelu")
    if kind == "relu":
        return ReLU()
    if kind == "jumprelu":
        name = next((name for name in ("theta_manager.log_threshold", "log_threshold") if name in file.shapes), None)
        threshold = file.get(name or "theta_manager.log_threshold", reader.n_layers, reader.n_features).exp()
        return jump_relu(list(threshold), file.path)
    if kind == "batchtopk":
        raise config.error(
            "activation_fn",
            "decided over a whole batch, and no threshold is stored: convert it to JumpReLU with that package's "
            "convert_batchtopk_to_jumprelu.py first",
        )
    if config.choice("topk_mode", {"global", "per_layer"}, "global") == "global":
        raise config.error(
            "topk_mode",
            "a choice of the k largest over all layers together, so that no layer's features are decided by its own "
            "input: only per_layer is read",
        )
    k = config.get("topk_k")
    if not isinstance(k, int | float) or isinstance(k, bool) or not 0 < k < math.inf:
        raise config.error("topk_k", "not a positive number")
    count = math.ceil(k * reader.n_features) if k < 1 else int(k)
    return build({"name": "topk", "k": count}, [None] * reader.n_layers, str(config.path))


def _normalisation(config: Config, n_layers: int, d_model: int) -> Normalisation | None:
    method = _NORMALISATIONS[config.choice("normalization_method", _NORMALISATIONS, "none")]
    if config.flag("sqrt_d_model_normalize", False):
        method = "sqrt_d_model"
    if method == "none":
        return None
    if method == "sqrt_d_model":
        root, zeros = torch.full((n_layers, 1), math.sqrt(d_model), dtype=torch.float64), torch.zeros(n_layers, 1)
        return Normalisation(root, zeros, 1 / root, zeros)
    path = config.path.parent / _STATISTICS
    if not path.is_file():
        raise FileError(
            f"normalization_method: mean_std in '{config.path}' needs the statistics of the activations that it was "
            f"trained on, and there is no '{path}': copy {_STATISTICS} there from the activation dataset."
        )
    statistics = read_json(path)
    read_mean, read_std = _statistics(statistics, "inputs", n_layers, d_model)
    write_mean, write_std = _statistics(statistics, "targets", n_layers, d_model)
    return Normalisation(1 / read_std, read_mean / read_std, write_std, write_mean)


def _statistics(file: Config, end: str, n_layers: int, d_model: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all layers. That package adds 1e-6 to the latter before it divides."""
    rows = [file.table(str(layer)).table(end) for layer in range(n_layers)]
    means = torch.stack([_numbers(row, "mean", d_model) for row in rows])
    return means, torch.stack([_numbers(row, "std", d_model) for row in rows]) + 1e-6


def _numbers(row: Config, name: str, d_model: int) -> Tensor:
    value: Any = row.get(name, [])
    if not isinstance(value, Sequence) or len(value) != d_model or not all(isinstance(n, int | float) for n in value):
        raise FileError(
            f"'{row.path}' has no {name} of {d_model} numbers for some layer: is it of another model? Copy the one of "
            "the activation dataset."
        )
    return torch.tensor(value, dtype=torch.float64)


def _places(config: Config) -> tuple[str, str]:
    """Where it reads and writes: hook points as they stand, or modules by their names in transformers."""
    points = []
    for end in ("input", "output"):
        hook, module = config.text(f"tl_{end}_template"), config.text(f"mlp_{end}_template")
        if hook is not None:
            points.append(hook.rpartition("}.")[2])
        elif module is not None:
            name, side = module.removesuffix(".input").removesuffix(".output"), end
            if module.endswith((".input", ".output")):
                side = module.rpartition(".")[2]
            model_name = config.text("model_name")
            points.append(
                read_point(name, "input" if side == "input" else "output", model_name, config.path)
                if end == "input"
                else write_point(name, model_name, config.path)
            )
        else:
            raise FileError(
                f"'{config.path}' does not say what it {'reads' if end == 'input' else 'writes'}: set "
                f"tl_{end}_template, such as blocks.{{}}.{'hook_resid_mid' if end == 'input' else 'hook_mlp_out'}."
            )
    return points[0], points[1]


CROSSLAYER_CODING = Format("crosslayer-coding", choices, matching(_CONFIG, _STATISTICS, "{}.safetensors"), load)
