"""Does a label tell what a feature does? A judge reads the label and guesses; the share it has right is the score.

Detection and fuzzing, as Paulo et al. 2024 ("Automatically Interpreting Millions of Features in Large Language Models")
call them. Who judges is the caller's: a function, a person, a model.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.features.card import Example, FeatureCard
from tl_circuits.features.cards import FeatureCards
from tl_circuits.graph.asked import number
from tl_circuits.graph.visible import visible


@dataclass(frozen=True)
class Passage:
    """Text that a judge is shown; where tokens are `marked`, the question is whether these are the ones.

    `str(passage)` is the text, with marked tokens as <<token>>, and what a terminal would act on written out.
    """

    tokens: tuple[str, ...]
    marked: tuple[bool, ...] | None = None

    def __str__(self) -> str:
        marks = self.marked or (False,) * len(self.tokens)
        shown = "".join(f"<<{token}>>" if mark else token for token, mark in zip(self.tokens, marks, strict=True))
        return visible(shown.replace(">><<", ""))


Judge = Callable[[Sequence[Passage], str], Sequence[bool | float]]
"""Passages and a label → for each passage whether the label holds for it, or how likely that is (0 to 1)."""


@dataclass(frozen=True)
class LabelScore:
    """How well a judge who knows the label tells apart what it ought to: balanced accuracies, 0.5 by guessing.

    - `detection`: passages in which the feature is active, from those in which it is not.
    - `fuzzing`: passages in which the tokens on which it is active are marked, from those in which others are.

    Each is None where there was nothing to tell apart; `n_detection` and `n_fuzzing` are how many passages were shown.
    """

    detection: float | None
    fuzzing: float | None
    n_detection: int
    n_fuzzing: int


def score_labels(
    cards: FeatureCards, judge: Judge, *, examples: int = 20, seed: int = 0
) -> dict[tuple[int, int], LabelScore]:
    """How well the label of each card that has one tells what its feature does, by a judge.

    The judge is asked twice for each feature. For detection it is shown up to `examples` passages in which the feature
    is active, drawn from all its activations where the card has such, and as many of the stream in which it is not; for
    fuzzing, those with the right tokens marked and with as many others. Both in random order, by `seed`.

    Raises `SettingError` where the cards have no passages to compare with (those of `feature_cards` have), no card has
    a label, and for answers that are not one number from 0 to 1 for each passage.
    """
    most = number("score_labels", "examples", examples)
    labels = cards.labels()
    if not labels:
        raise SettingError(
            f"None of {len(cards)} cards has a label to score: give them some with cards.with_labels(...)."
        )
    if not cards.contexts.texts:
        raise SettingError(
            f"These {len(cards)} cards have no passages in which features are not active: make cards with "
            "feature_cards(..., contexts=64)."
        )
    scores = {}
    for key, label in labels.items():
        draw = random.Random(f"{seed}/{key[0]}/{key[1]}")
        shown = _drawn(cards.card(key), most, draw)
        others = cards.contexts.without(cards.table.row_of[key])
        others = [Passage(text) for text in draw.sample(others, min(len(others), len(shown)))]
        detection = _asked(judge, label, [Passage(example.tokens) for example in shown], others, draw)
        right, wrong = _fuzzed(shown, draw)
        fuzzing = _asked(judge, label, right, wrong, draw)
        scores[key] = LabelScore(detection, fuzzing, len(shown) + len(others), len(right) + len(wrong))
    return scores


def _drawn(card: FeatureCard, most: int, draw: random.Random) -> list[Example]:
    sampled = [example for interval in card.intervals for example in interval.examples] or list(card.top)
    return draw.sample(sampled, min(most, len(sampled)))


def _fuzzed(shown: Sequence[Example], draw: random.Random) -> tuple[list[Passage], list[Passage]]:
    right, wrong = [], []
    for example in shown:
        active = [value != 0 for value in example.activations]
        silent = [place for place, is_active in enumerate(active) if not is_active]
        if silent:
            others = set(draw.sample(silent, min(len(silent), sum(active))))
            right.append(Passage(example.tokens, tuple(active)))
            wrong.append(Passage(example.tokens, tuple(place in others for place in range(len(active)))))
    return right, wrong


def _asked(
    judge: Judge, label: str, right: Sequence[Passage], wrong: Sequence[Passage], draw: random.Random
) -> float | None:
    if not right or not wrong:
        return None
    order = draw.sample(range(len(right) + len(wrong)), len(right) + len(wrong))
    passages = [*right, *wrong]
    answers = list(_checked(judge([passages[place] for place in order], label), len(order)))
    said_right = [answer for place, answer in zip(order, answers, strict=True) if place < len(right)]
    said_wrong = [answer for place, answer in zip(order, answers, strict=True) if place >= len(right)]
    return (sum(said_right) / len(said_right) + 1 - sum(said_wrong) / len(said_wrong)) / 2


def _checked(answers: Any, n_asked: int) -> Iterator[bool]:
    given = list(answers) if isinstance(answers, Sequence) or hasattr(answers, "tolist") else answers
    if not isinstance(given, list) or len(given) != n_asked:
        n_given = len(given) if isinstance(given, list) else given
        raise SettingError(
            f"The judge gave {n_given!r:.40} answers to {n_asked} passages: let it return a list with one for each."
        )
    for answer in given:
        value = float(answer) if isinstance(answer, bool | int | float) or hasattr(answer, "item") else math.nan
        if not 0 <= value <= 1:
            raise SettingError(f"The judge answered {answer!r:.40}: let it say True or False, or a number from 0 to 1.")
        yield value >= 0.5


def mean_scores(scores: Mapping[tuple[int, int], LabelScore]) -> LabelScore:
    """The means over features, each over those that have the score."""
    means = []
    for name in ("detection", "fuzzing"):
        found = [value for value in (getattr(score, name) for score in scores.values()) if value is not None]
        means.append(sum(found) / len(found) if found else None)
    return LabelScore(
        means[0],
        means[1],
        sum(score.n_detection for score in scores.values()),
        sum(score.n_fuzzing for score in scores.values()),
    )
