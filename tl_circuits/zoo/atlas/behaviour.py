"""What the atlas model can do, as records: a behaviour is questions, each with a counterfactual, split once."""

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tl_circuits.errors import SettingError

HELD_OUT = 0.15
FAR = 2 / 3
"""Of the answers that are right for a counterfactual, how many have to be wrong for the question that it tells of."""

T = TypeVar("T")


@dataclass(frozen=True)
class Lesson:
    """A text, and what the model should say next."""

    text: str
    answer: str


@dataclass(frozen=True)
class Question(Lesson):
    """A lesson with a counterfactual, which differs in one respect, has as many tokens, and has another answer.

    `corrupted_answer` is right for `corrupted` and wrong for `text`, and its first token is not that of `answer`. Where
    more than one answer is right, `accepted` holds them all, of one token each, and `answer` is one of them, and
    `corrupted_accepted` those of the counterfactual, among which `answer` may be; both are empty where one is right.
    """

    corrupted: str
    corrupted_answer: str
    accepted: tuple[str, ...] = ()
    corrupted_accepted: tuple[str, ...] = ()

    @property
    def apart(self) -> float:
        """Of the answers that are right for the counterfactual, the share that is wrong here: 1 where one is right."""
        if not self.accepted:
            return 1.0
        return len(set(self.corrupted_accepted) - set(self.accepted)) / len(self.corrupted_accepted)


@dataclass(frozen=True)
class Behaviour:
    """Questions of one kind, all of as many tokens, and how they are split.

    `lessons` are what the questions are made of, such as the two hops of a two-hop question: they are trained on and
    not asked. `unseen` says in what respect held-out questions are new; `after` names the published case study.
    """

    name: str
    after: str
    unseen: str
    trained: tuple[Question, ...]
    held_out: tuple[Question, ...]
    lessons: tuple[Lesson, ...] = ()


Generator = Callable[[random.Random], Behaviour]


def split(items: Iterable[T], key: Callable[[T], Hashable], draw: random.Random) -> tuple[list[T], list[T]]:
    """The items that are kept, and those held out: `HELD_OUT` of the keys, with every item that has one of them."""
    given = list(items)
    keys = list(dict.fromkeys(map(key, given)))
    away = set(draw.sample(keys, round(HELD_OUT * len(keys))))
    return [item for item in given if key(item) not in away], [item for item in given if key(item) in away]


def another(items: Sequence[T], fits: Callable[[T], bool], draw: random.Random) -> T:
    """An item that fits, drawn at random. Raises `SettingError` where a thousand draws find none."""
    for _ in range(1000):
        item = draw.choice(items)
        if fits(item):
            return item
    raise SettingError(f"Hardly any of {len(items)} items makes a counterfactual: add some with another answer.")
