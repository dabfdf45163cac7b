"""The atlas: what its behaviours ask and hold out, and what ships."""

import hashlib
import json
import random
from dataclasses import replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tl_circuits.errors import SettingError
from tl_circuits.nodes import Kind
from tl_circuits.replacement import replace_mlps
from tl_circuits.zoo.atlas import Behaviour, Question, atlas, behaviours, sae_folders, task
from tl_circuits.zoo.atlas import recipe as atlas_recipe
from tl_circuits.zoo.atlas.behaviour import FAR, HELD_OUT, another, split
from tl_circuits.zoo.atlas.behaviours import GENERATORS
from tl_circuits.zoo.atlas.measure import right, sae_figures
from tl_circuits.zoo.atlas.numbers import LAST, YEARS
from tl_circuits.zoo.atlas.recall import ATHLETES, attribute
from tl_circuits.zoo.atlas.stored import ATLAS, SAE_SITES
from tl_circuits.zoo.atlas.tokens import vocabulary
from tl_circuits.zoo.atlas.wording import CONCEPTS, LANGUAGES, OPPOSITE_OF, RHYMES, VERBS
from tl_circuits.zoo.measure import agreement
from tl_circuits.zoo.named import load
from tl_circuits.zoo.recipe import BelowTarget, Bound, Recipe, carry_out

RECORD = json.loads((ATLAS / "figures.json").read_text(encoding="utf-8"))
FIGURES = RECORD["figures"]
RIGHT = "model: right, "
NAMES = tuple(key.removeprefix(RIGHT) for key in FIGURES if key.startswith(RIGHT))
TAUGHT = "21b7ded18dec4e1fd318f4b279da7ecccf2cc726eeb70359510e531ee1f726ba"
"""Of all lessons and questions with their answers, in order: other ones would give other weights."""

each = pytest.mark.parametrize("name", NAMES)


@lru_cache(maxsize=4)
def shipped(kind: str = "bridge", transcoder: str = "clt") -> tuple[Any, tlc.CrossLayerTranscoder]:
    return atlas(kind, transcoder)


@cache
def ids(text: str) -> tuple[int, ...]:
    return tuple(shipped()[0].tokenizer(text).input_ids)


