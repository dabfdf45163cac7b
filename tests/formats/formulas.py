"""A transcoder by the formulas of the package that wrote it, in double precision, to hold ours against."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from tl_circuits.transcoder import CrossLayerTranscoder

Arrays = dict[str, np.ndarray]
Formula = Callable[[np.ndarray], tuple[list[np.ndarray], list[np.ndarray]]]
"""From x (layer, token, d_model) to the features and the output of every layer, skips included."""


@dataclass(frozen=True)
class Written:
    """What was written, what it computes, and what is said of it."""

    formula: Formula
    read: str
    write: str
    model_name: str | None = None


def numbers(seed: int = 0) -> Callable[..., np.ndarray]:
    """Random weights in single precision, by their shape."""
    random = np.random.default_rng(seed)
    return lambda *shape: random.normal(size=shape).astype(np.float32)


def double(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def relu(h: np.ndarray) -> np.ndarray:
    return np.maximum(h, 0)


def top(h: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, the others zero."""
    kept = np.zeros_like(h)
    for row, values in enumerate(h):
        chosen = np.argsort(-values)[:k]
        kept[row, chosen] = values[chosen]
    return kept


def store(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def assert_computes(found: CrossLayerTranscoder, written: Written, *, tolerance: float = 1e-6) -> None:
    """Features, reconstruction and skip are those of the original, where it reads and writes the same places."""
    x = np.random.default_rng(9).normal(size=(found.n_layers, 7, found.d_model))
    features, outputs = written.formula(x)
    ours = [found.eval().encode(torch.from_numpy(x[layer]), layer) for layer in range(found.n_layers)]
    for layer in range(found.n_layers):
        assert features[layer].any(), "features that are all silent show nothing"
        np.testing.assert_allclose(ours[layer], features[layer], rtol=tolerance, atol=tolerance)
        y, skip = found.decode(ours, layer), found.skip(torch.from_numpy(x[layer]), layer)
        np.testing.assert_allclose(y if skip is None else y + skip, outputs[layer], rtol=tolerance, atol=tolerance * 10)
    assert (found.read, found.write, found.model_name) == (written.read, written.write, written.model_name)
