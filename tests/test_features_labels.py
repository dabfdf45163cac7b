"""Labels of features: made without anybody's help, put on graphs, and scored by judges who know the truth."""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests.test_features import cards as random_cards
from tl_circuits.features import (
    Example,
    FeatureCard,
    FeatureCards,
    LabelScore,
    Passage,
    feature_cards,
    mean_scores,
    score_labels,
    shared_tokens,
)
from tl_circuits.features.shared import best_sign
from tl_circuits.zoo import compiled

WORDS = {str(number): word for number, word in enumerate(compiled.VOCABULARY)}


@pytest.fixture(scope="module")
def planted() -> FeatureCards:
    """Feature L0/0 fires on "a" alone and L0/1 on "b" alone; those of layer 1 fire on the question mark after them."""
    circuit = compiled.chain_across_positions()
    words = [[compiled.BOS, word, compiled.ASK] for word in (compiled.A, compiled.B, compiled.YES, compiled.NO)] * 3
    return feature_cards(circuit.model, circuit.transcoder, torch.tensor(words), contexts=12)


def judge(passages: Sequence[Passage], label: str) -> list[bool]:
    """The planted variables: "a" means the word a, "? after a" the question mark in a prompt with it."""
    token, _, before = label.partition(" after ")

    def holds(passage: Passage) -> bool:
        said = [WORDS[one] for one in passage.tokens]
        marked = [word for word, mark in zip(said, passage.marked or [True] * len(said), strict=True) if mark]
        return token in marked and (not before or before in said)

    return [holds(passage) for passage in passages]


RIGHT = {(0, 0): "a", (0, 1): "b", (1, 0): "? after a", (1, 1): "? after b"}


def test_planted_features_have_the_cards_that_were_planted(planted: FeatureCards) -> None:
    for key, label in RIGHT.items():
        for example in planted[key].examples:
            peak = WORDS[example.tokens[example.peak]]
            assert peak == label[0]
    # Three of twelve prompts of three tokens, of which none is a beginning of sequence without a tokenizer.
    assert planted[0, 0].density == 3 / 36
    assert planted[0, 0].maximum == 2.0


def test_a_judge_who_knows_the_truth_finds_right_labels_perfect_and_wrong_ones_not(planted: FeatureCards) -> None:
    scores = score_labels(planted.with_labels(RIGHT), judge)
    assert set(scores) == set(RIGHT)
    assert all(score.detection == score.fuzzing == 1.0 for score in scores.values())
    swapped = {(0, 0): "b", (0, 1): "a", (1, 0): "? after b", (1, 1): "? after a"}
    for score in score_labels(planted.with_labels(swapped), judge).values():
        assert score.detection is not None
        assert score.detection < 0.5
    assert mean_scores(scores).detection == 1.0


def test_a_judge_who_guesses_is_half_right(planted: FeatureCards) -> None:
    for answer in (True, False, 0.9):
        score = mean_scores(score_labels(planted.with_labels(RIGHT), lambda passages, _, a=answer: [a] * len(passages)))
        assert (score.detection, score.fuzzing) == (0.5, 0.5)


def test_a_judge_sees_no_activations_and_marks_only_when_fuzzing(planted: FeatureCards) -> None:
    seen: list[Passage] = []

    def watching(passages: Any, _label: str) -> list[bool]:
        seen.extend(passages)
        return [True] * len(passages)

    scores = score_labels(planted.with_labels({(0, 0): "a"}), watching)
    assert not hasattr(seen[0], "activations")
    plain = [passage for passage in seen if passage.marked is None]
    assert len(plain) == scores[0, 0].n_detection
    assert len(seen) - len(plain) == scores[0, 0].n_fuzzing
    assert any("<<1>>" in str(passage) for passage in seen)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (lambda _passages, _label: [True], r"The judge gave 1 answers to \d+ passages"),
        (lambda passages, _: ["yes"] * len(passages), r"The judge answered 'yes': let it say True or False"),
        (lambda passages, _: [2.0] * len(passages), r"The judge answered 2.0"),
    ],
)
def test_answers_that_make_no_sense_are_refused(planted: FeatureCards, answers: Any, says: str) -> None:
    with pytest.raises(tlc.SettingError, match=says):
        score_labels(planted.with_labels(RIGHT), answers)


