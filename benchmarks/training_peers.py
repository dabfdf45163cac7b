"""Other trainers' model classes, from a checkout of theirs: how each makes one training step on given data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The size of a cross-layer transcoder."""

    n_layers: int
    d_model: int
    features: int


Make = Callable[[Path, Shape, int, float], Callable[..., Any]]
PEERS: Mapping[str, Make] = {}
