"""Cards in files: our own, the public ones packed or not, on the hub, Neuronpedia's; and files that mean harm."""

import gzip
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import tl_circuits as tlc
from tests.graphs import HOSTILE
from tests.hub import Hub
from tl_circuits.features import (
    Example,
    FeatureCard,
    FeatureCards,
    Histogram,
    Interval,
    OperandGrid,
    load_cards,
    sources,
)
from tl_circuits.features.inflate import inflated
from tl_circuits.features.sources import uncantor
from tl_circuits.features.table import COLUMNS
from tl_circuits.graph.export import cantor
from tl_circuits.transcoder import registry

texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8))
numbers = st.floats(-100, 100, width=32).map(lambda value: value + 0.0)
effects = st.lists(st.tuples(texts, st.none() | numbers), max_size=3).map(tuple)


@st.composite
def examples(draw: Any) -> Callable[[], Example]:
    tokens = draw(st.lists(texts, min_size=1, max_size=5))
    values = [draw(numbers) for _ in tokens]
    at, prompt = draw(st.integers(0, len(tokens) - 1)), draw(st.integers(-1, 2**40))
    return partial(Example, tuple(tokens), tuple(values), at, prompt)


@st.composite
def recipes(draw: Any) -> Callable[[], FeatureCard]:
    """Not a card: beartype draws random numbers where it checks, which Hypothesis forbids inside a strategy."""
    top = draw(st.lists(examples(), max_size=2))
    rest = draw(st.lists(st.tuples(st.sampled_from(["quantiles 0 to 1", "<b>", ""]), examples()), max_size=2))
    counts = draw(st.none() | st.lists(st.integers(0, 9).map(float), min_size=1, max_size=4))
    grid = draw(st.booleans())
    fields = {
        "layer": draw(st.integers(0, 4)),
        "index": draw(st.integers(0, 40)),
        "label": draw(st.none() | texts),
        "top_logits": draw(effects),
        "bottom_logits": draw(effects),
        "embeddings": draw(effects),
        "maximum": draw(st.none() | numbers),
        "density": draw(st.none() | st.floats(0, 1)),
        "n_tokens": draw(st.none() | st.integers(0, 2**40)),
    }

    def make() -> FeatureCard:
        return FeatureCard(
            **fields,
            top=tuple(one() for one in top),
            intervals=tuple(Interval(name, (one(),)) for name, one in rest),
            histogram=None if counts is None else Histogram(-0.5, 2.25, tuple(counts)),
            operands=OperandGrid("{a}+{b}=", (1, 2), (3,), ((0.5,), (0.0,))) if grid else None,
        )

    return make


def made(recipes: list[Callable[[], FeatureCard]]) -> list[FeatureCard]:
    return list({card.key: card for card in (recipe() for recipe in recipes)}.values())


def one_card(layer: int = 1, index: int = 6, **fields: Any) -> FeatureCard:
    top = (Example(("the", " Dal", "las"), (0.0, 1.0, 2.5), 2, 7),)
    return FeatureCard(layer, index, top=top, top_logits=((" Austin", 1.5),), density=0.25, **fields)


