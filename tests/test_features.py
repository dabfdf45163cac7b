"""Feature cards from a token stream, against the activations of the whole stream held at once."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tl_circuits.features import FeatureCards, Operands, collect, feature_cards
from tl_circuits.features.directions import linear
from tl_circuits.features.kept import Window
from tl_circuits.features.tally import Tally, keys
from tl_circuits.transcoder import CrossLayerTranscoder

N_PROMPTS, N_POS = 24, 12
# Prompts side by side and one by one are summed in another order, in single precision.
ROUNDING = 1e-5


@cache
def model() -> Any:
    return models.hooked("gpt2", torch.float32)


@cache
def stream() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, N_POS + 1, (N_PROMPTS,), generator=draw).tolist()
    return [torch.randint(3, models.D_VOCAB, (length,), generator=draw).tolist() for length in lengths]


@cache
def activations(transcoder: CrossLayerTranscoder) -> list[list[Tensor]]:
    """Of each layer and prompt, as (pos, feature)."""
    found: list[list[Tensor]] = [[] for _ in range(models.N_LAYERS)]
    with torch.no_grad():
        for prompt in stream():
            _, cache = model().run_with_cache(torch.tensor([prompt]))
            for layer in range(models.N_LAYERS):
                found[layer].append(transcoder.encode(cache[f"blocks.{layer}.ln2.hook_normalized"][0], layer))
    return found


@cache
def cards(activation: str = "jumprelu", **settings: Any) -> FeatureCards:
    return feature_cards(model(), models.transcoder(activation=activation), stream(), **settings)


def outline(found: FeatureCards) -> list[Any]:
    """What does not depend on how sums are rounded."""
    return [
        (card.key, card.density, [(one.prompt, one.peak, one.tokens) for one in card.examples])
        for card in found.values()
    ]


# Against everything at once


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
def test_density_histogram_and_maximum_are_those_of_all_tokens(activation: str) -> None:
    whole = activations(models.transcoder(activation=activation))
    for (layer, index), card in cards(activation).items():
        every = torch.cat([prompt[:, index] for prompt in whole[layer]])
        active = every[every != 0]
        assert card.n_tokens == len(every)
        assert card.density == len(active) / len(every)
        if not len(active):
            assert card.histogram is card.maximum is None
            continue
        assert card.maximum == pytest.approx(float(active.max()), abs=ROUNDING)
        assert card.histogram is not None
        assert sum(card.histogram.counts) == len(active)
        # Away from the edges, where rounding decides.
        expected, _ = np.histogram(active.double().numpy(), card.histogram.edges)
        assert np.abs(np.cumsum(expected) - np.cumsum(card.histogram.counts)).max() <= 1
        assert card.histogram.low <= float(active.min())
        assert float(active.max()) <= card.histogram.high
        assert card.histogram.counts[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
def test_the_top_examples_are_the_highest_peaks_of_all_prompts(activation: str) -> None:
    whole = activations(models.transcoder(activation=activation))
    for (layer, index), card in cards(activation).items():
        of_prompts = [prompt[:, index].masked_fill(prompt[:, index] == 0, -torch.inf) for prompt in whole[layer]]
        peaks = torch.stack([each.max() for each in of_prompts])
        best = [value for value in peaks.sort(descending=True).values[:12].tolist() if value > -torch.inf]
        assert [one.activation for one in card.top] == pytest.approx(best, abs=ROUNDING)
        for one in card.top:
            here, at = of_prompts[one.prompt], int(of_prompts[one.prompt].argmax())
            assert one.activation == pytest.approx(float(here[at]), abs=ROUNDING)
            first = max(0, at - 24)
            assert one.peak == at - first
            assert one.tokens == tuple(map(str, stream()[one.prompt][first : at + 9]))
            expected = whole[layer][one.prompt][first : at + 9, index].tolist()
            assert one.activations == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.slow
def test_where_there_is_room_the_intervals_hold_every_active_token_once_by_quantile() -> None:
    whole = activations(models.transcoder())
    found = cards(intervals=4, sample=100)
    for (layer, index), card in found.items():
        every = torch.cat([prompt[:, index] for prompt in whole[layer]])
        active = every[every != 0].sort(descending=True).values.tolist()
        drawn = [one.activation for interval in card.intervals for one in interval.examples]
        assert drawn == pytest.approx(active, abs=ROUNDING)
        sizes = [len(interval.examples) for interval in card.intervals]
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
    named = {interval.name for card in found.values() for interval in card.intervals}
    assert named == {"quantiles 0.75 to 1", "quantiles 0.5 to 0.75", "quantiles 0.25 to 0.5", "quantiles 0 to 0.25"}


def test_drawn_tokens_are_drawn_evenly_and_again_by_the_same_seed() -> None:
    place = torch.arange(2_000)
    feature = torch.zeros_like(place)
    kept = torch.stack([keys(seed, 1, feature, place).topk(50).indices for seed in range(100)])
    # 5,000 places of 2,000: their mean is 999.5 within four standard errors.
    assert abs(float(kept.double().mean()) - 999.5) < 4 * 577 / 5_000**0.5
    assert int(keys(5, 0, feature, place).min()) >= 0
    assert torch.equal(keys(5, 0, feature, place), keys(5, 0, feature, place))
    assert not torch.equal(keys(5, 0, feature, place), keys(6, 0, feature, place))


@pytest.mark.slow
def test_how_the_stream_and_the_features_are_cut_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = cards()
    monkeypatch.setattr(collect, "TOKENS_PER_PASS", 30)
    each = collect._settings(12, 5, 4, 24, 8, 10, 64, 0).bytes_per_feature()
    cut = feature_cards(model(), models.transcoder(), stream(), memory_budget=30 * each)
    assert outline(cut) == outline(at_once)
    for one, other in zip(cut.values(), at_once.values(), strict=True):
        if one.histogram is not None and other.histogram is not None:
            assert one.histogram.edges == other.histogram.edges
            # An activation at an edge is rounded to one side of it or the other.
            drift = np.cumsum(one.histogram.counts) - np.cumsum(other.histogram.counts)
            assert np.abs(drift).max() <= 1
    assert cut.contexts.texts == at_once.contexts.texts
    assert torch.equal(cut.contexts.active, at_once.contexts.active)


@pytest.mark.slow
def test_chosen_features_have_the_cards_that_they_have_among_all() -> None:
    for activation in ("jumprelu", "topk"):
        few = feature_cards(
            model(), models.transcoder(activation=activation), stream(), features=["L1/3", (2, 5), tlc.Feature(0, 4, 7)]
        )
        assert list(few) == [(0, 7), (1, 3), (2, 5)]
        assert outline(few) == outline(cards(activation).only(few))


@pytest.mark.slow
def test_contexts_say_where_features_are_active() -> None:
    whole, found = activations(models.transcoder()), cards()
    assert len(found.contexts.texts) == N_PROMPTS
    prompts = {tuple(map(str, prompt)): number for number, prompt in enumerate(stream())}
    for row, (layer, index) in enumerate(found):
        for column, text in enumerate(found.contexts.texts):
            here = whole[layer][prompts[text]][:, index]
            assert bool(found.contexts.active[row, column]) == bool((here != 0).any())
    silent = found.contexts.without(0)
    assert len(silent) == N_PROMPTS - int(found.contexts.active[0].sum())


# Memory


def test_memory_is_what_the_plan_says_whatever_the_stream_s_length() -> None:
    window, n = Window(24, 8), 7
    tally = Tally(0, torch.arange(n), 12, 20, window, 0)
    held = [tally.n_active, tally.maximum, tally.index, tally.counts.exponent, tally.counts.count]
    for kept in (tally.top, tally.sample):
        held += [kept.score, kept.prompt, kept.tokens, kept.activations]
    assert sum(part.nbytes for part in held) == n * Tally.bytes_per_feature(12, 20, window)


@pytest.mark.slow
def test_a_pass_holds_no_more_for_a_longer_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    finish = collect.finished

    def spied(model: Any, transcoder: Any, tallies: Any, contexts: Any, asks: Any) -> FeatureCards:
        parts = [part for tally in tallies for kept in (tally.top, tally.sample) for part in vars(kept).values()]
        parts += [part for tally in tallies for part in (*vars(tally.counts).values(), tally.n_active, tally.maximum)]
        held.append(sum(part.nbytes for part in parts) + sum(part.nbytes for part in contexts.active))
        return finish(model, transcoder, tallies, contexts, asks)

    monkeypatch.setattr(collect, "finished", spied)
    for repeats in (1, 5):
        feature_cards(model(), models.transcoder(), stream() * repeats, tokens=1)
    assert held[0] == held[1]


# The stream


@pytest.mark.slow
def test_every_kind_of_stream_gives_the_same_cards() -> None:
    expected = outline(cards())
    rows = Dataset.from_dict({"input_ids": stream()})
    for data in (rows, rows.to_iterable_dataset(), (prompt for prompt in stream()), [*stream(), []]):
        assert outline(feature_cards(model(), models.transcoder(), data)) == expected


@pytest.mark.slow
def test_a_matrix_is_a_stream_of_its_rows() -> None:
    matrix = torch.randint(3, models.D_VOCAB, (9, 8), generator=torch.Generator().manual_seed(0))
    found = feature_cards(model(), models.transcoder(), matrix)
    assert outline(found) == outline(feature_cards(model(), models.transcoder(), matrix.tolist()))


@pytest.mark.slow
def test_activations_are_those_of_inference_and_the_mode_stays() -> None:
    transcoder = models.transcoder(activation="batchtopk")
    expected = outline(cards("batchtopk"))
    transcoder.train()
    try:
        assert outline(feature_cards(model(), transcoder, stream())) == expected
        assert transcoder.activation.training
    finally:
        transcoder.eval()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], r"holds no token that counts: give at least one"),
        ("a text", r"str 'a text' is no token stream"),
        (torch.zeros(3), r"shape \(3,\) and torch.float32 was given: token ids are integers"),
        (torch.zeros(2, 99, dtype=torch.int64), r"have 99 tokens, but the model's context holds 16: cut them"),
        ([[99]], r"Token id 99 is not in the model's vocabulary of 37 tokens \(0 to 36\)"),
        (["text"], r"no tokenizer for the text 'text': give token ids"),
        ([[1.5]], r"\[1.5\] is no prompt: give texts, or lists"),
        (
            Dataset.from_dict({"words": ["a"]}),
            r"columns 'words', but prompts are read from 'tokens', 'input_ids', 'text'",
        ),
    ],
)
def test_data_that_are_no_stream_are_refused(data: Any, says: str) -> None:
    with pytest.raises(tlc.PromptError, match=says):
        feature_cards(model(), models.transcoder(), data)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top": -1}, r"feature_cards\(top=-1\): give a whole number, 0 or more"),
        ({"memory_budget": 0}, r"memory_budget=0\): give a number of bytes"),
        (
            {"memory_budget": 100},
            r"A feature takes [\d,]+ bytes, and memory_budget=100 is less: raise it, or keep fewer",
        ),
        ({"features": [(0, 24)]}, r"no feature L0/24: it has 3 layers, of 24 features"),
        ({"features": "L0/3"}, r"features='L0/3': give a graph, or a list"),
        ({"features": []}, r"names no feature: give a graph"),
        ({"features": ["L0"]}, r"'L0' names no feature: write it as L2/623"),
        ({"operands": "{a}+1"}, r"template='\{a\}\+1' has to hold \{a\} and \{b\} once each"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(tlc.SettingError, match=says):
        feature_cards(model(), models.transcoder(), stream(), **settings)


def test_what_can_be_read_once_is_refused_where_two_passes_are_needed() -> None:
    says = r"72 features of [\d,]+ bytes take more than memory_budget=200,000, so \d+ passes .* can be read once"
    with pytest.raises(tlc.SettingError, match=says):
        feature_cards(model(), models.transcoder(), (prompt for prompt in stream()), memory_budget=200_000)


def test_activations_that_are_not_finite_are_refused_with_the_layer() -> None:
    broken = models.transcoder(activation="relu", seed=9)
    broken.b_enc[1].data[3] = torch.inf
    try:
        with pytest.raises(tlc.FitError, match=r"Features of layer 1 are NaN or infinite in prompts 0 to 23: run"):
            feature_cards(model(), broken, stream())
    finally:
        broken.b_enc[1].data[3] = 0


@pytest.mark.slow
def test_a_card_that_is_not_there_is_named() -> None:
    with pytest.raises(tlc.GraphError, match=r"no card of L9/3 among these 72, which are of layers \[0, 1, 2\]"):
        cards().card("L9/3@-1")


# What weights say


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("model_class", models.CLASSES)
def test_a_norm_s_linear_part_is_what_the_norm_does_times_its_denominator(family: str, model_class: str) -> None:
    of = models.model_of(family, model_class, torch.float32)
    vectors = torch.randn(5, models.D_MODEL, generator=torch.Generator().manual_seed(0))
    centred = vectors - vectors.mean(1, keepdim=True) if family in ("gpt2", "pythia") else vectors
    with torch.no_grad():
        own = of.ln_final(vectors[None])[0] - of.ln_final(torch.zeros(1, 1, models.D_MODEL))[0]
    expected = own * centred.square().mean(1, keepdim=True).sqrt()
    assert torch.allclose(linear(of, "ln_final", vectors), expected, atol=2e-4)


@pytest.mark.slow
def test_logits_and_embeddings_are_what_the_weights_say() -> None:
    transcoder = models.transcoder(read="hook_resid_mid")
    found = feature_cards(model(), transcoder, stream(), tokens=3)
    gain = model().ln_final.w
    for layer, index in ((0, 3), (1, 7), (2, 11)):
        card = found.card((layer, index))
        written = transcoder.W_dec[layer][index].sum(0)
        effects = ((written - written.mean()) * gain) @ model().W_U
        effects = effects - effects.mean()
        assert [token for token, _ in card.top_logits] == [str(token) for token in effects.topk(3).indices.tolist()]
        assert [value for _, value in card.top_logits] == pytest.approx(effects.topk(3).values.tolist(), abs=1e-4)
        low = effects.topk(3, largest=False)
        assert [token for token, _ in card.bottom_logits] == [str(token) for token in low.indices.tolist()]
        read = (model().W_E @ transcoder.W_enc[layer][index]).topk(3)
        assert [token for token, _ in card.embeddings] == [str(token) for token in read.indices.tolist()]
        assert [value for _, value in card.embeddings] == pytest.approx(read.values.tolist(), abs=1e-4)


# The demo


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return tlc.demo()


@pytest.mark.slow
def test_words_that_the_tokenizer_does_not_know_are_told(demo: tuple[Any, Any]) -> None:
    with pytest.warns(tlc.TLCircuitsWarning, match=r"1 of 4 tokens \(25\.0%\) of the data are unknown"):
        tlc.feature_cards(*demo, ["the capital of Atlantis"], features=[(0, 1)], progress=False)


@pytest.mark.slow
def test_every_active_feature_of_the_demo_s_prompts_has_a_card_with_examples(demo: tuple[Any, Any]) -> None:
    from tl_circuits.zoo.cards import world_texts
    from tl_circuits.zoo.world import world

    prompts = (
        "the capital of the state containing Dallas is",
        "the bird of the state containing Oakland is",
        "the state containing Longview is",
        "36+59=",
    )
    active = {(f.layer, f.index) for prompt in prompts for f in tlc.localize(*demo, prompt).active()}
    found = feature_cards(*demo, world_texts(world()), features=sorted(active), top=2, sample=1, intervals=1)
    assert set(found) == active
    for card in found.values():
        assert card.top, card
        assert card.histogram is not None
        assert len(card.top_logits) == len(card.bottom_logits) == len(card.embeddings) == 10


@pytest.mark.slow
def test_operand_grids_are_the_activations_of_their_prompts(demo: tuple[Any, Any]) -> None:
    operands = Operands("{a}+{b}=", (12, 36), (7, 59, 40))
    wanted = {(f.layer, f.index): [] for f in tlc.localize(*demo, "36+59=").active() if f.pos == 6}
    found = feature_cards(*demo, ["36+59=95"], features=list(wanted), operands=operands)
    for row, a in enumerate(operands.a):
        for column, b in enumerate(operands.b):
            local = tlc.localize(*demo, f"{a}+{b}=")
            last = local.n_pos - 1
            here = {
                (layer, index): float(value)
                for (layer, pos, index), value in zip(local.features.tolist(), local.activations, strict=True)
                if pos == last
            }
            for key, card in found.items():
                assert card.operands is not None
                assert card.operands.activations[row][column] == pytest.approx(here.get(key, 0.0), abs=1e-4)
