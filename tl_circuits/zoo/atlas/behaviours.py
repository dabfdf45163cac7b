"""The behaviours of the atlas, by name."""

import random
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from tl_circuits.zoo.atlas.behaviour import Behaviour, Generator
from tl_circuits.zoo.atlas.copying import acronym, induction
from tl_circuits.zoo.atlas.numbers import addition, greater_than
from tl_circuits.zoo.atlas.recall import attribute, two_hop
from tl_circuits.zoo.atlas.wording import opposite, rhyme

GENERATORS: tuple[Generator, ...] = (
    two_hop,
    attribute,
    opposite,
    rhyme,
    addition,
    greater_than,
    induction,
    acronym,
)


@cache
def behaviours(*, seed: int = 0) -> Mapping[str, Behaviour]:
    """What the atlas can do, by name, split into what it is trained on and what it never sees.

    The split is that of the shipped weights for the seed in `figures.json`, which is the default.
    """
    made = [generate(random.Random(f"{seed} {generate.__name__}")) for generate in GENERATORS]
    return MappingProxyType({behaviour.name: behaviour for behaviour in made})
