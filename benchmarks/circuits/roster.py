"""Which dictionaries there are: their kinds, and three ways in which they are matched to a cross-layer transcoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.circuits.suites import Width

KINDS = ("CLT", "PLT", "skip PLT", "SAE", "SFC")
"""SFC: SAEs of the residual stream, attention outputs and MLP outputs, as in sparse feature circuits."""


@dataclass(frozen=True)
class Told:
    """One dictionary: its kind, how it is matched to the CLT, its width and k, and its training."""

    kind: str
    match: str
    features: int
    k: int
    steps: int
    batch_tokens: int
    seed: int

    @property
    def name(self) -> str:
        """What it is called in results: its kind, and how it is matched where that is not by L0."""
        return self.kind if self.match == "L0" else f"{self.kind}, {self.match}"

    @property
    def folder(self) -> str:
        """Where it lies, in the folder of its suite."""
        return f"{self.name.replace(', ', '-').replace(' ', '-')}-seed{self.seed}"


def roster(width: Width, n_layers: int, d_model: int, seeds: Sequence[int], l0s: Sequence[int] = ()) -> list[Told]:
    """All dictionaries of a suite, seed by seed; `l0s` are further ones of PLTs and SAEs, at the width of all."""
    return [told for seed in seeds for told in _of_seed(width, n_layers, d_model, seed, l0s)]


def _of_seed(width: Width, n_layers: int, d_model: int, seed: int, l0s: Sequence[int]) -> Iterator[Told]:
    rest = (width.steps, width.batch_tokens, seed)
    for kind in KINDS:
        yield Told(kind, "L0", width.features, width.k, *rest)
    for kind in ("PLT", "skip PLT", "SAE"):
        wider = equal_parameters(width.features, n_layers, d_model, skip=kind == "skip PLT")
        yield Told(kind, "parameters", wider, width.k, *rest)
        yield Told(kind, "writes", width.features, equal_writes(width.k, n_layers), *rest)
    for l0 in l0s:
        for kind in ("PLT", "SAE"):
            yield Told(kind, f"k {l0}", width.features, l0, *rest)


def equal_parameters(features: int, n_layers: int, d_model: int, *, skip: bool = False) -> int:
    """How many features a layer of a PLT or SAE may have to be as large as a CLT with `features` of them."""
    clt = features * (d_model + 1 + d_model * (n_layers + 1) / 2)
    return round((clt - skip * d_model**2) / (2 * d_model + 1))


def equal_writes(k: int, n_layers: int) -> int:
    """How many features of a PLT or SAE write as many layers in all as k of a CLT, on average over its layers."""
    return round(k * (n_layers + 1) / 2)
