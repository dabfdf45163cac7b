"""How fast this machine is at what training does, by doing a little of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tl_circuits.harvest import collect
from tl_circuits.hooks import Model
from tl_circuits.training.optimizer import Optimizer
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.step import passed
from tl_circuits.training.weights import Architecture, Weights, initial

# A table that is measured has so many numbers at most; wider ones take in proportion.
MEASURED = 2**24
TOKENS, WIDTH = 1024, 128
# A step that is measured has so many tokens at most, and a longer one takes in proportion.
BATCH = 4096


@dataclass(frozen=True)
class Pace:
    """Seconds of one sparse step for each layer that encodes and each pair of layers, and of one token harvested.

    `products` are multiplications and additions of dense matrices per second.
    """

    layer: float
    pair: float
    token: float
    products: float


def pace_of(model: Model, settings: TrainingSettings, n_features: int, l0: int) -> Pace:
    """The pace on this machine, at so many features on per token and layer."""
    d_model = model.cfg.d_model
    measured = max(l0 + 1, min(n_features, MEASURED // d_model))
    # One layer costs layer + pair; two, the first of which writes both, 2 layer + 3 pair.
    with torch.inference_mode(False), torch.enable_grad():
        one, two = (_sparse_step(settings, n, d_model, measured, l0) for n in (1, 2))
    pair = min(max(0.0, two - 2 * one), one)
    wider = n_features / measured * max(1.0, settings.batch_tokens / BATCH)
    return Pace((one - pair) * wider, pair * wider, _token(model, settings), _products())


def _sparse_step(settings: TrainingSettings, n_layers: int, d_model: int, n_features: int, l0: int) -> float:
    draw = torch.Generator().manual_seed(0)
    threshold = settings.threshold if settings.activation == "jump_relu" else None
    weights = initial(Architecture(n_layers, d_model, n_features, n_layers), threshold, draw)
    if "topk" not in settings.activation:
        _switch_on(weights, threshold or 0.0, l0)
    weights.require_grad(True)
    n_tokens = min(settings.batch_tokens, BATCH)
    x, y = (torch.randn(n_layers, n_tokens, d_model, generator=draw, dtype=torch.float32) for _ in range(2))
    optimizer = Optimizer(weights, low_memory=settings.low_memory)
    optimizer.set_lr(0.0)

    def step() -> None:
        batch = passed(weights, x, y, settings.rule, "sparse", working=settings.working, costs=settings.costs)
        (batch.reconstruction + settings.sparsity * batch.cost).backward()
        optimizer.step()

    seconds = _fastest(step)
    optimizer.close()
    return seconds


def _switch_on(weights: Weights, threshold: float, l0: int) -> None:
    # Rows of a new encoder are uniform with a variance of 1 / (3 d_model), so that pre-activations are normal.
    for layer in range(weights.shape.n_layers):
        share = torch.tensor(1 - l0 / weights.shape.features, dtype=torch.float64)
        weights[f"b_enc.{layer}"].fill_(threshold - float(torch.special.ndtri(share)) / 3**0.5)


def _token(model: Model, settings: TrainingSettings) -> float:
    width = min(WIDTH, settings.context or WIDTH, model.cfg.n_ctx)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (max(1, TOKENS // width), width), generator=draw)
    kept = torch.ones_like(tokens, dtype=torch.bool)
    return _fastest(lambda: collect(model, tokens, kept, settings.read, settings.write)) / tokens.numel()


def _products() -> float:
    a = torch.ones(1024, 1024, dtype=torch.float32)
    return 2 * 1024**3 / _fastest(lambda: torch.mm(a, a))


def _fastest(do: Callable[[], Any]) -> float:
    """Seconds of the fastest of three, after one to warm up: what else the machine does only adds to it."""
    do()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return min(times)
