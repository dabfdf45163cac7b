"""Nine behaviours in made-up sentences, each with a counterfactual of the same length: what one small model is taught.

A sentence is drawn with its counterfactual, so that what decides the answer differs between the two and nothing else
does: the indirect object (Wang et al. 2023), greater-than (Hanna et al. 2023), subject-verb agreement in four forms
(Finlayson et al. 2021, Marks et al. 2024), docstring arguments (Heimersheim and Janiak 2023), induction on random words
(Olsson et al. 2022) and modular addition (Nanda et al. 2023).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

PRIME = 53
YEARS = 100
NAMES = (
    "Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gina", "Hal", "Ida", "Jack", "Kim", "Leo", "Mia", "Ned", "Olga",
    "Paul", "Rosa", "Sam", "Tina", "Uri", "Vera", "Will", "Xena", "Yuri", "Zoe",
)  # fmt: skip
PLACES = ("shop", "park", "school", "beach", "station", "office")
OBJECTS = ("book", "ring", "drink", "key", "letter", "ball")
EVENTS = ("war", "voyage", "siege", "reign", "feud", "plague")
CENTURIES = ("c14", "c15", "c16", "c17", "c18")
NOUNS = ("boy", "girl", "author", "pilot", "farmer", "doctor", "teacher", "guard", "singer", "lawyer")
VERBS = ("walk", "sing", "laugh", "work", "sleep", "smile")
TRANSITIVE = ("like", "admire", "know", "hate")
PREPOSITIONS = ("near", "behind", "beside")
ARGUMENTS = (
    "files", "size", "path", "mode", "index", "label", "value", "count", "state", "shape", "names", "width", "depth",
    "order", "limit", "items", "start", "token", "scale", "table",
)  # fmt: skip
WORDS = tuple(f"w{number}" for number in range(40))
COPIED = 7
"""Random words that are said and then repeated."""
FUNCTION_WORDS = (
    "the", "a", "that", "when", "and", "went", "to", "gave", "lasted", "from", "year", ",", "def", "(", ")", ":",
    ":param", "+", "=",
)  # fmt: skip
Draw = random.Random


@dataclass(frozen=True)
class Pair:
    """A sentence and its counterfactual up to the word that is asked for, and that word in each.

    `others`: where many words are right, those that are and those that are wrong, `answer` among the first. `rest` is
    what a model is taught beyond the answer, and `taught` how many of the last words it is to predict.
    """

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answer: str
    other: str
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    taught: int = 1


def indirect_object(draw: Draw) -> Pair:
    """When Ann and Ben went to the shop , Ben gave a ring to → Ann; counterfactual: Ann gave."""
    first, second = draw.sample(NAMES, 2)
    place, thing = draw.choice(PLACES), draw.choice(OBJECTS)
    subject, answer = (first, second) if draw.random() < 0.5 else (second, first)

    def said(giver: str) -> tuple[str, ...]:
        return tuple(f"when {first} and {second} went to the {place} , {giver} gave a {thing} to".split())

    return Pair(said(subject), said(answer), answer, subject)


def greater_than(draw: Draw) -> Pair:
    """the war lasted from the year c17 y32 to c17 → any later year; counterfactual: from y01."""
    event, century, year = draw.choice(EVENTS), draw.choice(CENTURIES), draw.randrange(3, YEARS - 2)

    def said(from_year: int) -> tuple[str, ...]:
        return tuple(f"the {event} lasted from the year {century} y{from_year} to {century}".split())

    right, wrong = (tuple(f"y{y}" for y in years) for years in (range(year + 1, YEARS), range(2, year + 1)))
    return Pair(said(year), said(1), draw.choice(right), draw.choice(wrong), right, wrong)


def simple_agreement(draw: Draw) -> Pair:
    """the boys → walk; counterfactual: the boy."""
    (noun,), verb = draw.sample(NOUNS, 1), draw.choice(VERBS)
    return _agreement(draw, lambda s: f"the {_noun(noun, s)}", verb)


def agreement_within_clause(draw: Draw) -> Pair:
    """the boy that the girls → like; counterfactual: the girl."""
    head, noun = draw.sample(NOUNS, 2)
    of_head = draw.random() < 0.5
    return _agreement(draw, lambda s: f"the {_noun(head, of_head)} that the {_noun(noun, s)}", draw.choice(TRANSITIVE))


def agreement_across_clause(draw: Draw) -> Pair:
    """the boys that the girl likes → walk; counterfactual: the boy."""
    head, noun = draw.sample(NOUNS, 2)
    of_noun, clause = draw.random() < 0.5, draw.choice(TRANSITIVE)
    inner = f"that the {_noun(noun, of_noun)} {_verb(clause, of_noun)}"
    return _agreement(draw, lambda s: f"the {_noun(head, s)} {inner}", draw.choice(VERBS))


def agreement_across_phrase(draw: Draw) -> Pair:
    """the boys near the girl → walk; counterfactual: the boy."""
    head, noun = draw.sample(NOUNS, 2)
    inner = f"{draw.choice(PREPOSITIONS)} the {_noun(noun, draw.random() < 0.5)}"
    return _agreement(draw, lambda s: f"the {_noun(head, s)} {inner}", draw.choice(VERBS))


def docstring(draw: Draw) -> Pair:
    """def ( path , size , mode ) : :param path :param size :param → mode; counterfactual: another third argument."""
    first, second, answer, other = draw.sample(ARGUMENTS, 4)

    def said(third: str) -> tuple[str, ...]:
        return tuple(f"def ( {first} , {second} , {third} ) : :param {first} :param {second} :param".split())

    return Pair(said(answer), said(other), answer, other)


def induction(draw: Draw) -> Pair:
    """w3 w9 w5 … w3 w9 → w5; counterfactual: the first copy had another word there."""
    words = draw.sample(WORDS, COPIED + 1)
    copy, other = words[:-1], words[-1]
    asked = draw.randrange(2, COPIED - 1)
    changed = [*copy[:asked], other, *copy[asked + 1 :]]
    # Of one length, whichever word is asked for: words that say nothing go before.
    lead = tuple(draw.sample([word for word in WORDS if word not in words], COPIED - 1 - asked))
    return Pair(
        (*lead, *copy, *copy[:asked]),
        (*lead, *changed, *copy[:asked]),
        copy[asked],
        other,
        rest=tuple(copy[asked + 1 :]),
        taught=COPIED - 1,
    )


def modular_addition(draw: Draw) -> Pair:
    """n17 + n40 = → n4, modulo 53; counterfactual: another second number."""
    a, b, c = draw.randrange(PRIME), *draw.sample(range(PRIME), 2)
    said = [tuple(f"n{a} + n{second} =".split()) for second in (b, c)]
    return Pair(said[0], said[1], f"n{(a + b) % PRIME}", f"n{(a + c) % PRIME}")


TASKS: Mapping[str, Callable[[Draw], Pair]] = {
    "indirect object": indirect_object,
    "greater-than": greater_than,
    "agreement, simple": simple_agreement,
    "agreement, within clause": agreement_within_clause,
    "agreement, across clause": agreement_across_clause,
    "agreement, across phrase": agreement_across_phrase,
    "docstring": docstring,
    "induction": induction,
    "modular addition": modular_addition,
}


def vocabulary() -> tuple[str, ...]:
    """All words, the special ones first."""
    nouns = [_noun(noun, several) for noun in NOUNS for several in (False, True)]
    verbs = [_verb(verb, several) for verb in (*VERBS, *TRANSITIVE) for several in (False, True)]
    years, numbers = (f"y{year}" for year in range(YEARS)), (f"n{number}" for number in range(PRIME))
    lists = (NAMES, PLACES, OBJECTS, EVENTS, CENTURIES, nouns, verbs, PREPOSITIONS, ARGUMENTS, WORDS, years, numbers)
    return tuple(
        dict.fromkeys(["<pad>", "<bos>", "<unk>", *FUNCTION_WORDS, *(word for each in lists for word in each)])
    )


def pairs(task: str, seed: int) -> Iterator[Pair]:
    """Pairs of one task without end."""
    draw = random.Random(f"{task} {seed}")
    while True:
        yield TASKS[task](draw)


def _agreement(draw: Draw, subject: Callable[[bool], str], verb: str) -> Pair:
    several = draw.random() < 0.5
    clean, corrupted = (tuple(subject(number).split()) for number in (several, not several))
    return Pair(clean, corrupted, _verb(verb, several), _verb(verb, not several))


def _noun(noun: str, several: bool) -> str:
    return f"{noun}s" if several else noun


def _verb(verb: str, several: bool) -> str:
    return verb if several else f"{verb}s"
