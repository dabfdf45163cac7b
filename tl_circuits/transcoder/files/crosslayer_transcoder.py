"""crosslayer-transcoder (Goreg12345): decoders grouped by the layer that they write, standardised inputs and outputs.

    config.yaml              model: {class_path, init_args: {encoder, decoder, nonlinearity, …_standardizer}, is_folded}
    checkpoint.safetensors   encoder.W (L, d_model, feature), encoder.b (L, feature), decoder.b (L, d_model),
                             decoder.W_{t} (t+1, feature, d_model), its first axis the source layer;
                             decoder.W (L, feature, d_model) where a layer writes only itself;
                             nonlinearity.theta (1, L, feature) or .threshold (1) or (L);
                             input_standardizer and output_standardizer .mean and .std (L, d_model) or (L)

    x̂ = (x − mean)/std,  h = x̂ W + b,  ŷ^t = (Σ_{s≤t} a^s W_{t}[s] + b^t)·std^t + mean^t

a is max(h, 0), h·1[h > θ]·1[h > 0], the k largest of each layer and of them the positive ones, or for BatchTopK what
exceeds its threshold, as that package computes it when it does not train. x is the residual stream before the norm
(`hook_resid_mid`), on a model whose weights were not processed, and ŷ is `hook_mlp_out`. Since our decoders are grouped
by source, they are put together in memory. Standardising each sample on its own is no linear map, and is refused.
"""

from pathlib import Path

import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.activations import Activation, BatchTopK, ReLU
from tl_circuits.transcoder.files.activations import build, jump_relu
from tl_circuits.transcoder.files.configs import Config, read_yaml
from tl_circuits.transcoder.files.folding import Normalisation, fold
from tl_circuits.transcoder.files.layers import Layer, assemble
from tl_circuits.transcoder.files.layout import Format, matching
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_CONFIG, _WEIGHTS = "config.yaml", "checkpoint.safetensors"


def choices(folder: Path) -> tuple[str, ...]:
    """`("",)` where its one file of weights is there, whole or not."""
    return ("",) if (folder / _WEIGHTS).is_file() and (folder / _CONFIG).is_file() else ()


def load(folder: Path) -> CrossLayerTranscoder:
    """Read the checkpoint."""
    config = read_yaml(folder / _CONFIG).table("model")
    _kind(config, {"CrossLayerTranscoder"})
    parts = config.table("init_args")
    file = open_tensors(folder / _WEIGHTS)
    W_enc = file.get("encoder.W", None, None, None)
    n_layers, d_model, n_features = W_enc.shape
    b_enc, b_dec = file.get("encoder.b", n_layers, n_features), file.get("decoder.b", n_layers, d_model)
    if _kind(parts.table("decoder"), {"CrosslayerDecoder", "Decoder"}) == "Decoder":
        W_dec = list(file.get("decoder.W", n_layers, n_features, d_model).unsqueeze(2))
    else:
        by_target = [file.get(f"decoder.W_{t}", t + 1, n_features, d_model) for t in range(n_layers)]
        W_dec = [torch.stack([by_target[t][s] for t in range(s, n_layers)], dim=1) for s in range(n_layers)]
    layers = [Layer(W_enc[n].T, b_enc[n], W_dec[n], b_dec[n]) for n in range(n_layers)]
    if not config.flag("is_folded", False):
        layers = fold(layers, _normalisation(parts, file, n_layers, d_model))
    activation = _activation(parts.table("nonlinearity"), file, n_layers, n_features)
    return assemble(folder, layers, activation, read="hook_resid_mid", write="hook_mlp_out")


def _normalisation(parts: Config, file: TensorFile, n_layers: int, d_model: int) -> Normalisation:
    read_mean, read_std = _standardizer(parts, "input_standardizer", "Input", file, n_layers, d_model)
    write_mean, write_std = _standardizer(parts, "output_standardizer", "Output", file, n_layers, d_model)
    return Normalisation(1 / read_std, read_mean / read_std, write_std, write_mean)


def _standardizer(
    parts: Config, name: str, end: str, file: TensorFile, n_layers: int, d_model: int
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, in double precision."""
    standardizer = parts.table(name)
    kinds = {f"Dimensionwise{end}Standardizer", f"Layerwise{end}Standardizer", "Standardizer"}
    kind = _kind(standardizer, kinds) if standardizer.settings else "Standardizer"
    if kind == "Standardizer":
        return torch.zeros(n_layers, 1).double(), torch.ones(n_layers, 1).double()
    shape = (n_layers, d_model) if kind.startswith("Dimensionwise") else (n_layers,)
    mean, std = (file.get(f"{name}.{what}", *shape).double().view(n_layers, -1) for what in ("mean", "std"))
    if not bool((std > 0).all()):
        raise FileError(
            f"{name}.std in '{file.path}' holds {int((std <= 0).sum())} numbers that are not positive: was it saved "
            "before training began?"
        )
    return mean, std


def _activation(config: Config, file: TensorFile, n_layers: int, n_features: int) -> Activation:
    kind = _kind(config, {"ReLU", "JumpReLU", "PerLayerTopK", "BatchTopK", "PerLayerBatchTopK"})
    match kind:
        case "ReLU":
            return ReLU()
        case "JumpReLU":
            theta = file.get("nonlinearity.theta", 1, n_layers, n_features)[0]
            return jump_relu(list(theta), file.path, rectified=True)
        case "PerLayerTopK":
            k = config.table("init_args").count("k")
            return build({"name": "topk", "k": k, "relu": True}, [None] * n_layers, str(config.path))
        case _:
            threshold = file.get("nonlinearity.threshold", 1 if kind == "BatchTopK" else n_layers)
            return BatchTopK(config.table("init_args").count("k"), threshold.expand(n_layers).clone())


def _kind(config: Config, known: set[str]) -> str:
    """The last part of class_path, which is never imported."""
    kind = (config.text("class_path") or "").rpartition(".")[2]
    if kind not in known:
        raise config.error("class_path", f"no class that can be read exactly here: {', '.join(sorted(known))} are")
    return kind


CROSSLAYER_TRANSCODER = Format(
    "crosslayer-transcoder", choices, matching(_CONFIG, _WEIGHTS), lambda folder, _: load(folder)
)
