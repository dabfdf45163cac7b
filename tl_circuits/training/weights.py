"""The parameters of a transcoder while it is trained, and how they are laid out.

In training each decoder from one layer into another is one contiguous (feature, d_model) table, because the sparse
products walk over rows of one table at a time; `CrossLayerTranscoder` stacks those of a source layer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.training.rules import Rule
from tl_circuits.transcoder import Activation, JumpReLU, ReLU, TopK

Tied = Literal["none", "source", "target"]


@dataclass(frozen=True)
class Architecture:
    """What reads and writes what. Features of a layer write it and the `span` - 1 next ones.

    `tied="source"`: a feature writes the same row into every layer; `tied="target"`: features of the same index write
    the same row into a layer, whichever layer they are of. `skip` adds a linear path from each input to its output.
    """

    n_layers: int
    d_model: int
    features: int
    span: int
    tied: Tied = "none"
    skip: bool = False

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Source and written layer of every decoder, by source."""
        for source in range(self.n_layers):
            for layer in self.written(source):
                yield source, layer

    def written(self, source: int) -> range:
        """The layers that features of `source` write."""
        return range(source, min(self.n_layers, source + self.span))

    def sources(self, layer: int) -> range:
        """The layers whose features write `layer`."""
        return range(max(0, layer - self.span + 1), layer + 1)

    def table(self, source: int, layer: int) -> str:
        """The name of the decoder from one layer into another."""
        match self.tied:
            case "none":
                return f"W_dec.{source}.{layer}"
            case "source":
                return f"W_dec.from.{source}"
            case "target":
                return f"W_dec.into.{layer}"


UNSHARDED = ("b_dec", "W_skip")
"""Parameters, by how their names begin, that have no feature axis: every shard has them whole."""


def is_sharded(name: str) -> bool:
    """Whether a parameter's rows are features, of which a shard has some."""
    return not name.startswith(UNSHARDED)


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters by name: `W_enc.l`, `b_enc.l`, `threshold.l` (JumpReLU), decoder tables, `b_dec`, `W_skip.l`."""

    shape: Architecture
    parameters: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name]

    def threshold(self, layer: int) -> Float[Tensor, " feature"] | None:
        """θ of a layer; None where the activation has none."""
        return self.parameters.get(f"threshold.{layer}")

    def table(self, source: int, layer: int) -> Float[Tensor, "feature d_model"]:
        """The decoder from one layer into another."""
        return self.parameters[self.shape.table(source, layer)]

    def stacked(self) -> dict[str, Tensor]:
        """The parameters by the names that a `CrossLayerTranscoder` has for them, differentiably."""
        named = {name: self.parameters[name] for name in self.parameters if name.startswith(("W_enc", "b_enc"))}
        for source in range(self.shape.n_layers):
            tables = [self.table(source, layer) for layer in self.shape.written(source)]
            named[f"W_dec.{source}"] = torch.stack(tables, dim=1)
        named["b_dec"] = self.parameters["b_dec"]
        named |= {name: self.parameters[name] for name in self.parameters if name.startswith("W_skip")}
        if "threshold.0" in self.parameters:
            named["activation.threshold"] = self.stacked_thresholds()
        return named

    def activation(self, rule: Rule) -> Activation:
        """The activation at inference, with copies of the thresholds."""
        if "threshold.0" in self.parameters:
            return JumpReLU(self.stacked_thresholds().detach().clone(), bandwidth=rule.bandwidth)
        return ReLU() if rule.name == "relu" else TopK(rule.k, relu=True)

    def stacked_thresholds(self) -> Float[Tensor, "layer feature"]:
        """θ of all layers."""
        return torch.stack([self.parameters[f"threshold.{layer}"] for layer in range(self.shape.n_layers)])

    def require_grad(self, wanted: bool) -> None:
        """Whether gradients are to come."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(wanted)


def shapes_of(shape: Architecture, rows: int, thresholds: bool) -> dict[str, tuple[int, ...]]:
    """The parameters of so many features in each layer, by name."""
    layers, table = range(shape.n_layers), (rows, shape.d_model)
    found: dict[str, tuple[int, ...]] = {"b_dec": (shape.n_layers, shape.d_model)}
    for layer in layers:
        found |= {f"W_enc.{layer}": table, f"b_enc.{layer}": (rows,)}
        found |= {f"threshold.{layer}": (rows,)} if thresholds else {}
        found |= {f"W_skip.{layer}": (shape.d_model, shape.d_model)} if shape.skip else {}
    return found | {shape.table(*pair): table for pair in shape.pairs}


def initial(shape: Architecture, threshold: float | None, draw: torch.Generator, shard: slice = slice(None)) -> Weights:
    """Weights to start from: encoders uniform within ±1/√d_model, and all else 0 but the thresholds.

    Decoders start at zero, so that a feature first learns what helps and is charged for it only then. `shard` are the
    features to have: the rows are those that a single process would have drawn.
    """
    exact = torch.float32
    parameters: dict[str, Tensor] = {}
    for layer in range(shape.n_layers):
        rows = torch.rand(shape.features, shape.d_model, generator=draw, dtype=exact)[shard]
        parameters[f"W_enc.{layer}"] = (2 * rows - 1) / shape.d_model**0.5
        parameters[f"b_enc.{layer}"] = torch.zeros(len(rows), dtype=exact)
        if threshold is not None:
            parameters[f"threshold.{layer}"] = torch.full((len(rows),), threshold, dtype=exact)
    n_rows = len(parameters["b_enc.0"])
    for pair in shape.pairs:
        parameters.setdefault(shape.table(*pair), torch.zeros(n_rows, shape.d_model, dtype=exact))
    parameters["b_dec"] = torch.zeros(shape.n_layers, shape.d_model, dtype=exact)
    if shape.skip:
        for layer in range(shape.n_layers):
            parameters[f"W_skip.{layer}"] = torch.zeros(shape.d_model, shape.d_model, dtype=exact)
    return Weights(shape, parameters)
