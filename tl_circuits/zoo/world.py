"""The facts the demo model knows: real cities in twenty real states, eight facts about each state, and addition.

A two-hop question names a city and asks about its state. For the answer to pass through the state, the model has to
*compute* the state: a name that is one token carries its state in its embedding, and no MLP has anything to do. So
every city's name is two pieces ("Dal|las", "Stock|dale"), each piece occurs in cities of several states, and
`check_pieces` holds the table to that.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tl_circuits.errors import SettingError

Kind = Literal["city", "fact", "two-hop", "addition"]


@dataclass(frozen=True)
class State:
    """A state, what is asked about it, and its cities as "first|second" pieces. Symbols are those of 2025."""

    name: str
    capital: str
    bird: str
    flower: str
    tree: str
    abbreviation: str
    demonym: str
    nickname: str
    largest_city: str
    cities: tuple[str, ...]


RELATIONS = ("capital", "bird", "flower", "tree", "abbreviation", "demonym", "nickname", "largest city")


def _state(facts: str, cities: str) -> State:
    return State(*facts.split(", "), cities=tuple(cities.split()))


# Many of these names exist in other states too (there is a Dallas in Oregon and an Oakland in New Jersey): the model's
# world has each name once. None is a capital or a largest city of the table, whose names are single tokens.
STATES = (
    _state(
        "Alabama, Montgomery, yellowhammer, camellia, pine, AL, Alabamian, Yellowhammer, Huntsville",
        "Ash|ford Brook|side Brook|wood Fair|field Lin|den Mill|port North|port Ridge|ville South|side",
    ),
    _state(
        "California, Sacramento, quail, poppy, redwood, CA, Californian, Golden, Los Angeles",
        "Brook|dale Green|field Kings|burg Lake|port Oak|land Rose|ville Stock|ton Water|ford West|mont Wood|lake",
    ),
    _state(
        "Colorado, Denver, bunting, columbine, spruce, CO, Coloradan, Centennial, Denver",
        "Edge|water Glen|dale Lake|side Long|mont Nor|wood Thorn|ton Vil|as Wal|den",
    ),
    _state(
        "Connecticut, Hartford, robin, laurel, oak, CT, Nutmegger, Constitution, Bridgeport",
        "Bloom|field Middle|field New|town North|ford Oak|ville South|port Thomas|ton Water|bury West|brook",
    ),
    _state(
        "Georgia, Atlanta, thrasher, Cherokee rose, oak, GA, Georgian, Peach, Atlanta",
        "Ash|burn Brook|haven Dal|ton Fair|burn Kings|land River|dale Stock|bridge Thomas|ville",
    ),
    _state(
        "Illinois, Springfield, cardinal, violet, oak, IL, Illinoisan, Prairie, Chicago",
        "Bridge|view El|burn Fair|bury Glen|wood Hills|dale North|lake River|side Rock|ton Rose|mont Thomas|boro "
        "Waynes|ville Williams|field",
    ),
    _state(
        "Indiana, Indianapolis, cardinal, peony, tulip, IN, Hoosier, Hoosier, Indianapolis",
        "Bloom|ington Brook|ville El|wood Fair|land Green|wood Kings|bury Lin|ton Thorn|town West|ville Williams|port",
    ),
    _state(
        "Kentucky, Frankfort, cardinal, goldenrod, tulip, KY, Kentuckian, Bluegrass, Louisville",
        "Edge|wood Fair|dale Glen|view Green|ville Lewis|port Middle|town River|wood Wal|ton Williams|burg",
    ),
    _state(
        "Massachusetts, Boston, chickadee, mayflower, elm, MA, Bay Stater, Bay, Boston",
        "Ash|field Bel|mont Clarks|burg Fair|haven Hol|den Med|field Mill|bury New|bury North|bridge Rock|land "
        "South|bridge West|wood",
    ),
    _state(
        "Michigan, Lansing, robin, apple, pine, MI, Michigander, Wolverine, Detroit",
        "Allen|dale East|wood Green|land Hol|land Middle|ville North|view River|view Rock|ford South|field "
        "Spring|port Williams|ton Wood|haven",
    ),
    _state(
        "New Jersey, Trenton, goldfinch, violet, oak, NJ, New Jerseyan, Garden, Newark",
        "Bridge|ton Clarks|boro Fair|view Lin|wood Long|port Mill|town Ridge|wood Vil|las West|field Williams|town "
        "Wood|bury",
    ),
    _state(
        "New York, Albany, bluebird, rose, maple, NY, New Yorker, Empire, New York City",
        "El|bridge Fair|port Glen|mont Green|port Hol|brook Lewis|ton Mill|brook New|field Thorn|wood Wells|burg "
        "West|bury Williams|ville",
    ),
    _state(
        "Ohio, Columbus, cardinal, carnation, buckeye, OH, Ohioan, Buckeye, Columbus",
        "Bloom|dale Clarks|field East|lake Lake|wood Rock|bridge Rose|wood Stock|port Thorn|ville Wal|bridge "
        "Waynes|field Wells|ton",
    ),
    _state(
        "Oregon, Salem, meadowlark, grape, fir, OR, Oregonian, Beaver, Portland",
        "Ash|land Hills|boro Lake|view Med|ford New|port Park|dale Rose|burg Wood|burn",
    ),
    _state(
        "Pennsylvania, Harrisburg, grouse, laurel, hemlock, PA, Pennsylvanian, Keystone, Philadelphia",
        "Allen|port Allen|town Bridge|ville Glen|side Kings|ton Middle|burg Oak|mont Park|side Thorn|dale Wells|boro",
    ),
    _state(
        "Tennessee, Nashville, mockingbird, iris, tulip, TN, Tennessean, Volunteer, Nashville",
        "Cam|den Clarks|ville East|view Kings|port Lake|land Lewis|burg Middle|ton Mill|ington Ridge|side Rock|wood",
    ),
    _state(
        "Texas, Austin, mockingbird, bluebonnet, pecan, TX, Texan, Lone Star, Houston",
        "Bel|ton Bloom|burg Dal|las East|land Kings|ville Lewis|ville Long|view Rock|port South|lake Spring|town "
        "Stock|dale",
    ),
    _state(
        "Virginia, Richmond, cardinal, dogwood, dogwood, VA, Virginian, Old Dominion, Virginia Beach",
        "Bridge|water East|ville Hills|ville Middle|brook Mill|boro Nor|ton Oak|ton Rose|land Thorn|burg Wood|bridge",
    ),
    _state(
        "Washington, Olympia, goldfinch, rhododendron, hemlock, WA, Washingtonian, Evergreen, Seattle",
        "Cam|as Clarks|ton Fair|wood Park|land Ridge|field Rose|dale Spring|dale Water|ville West|port Wood|land",
    ),
    _state(
        "Wisconsin, Madison, robin, violet, maple, WI, Wisconsinite, Badger, Milwaukee",
        "Allen|ton Brook|field Green|dale Oak|field Ridge|land Spring|brook Water|town Wood|ville",
    ),
)

# The most often that the commonest state of a piece may be the right one, averaged over cities.
BEST_GUESS = 0.6


@dataclass(frozen=True)
class Prompt:
    """What the model reads and what it should say next. `city`, `state`, `relation` are empty where there is none."""

    kind: Kind
    text: str
    answer: str
    city: str = ""
    state: str = ""
    relation: str = ""


@dataclass(frozen=True)
class World:
    """Every prompt, split into what models and transcoders are trained on and what neither ever sees."""

    trained: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]

    def of(self, kind: Kind, *, held_out: bool = False) -> tuple[Prompt, ...]:
        """The prompts of one kind, trained on or held out."""
        return tuple(prompt for prompt in (self.held_out if held_out else self.trained) if prompt.kind == kind)


def fact(state: State, relation: str) -> str:
    """What is true of a state: fact(Texas, "capital") = "Austin"."""
    return getattr(state, relation.replace(" ", "_"))


def name(city: str) -> str:
    """A city as people write it: "Dal|las" is Dallas."""
    return city.replace("|", "")


def world(*, seed: int = 0, held_out: float = 0.15, held_out_sums: float = 0.1) -> World:
    """All prompts, with these shares of the two-hop questions and of the sums held out at random.

    - "the state containing Dallas is" → " Texas", and "the capital of Texas is" → " Austin": always trained on, so that
      both hops of a question that is held out are known.
    - "the capital of the state containing Dallas is" → " Austin".
    - "36+59=" → "95", both numbers from 10 to 99.
    """
    check_pieces()
    draw = random.Random(seed)
    kept, held = [], []
    for state in STATES:
        kept += [
            Prompt("fact", f"the {r} of {state.name} is", f" {fact(state, r)}", state=state.name, relation=r)
            for r in RELATIONS
        ]
        for city in state.cities:
            kept.append(Prompt("city", f"the state containing {name(city)} is", f" {state.name}", city, state.name))
            for relation in RELATIONS:
                text = f"the {relation} of the state containing {name(city)} is"
                question = Prompt("two-hop", text, f" {fact(state, relation)}", city, state.name, relation)
                (held if draw.random() < held_out else kept).append(question)
    for a in range(10, 100):
        for b in range(10, 100):
            (held if draw.random() < held_out_sums else kept).append(Prompt("addition", f"{a}+{b}=", str(a + b)))
    return World(tuple(kept), tuple(held))


def check_pieces(states: tuple[State, ...] = STATES) -> tuple[float, float]:
    """The share of cities whose state the first piece alone, and the second alone, would guess right at best.

    Raises `SettingError` where a piece occurs in one state only, a share exceeds `BEST_GUESS`, a name occurs twice, or
    a city is a capital or a largest city of the table: such a state could be read off an embedding.
    """
    home = {name(city): (city.split("|"), state.name) for state in states for city in state.cities}
    if len(home) < sum(len(state.cities) for state in states):
        raise SettingError(
            "A city's name occurs twice in the table: the model could not know which is meant. Drop one."
        )
    for taken in {state.capital for state in states} | {state.largest_city for state in states}:
        if taken in home:
            raise SettingError(
                f"{taken} is a capital or a largest city, which are single tokens: choose another city of "
                f"{home[taken][1]}."
            )
    shares = []
    for place in (0, 1):
        where: dict[str, Counter[str]] = {}
        for pieces, state_name in home.values():
            where.setdefault(pieces[place], Counter())[state_name] += 1
        for piece, states_of in where.items():
            if len(states_of) < 2:
                raise SettingError(
                    f"The piece {piece!r} occurs only in {next(iter(states_of))}: add a city of another state that "
                    "has it."
                )
        shares.append(sum(max(states_of.values()) for states_of in where.values()) / len(home))
        if shares[-1] > BEST_GUESS:
            raise SettingError(
                f"Piece {place + 1} of a name gives the state away {shares[-1]:.0%} of the time, more than "
                f"{BEST_GUESS:.0%}: mix the states of cities that share a piece."
            )
    return shares[0], shares[1]