def some(questions: tuple[Question, ...], count: int) -> tuple[Question, ...]:
    return questions[:: max(len(questions) // count, 1)][:count]


def asked(behaviour: Behaviour) -> set[str]:
    return {lesson.text for lesson in (*behaviour.lessons, *behaviour.trained)}


@pytest.mark.slow
class TestBehaviours:
    def test_they_are_those_that_figures_are_of(self) -> None:
        assert tuple(behaviours()) == NAMES

    @each
    def test_what_is_held_out_is_never_trained_on(self, name: str) -> None:
        behaviour = behaviours()[name]
        seen = set().union(*(asked(other) for other in behaviours().values()))
        assert not seen & {question.text for question in behaviour.held_out}
        assert behaviour.held_out

    @each
    def test_a_counterfactual_is_as_long_and_has_another_answer(self, name: str) -> None:
        behaviour = behaviours()[name]
        for question in (*some(behaviour.trained, 60), *some(behaviour.held_out, 60)):
            assert len(ids(question.text)) == len(ids(question.corrupted))
            first, other = (
                ids(text + answer)[len(ids(text))]
                for text, answer in (
                    (question.text, question.answer),
                    (question.corrupted, question.corrupted_answer),
                )
            )
            assert first != other
            assert question.corrupted_answer not in question.accepted
            assert not question.accepted or question.answer in question.accepted

    @each
    def test_counterfactuals_are_answered_rightly(self, name: str) -> None:
        # Every corrupted text is a text of the behaviour itself, with the answer that it has there.
        behaviour = behaviours()[name]
        asked = [*behaviour.trained, *behaviour.held_out]
        answers = {question.text: set(question.accepted or (question.answer,)) for question in asked}
        known = [question for question in asked if question.corrupted in answers]
        for question in known:
            assert question.corrupted_answer in answers[question.corrupted]
            assert not question.accepted or set(question.corrupted_accepted) == answers[question.corrupted]
        # Names and words are drawn, not listed; and before the first year there is only one that begins no question.
        unknown = [question for question in asked if question.corrupted not in answers]
        assert name in ("induction", "acronym", "greater-than") or not unknown
        if name == "greater-than":
            assert {question.text.split()[-3][2:] for question in unknown} == {f"{YEARS.start:02}"}

    @each
    def test_no_answer_counts_for_a_question_and_for_its_counterfactual(self, name: str) -> None:
        behaviour = behaviours()[name]
        for question in (*behaviour.trained, *behaviour.held_out):
            if question.accepted:
                assert question.answer in question.accepted
                assert question.corrupted_answer in set(question.corrupted_accepted) - set(question.accepted)
            else:
                assert question.answer != question.corrupted_answer
                assert question.apart == 1

    def test_years_are_far_apart_where_they_can_be(self) -> None:
        greater = behaviours()["greater-than"]
        for question in (*greater.trained, *greater.held_out):
            year, earlier = (int(text.split()[-3][2:]) for text in (question.text, question.corrupted))
            assert earlier < year
            # Of the 99 − earlier answers that are right for the counterfactual, those up to the year are wrong here.
            assert question.apart == pytest.approx((year - earlier) / (LAST - earlier))
            if (year - YEARS.start) / (LAST - YEARS.start) >= FAR:
                assert question.apart >= FAR
                assert earlier in YEARS

    def test_lessons_are_those_that_the_shipped_weights_were_taught(self) -> None:
        taught = [(lesson.text, lesson.answer) for b in behaviours().values() for lesson in (*b.lessons, *b.trained)]
        assert hashlib.sha256(repr(taught).encode()).hexdigest() == TAUGHT

    def test_a_seed_gives_one_split_and_another_seed_another(self) -> None:
        for generate, made in zip(GENERATORS, behaviours().values(), strict=True):
            assert generate(random.Random(f"0 {generate.__name__}")) == made
        other = attribute(random.Random("1"))
        assert {q.text for q in other.held_out} != {q.text for q in behaviours()["attribute"].held_out}

    def test_both_hops_of_a_held_out_question_are_trained_on(self) -> None:
        two_hop = behaviours()["two-hop"]
        lessons = {lesson.text for lesson in two_hop.lessons}
        for question in two_hop.held_out:
            relation, _, city = (
                question.text.removeprefix("the ").removesuffix(" is").partition(" of the state containing ")
            )
            assert f"the state containing {city} is" in lessons
            assert any(text.startswith(f"the {relation} of ") for text in lessons)

    def test_an_athlete_was_met_in_another_phrasing(self) -> None:
        attribute = behaviours()["attribute"]
        met = " ".join(asked(attribute))
        assert all(f"{athlete.first} {athlete.last}" in met for athlete in ATHLETES)

    def test_a_year_that_is_held_out_begins_no_trained_event(self) -> None:
        greater = behaviours()["greater-than"]
        began = {question.text.split()[-3] for question in greater.trained}
        assert began.isdisjoint(question.text.split()[-3] for question in greater.held_out)
        for question in some(greater.held_out, 100):
            assert question.accepted == tuple(f"{y:02}" for y in range(int(question.text.split()[-3][2:]) + 1, 100))

    def test_names_that_are_held_out_were_never_neighbours(self) -> None:
        induction = behaviours()["induction"]
        trained = {pair for question in induction.trained for pair in pairwise(question.text.split()[1:-1])}
        for question in induction.held_out:
            assert (question.text.split()[-1], question.answer.split()[0]) not in trained

    def test_words_of_a_held_out_acronym_were_never_neighbours(self) -> None:
        acronym = behaviours()["acronym"]
        trained = {tuple(question.text.split()[2:4]) for question in acronym.trained}
        assert trained.isdisjoint(tuple(question.text.split()[2:4]) for question in acronym.held_out)

    def test_a_line_and_a_kind_that_are_held_out_were_never_together(self) -> None:
        kinds = {verb: kind for kind, verbs in VERBS.items() for verb in verbs}

        def cells(questions: tuple[Question, ...]) -> set[tuple[str, str]]:
            words = [question.text.replace(",", "").split() for question in questions]
            return {(said[2], kinds[said[4]]) for said in words}

        rhyme = behaviours()["rhyme"]
        assert cells(rhyme.trained).isdisjoint(cells(rhyme.held_out))

    def test_a_word_and_a_language_that_are_held_out_were_never_together(self) -> None:
        # A frame is of one language, so a text is the pair; its word was met in other languages.
        opposite = behaviours()["opposite"]
        frames = {frame.split()[0]: frame for frame in OPPOSITE_OF.values()}
        assert len(frames) == len(LANGUAGES)
        met = {question.text.split()[3] for question in opposite.trained}
        assert all(question.text.split()[3] in met for question in opposite.held_out)

    def test_a_word_names_one_concept_and_has_one_sound(self) -> None:
        words = [word for concept in CONCEPTS for language in LANGUAGES for word in concept.words[language]]
        assert len(words) == len(set(words))
        sounds = [word for sound in RHYMES for word in sound.words]
        assert len(sounds) == len(set(sounds))

    def test_a_share_of_keys_is_held_out_with_all_that_have_them(self) -> None:
        kept, away = split(range(1000), lambda item: item % 100, random.Random(0))
        assert len(away) == 1000 * HELD_OUT
        assert {item % 100 for item in kept}.isdisjoint(item % 100 for item in away)

    def test_where_nothing_makes_a_counterfactual_it_is_said(self) -> None:
        with pytest.raises(SettingError, match="Hardly any of 3 items makes a counterfactual: add some"):
            another(range(3), lambda item: item > 5, random.Random(0))


@pytest.mark.slow
class TestTokens:
    @each
    def test_every_text_is_known_words_and_comes_back_as_it_was(self, name: str) -> None:
        tokenizer = shipped()[0].tokenizer
        behaviour = behaviours()[name]
        for lesson in (*behaviour.lessons[::7], *some(behaviour.trained, 100), *some(behaviour.held_out, 100)):
            read = ids(lesson.text + lesson.answer)
            assert tokenizer.unk_token_id not in read
            assert tokenizer.decode(list(read), skip_special_tokens=True) == lesson.text + lesson.answer
            assert read[: len(ids(lesson.text))] == ids(lesson.text)

    @each
    def test_questions_of_a_behaviour_are_of_one_length(self, name: str) -> None:
        behaviour = behaviours()[name]
        lengths = {len(ids(q.text)) for q in (*some(behaviour.trained, 100), *some(behaviour.held_out, 100))}
        assert len(lengths) == 1

    def test_a_year_is_two_tokens_and_a_sum_is_digits(self) -> None:
        model, _ = shipped()
        read = model.to_str_tokens("the war lasted from 1732 to 17")
        assert read == ["<bos>", "the", " war", " lasted", " from", " 17", "32", " to", " 17"]
        assert model.to_str_tokens("36+59=") == ["<bos>", "3", "6", "+", "5", "9", "="]

    def test_the_vocabulary_is_that_of_the_model(self) -> None:
        model, _ = shipped()
        assert len(vocabulary()) == len(set(vocabulary())) == model.cfg.d_vocab


class TestWhatShips:
    def test_all_data_of_the_package_weigh_under_twenty_megabytes(self) -> None:
        package = Path(tlc.__file__).parent
        data = [path for path in package.rglob("assets/**/*") if path.is_file()]
        assert data
        assert sum(path.stat().st_size for path in data) < 20e6

    @pytest.mark.slow
    def test_both_model_classes_are_the_same_function(self) -> None:
        bridge, hooked = shipped("bridge")[0], shipped("hooked")[0]
        tokens = task(bridge, "rhyme", count=20).clean
        torch.testing.assert_close(bridge(tokens), hooked(tokens), atol=1e-5, rtol=1e-5)

    @pytest.mark.slow
    def test_weights_come_in_single_precision(self) -> None:
        model, clt = shipped()
        assert {parameter.dtype for parameter in (*model.parameters(), *clt.parameters())} == {torch.float32}
        assert clt.span == model.cfg.n_layers
        assert shipped(transcoder="plt")[1].is_per_layer

    @pytest.mark.slow
    def test_loading_leaves_the_random_state(self) -> None:
        before = torch.random.get_rng_state()
        atlas()
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.slow
    def test_it_goes_by_its_name(self) -> None:
        model, plt = load("atlas", None, shipped="plt")
        assert plt.is_per_layer
        assert model.tokenizer.decode([int(model("36+59=")[0, -1].argmax())]) == "9"

    @pytest.mark.slow
    @pytest.mark.parametrize("given", [("gpt2", "clt"), ("bridge", "sae")])
    def test_what_does_not_ship_is_refused_by_name(self, given: tuple[str, str]) -> None:
        with pytest.raises(SettingError, match=r"'gpt2' is not a model class|'sae' does not ship with the atlas"):
            atlas(*given)

    @pytest.mark.slow
    def test_a_task_is_questions_with_their_counterfactuals(self) -> None:
        model, _ = shipped()
        behaviour = behaviours()["opposite"]
        made = task(model, "opposite")
        assert len(made) == len(behaviour.held_out)
        row = len(made) // 2
        question = behaviour.held_out[row]
        assert model.to_string(made.clean[row]) == "<bos>" + question.text
        assert model.to_string(made.corrupted[row]) == "<bos>" + question.corrupted
        assert model.to_string(made.answer[row]) == question.answer
        assert model.to_string(made.corrupted_answer[row]) == question.corrupted_answer
        assert len(task(model, "opposite", held_out=False, count=7)) == 7

    @pytest.mark.slow
    @each
    def test_the_model_tells_prompts_from_their_counterfactuals(self, name: str) -> None:
        model, _ = shipped()
        asked = task(model, name, count=200)
        with torch.no_grad():
            here, there = (asked.measure(model(tokens)[:, -1].double()) for tokens in (asked.clean, asked.corrupted))
        assert float((here > there).double().mean()) >= 0.99
        # The answer that is preferred changes: what is right here does not win there.
        assert float((here > 0).double().mean()) >= 0.95
        assert float((there < 0).double().mean()) >= 0.9

    @pytest.mark.slow
    @each
    def test_all_neurons_together_do_what_the_model_does(self, name: str) -> None:
        model, _ = shipped()
        basis, asked = tlc.Basis.neurons(model), task(model, name, count=8)
        curve = tlc.circuit_curve(model, basis, asked, "attribution-patching", sizes=[], progress=False)
        assert curve.faithfulness.tolist() == pytest.approx([0, 1], abs=1e-4)

    @pytest.mark.slow
    def test_where_several_answers_are_right_a_task_contrasts_them_with_those_of_the_counterfactual(self) -> None:
        model, _ = shipped()
        greater = behaviours()["greater-than"]
        made = task(model, "greater-than")
        far = [question for question in greater.held_out if question.apart >= FAR]
        assert 200 < len(made) == len(far) < len(greater.held_out)
        assert made.contrast is not None
        weights = made.contrast
        for row in range(0, len(made), 40):
            year, earlier = (int(text.split()[-3][2:]) for text in (far[row].text, far[row].corrupted))
            for sign, years in ((1, range(year + 1, LAST + 1)), (-1, range(earlier + 1, year + 1))):
                said = [model.to_string(token) for token in (weights[row] == sign).nonzero()[:, 0]]
                assert sorted(said) == [f"{y:02}" for y in years]
            assert weights[row, made.answer[row]] == 1
            assert weights[row, made.corrupted_answer[row]] == -1
        assert all(task(model, name, count=2).contrast is None for name in NAMES if name != "greater-than")

    @pytest.mark.slow
    def test_no_such_behaviour_or_count_is_refused(self) -> None:
        model, _ = shipped()
        with pytest.raises(SettingError, match="'haiku' is no behaviour of the atlas: give one of two-hop, attribute"):
            task(model, "haiku")
        with pytest.raises(SettingError, match=r"task\(count=0\): ask for at least 1"):
            task(model, "rhyme", count=0)
        with pytest.raises(SettingError, match="No SAEs of 'hook_z' ship with the atlas: give one of hook_mlp_out"):
            sae_folders("hook_z")


class TestFigures:
    """What is written in figures.json is so, and it is good enough."""

    def test_the_figures_meet_their_bounds(self) -> None:
        assert RECORD["bounds"] == {name: str(bound) for name, bound in atlas_recipe.BOUNDS.items()}
        assert all(bound.met(FIGURES[name]) for name, bound in atlas_recipe.BOUNDS.items())

    @pytest.mark.slow
    @each
    def test_held_out_questions_are_answered(self, name: str) -> None:
        questions = some(behaviours()[name].held_out, 300)
        # Of a sample, two standard errors at .95 below the figure of all.
        assert right(shipped()[0], questions) == pytest.approx(FIGURES[f"model: right, {name}"], abs=0.026)

    @pytest.mark.slow
    @pytest.mark.parametrize("transcoder", ["clt", "plt"])
    def test_the_replacement_model_is_right_as_often_as_written(self, transcoder: str) -> None:
        model, weights = shipped(transcoder=transcoder)
        for name in ("opposite", "two-hop", "induction"):
            questions = behaviours()[name].held_out
            assert agreement(model, weights, questions) == pytest.approx(
                FIGURES[f"{transcoder}: agreement, {name}"], abs=5e-3
            )
            with replace_mlps(model, weights):
                assert right(model, questions) == pytest.approx(FIGURES[f"{transcoder}: right, {name}"], abs=5e-3)

    @pytest.mark.slow
    def test_without_features_nothing_is_right(self) -> None:
        model, weights = atlas()
        for bias in weights.b_enc:
            bias.data = torch.full_like(bias, -1e6)
        with replace_mlps(model, weights):
            for name in ("two-hop", "opposite", "rhyme"):
                assert right(model, some(behaviours()[name].held_out, 100)) < 0.3

    @pytest.mark.slow
    @pytest.mark.parametrize("site", SAE_SITES)
    def test_saes_load_by_saelens_and_explain_what_they_read(self, site: Any) -> None:
        from sae_lens import SAE

        model, _ = shipped()
        folders = sae_folders(site)
        assert len(folders) == model.cfg.n_layers
        drawn = [task(model, name, count=40).clean for name in NAMES]
        for layer, folder in enumerate(folders):
            sae = SAE.load_from_disk(folder)
            assert sae.cfg.metadata.hook_name == folder.name == f"blocks.{layer}.{site}"
            passing = [model.run_with_cache(t, names_filter=folder.name)[1][folder.name][:, 1:] for t in drawn]
            found = sae_figures(sae, torch.cat([x.flatten(0, 1) for x in passing]))
            # Behaviours in other shares than those that it was measured on.
            assert found["L0"] == pytest.approx(FIGURES[f"sae, {folder.name}: L0"], rel=0.25)
            assert found["variance unexplained"] < 0.25


class TestGraphs:
    @pytest.mark.slow
    @each
    def test_a_graph_conserves_and_leads_to_what_decides(self, name: str) -> None:
        model, clt = shipped()
        questions = behaviours()[name].held_out
        question = questions[len(questions) // 2]
        graph = tlc.trace(model, clt, question.text, progress=False)
        assert graph.conservation_error < 1e-5
        tokens = graph.nodes.span(Kind.TOKEN)
        influence = graph.influence()[tokens]
        decides = torch.tensor([a != b for a, b in zip(ids(question.text), ids(question.corrupted), strict=True)])
        if name == "induction":
            # Where a head looks is frozen; what it carries from there is the token that it finds.
            answer = ids(question.text + question.answer)[len(ids(question.text))]
            decides = torch.tensor([token == answer for token in ids(question.text)])
        assert len(influence) == len(decides)
        assert influence[decides].mean() > influence[~decides].mean()


@pytest.mark.slow
class TestRecipe:
    def test_it_names_what_ships(self) -> None:
        recipe = atlas_recipe.recipe()
        assert isinstance(recipe, Recipe)
        assert recipe.assets == ATLAS
        assert all(isinstance(bound, Bound) for bound in recipe.bounds.values())

    def test_every_lesson_is_drawn_and_shares_are_all(self) -> None:
        lessons, weights = atlas_recipe.curriculum(behaviours())
        assert len(lessons) == len(weights) == sum(len(b.lessons) + len(b.trained) for b in behaviours().values())
        assert float(weights.min()) > 0
        assert float(weights.sum()) == pytest.approx(1, abs=1e-4)

    def test_what_is_made_is_what_loads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def few(*, seed: int) -> dict[str, Behaviour]:
            found = [behaviours(seed=seed)[name] for name in ("two-hop", "greater-than")]
            kept = {"trained": 20, "held_out": 5, "lessons": 10}
            return {
                b.name: replace(b, **{part: getattr(b, part)[:count] for part, count in kept.items()}) for b in found
            }

        monkeypatch.setattr(atlas_recipe, "behaviours", few)
        monkeypatch.setattr(atlas_recipe, "BOUNDS", {})
        monkeypatch.setattr(atlas_recipe, "SAE_SITES", SAE_SITES[:1])
        for name, small in (
            ("MODEL", {"n_layers": 2, "steps": 2, "batch": 8}),
            ("TRANSCODER", {"features": 8, "steps": 2, "finetune_steps": 1}),
            ("SAE", {"features": 8, "k": 2.0, "steps": 10, "batch_tokens": 16, "prompts": 20}),
        ):
            monkeypatch.setattr(atlas_recipe, name, replace(getattr(atlas_recipe, name), **small))
        figures = carry_out(atlas_recipe.recipe(), 0, tmp_path)
        model, plt = atlas(transcoder="plt", assets=tmp_path)
        assert plt.n_features == (8, 8)
        assert model.cfg.n_layers == len(sae_folders(assets=tmp_path)) == 2
        record = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
        assert set(record["figures"]) == set(figures) < set(FIGURES)
        assert record["took"]["threads"] == torch.get_num_threads()
        config = (sae_folders(assets=tmp_path)[0] / "cfg.json").read_text(encoding="utf-8")
        assert config == json.dumps(json.loads(config), indent=2, sort_keys=True) + "\n"

    def test_what_misses_its_figures_is_refused_with_them(self, tmp_path: Path) -> None:
        poor = replace(atlas_recipe.recipe(), make=lambda *_: {**FIGURES, "model: right, rhyme": 0.5})
        with pytest.raises(BelowTarget, match=r"Not saved: model: right, rhyme 0\.5000, wanted ≥ 0\.95"):
            carry_out(poor, 0, tmp_path)
        assert not list(tmp_path.iterdir())
