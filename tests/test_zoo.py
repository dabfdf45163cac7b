"""The demo: its world, its tokens, what ships, and the circuit that the issue it answers asks for."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from tl_circuits.attribution import trace
from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Feature, Kind
from tl_circuits.zoo.demo import ASSETS, demo
from tl_circuits.zoo.language_model import ModelSettings, accuracy
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.swap import last_token, state_swap
from tl_circuits.zoo.tokenizer import encode, vocabulary
from tl_circuits.zoo.world import RELATIONS, STATES, Prompt, State, World, check_pieces, fact, name, world

# `tl_circuits.zoo.demo` the function hides the module of that name from `import ... as`.
build = import_module("tl_circuits.zoo.build")
DALLAS = "the capital of the state containing Dallas is"
FIGURES = json.loads((ASSETS / "figures.json").read_text())


@cache
def shipped(kind: str = "bridge", transcoder: str = "clt"):
    return demo(kind, transcoder)  # type: ignore[arg-type]


@cache
def facts() -> World:
    return world(seed=FIGURES["seed"])


class TestWorld:
    def test_no_piece_gives_a_state_away(self) -> None:
        assert max(check_pieces()) <= 0.6

    def test_a_piece_of_one_state_only_is_refused_by_name(self) -> None:
        broken = (*STATES[1:], replace(STATES[0], cities=(*STATES[0].cities, "Xan|adu")))
        with pytest.raises(SettingError, match="'Xan' occurs only in Alabama"):
            check_pieces(broken)

    def test_pieces_that_give_too_much_away_are_refused_with_the_share(self) -> None:
        def state(which: State, *cities: str) -> State:
            return replace(which, cities=cities)

        telling = (state(STATES[0], "A|x", "A|y", "A|z", "B|w"), state(STATES[1], "B|x", "B|y", "B|z", "A|w"))
        with pytest.raises(SettingError, match="Piece 1 of a name gives the state away 75%"):
            check_pieces(telling)

    def test_a_capital_is_no_city_to_ask_about(self) -> None:
        with pytest.raises(SettingError, match="Austin is a capital"):
            check_pieces((*STATES, replace(STATES[0], name="Nowhere", cities=("Aus|tin",))))

    def test_a_name_may_stand_once(self) -> None:
        with pytest.raises(SettingError, match="occurs twice"):
            check_pieces((*STATES, replace(STATES[0], name="Nowhere", cities=("Dal|las",))))

    def test_there_are_twenty_states_two_hundred_cities_and_eight_relations(self) -> None:
        assert (len(STATES), sum(len(state.cities) for state in STATES), len(RELATIONS)) == (20, 200, 8)

    def test_facts_are_those_of_the_atlas(self) -> None:
        of = {state.name: state for state in STATES}
        assert [fact(of["Texas"], r) for r in ("capital", "abbreviation", "largest city")] == [
            "Austin",
            "TX",
            "Houston",
        ]
        assert fact(of["California"], "capital") == "Sacramento"
        assert "Dal|las" in of["Texas"].cities
        assert "Oak|land" in of["California"].cities

    def test_what_is_held_out_is_never_trained_on_but_both_its_hops_are(self) -> None:
        split = world(seed=3)
        trained = {prompt.text for prompt in split.trained}
        assert trained.isdisjoint(prompt.text for prompt in split.held_out)
        questions = split.of("two-hop", held_out=True)
        assert 200 < len(questions) < 280
        for prompt in questions:
            assert f"the state containing {name(prompt.city)} is" in trained
            assert f"the {prompt.relation} of {prompt.state} is" in trained

    def test_sums_are_right(self) -> None:
        for prompt in facts().of("addition")[::97]:
            a, b = prompt.text.rstrip("=").split("+")
            assert int(a) + int(b) == int(prompt.answer)


class TestTokens:
    def test_a_question_reads_as_english(self) -> None:
        model, _ = shipped()
        read = ["<bos>", "the", " capital", " of", " the", " state", " containing", " Dal", "las", " is"]
        assert model.to_str_tokens(DALLAS) == read
        assert model.to_str_tokens("The" + DALLAS[3:]) == read

    def test_digits_are_tokens(self) -> None:
        model, _ = shipped()
        assert model.to_str_tokens("36+59=") == ["<bos>", "3", "6", "+", "5", "9", "="]

    def test_every_prompt_is_words_pieces_and_digits_and_comes_back_as_it_was(self) -> None:
        tokenizer = shipped()[0].tokenizer
        assert tokenizer is not None
        for prompt in (*facts().trained[::31], *facts().held_out[::13]):
            text = prompt.text + prompt.answer
            ids = tokenizer(text).input_ids
            assert "<unk>" not in tokenizer.convert_ids_to_tokens(ids)
            assert tokenizer.decode(ids, skip_special_tokens=True) == text

    def test_every_city_is_its_two_pieces(self) -> None:
        model, _ = shipped()
        for state in STATES:
            for city in state.cities:
                first, second = city.split("|")
                assert model.to_str_tokens(f" {name(city)}", prepend_bos=False) == [f" {first}", second]

    def test_an_answer_is_one_token(self) -> None:
        assert {f" {fact(state, relation)}" for state in STATES for relation in RELATIONS} < set(vocabulary())

    def test_an_unknown_word_reads_as_unknown(self) -> None:
        model, _ = shipped()
        assert "<unk>" in model.to_str_tokens("the capital of the state containing Zürich is")


class TestWhatShips:
    def test_it_weighs_under_eight_megabytes(self) -> None:
        assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 8e6

    def test_weights_are_safetensors_and_the_rest_is_text(self) -> None:
        suffixes = {path.suffix for path in ASSETS.rglob("*") if path.is_file()}
        assert suffixes <= {".safetensors", ".json", ".yaml"}

    def test_both_model_classes_are_the_same_function(self) -> None:
        bridge, hooked = shipped("bridge")[0], shipped("hooked")[0]
        assert isinstance(bridge, TransformerBridge)
        assert isinstance(hooked, HookedTransformer)
        tokens, _ = encode(facts().held_out[::7], bridge.tokenizer)
        torch.testing.assert_close(bridge(tokens), hooked(tokens), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["bridge", "hooked"])
    def test_it_answers_in_its_own_words(self, kind: str) -> None:
        model, _ = shipped(kind)
        for prompt, whole in ((DALLAS, f"{DALLAS} Austin"), ("36+59=", "36+59=95"), ("71+58=", "71+58=129")):
            assert model.generate(prompt, max_new_tokens=4, do_sample=False, verbose=False) == whole

    def test_the_per_layer_transcoder_writes_one_layer_and_the_other_all(self) -> None:
        assert shipped(transcoder="plt")[1].is_per_layer
        assert shipped(transcoder="clt")[1].span == 3

    def test_loading_leaves_the_random_state_and_warns_of_nothing(self) -> None:
        before = torch.random.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            demo("hooked", "plt")
            demo("bridge", "clt")
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize("given", [("gpt2", "clt"), ("bridge", "sae")])
    def test_what_does_not_ship_is_refused_by_name(self, given: tuple[str, str]) -> None:
        with pytest.raises(SettingError, match=r"'gpt2'|'sae'"):
            demo(*given)  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_it_loads_where_there_is_no_network(self) -> None:
        # A socket that is opened at all fails, whatever the hub library's own switches say.
        script = (
            "import socket\n"
            "def refuse(*args, **kwargs): raise AssertionError('a socket was opened')\n"
            "socket.socket.connect = refuse\n"
            "from tl_circuits.zoo.demo import demo\n"
            "model, clt = demo()\n"
            "assert model.to_string(model('36+59=')[0, -1].argmax()) == '9'\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


class TestFigures:
    """What is written in figures.json is so, and it is good enough."""

    def test_the_figures_meet_their_bounds(self) -> None:
        assert all(bound.met(FIGURES["figures"][name]) for name, bound in build.BOUNDS.items())

    @pytest.mark.parametrize("kind", ["two-hop", "addition"])
    def test_held_out_prompts_are_answered(self, kind: str) -> None:
        model, _ = shipped()
        right = accuracy(model, encode(facts().of(kind, held_out=True), model.tokenizer))  # type: ignore[arg-type]
        assert right == pytest.approx(FIGURES["figures"][f"model: {kind} held out"], abs=1e-3)
        assert right >= 0.99

    @pytest.mark.parametrize("transcoder", ["clt", "plt"])
    def test_the_replacement_model_agrees_as_often_as_written(self, transcoder: str) -> None:
        model, weights = shipped(transcoder=transcoder)
        held = agreement(model, weights, facts().of("two-hop", held_out=True))
        assert held == pytest.approx(FIGURES["figures"][f"{transcoder}: agreement, two-hop held out"], abs=5e-3)
        assert agreement(model, weights, facts().trained[::11]) >= 0.99

    def test_a_replacement_model_without_features_does_not_agree(self) -> None:
        # Otherwise agreement would say nothing: the MLPs have to matter.
        model, weights = demo()
        for bias in weights.b_enc:
            bias.data = torch.full_like(bias, -1e6)
        assert agreement(model, weights, facts().of("two-hop", held_out=True)) < 0.2

    def test_few_features_are_active(self) -> None:
        model, clt = shipped()
        assert max(sparsity(model, clt, facts().trained[::11]).l0) <= 12

    def test_swapping_the_state_swaps_the_answer_and_random_features_do_not(self) -> None:
        swap = state_swap(*shipped(), facts(), trials=200, seed=7)
        assert swap.turned >= 0.5
        assert swap.control <= 0.05


class TestBuild:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = World(facts().trained[:: len(facts().trained) // 400], facts().held_out[::40])
        monkeypatch.setattr(build, "world", lambda **_: small)
        monkeypatch.setattr(build, "ModelSettings", partial(ModelSettings, steps=2, batch=16))
        monkeypatch.setattr(build, "TRANSCODER", replace(build.TRANSCODER, features=8, steps=2, finetune_steps=1))

    @pytest.mark.usefixtures("quick")
    def test_what_misses_its_figures_is_not_saved(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "kept").write_text("as it was")
        with pytest.raises(build.BelowTarget, match=r"model: two-hop held out 0\.\d+, wanted ≥ 0\.99"):
            build.build(0, tmp_path)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]

    @pytest.mark.usefixtures("quick")
    def test_what_meets_them_is_saved_and_loads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build, "BOUNDS", {})
        build.build(0, tmp_path)
        model, clt = demo(assets=tmp_path)
        assert model.to_tokens(DALLAS).shape == (1, 10)
        assert clt.n_features == (8, 8, 8)
        assert json.loads((tmp_path / "figures.json").read_text())["seed"] == 0


class TestDallas:
    """The circuit of the Biology paper's first example, found by the graph on the demo."""

    @staticmethod
    def graph() -> AttributionGraph:
        return trace(*shipped(), DALLAS)

    @staticmethod
    def active_for(feature: Feature, prompts: tuple[Prompt, ...]) -> float:
        model, clt = shipped()
        return float((last_token(model, clt, prompts)[feature.layer][:, feature.index] > 0).float().mean())

    def test_texas_features_stand_upstream_of_austin(self) -> None:
        questions = facts().of("two-hop") + facts().of("two-hop", held_out=True)
        elsewhere = tuple(p for p in questions if p.state != "Texas")
        other_texans = tuple(p for p in questions if p.state == "Texas" and p.city != "Dal|las")
        graph = self.graph()
        adjacency = graph.adjacency()
        austin = next(row for row in range(len(graph.nodes)) if graph.nodes[row].kind == Kind.TARGET)
        assert shipped()[0].to_string(torch.tensor([graph.nodes[austin].index])) == " Austin"
        last = len(shipped()[0].to_tokens(DALLAS)[0]) - 1
        texas = [
            row
            for row, feature in enumerate(graph.nodes.features())
            if feature.pos == last
            and self.active_for(feature, other_texans) > 0.5
            and self.active_for(feature, elsewhere) < 0.05
        ]
        assert texas, "no feature at the last token is active on other Texas cities and on few others"
        says_austin = [row for row in range(graph.nodes.count(Kind.FEATURE)) if adjacency[austin, row] > 0.5]
        assert says_austin
        reached = adjacency[austin, texas].sum() + adjacency[says_austin][:, texas].sum()
        assert float(reached) > 0.5
