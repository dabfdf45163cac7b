"""Behaviours with numbers: sums, and years that come later."""

import random
from collections.abc import Sequence
from itertools import product

from tl_circuits.zoo.atlas.behaviour import FAR, Behaviour, Question, another, split

NUMBERS = range(10, 100)

CENTURIES = range(11, 19)
YEARS = range(2, 90)
LAST = 99
EVENTS: tuple[str, ...] = (
    "war",
    "siege",
    "reign",
    "voyage",
    "feud",
    "trial",
    "drought",
    "search",
    "exile",
    "dispute",
    "plague",
    "truce",
)


def addition(draw: random.Random) -> Behaviour:
    """ "36+59=" → "95", digit by digit, both numbers from 10 to 99."""

    def question(pair: tuple[int, int]) -> Question:
        answer = str(sum(pair))
        other = another(pairs, lambda other: str(sum(other))[0] != answer[0], draw)
        return Question("{}+{}=".format(*pair), answer, "{}+{}=".format(*other), str(sum(other)))

    pairs = list(product(NUMBERS, NUMBERS))
    kept, away = split(pairs, lambda pair: pair, draw)
    return Behaviour(
        "addition",
        "addition (Lindsey et al. 2025)",
        "two numbers never added in this order",
        tuple(map(question, kept)),
        tuple(map(question, away)),
    )


def greater_than(draw: random.Random) -> Behaviour:
    """ "the war lasted from 1732 to 17" → any of "33" to "99", each as likely.

    The counterfactual starts earlier, in a year after which an answer is right that is wrong for the question; where
    there are such years, in one so early that `FAR` of the answers are.
    """
    kept, away = split(product(EVENTS, CENTURIES, YEARS), lambda item: item[1:], draw)
    taught = {item: _taught(item[2], draw) for item in (*kept, *away)}

    def question(item: tuple[str, int, int]) -> Question:
        event, century, year = item
        earlier = draw.choice(_earlier(year))
        return Question(
            _lasted(event, century, year),
            taught[item],
            _lasted(event, century, earlier),
            draw.choice(_years(earlier, year)),
            _years(year, LAST),
            _years(earlier, LAST),
        )

    return Behaviour(
        "greater-than",
        "greater-than (Hanna et al. 2023; Dunefsky et al. 2024)",
        "a first year never seen, with any event",
        tuple(map(question, kept)),
        tuple(map(question, away)),
    )


def _taught(year: int, draw: random.Random) -> str:
    """A later year. The draws around it made counterfactuals once: without them a seed would give other weights."""
    earlier = draw.randrange(1, year)
    answer = draw.choice(_years(year, LAST))
    draw.randrange(earlier + 1, year + 1)
    return answer


def _earlier(year: int) -> Sequence[int]:
    """Years to start from instead: those far away, or else all that begin questions, or else the one before them."""
    known = range(YEARS.start, year)
    far = [earlier for earlier in known if (year - earlier) / (LAST - earlier) >= FAR]
    return far or known or (year - 1,)


def _years(after: int, last: int) -> tuple[str, ...]:
    return tuple(f"{year:02}" for year in range(after + 1, last + 1))


def _lasted(event: str, century: int, year: int) -> str:
    return f"the {event} lasted from {century}{year:02} to {century}"
