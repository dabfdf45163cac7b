"""Trains a model of the zoo from nothing, measures it, and saves it if it is good enough.

    python -m tl_circuits.zoo.build --name atlas

Deterministic by seed on one thread. Figures go to standard output and to `figures.json` beside the weights.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tl_circuits.zoo import demo_recipe
from tl_circuits.zoo.atlas import recipe as atlas_recipe
from tl_circuits.zoo.recipe import BelowTarget, Recipe, carry_out

RECIPES: Mapping[str, Callable[[], Recipe]] = {"demo": demo_recipe.recipe, "atlas": atlas_recipe.recipe}


def main() -> int:
    """The command: 0 where everything was saved, 1 where a figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m tl_circuits.zoo.build", description=__doc__)
    parser.add_argument("--name", choices=RECIPES, default="demo", help="which model (default demo)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the model and the transcoders (default 0)")
    parser.add_argument("--out", type=Path, help="where to save (default: into the package)")
    given = parser.parse_args()
    recipe = RECIPES[given.name]()
    # Tiny operations gain nothing from a second thread, and sums in a fixed order make the build repeatable.
    torch.set_num_threads(1)
    try:
        carry_out(recipe, given.seed, given.out or recipe.assets)
    except BelowTarget as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