def test_cards_that_cannot_be_scored_are_refused(planted: FeatureCards) -> None:
    with pytest.raises(tlc.SettingError, match=r"None of 4 cards has a label to score: give them some"):
        score_labels(planted, judge)
    bare = FeatureCards.of([FeatureCard(0, 0, "a")])
    with pytest.raises(tlc.SettingError, match=r"These 1 cards have no passages .* contexts=64"):
        score_labels(bare, judge)


# Labels without help


def test_what_examples_share_is_named_with_its_precision(planted: FeatureCards) -> None:
    found = planted.with_labels(shared_tokens).labels()
    assert found == {
        (0, 0): '"1", 100% of the time',
        (0, 1): '"2", 100% of the time',
        (1, 0): '"3", 100% of the time',
        (1, 1): '"3", 100% of the time',
    }


def example(text: str, *active: int) -> Example:
    tokens = tuple(text.split("|"))
    return Example(tokens, tuple(float(at in active) for at in range(len(tokens))), active[0])


def test_a_token_before_is_named_where_it_tells_more() -> None:
    right_after = [example("Dal|las|or|Vil|las", 1), example("in|Dal|las", 2), example("Vil|las|to|Dal|las", 4)]
    assert shared_tokens(right_after) == '"las" right after "Dal", 100% of the time'
    after = [example("is|if|so|it|is", 4), example("is|if|now|she|is", 4), example("is|if|x|y|is", 4)]
    assert shared_tokens(after) == '"is" after "if", 100% of the time'


def test_precision_is_that_of_all_tokens_in_the_examples() -> None:
    sign = best_sign([example("a|b|a", 0), example("c|a", 1)])
    assert sign is not None
    assert (sign.token, sign.precision, sign.recall) == ("a", 2 / 3, 1.0)


def test_examples_that_share_nothing_get_no_label() -> None:
    letters = [example(letter, 0) for letter in "abcdefghijklmnop"]
    assert shared_tokens(letters) is None
    assert shared_tokens([]) is None


@pytest.mark.slow
def test_labels_go_onto_cards_and_graphs() -> None:
    found = random_cards().with_labels({(0, 3): "three", (9, 9): "nobody"})
    assert found.labels() == {(0, 3): "three"}
    assert found[0, 3].label == "three"
    assert random_cards()[0, 3].label is None
    again = found.with_labels(lambda examples: f"{len(examples)} examples" if len(examples) == 12 else None)
    assert (0, 3) in again.labels()


@pytest.mark.slow
def test_the_planted_variables_of_the_demo_s_world_judge_its_labels() -> None:
    from tl_circuits.zoo.cards import world_texts
    from tl_circuits.zoo.firing import firing
    from tl_circuits.zoo.judge import planted_judge
    from tl_circuits.zoo.world import world

    model, clt = tlc.demo()
    facts = world()
    features = [(2, 623), (1, 386), (0, 398), (1, 410), (2, 524), (0, 321)]
    found = feature_cards(model, clt, world_texts(facts)[::3], features=features, top=4, contexts=200)
    told = {key: str(fires) for key, fires in firing(model, clt, features, facts).items()}
    right = score_labels(found.with_labels(told), planted_judge(facts))
    ohio = dict.fromkeys(features, 'Ohio 90%, at "of" 95%')
    wrong = score_labels(found.with_labels(ohio), planted_judge(facts))
    for name in ("detection", "fuzzing"):
        n_asked, n_right = answers(right, name)
        assert n_right > guessed(n_asked)
        assert answers(wrong, name)[1] <= guessed(n_asked)


def answers(scores: Mapping[tuple[int, int], LabelScore], name: str) -> tuple[int, int]:
    """How many passages a judge was asked about, and of how many it was right: half of them are of either kind."""
    asked = [getattr(score, f"n_{name}") for score in scores.values()]
    shares = [getattr(score, name) for score in scores.values()]
    return sum(asked), sum(round(share * n) for share, n in zip(shares, asked, strict=True))


def guessed(n: int, level: float = 0.999) -> int:
    """How many of n answers are right at most, at this level, where each is a coin's."""
    above, k = 0, n
    while (above := above + comb(n, k)) <= (1 - level) * 2**n:
        k -= 1
    return k


def test_a_coin_is_right_as_often_as_it_should() -> None:
    # Of ten tosses, ten come out right once in 1,024 times, and nine or more eleven times.
    assert guessed(10, 1 - 1 / 1024) == 9
    assert guessed(10, 1 - 11 / 1024) == 8
    # A normal distribution's 3.09 standard deviations.
    assert abs(guessed(1000) - (500 + 3.09 * 15.8)) < 2