# There and back


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(recipes(), max_size=4))
def test_cards_come_back_from_every_kind_of_file(tmp_path_factory: Any, found: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("cards")
    cards = FeatureCards.of(made(found), {"model": "m", "n_tokens": 3})
    loaded = load_cards(cards.save(folder / "cards.safetensors"))
    assert dict(loaded) == dict(cards)
    assert loaded.made_by == cards.made_by
    assert loaded.labels() == cards.labels()
    for packed in (True, False):
        place = folder / str(packed)
        cards.save_public(place, packed=packed)
        if cards:
            assert dict(load_cards(place)) == dict(cards)
            wanted = list(cards)[:1]
            assert dict(load_cards(place / "features", features=wanted)) == {wanted[0]: cards[wanted[0]]}


@pytest.mark.slow
@given(st.integers(0, 2_000), st.integers(0, 3_000_000))
def test_cantor_s_pairing_is_undone(layer: int, index: int) -> None:
    assert uncantor(cantor(layer, index)) == (layer, index)


def test_the_public_files_have_the_fields_that_their_readers_ask_for(tmp_path: Path) -> None:
    card = one_card(histogram=Histogram(0.0, 2.0, (3.0, 1.0)), label="Texas")
    FeatureCards.of([card]).save_public(tmp_path, packed=False, transcoder_id="org/clt")
    found = json.loads((tmp_path / "features" / f"{cantor(1, 6)}.json").read_text())
    rest = found.pop("tl_circuits")
    assert found.pop("quantile_values") == [1.0] * 75 + [2.0] * 24
    assert found == {
        "transcoder_id": "org/clt",
        "index": 6,
        "examples_quantiles": [
            {
                "quantile_name": "Top activations",
                "examples": [
                    {
                        "tokens_acts_list": [0.0, 1.0, 2.5],
                        "train_token_ind": 2,
                        "is_repeated_datapoint": False,
                        "tokens": ["the", " Dal", "las"],
                    }
                ],
            }
        ],
        "top_logits": [" Austin"],
        "bottom_logits": [],
        "act_min": 0.0,
        "act_max": 2.0,
        "histogram": [3.0, 1.0],
        "activation_frequency": 0.25,
    }
    assert rest["label"] == "Texas"


def test_packed_files_are_read_as_the_public_reader_reads_them(tmp_path: Path) -> None:
    cards = FeatureCards.of([one_card(2, 0), one_card(2, 3)])
    place = cards.save_public(tmp_path)
    index = json.loads(gzip.decompress((place / "index.json.gz").read_bytes()))
    assert [layer["filename"] for layer in index] == ["layer_0.bin", "layer_1.bin", "layer_2.bin"]
    offsets = index[2]["offsets"]
    assert len(offsets) == 5
    assert offsets[1] == offsets[2] == offsets[3]
    record = (place / "layer_2.bin").read_bytes()[offsets[3] : offsets[4]]
    size = int.from_bytes(record[:4], "little")
    assert json.loads(zlib.decompress(record[4 : 4 + size]))["index"] == 3


@pytest.mark.slow
def test_cards_and_contexts_of_one_s_own_come_back(tmp_path: Path) -> None:
    from tests.test_features import cards

    found = cards()
    loaded = load_cards(found.save(tmp_path / "cards"))
    assert dict(loaded) == dict(found)
    assert loaded.contexts.texts == found.contexts.texts
    assert torch.equal(loaded.contexts.active, found.contexts.active)
    assert loaded.contexts.n_tokens == found.contexts.n_tokens
    some = load_cards(tmp_path / "cards", features=[(1, 3), (0, 2)])
    assert dict(some) == {key: found[key] for key in ((0, 2), (1, 3))}
    assert torch.equal(some.contexts.active[1], found.contexts.active[found.table.row_of[1, 3]])


# The hub


def serve(hub: Hub, *, packed: bool, folder: str = "") -> FeatureCards:
    cards = FeatureCards.of([one_card(layer, index) for layer in (0, 1) for index in range(40)])
    cards.save_public(hub.repository("org/clt") / folder, packed=packed)
    return cards


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["", "sub"])
def test_of_packed_cards_only_the_bytes_that_are_asked_for_are_fetched(hub: Hub, folder: str) -> None:
    cards = serve(hub, packed=True, folder=folder)
    address = "org/clt" + (f"/{folder}" if folder else "")
    assert dict(load_cards(address, features=["L1/3", "L1/7"])) == {key: cards[key] for key in ((1, 3), (1, 7))}
    ranges = [request.range for request in hub.requests if request.path.endswith("layer_1.bin") and request.range]
    assert len(ranges) == 2
    assert not any("layer_0" in request.path for request in hub.requests if "/resolve/" in request.path)


