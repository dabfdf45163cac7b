"""`tl-circuits cards`: what it reads, writes and says, and what it refuses; and cards on `tl-circuits page`."""

import json
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.graphs import random_graph
from tests.test_command_line import TEXT, folders, run
from tests.test_page import unpacked
from tl_circuits.features import Example, FeatureCard, FeatureCards, Operands, load_cards, shared_tokens

assert folders  # A fixture: pytest finds it by this name.


def printed(*arguments: str) -> dict[str, Any]:
    result = run("cards", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def texas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Cards of two features of the demo, on a few of its prompts, with everything that goes with them."""
    folder = tmp_path_factory.mktemp("cards")
    asked = ("-f", "L2/623", "-f", "L0/398@-1", "--max-prompts", "400", "--top", "3", "--seed", "7")
    plots = ("--operands", "{a}+{b}=", "--operand-range", "10,12")
    out = folder / "texas.cards"
    return out, printed(str(out), *asked, *plots, "--shared-labels", "--public", str(folder / "public"))


@pytest.mark.slow
def test_it_writes_what_feature_cards_makes(texas: tuple[Path, dict[str, Any]]) -> None:
    from tl_circuits.zoo.cards import world_texts
    from tl_circuits.zoo.world import world

    path, said = texas
    model, clt = tlc.demo()
    grid = Operands("{a}+{b}=", range(10, 13), range(10, 13))
    data = world_texts(world())[:400]
    expected = tlc.feature_cards(model, clt, data, features=["L2/623", "L0/398"], top=3, seed=7, operands=grid)
    expected = expected.with_labels(shared_tokens)
    found = load_cards(path)
    assert dict(found) == dict(expected)
    assert len(found[0, 398].top) == 3
    assert (said["cards"], said["layers"]) == (2, {"0": 1, "2": 1})
    assert said["n_tokens"] == expected.made_by["n_tokens"]
    assert said["labels"] == len(expected.labels())
    assert said["never_active"] == sum(card.density == 0 for card in expected.values())
    assert said["files"] == {"cards": str(path), "public": str(path.parent / "public")}


@pytest.mark.slow
def test_what_it_writes_for_others_is_fetched_again(texas: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = texas
    public = path.parent / "public"
    names = sorted(file.name for file in (public / "features").iterdir())
    assert names == ["index.json.gz", "layer_0.bin", "layer_2.bin"]
    said = printed(str(tmp_path / "again.cards"), "--from", str(public), "-f", "L2/623")
    assert (said["cards"], said["n_tokens"], said["made_by"]) == (1, None, {"read_from": "public"})
    assert load_cards(tmp_path / "again.cards").labels() == {
        key: label for key, label in load_cards(path).labels().items() if key == (2, 623)
    }
    single = tmp_path / "single"
    printed(str(tmp_path / "x.cards"), "--from", str(path), "--public", str(single), "--unpacked")
    assert len(list((single / "features").glob("*.json"))) == 2


@pytest.mark.slow
def test_a_file_of_text_is_read_with_any_model(tmp_path: Path, folders: tuple[str, str]) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": TEXT}) for _ in range(3)) + "\n")
    model = ("--model", folders[0], "--transcoder", folders[1])
    said = printed(str(tmp_path / "some.cards"), "--data", str(data), *model, "-f", "L0/3", "--max-prompts", "2")
    twice = printed(str(tmp_path / "all.cards"), "--data", str(data), *model, "-f", "L0/3")
    assert 3 * said["n_tokens"] == 2 * twice["n_tokens"]


@pytest.mark.slow
def test_a_data_set_is_streamed(tmp_path: Path, folders: tuple[str, str]) -> None:
    place = tmp_path / "corpus"
    place.mkdir()
    (place / "train.jsonl").write_text("".join(json.dumps({"text": TEXT}) + "\n" for _ in range(3)))
    model = ("--model", folders[0], "--transcoder", folders[1], "-f", "L0/3")
    said = printed(str(tmp_path / "some.cards"), "--dataset", str(place), "--max-prompts", "2", *model)
    whole = printed(str(tmp_path / "all.cards"), "--dataset", str(place), *model)
    assert 3 * said["n_tokens"] == 2 * whole["n_tokens"]
    result = run("cards", str(tmp_path / "no.cards"), "--dataset", str(place), "--split", "test", *model)
    assert result.exit_code == 1
    assert "could not be opened at its part 'test'" in result.stderr
    assert "write its texts into a .txt or .jsonl file" in result.stderr


def some_cards(folder: Path) -> Path:
    hostile = "\x1b[31mTexas\n\u202e"
    cards = FeatureCards.of([FeatureCard(0, index, label=hostile if index else None) for index in range(4)])
    return cards.save(folder / "some.cards")


def test_people_see_a_table_and_no_control_characters(tmp_path: Path) -> None:
    result = run("cards", str(tmp_path / "out.cards"), "--from", str(some_cards(tmp_path)))
    assert result.exit_code == 0, result.output
    assert "4: 4 of layer 0" in result.stdout
    assert r"L0/1  \x1b[31mTexas\n\u202e" in result.stdout
    assert not set("\x1b\u202e") & set(result.stdout)


def test_labels_of_a_file_go_before_those_of_the_cards(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("layer,index,label\n0,1,lone star\n")
    out = tmp_path / "out.cards"
    printed(str(out), "--from", str(some_cards(tmp_path)), "--labels", str(labels))
    assert load_cards(out)[0, 1].label == "lone star"
    assert load_cards(out)[0, 2].label != "lone star"


def test_a_shared_token_names_only_what_has_no_label(tmp_path: Path) -> None:
    example = Example((" in", " Texas"), (0.0, 2.0), 1)
    cards = [FeatureCard(0, 1, label="mine", top=(example,)), FeatureCard(0, 2, top=(example,)), FeatureCard(0, 3)]
    path, out = FeatureCards.of(cards).save(tmp_path / "some.cards"), tmp_path / "out.cards"
    printed(str(out), "--from", str(path), "--shared-labels")
    assert load_cards(out).labels() == {(0, 1): "mine", (0, 2): '"Texas", 100% of the time'}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--model", "gpt2", "--transcoder", "./x"), 2, "'gpt2' brings no text: give a file with --data"),
        (("--data", "a.txt", "--from", "b"), 2, "--data and --from name what to read twice"),
        (("--graph", "a.graph", "-f", "L0/1"), 2, "--graph and --feature both say which features"),
        (("--operand-range", "9"), 2, "'9' is no range: give the first and the last number"),
        (("--operand-range", "9,3"), 2, "'9,3' is no range"),
        (("--model", "gpt2", "--data", "a.txt"), 2, "'gpt2' brings no transcoder"),
        (("--data", "none.txt"), 1, "'none.txt' cannot be read"),
        (("--data", "none.csv"), 1, "is neither '.txt'"),
        (("--from", "nowhere"), 1, "There is no file or folder 'nowhere'"),
        (("--graph", "none.graph"), 1, "none.graph"),
        (("--top", "-1"), 2, "should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = run("cards", str(tmp_path / "out.cards"), *arguments)
    assert (result.exit_code, says in " ".join(result.stderr.split())) == (code, True), result.stderr
    assert not result.stdout
    assert not (tmp_path / "out.cards").exists()


def test_a_place_that_is_none_is_told_before_anything_is_read(tmp_path: Path) -> None:
    result = run("cards", str(tmp_path / "none" / "out.cards"))
    assert result.exit_code == 1
    assert "give the name of a file in a folder that exists" in result.stderr


def test_cards_go_onto_a_page_with_their_labels(tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    first, second = list(dict.fromkeys((feature.layer, feature.index) for feature in graph.nodes.features()))[:2]
    graph.with_labels({first: "mine"}).save(tmp_path / "some.graph")
    cards = [FeatureCard(*key, label=f"of a card {key}", density=0.5) for key in {first, second}]
    FeatureCards.of([*cards, FeatureCard(40, 40)]).save(tmp_path / "some.cards")
    result = run("page", str(tmp_path / "some.graph"), "--cards", str(tmp_path / "some.cards"), "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(unpacked((tmp_path / "some.html").read_text(encoding="utf-8"), "page-data"))["cards"]
    assert "Of 2 labels of the cards 1 are not shown: the graph has its own" in " ".join(result.stderr.split())
    assert set(shown) == {f"{layer}/{index}" for layer, index in {first, second}}
    assert shown["/".join(map(str, first))]["density"] == 0.5
    packed = tmp_path / "packed.graph"
    packed.write_bytes(unpacked((tmp_path / "some.html").read_text(encoding="utf-8"), "graph-data"))
    labels = tlc.load_graph(packed).labels
    assert labels[first] == "mine"
    assert all(labels[key] == f"of a card {key}" for key in {second} - {first})
