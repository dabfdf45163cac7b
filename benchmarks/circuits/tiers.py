"""How much of everything: `smoke` shows in seconds that the scripts run, `cpu` is what the tables are of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.circuits.planted import PLANTED
from benchmarks.circuits.roster import Told, roster
from benchmarks.circuits.sentence_model import Recipe
from benchmarks.circuits.suites import Suite, Width, demo_suite, planted_suite, sentences_suite

ON = {"pure chain": 1, "two-hop chain": 1, "parallel paths": 2, "Boolean gates": 2}
"""How many variables each layer of a compiled model writes: the k of its dictionaries."""
OF_PLANTED = ("CLT", "PLT", "skip PLT", "SAE")


@dataclass(frozen=True)
class Tier:
    """`trained` and `compiled`: what dictionaries are at matched L0. `l0s`: further L0s, of the demo's."""

    name: str
    trained: Width
    compiled: Width
    seeds: Sequence[int]
    n_prompts: int
    n_graphs: int = 8
    l0s: Sequence[int] = ()
    recipe: Recipe = field(default_factory=Recipe)
    suites: Sequence[str] = ("demo", "sentences", *PLANTED)

    def made(self, folder: Path, seed: int = 0) -> Iterator[Suite]:
        """The suites, one after another."""
        for name in self.suites:
            if name == "demo":
                yield demo_suite(self.n_prompts, seed, self.trained)
            elif name == "sentences":
                yield sentences_suite(folder / "sentences", self.recipe, self.n_prompts, seed, self.trained)
            else:
                width = Width(self.compiled.features, ON[name], self.compiled.steps, self.compiled.batch_tokens)
                yield planted_suite(name, self.n_prompts, seed, width)

    def dictionaries(self, suite: Suite) -> list[Told]:
        """What is trained for a suite. Of compiled models: those matched by L0, at the one place where circuits are."""
        shape = suite.model.cfg
        l0s = self.l0s if suite.name == "demo" else ()
        found = roster(suite.width, shape.n_layers, shape.d_model, self.seeds, l0s)
        return [told for told in found if not suite.planted or (told.kind in OF_PLANTED and told.match == "L0")]


TIERS = {
    "smoke": Tier(
        "smoke",
        Width(32, 4, 4, 64, prompts=100),
        Width(16, 1, 4, 64),
        seeds=(0,),
        n_prompts=2,
        n_graphs=1,
        recipe=Recipe(n_layers=2, d_model=16, n_heads=2, steps=2, batch=16, pool=20),
        suites=("demo", "sentences", "pure chain"),
    ),
    "cpu": Tier(
        "cpu", Width(384, 8, 400, 512), Width(64, 1, 800, 256), range(5), n_prompts=24, n_graphs=6, l0s=(4, 32)
    ),
}