@pytest.mark.slow
def test_a_release_s_name_stands_for_its_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADDED", {})
    cards = serve(hub, packed=True, folder="sub")
    tlc.register_release(tlc.Release("my-clt", "org/clt/sub"))
    found = load_cards("my-clt", features=["L1/3"])
    assert dict(found) == {(1, 3): cards[1, 3]}
    assert found.made_by == {"transcoder": "org/clt/sub"}
    tlc.register_release(tlc.Release("bare-clt", "org/bare"))
    (hub.repository("org/bare") / "config.yaml").write_text("a: 1")
    with pytest.raises(tlc.FileError, match=r"No cards of 'bare-clt' were found. There is no.*org/bare"):
        load_cards("bare-clt")


@pytest.mark.slow
def test_a_public_release_s_cards_are_looked_for_in_its_repository(hub: Hub) -> None:
    FeatureCards.of([one_card(0, 3)]).save_public(hub.repository("mntss/clt-gemma-2-2b-2.5M"))
    assert set(load_cards("mntss-gemma-2-2b-2.5m-clt-as-per-layer")) == {(0, 3)}


@pytest.mark.slow
def test_a_name_that_is_none_is_refused_with_what_to_give() -> None:
    with pytest.raises(tlc.FileError, match=r"no file or folder 'no-such-release', and it is no repository org/name"):
        load_cards("no-such-release")


@pytest.mark.slow
def test_all_cards_of_a_repository_are_fetched_whole_and_then_need_no_hub(hub: Hub) -> None:
    cards = serve(hub, packed=True)
    assert dict(load_cards("org/clt")) == dict(cards)
    with hub.down():
        assert dict(load_cards("org/clt", features=[(0, 5)])) == {(0, 5): cards[0, 5]}


@pytest.mark.slow
def test_of_single_files_only_those_that_are_asked_for_are_fetched(hub: Hub) -> None:
    cards = serve(hub, packed=False)
    with pytest.warns(tlc.TLCircuitsWarning, match=r"no card of 1 of 2 features, such as L5/0: feature_cards"):
        assert dict(load_cards("org/clt", features=[(0, 5), (5, 0)])) == {(0, 5): cards[0, 5]}
    assert hub.downloaded() == [f"features/{cantor(0, 5)}.json"]


@pytest.mark.slow
def test_a_repository_without_cards_is_named(hub: Hub) -> None:
    (hub.repository("org/none") / "config.yaml").write_text("a: 1")
    with pytest.raises(tlc.FileError, match=r"No cards of 'org/none' were found. There is no"):
        load_cards("org/none")
    serve(hub, packed=True)
    with pytest.raises(tlc.FileError, match=r"no card of any of the 1 features asked for \(first: L9/9\)"):
        load_cards("org/clt", features=[(9, 9)])


@pytest.mark.slow
def test_a_hub_that_sends_other_bytes_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub, packed=True)
    hub.cut_after(10, None)
    monkeypatch.setattr("tests.hub._LARGE", ())
    with pytest.raises(tlc.FileError, match=r"broke off|were asked for"):
        load_cards("org/clt", features=[(1, 3)])


# Neuronpedia


