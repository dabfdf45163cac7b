"""What it takes to make a model of the zoo and to let it in: bounds that figures have to meet, and their record."""

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from tl_circuits.errors import TLCircuitsError

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Bound:
    """What a figure has to be: at least, or at most, this."""

    limit: float
    at_least: bool = True

    def met(self, figure: float) -> bool:
        """Whether a figure keeps to it."""
        return figure >= self.limit if self.at_least else figure <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


class BelowTarget(TLCircuitsError):
    """What was trained misses its figures."""


@dataclass(frozen=True)
class Recipe:
    """How a model of the zoo is made: `make(seed, folder)` trains all there is into a folder, and measures it.

    What is measured has to have been through its files. `settings(seed)` is what is recorded beside the figures, and
    `mend` says in refusals where to look.
    """

    make: Callable[[int, Path], Figures]
    bounds: Mapping[str, Bound]
    settings: Callable[[int], Mapping[str, Any]]
    assets: Path
    mend: str


def carry_out(recipe: Recipe, seed: int, out: Path) -> Figures:
    """Makes what the recipe says, writes it into a folder with its `figures.json`, and returns its figures.

    Raises `BelowTarget`, and leaves the folder as it was, where a figure misses its bound.
    """
    begun, used = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures = recipe.make(seed, folder)
        _show(figures, recipe.bounds)
        _refuse_what_misses(figures, recipe)
        took = {"seconds": round(time.monotonic() - begun), "CPU seconds": round(time.process_time() - used)}
        _record(figures, recipe, seed, took, folder / "figures.json")
        for made in folder.iterdir():
            _replace(made, out / made.name)
    return figures


def save_language_model(language_model: GPT2LMHeadModel, folder: Path) -> None:
    """Writes a GPT-2's settings and weights as transformers lays them out."""
    # `save_pretrained` would show a progress bar for one small file.
    language_model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in language_model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _show(figures: Figures, bounds: Mapping[str, Bound]) -> None:
    table = Table("figure", "", "wanted")
    for name, figure in figures.items():
        bound = bounds.get(name)
        style = None if bound is None else "green" if bound.met(figure) else "bold red"
        table.add_row(name, f"{figure:.4f}", str(bound or ""), style=style)
    Console().print(table)


def _refuse_what_misses(figures: Figures, recipe: Recipe) -> None:
    missed = [
        f"{name} {figures[name]:.4f}, wanted {bound}"
        for name, bound in recipe.bounds.items()
        if not bound.met(figures[name])
    ]
    if missed:
        raise BelowTarget(f"Not saved: {'; '.join(missed)}. Mend {recipe.mend}, not the seed or the bound.")


def _record(figures: Figures, recipe: Recipe, seed: int, took: Mapping[str, int], path: Path) -> None:
    record = {
        "figures": {name: round(figure, 4) for name, figure in figures.items()},
        "bounds": {name: str(bound) for name, bound in recipe.bounds.items()},
        "seed": seed,
        "date": date.today().isoformat(),
        "took": {**took, "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "transformer-lens")},
        **recipe.settings(seed),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _replace(made: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    shutil.move(made, place)
