"""Behaviours that copy from the context: the word that came after last time, and first letters."""

import random
from itertools import pairwise, permutations

from tl_circuits.zoo.atlas.behaviour import HELD_OUT, Behaviour, Question, another

TRAINED, ASKED = 6000, 400


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    """
    Ada Alma Amy Anna Bea Beth Cara Cleo Cora Dora Edie Ella Elsa Emma Erin Esme Eva Faye Flora Freya Gail Gwen
    Hana Hope Ida Ines Iris Isla Ivy Jane June Kate Kay Lara Lena Lily Lola Lucy Mabel Maud Maya Mia Mina Nell
    Nina Nora Olga Orla Pia Rhea Rita Ruth Sara Tess Tina Uma Vera Wren Zara Zoe
    """
)
LISTED = 5

FIRST_WORDS = ("National", "International", "Royal", "European", "General", "American", "British", "Central")
MIDDLE_WORDS = _words(
    """
    Academic Agricultural Analytics Banking Biological Chemical Climate Computer Data Digital Dental Economic
    Energy Family Financial Forest Gas Geological Grain Health Historical Housing Industrial Insurance Judicial
    Justice Knowledge Labour Legal Marine Medical Music Nuclear Nursing Ocean Oil Optical Physical Police Polar
    Quality Quantum Racing Radio Railway Safety Science Solar Space Tax Technical Traffic Urban Utility
    Veterinary Voluntary Water Weather Youth Zoological
    """
)
LAST_WORDS = _words(
    """
    Agency Association Board Bureau Center Commission Department Directorate Exchange Federation Foundation
    Group Guild Institute Initiative League Laboratory Museum Network Office Organisation Partnership Registry
    Service Society Trust Union University Workshop
    """
)

Pairs = frozenset[tuple[str, str]]


def induction(draw: random.Random) -> Behaviour:
    """ "names: Kate Ivy Nora Mia Zoe Ivy" → " Nora Mia Zoe": what came after that name when it last stood there.

    The counterfactual ends in another name of the list.
    """
    away = _pairs_away(NAMES, draw)

    def question(held_out: bool) -> Question:
        names, at = _listed(away, held_out, draw)
        other = another(range(LISTED - 1), lambda other: other != at, draw)
        return Question(*_resumed(names, at), *_resumed(names, other))

    return Behaviour(
        "induction",
        "induction heads (Olsson et al. 2022)",
        "two names never seen one after the other",
        tuple(question(False) for _ in range(TRAINED)),
        tuple(question(True) for _ in range(ASKED)),
    )


def acronym(draw: random.Random) -> Behaviour:
    """ "the National Digital Analytics Group (N" → "DAG)", letter by letter."""
    away = _pairs_away(MIDDLE_WORDS, draw)

    def question(held_out: bool) -> Question:
        words = _organisation(away, held_out, draw)
        other = another(MIDDLE_WORDS, lambda word: word[0] != words[1][0], draw)
        return Question(*_shortened(words), *_shortened((words[0], other, *words[2:])))

    return Behaviour(
        "acronym",
        "acronyms (Ameisen et al. 2025)",
        "a name whose second and third words were never seen side by side",
        tuple(question(False) for _ in range(TRAINED)),
        tuple(question(True) for _ in range(ASKED)),
    )


def _pairs_away(words: tuple[str, ...], draw: random.Random) -> Pairs:
    pairs = list(permutations(words, 2))
    return frozenset(draw.sample(pairs, round(HELD_OUT * len(pairs))))


def _listed(away: Pairs, held_out: bool, draw: random.Random) -> tuple[list[str], int]:
    """Names in which only what is asked for, if it is held out, is a pair held out; and where it begins."""
    while True:
        names, at = draw.sample(NAMES, LISTED), draw.randrange(LISTED - 1)
        if [pair in away for pair in pairwise(names)] == [held_out and i == at for i in range(LISTED - 1)]:
            return names, at


def _resumed(names: list[str], at: int) -> tuple[str, str]:
    return " ".join(["names:", *names, names[at]]), "".join(f" {name}" for name in names[at + 1 :])


def _organisation(away: Pairs, held_out: bool, draw: random.Random) -> tuple[str, ...]:
    while True:
        second, third = draw.sample(MIDDLE_WORDS, 2)
        if ((second, third) in away) == held_out:
            return draw.choice(FIRST_WORDS), second, third, draw.choice(LAST_WORDS)


def _shortened(words: tuple[str, ...]) -> tuple[str, str]:
    letters = "".join(word[0] for word in words)
    return f"the {' '.join(words)} ({letters[0]}", f"{letters[1:]})"