def test_an_export_s_records_of_a_feature_are_put_together(tmp_path: Path) -> None:
    lines = [
        {"modelId": "m", "layer": "20-scope-16k", "index": "15589", "description": "the Texas <b>capital</b>"},
        {
            "layer": "20-scope-16k", "index": 15589, "pos_str": [" Austin"], "pos_values": [1.5], "neg_str": ["x"],
            "neg_values": [-2], "frac_nonzero": 0.01, "maxActApprox": 8.5,
            "freq_hist_data_bar_heights": [4, 2], "freq_hist_data_bar_values": [1.0, 3.0],
        },
        {"layer": "20-scope-16k", "index": "15589", "tokens": ["a", "b"], "values": [0, 3.5]},
        {"layer": 3, "index": "2", "activations": [{"tokens": ["c"], "values": [1.0]}], "explanations": []},
    ]  # fmt: skip
    (tmp_path / "batch.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    found = load_cards(tmp_path / "batch.jsonl.gz")
    assert found.labels() == {(20, 15589): "the Texas <b>capital</b>"}
    assert found.card("L20/15589") == FeatureCard(
        20,
        15589,
        "the Texas <b>capital</b>",
        (Example(("a", "b"), (0.0, 3.5), 1),),
        top_logits=((" Austin", 1.5),),
        bottom_logits=(("x", -2.0),),
        histogram=Histogram(0.0, 4.0, (4.0, 2.0)),
        maximum=8.5,
        density=0.01,
    )
    assert found[3, 2].top == (Example(("c",), (1.0,), 0),)
    (tmp_path / "list.json").write_text(json.dumps(lines[:1]))
    assert load_cards(tmp_path / "list.json").labels() == found.labels()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[]", r"holds no record of a feature"),
        (b"[1]", r"Record 0 of .* is int 1, not an object"),
        (b'[{"layer": "x", "index": "1"}]', r"has layer 'x' and index '1', not such as Neuronpedia writes"),
        (b'[{"layer": "1", "index": "../2"}]', r"index '../2'"),
        (b'[{"layer": "1", "index": "2", "description": 5}]', r"has 5 as description, which is not a text"),
        (b'[{"layer": "1", "index": "2", "pos_str": ["a"]}]', r"1 as pos_str, which is not as many as its 0 values"),
        (b'[{"layer": "1", "index": "2", "frac_nonzero": 7}]', r"density of 7.0 is no share"),
        (b'[{"layer": "1", "index": "2", "frac_nonzero": NaN}]', r"NaN is no JSON"),
        (b"[" * 100_000, r"is no JSON"),
        (b"\xff\xfe", r"is no JSON"),
    ],
)
def test_exports_that_make_no_sense_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(tlc.FileError, match=says):
        load_cards(tmp_path / "x.json")


# Files that mean harm


