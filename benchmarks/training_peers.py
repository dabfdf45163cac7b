"""Other trainers' model classes, from a checkout of theirs: how each makes one training step on given data.

Of crosslayer-transcoder (Goreg12345) the model is run, and the loss of its JumpReLU module written out here, since that
module needs Lightning; of crosslayer-coding (curt-tigges) the model and its loss manager; of CLT-Forge the model, its
loss, and the clipping of its trainer. All with fused Adam, which CLT-Forge's trainer does not ask for.
"""

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The size of a cross-layer transcoder."""

    n_layers: int
    d_model: int
    features: int


LR = 1e-7
"""Low enough that what is on stays on: a step costs the same at any rate."""

Make = Callable[[Path, Shape, int, float], Callable[..., Any]]


def crosslayer_transcoder(checkout: Path, shape: Shape, l0: int, bandwidth: float) -> Callable[[Tensor, Tensor], float]:
    """Squared error and the tanh penalty on activations times decoder norms, for its cross-layer decoder."""
    part = _parts("crosslayer_transcoder.model", checkout, "clt", "jumprelu", "standardize")
    size = (shape.d_model, shape.features, shape.n_layers)
    # Its encoder starts uniform within ±1/√features.
    spread = (shape.d_model / (3 * shape.features)) ** 0.5
    jump = part["jumprelu"].JumpReLU(_sharp(shape, l0) * spread, bandwidth, shape.n_layers, shape.features)
    units = part["standardize"]
    model = part["clt"].CrossLayerTranscoder(
        jump,
        part["clt"].Encoder(*size),
        part["clt"].CrosslayerDecoder(*size),
        units.DimensionwiseInputStandardizer(shape.n_layers, shape.d_model),
        units.DimensionwiseOutputStandardizer(shape.n_layers, shape.d_model),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        batch = torch.stack([x.transpose(0, 1), y.transpose(0, 1)], dim=1)
        if not model.input_standardizer.is_initialized:
            model.initialize_standardizers(batch)
        _, features, written, _ = model(batch[:, 0])
        squares = torch.zeros_like(features[:1])
        for layer in range(shape.n_layers):
            rows = model.decoder.get_parameter(f"W_{layer}").square().sum(-1)
            squares[:, : layer + 1] = squares[:, : layer + 1] + rows
        error = (written - model.output_standardizer.standardize(batch[:, 1])).square().mean()
        (error + 1e-3 * torch.tanh(4.0 * features * squares.sqrt()).sum((1, 2)).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return float((features > 0).sum()) / features.shape[0] / shape.n_layers

    return step


def crosslayer_coding(checkout: Path, shape: Shape, l0: int, _bandwidth: float) -> Callable[[Tensor, Tensor], float]:
    """Its own loss manager's total, as its trainer calls it: activations first, then the loss."""
    sys.path.insert(0, str(checkout))
    config, models, losses = (
        importlib.import_module(name) for name in ("clt.config", "clt.models.clt", "clt.training.losses")
    )
    told = config.CLTConfig(
        num_features=shape.features,
        num_layers=shape.n_layers,
        d_model=shape.d_model,
        activation_fn="jumprelu",
        jumprelu_threshold=_sharp(shape, l0) * (shape.d_model / (3 * shape.features)) ** 0.5,
    )
    model = models.CrossLayerTranscoder(told, process_group=None, device=torch.device("cpu"))
    manager = losses.LossManager(
        config.TrainingConfig(learning_rate=1e-4, training_steps=100, activation_source="local_manifest",
                              activation_path=".", sparsity_lambda=1e-3),
        clt_config=told,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        inputs, targets = (dict(enumerate(side)) for side in (x, y))
        active = model.get_feature_activations(inputs)
        loss, _ = manager.compute_total_loss(model, inputs, targets, 50, 100, precomputed_activations=active)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # As its trainer does, or the norms' graph would be gone at the next step.
        model.decoder_module._cached_decoder_norms = None
        return sum(float((a > 0).sum()) for a in active.values()) / x.shape[1] / shape.n_layers

    return step


def clt_forge(checkout: Path, shape: Shape, l0: int, bandwidth: float) -> Callable[[Tensor, Tensor], float]:
    """Its own forward pass, which returns its loss, and the gradient clipped as its trainer clips it."""
    sys.path.insert(0, str(checkout / "src"))
    config, models = (importlib.import_module(name) for name in ("clt_forge.config", "clt_forge.clt"))
    told = config.CLTConfig(
        device="cpu",
        dtype="float32",
        seed=0,
        model_name="",
        d_in=shape.d_model,
        d_latent=shape.features,
        n_layers=shape.n_layers,
        jumprelu_bandwidth=bandwidth,
        jumprelu_init_threshold=_sharp(shape, l0) * (shape.d_model / (3 * shape.features)) ** 0.5,
        normalize_decoder=False,
        dead_feature_window=250,
        cross_layer_decoders=True,
        context_size=1,
        l0_coefficient=1e-3,
    )
    model = models.CLT(told)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        loss, found = model(x.transpose(0, 1), y.transpose(0, 1), 1e-3, 1e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        return float((found.feature_acts > 0).sum()) / x.shape[1] / shape.n_layers

    return step


def _sharp(shape: Shape, l0: int) -> float:
    return torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - l0 / shape.features)).item()


def _parts(package: str, checkout: Path, *names: str) -> dict[str, Any]:
    # The package's own front door imports its data pipeline; what is measured needs a few modules of it.
    parts = package.split(".")
    for end in range(1, len(parts) + 1):
        stand_in: Any = types.ModuleType(".".join(parts[:end]))
        stand_in.__path__ = [str(checkout.joinpath(*parts[:end]))]
        sys.modules[stand_in.__name__] = stand_in
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


PEERS: Mapping[str, Make] = {
    "crosslayer-transcoder": crosslayer_transcoder,
    "crosslayer-coding": crosslayer_coding,
    "clt-forge": clt_forge,
}
