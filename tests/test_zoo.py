"""The demo: its world, its tokens, what ships, and the circuit that the issue it answers asks for."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from tl_circuits.attribution import trace
from tl_circuits.errors import SettingError
from tl_circuits.nodes import Kind
from tl_circuits.zoo import demo_recipe
from tl_circuits.zoo.demo import ASSETS, demo
from tl_circuits.zoo.language_model import ModelSettings, accuracy
from tl_circuits.zoo.measure import agreement, sparsity
from tl_circuits.zoo.recipe import BelowTarget, carry_out
from tl_circuits.zoo.swap import last_token, state_swap
from tl_circuits.zoo.tokenizer import encode, vocabulary
from tl_circuits.zoo.world import RELATIONS, STATES, State, World, check_pieces, fact, name, world
from tl_circuits.zoo.world import Kind as Asked

DALLAS = "the capital of the state containing Dallas is"
FIGURES = json.loads((ASSETS / "figures.json").read_text())


@cache
def shipped(kind: str = "bridge", transcoder: str = "clt"):
    return demo(kind, transcoder)


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

    @pytest.mark.slow
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
    def test_it_weighs_under_eight_megabytes_and_with_the_atlas_under_twenty(self) -> None:
        sizes = {path: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
        of_the_atlas = sum(size for path, size in sizes.items() if path.is_relative_to(ASSETS / "atlas"))
        assert of_the_atlas > 0
        assert sum(sizes.values()) - of_the_atlas < 8e6
        assert sum(sizes.values()) < 20e6

    def test_weights_are_safetensors_and_the_rest_is_text(self) -> None:
        suffixes = {path.suffix for path in ASSETS.rglob("*") if path.is_file()}
        assert suffixes <= {".safetensors", ".json", ".yaml"}

    @pytest.mark.slow
    def test_both_model_classes_are_the_same_function(self) -> None:
        bridge, hooked = shipped("bridge")[0], shipped("hooked")[0]
        assert isinstance(bridge, TransformerBridge)
        assert isinstance(hooked, HookedTransformer)
        tokens, _ = encode(facts().held_out[::7], bridge.tokenizer)
        torch.testing.assert_close(bridge(tokens), hooked(tokens), atol=1e-5, rtol=1e-5)

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
            demo(*given)

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


@pytest.mark.slow
class TestFigures:
    """What is written in figures.json is so, and it is good enough."""

    def test_the_figures_meet_their_bounds(self) -> None:
        assert all(bound.met(FIGURES["figures"][name]) for name, bound in demo_recipe.BOUNDS.items())

    @pytest.mark.parametrize("kind", ["two-hop", "addition"])
    def test_held_out_prompts_are_answered(self, kind: Asked) -> None:
        model, _ = shipped()
        right = accuracy(model, encode(facts().of(kind, held_out=True), model.tokenizer))
        assert right == pytest.approx(FIGURES["figures"][f"model: {kind} held out"], abs=1e-3)
        assert right >= 0.99

    @pytest.mark.parametrize("transcoder", ["clt", "plt"])
    def test_the_replacement_model_agrees_as_often_as_written(self, transcoder: str) -> None:
        model, weights = shipped(transcoder=transcoder)
        held = agreement(model, weights, facts().of("two-hop", held_out=True))
        assert held == pytest.approx(FIGURES["figures"][f"{transcoder}: agreement, two-hop held out"], abs=5e-3)
        assert agreement(model, weights, facts().trained[::5]) >= 0.985

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


@pytest.mark.slow
class TestBuild:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = World(facts().trained[:: len(facts().trained) // 400], facts().held_out[::40])
        monkeypatch.setattr(demo_recipe, "world", lambda **_: small)
        monkeypatch.setattr(demo_recipe, "ModelSettings", partial(ModelSettings, steps=2, batch=16))
        monkeypatch.setattr(
            demo_recipe, "TRANSCODER", replace(demo_recipe.TRANSCODER, features=8, steps=2, finetune_steps=1)
        )

    @pytest.mark.usefixtures("quick")
    def test_what_misses_its_figures_is_not_saved(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "kept").write_text("as it was")
        with pytest.raises(BelowTarget, match=r"model: two-hop held out 0\.\d+, wanted ≥ 0\.99"):
            carry_out(demo_recipe.recipe(), 0, tmp_path)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]

    @pytest.mark.usefixtures("quick")
    def test_what_meets_them_is_saved_and_loads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo_recipe, "BOUNDS", {})
        carry_out(demo_recipe.recipe(), 0, tmp_path)
        model, clt = demo(assets=tmp_path)
        assert model.to_tokens(DALLAS).shape == (1, 10)
        assert clt.n_features == (8, 8, 8)
        assert json.loads((tmp_path / "figures.json").read_text())["seed"] == 0


class TestDallas:
    """The circuit of the Biology paper's first example, found by the graph on the demo."""

    @pytest.mark.slow
    @pytest.mark.parametrize("transcoder", ["clt", "plt"])
    def test_texas_features_stand_upstream_of_austin_features(self, transcoder: str) -> None:
        model, weights = shipped(transcoder=transcoder)
        graph = trace(model, weights, DALLAS)
        target = graph.nodes[graph.nodes.span(Kind.TARGET).start]
        assert model.to_string(torch.tensor([target.index])) == " Austin"
        questions = tuple(
            p for p in (*facts().of("two-hop"), *facts().of("two-hop", held_out=True)) if p.city != "Dal|las"
        )
        texan = torch.tensor([p.state == "Texas" for p in questions])
        austin = torch.tensor([p.answer == " Austin" for p in questions])
        active = [acts > 0 for acts in last_token(model, weights, questions)]

        def stands_for(which: torch.Tensor, share: float) -> list[int]:
            """The graph's features at the last token, active on this share of these questions and not on others."""
            rows = enumerate(graph.nodes.features())
            seen = {row: active[f.layer][:, f.index].float() for row, f in rows if f.pos == target.pos}
            return [row for row, on in seen.items() if on[which].mean() > share and on[~which].mean() < 0.05]

        texas_features, austin_features = stands_for(texan, 0.3), stands_for(austin, 0.8)
        assert texas_features
        assert austin_features
        adjacency = graph.adjacency()
        says_austin = adjacency[graph.nodes.row(target)]
        assert float(adjacency[austin_features][:, texas_features].sum()) > 0.5
        assert float(says_austin[austin_features].sum()) > 1.0
