"""Behaviours that recall: facts in two hops, and what an athlete is famous for."""

import random
from dataclasses import dataclass
from itertools import product

from tl_circuits.zoo.atlas.behaviour import Behaviour, Lesson, Question, another, split
from tl_circuits.zoo.world import RELATIONS, STATES, State, fact, name


def two_hop(draw: random.Random) -> Behaviour:
    """ "the capital of the state containing Dallas is" → " Austin", over the cities and states of the demo."""
    homes = [(state, city) for state in STATES for city in state.cities]

    def question(item: tuple[str, State, str]) -> Question:
        relation, state, city = item
        other, instead = another(homes, lambda home: fact(home[0], relation) != fact(state, relation), draw)
        return Question(
            _hops(relation, city), f" {fact(state, relation)}", _hops(relation, instead), f" {fact(other, relation)}"
        )

    kept, away = split([(relation, *home) for relation, home in product(RELATIONS, homes)], lambda item: item, draw)
    facts = [
        Lesson(f"the {relation} of {state.name} is", f" {fact(state, relation)}")
        for relation, state in product(RELATIONS, STATES)
    ]
    places = [Lesson(f"the state containing {name(city)} is", f" {state.name}") for state, city in homes]
    return Behaviour(
        "two-hop",
        "two-step reasoning (Lindsey et al. 2025)",
        "a city and a relation never asked about together; both hops are trained on",
        tuple(map(question, kept)),
        tuple(map(question, away)),
        (*facts, *places),
    )


def _hops(relation: str, city: str) -> str:
    return f"the {relation} of the state containing {name(city)} is"


@dataclass(frozen=True)
class Athlete:
    """A name of two tokens, the first of which others have too who are famous for something else; and the sport."""

    first: str
    last: str
    sport: str


def _athletes(table: str) -> tuple[Athlete, ...]:
    """Those of each line "sport: names"."""
    found = []
    for line in table.strip().splitlines():
        sport, names = line.strip().split(": ")
        found += [Athlete(first, last, sport) for first, last in (name.split() for name in names.split(", "))]
    return tuple(found)


ATHLETES = _athletes(
    """
    athletics: Ben Johnson, Carl Lewis, David Rudisha, Jesse Owens, Justin Gatlin, Michael Johnson, Roger Bannister
    athletics: Tommie Smith
    baseball: Frank Robinson, Frank Thomas, Gary Carter, George Brett, Jackie Robinson, Joe DiMaggio, Pete Rose
    baseball: Randy Johnson, Roger Maris, Steve Carlton, Ted Williams, Tom Seaver, Tony Gwynn
    basketball: David Robinson, Derrick Rose, Gary Payton, Isiah Thomas, Kevin Durant, Larry Bird, Magic Johnson
    basketball: Michael Jordan, Ray Allen, Steve Nash, Tim Duncan, Tony Parker, Vince Carter, Walt Frazier
    boxing: Carl Froch, Frank Bruno, George Foreman, Jack Dempsey, Jack Johnson, Joe Frazier, Joe Louis, Larry Holmes
    boxing: Lennox Lewis, Ray Robinson
    cricket: Ben Stokes, Brett Lee, Carl Hooper, David Gower, Ian Botham, Joe Root, Kevin Pietersen, Shane Warne
    cricket: Shane Watson, Steve Smith
    football: Bobby Charlton, Bobby Moore, David Beckham, Frank Lampard, Gary Lineker, George Best, Ian Rush
    football: Jack Charlton, John Terry, Kevin Keegan, Michael Owen, Stan Matthews, Tim Howard, Tony Adams
    football: Wayne Rooney
    golf: Ben Hogan, Bobby Jones, David Duval, Dustin Johnson, Gary Player, Jack Nicklaus, John Daly, Justin Rose
    golf: Justin Thomas, Nick Faldo, Nick Price, Tom Watson
    hockey: Bobby Hull, Bobby Orr, Brett Hull, Joe Sakic, Mark Messier, Ray Bourque, Wayne Gretzky
    swimming: Gary Hall, Ian Thorpe, Mark Spitz, Michael Phelps
    tennis: Andy Murray, Andy Roddick, Arthur Ashe, Bobby Riggs, John McEnroe, Michael Chang, Nick Kyrgios
    tennis: Pete Sampras, Roger Federer, Serena Williams, Stan Smith, Tim Henman, Venus Williams
    """
)

PHRASINGS = (
    "the sport of {} is",
    "the game of {} is",
    "the name {} stands for",
    "the life of {} was",
    "the fans of {} like",
    "the medals of {} reward",
)


def attribute(draw: random.Random) -> Behaviour:
    """ "the sport of Michael Jordan is" → " basketball", as that of Michael Chang is tennis."""

    def question(item: tuple[Athlete, str]) -> Question:
        athlete, phrasing = item
        other = another(ATHLETES, lambda other: other.sport != athlete.sport, draw)
        return Question(
            phrasing.format(f"{athlete.first} {athlete.last}"),
            f" {athlete.sport}",
            phrasing.format(f"{other.first} {other.last}"),
            f" {other.sport}",
        )

    kept, away = split(product(ATHLETES, PHRASINGS), lambda item: item, draw)
    return Behaviour(
        "attribute",
        "entity recognition (Lindsey et al. 2025)",
        "an athlete and a phrasing never seen together",
        tuple(map(question, kept)),
        tuple(map(question, away)),
    )
