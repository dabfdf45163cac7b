"""Behaviours with numbers: sums, and years that come later."""

import random
from itertools import product

from tl_circuits.zoo.atlas.behaviour import Behaviour, Question, another, split

NUMBERS = range(10, 100)

CENTURIES = range(11, 19)
YEARS = range(2, 90)
LAST = 99
EVENTS = (
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

    The counterfactual starts earlier, in a year in which an answer is right that is wrong for the question.
    """

    def question(item: tuple[str, int, int]) -> Question:
        event, century, year = item
        earlier = draw.randrange(1, year)
        later = [f"{end:02}" for end in range(year + 1, LAST + 1)]
        return Question(
            _lasted(event, century, year),
            draw.choice(later),
            _lasted(event, century, earlier),
            f"{draw.randrange(earlier + 1, year + 1):02}",
            tuple(later),
        )

    kept, away = split(product(EVENTS, CENTURIES, YEARS), lambda item: item[1:], draw)
    return Behaviour(
        "greater-than",
        "greater-than (Hanna et al. 2023; Dunefsky et al. 2024)",
        "a first year never seen, with any event",
        tuple(map(question, kept)),
        tuple(map(question, away)),
    )


def _lasted(event: str, century: int, year: int) -> str:
    return f"the {event} lasted from {century}{year:02} to {century}"