def packed(folder: Path, index: Any, records: bytes = b"", *, raw: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    content = index if raw else gzip.compress(json.dumps(index).encode())
    (folder / "index.json.gz").write_bytes(content)
    (folder / "layer_0.bin").write_bytes(records)
    return folder


def record(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize(
    "name", ["../layer_0.bin", "/etc/passwd", "a/b.bin", "..", "a\\b", "C:x", "\0", "", ".hidden", 5, None]
)
def test_an_index_leads_nowhere_but_beside_itself(tmp_path: Path, name: Any) -> None:
    (tmp_path / "layer_0.bin").write_bytes(record(zlib.compress(b"{}")))
    folder = packed(tmp_path / "features", [{"filename": name, "offsets": [0, 15]}])
    with pytest.raises(tlc.FileError, match=r"as the name of its file, where only a plain name beside the index"):
        load_cards(folder)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (5, r"is not a list of layers"),
        ({"x": {}}, r"has 'x' among its layers"),
        ([5], r"has None as the name of its file"),
        ([{"filename": "layer_0.bin", "offsets": "0"}], r"no list of offsets"),
        ([{"filename": "layer_0.bin", "offsets": [0, 1.5]}], r"no list of offsets"),
        ([{"filename": "layer_0.bin", "offsets": [0, True]}], r"no list of offsets"),
        ([{"filename": "layer_0.bin", "offsets": [0, 10**30]}], r"do not rise within the 12 bytes"),
        ([{"filename": "layer_0.bin", "offsets": [5, 3]}], r"offsets from 3 to 5, which do not rise"),
        ([{"filename": "layer_0.bin", "offsets": [-4, 3]}], r"do not rise"),
        ([{"filename": "layer_9.bin", "offsets": [0, 3]}], r"names 'layer_9.bin', which is not there"),
        ([{"filename": "layer_0.bin", "offsets": [0, 3]}], r"says it is .* bytes long, of 0"),
        ([{"filename": "layer_0.bin", "offsets": [0, 10]}], r"says it is 8 bytes long, of 6"),
        ([{"filename": "layer_0.bin", "offsets": [0, 12]}], r"not compressed as it should be"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path: Path, index: Any, says: str) -> None:
    folder = packed(tmp_path / "features", index, record(b"notzlib!"))
    with pytest.raises(tlc.FileError, match=says):
        load_cards(folder)


def test_what_unpacks_to_more_than_it_may_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zlib.compress(b" " * 2**20)
    with pytest.raises(tlc.FileError, match=r"x unpacks from [\d,]+ bytes to over 1,000.* made to fill memory"):
        inflated(bomb, 1_000, "x")
    with pytest.raises(tlc.FileError, match=r"x is cut short after"):
        inflated(bomb[:50], 2**21, "x")
    parts = [gzip.compress(b"part %d" % at) for at in range(2_000)]
    assert inflated(b"".join(parts), 2**16, "x") == b"".join(b"part %d" % at for at in range(2_000))
    assert inflated(zlib.compress(b"a" * 1_000), 1_000, "x") == b"a" * 1_000
    with pytest.raises(tlc.FileError, match=r"x is cut short after"):
        inflated(b"".join(parts)[:-1], 2**16, "x")
    monkeypatch.setattr(sources, "MOST_CARD", 2**16)
    monkeypatch.setattr(sources, "MOST_INDEX", 2**16)
    index = [{"filename": "layer_0.bin", "offsets": [0, len(record(bomb))]}]
    with pytest.raises(tlc.FileError, match=r"The card of L0/0 .* unpacks from"):
        load_cards(packed(tmp_path / "a", index, record(bomb)))
    with pytest.raises(tlc.FileError, match=r"'index.json.gz' .* unpacks from"):
        load_cards(packed(tmp_path / "b", gzip.compress(b" " * 2**20), raw=True))
    many = gzip.compress(b"[]" * 2**15) + gzip.compress(b" " * 2**20)
    with pytest.raises(tlc.FileError, match=r"unpacks from"):
        load_cards(packed(tmp_path / "c", many, raw=True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", r"is list \[\], not an object"),
        ('{"examples_quantiles": 5}', r"has 5 as examples_quantiles, which is not of list"),
        ('{"examples_quantiles": [{"examples": [{"tokens": ["a"], "tokens_acts_list": []}]}]}', r"as many as its 0"),
        ('{"examples_quantiles": [{"examples": [{"tokens": [5], "tokens_acts_list": [1]}]}]}', r"5 as tokens, .* text"),
        ('{"examples_quantiles": [{"examples": [{"tokens": ["a"], "tokens_acts_list": [1e999]}]}]}', r"inf as activat"),
        ('{"examples_quantiles": [{"examples": [{"tokens": ["a"], "tokens_acts_list": [Infinity]}]}]}', r"no JSON"),
        ('{"top_logits": [["a"]]}', r"top_logits, which is not a text"),
        ('{"top_logits": "' + "a" * 20_000 + '"}', r"top_logits, which is not of list"),
        ('{"top_logits": ["' + "a" * 20_000 + '"]}', r"a text of at most 10,000 letters"),
        ('{"histogram": [1, -2], "act_min": 0, "act_max": 1}', r"no lawful card: A histogram counts -2.0 tokens"),
        ('{"activation_frequency": 1.5}', r"no lawful card: A density of 1.5 is no share"),
        ('{"act_min": ' + "9" * 400 + "}", r"act_min"),
        ('{"tl_circuits": {"operands": {"a": [1], "b": [], "activations": []}}}', r"no lawful card: A grid of 0 rows"),
        ("{" * 50_000, r"is no JSON"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused_by_name(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "5.json").write_text(content)
    with pytest.raises(tlc.FileError, match=says):
        load_cards(tmp_path)


def test_what_is_no_source_of_cards_is_refused(tmp_path: Path) -> None:
    for given_, says in (
        ("", r"'' names no cards"),
        (tmp_path, r"holds no cards: neither index.json.gz nor files such as"),
        (tmp_path / "none", r"There is no file or folder"),
        ("./none", r"There is no file or folder './none'"),
    ):
        with pytest.raises(tlc.FileError, match=says):
            load_cards(given_)
    (tmp_path / "x").write_bytes(b"junk")
    with pytest.raises(tlc.FileError, match=r"is not a whole safetensors file"):
        load_cards(tmp_path / "x")
    with pytest.raises(tlc.FileError, match=r"cannot be made"):
        FeatureCards.of([one_card()]).save_public(tmp_path / "x")


# Our own files, damaged


def columns_of(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


@pytest.mark.parametrize("name", [*COLUMNS, "words", "contexts.bounds", "contexts.word", "contexts.active"])
def test_a_column_that_is_missing_short_or_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    path = FeatureCards.of([one_card(operands=OperandGrid("{a}{b}", (1,), (2,), ((1.0,),)))]).save(tmp_path / "cards")
    columns, metadata = columns_of(path)
    worse = {
        "missing": {key: column for key, column in columns.items() if key != name},
        "of another kind": columns | {name: columns[name].to(torch.float16)},
    }
    if columns[name].numel():
        worse["short"] = columns | {name: columns[name].flatten()[:-1]}
    if "bounds" in name and columns[name].numel():
        worse["beyond"] = columns | {name: columns[name] + 1}
    if "word" in name and columns[name].numel():
        worse["beyond"] = columns | {name: columns[name] + 100}
    for damaged in worse.values():
        save_file(damaged, tmp_path / "worse", metadata)
        with pytest.raises(tlc.FileError, match=r"'.*worse"):
            load_cards(tmp_path / "worse")


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "tl_circuits.graph"}, r"says it is 'tl_circuits.graph' version '1', this version reads"),
        ({"cards": "[]"}, r"not that of cards: see labels, axes, n_tokens, made_by"),
        ({"cards": "{"}, r"is no JSON"),
        ({"cards": '{"labels": [[5, "x"]], "axes": null, "n_tokens": 1, "made_by": {}}'}, r"\[5, 'x'\] is no label of"),
        ({"cards": '{"labels": [], "axes": ["", ["x"], []], "n_tokens": 1, "made_by": {}}'}, r"do not fit their axes"),
    ],
)
def test_words_that_are_not_those_of_cards_are_refused(tmp_path: Path, metadata: dict[str, str], says: str) -> None:
    columns, right = columns_of(FeatureCards.of([one_card()]).save(tmp_path / "cards"))
    save_file(columns, tmp_path / "worse", right | metadata)
    with pytest.raises(tlc.FileError, match=says):
        FeatureCards.load(tmp_path / "worse")


# Values


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Example(("a",), (1.0, 2.0)), r"1 tokens with 2 activations"),
        (lambda: Example(("a",), (float("nan"),)), r"not all finite"),
        (lambda: Histogram(1.0, 1.0, (1.0,)), r"1 bins from 1.0 to 1.0"),
        (lambda: FeatureCard(-1, 0), r"L-1/0 cannot be"),
        (lambda: FeatureCard(0, 0, maximum=float("inf")), r"not finite"),
        (lambda: FeatureCards.of([one_card(), one_card()]), r"2 cards are of 1 features"),
        (
            lambda: FeatureCards.of([one_card(index=at, operands=OperandGrid(str(at), (), (), ())) for at in (1, 2)]),
            r"grids of operands differ",
        ),
    ],
)
def test_cards_that_cannot_be_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(tlc.SettingError, match=says):
        make()
