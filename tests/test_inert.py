"""Labels, tokens, prompts and names come from anybody: whatever prints them prints text, and nothing that acts."""

import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

import tl_circuits as tlc
from tests.browser import CHROMIUM, NO_BROWSER, Browser, browser
from tests.graphs import random_graph
from tests.page_engine import NO_NODE, NODE, Engine
from tl_circuits.features import Example, FeatureCard, FeatureCards, Interval
from tl_circuits.features.scores import Passage
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.report import Output, Report
from tl_circuits.graph.visible import visible

ACTING = "\x1b[31mred\x1b[0m\x9b2J\x07\b\r\n\t\x7f\u202egnp\u2066\u200e\u2028\u2029\ufeff\ud800[bold]<b>"
"""Escape sequences, a bell, line ends, marks that turn text around, a lone surrogate, and markup."""

SEEN_BY_NOBODY = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def acting_graph(seed: int = 3) -> AttributionGraph:
    """A graph all of whose texts act."""
    graph = random_graph(seed, n_features=9)
    provenance = dataclasses.replace(graph.provenance, prompt=ACTING, model=ACTING, transcoder=ACTING)
    labels = {(one.layer, one.index): f"{ACTING} {one.index}" for one in graph.nodes.features()}
    tokens = tuple(f"{ACTING}{pos}" for pos in range(len(graph.tokens)))
    targets = tuple(ACTING for _ in graph.target_labels)
    return dataclasses.replace(graph, tokens=tokens, labels=labels, target_labels=targets, provenance=provenance)


def acting_cards() -> FeatureCards:
    example = Example((ACTING, ACTING), (1.0, 0.0))
    card = FeatureCard(
        0, 1, label=ACTING, top=(example,), intervals=(Interval(ACTING, (example,)),), top_logits=((ACTING, 1.0),)
    )
    return FeatureCards.of([card], {"model": ACTING, "transcoder": ACTING, "n_tokens": 3})


def by_rich(shown: object) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None, highlight=False)
    with console.capture() as printed:
        console.print(shown)
    return printed.get()


GRAPH: dict[str, Callable[[AttributionGraph], object]] = {
    "repr": repr,
    "html": lambda graph: graph._repr_html_(),
    "rich": by_rich,
    "a report": lambda graph: by_rich(Report(graph, (Output(ACTING, 0.5),), {"graph": Path("x\x1b[31m")})),
    "pruned": lambda graph: repr(graph.prune(0.6)),
    "a node": lambda graph: repr([graph.node(row) for row in range(len(graph.nodes))]),
    "inputs": lambda graph: repr(graph.node(len(graph.nodes) - 1).inputs()),
    "found": lambda graph: repr(graph.find("red")),
    "paths": lambda graph: repr(graph.paths(9)),
    "a difference": lambda graph: repr(graph.diff(acting_graph(3).prune(0.5))),
    "changes": lambda graph: repr(graph.diff(acting_graph(3).prune(0.5)).nodes),
    "supernodes": lambda graph: repr(graph.suggest_supernodes(alike=0.1)),
    "dot": lambda graph: graph.to_dot(),
    "svg": lambda graph: tlc.subgraph_svg(graph, {ACTING: [str(graph.nodes.features()[0])]}),
    "tables": lambda graph: repr(dict(graph.labels)),
}


@pytest.mark.parametrize("door", GRAPH)
def test_whatever_a_graph_prints_is_text(door: str) -> None:
    shown = str(GRAPH[door](acting_graph()))
    assert shown
    assert not SEEN_BY_NOBODY.findall(shown)


CARDS: dict[str, Callable[[FeatureCards], object]] = {
    "repr": repr,
    "a card": lambda cards: repr(cards.card("L0/1")),
    "a card as text": lambda cards: str(cards.card("L0/1")),
    "an example": lambda cards: str(cards.card("L0/1").top[0]),
    "the examples": lambda cards: repr(cards.card("L0/1").examples),
    "labels": lambda cards: repr(cards.labels()),
    "a passage": lambda cards: repr(Passage(cards.card("L0/1").top[0].tokens, (True, False))),
    "a passage as text": lambda cards: str(Passage(cards.card("L0/1").top[0].tokens, (True, False))),
    "rich": by_rich,
}


@pytest.mark.parametrize("door", CARDS)
def test_whatever_cards_print_is_text(door: str) -> None:
    shown = str(CARDS[door](acting_cards()))
    assert shown
    assert not SEEN_BY_NOBODY.findall(shown)


def test_visible_leaves_what_is_seen() -> None:
    assert visible("Texas “é” 日本 🤠") == "Texas “é” 日本 🤠"
    assert visible("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason=NO_NODE)
def test_the_page_writes_out_what_is_not_seen() -> None:
    with Engine() as engine:
        acting, plain, joined = engine.ask("visible", texts=[ACTING.replace("\ud800", ""), "é 日本", "क्\u200dष"])
    assert not SEEN_BY_NOBODY.findall(acting)
    assert r"\u202egnp" in acting
    # What joins letters of some scripts is no mark of its own.
    assert (plain, joined) == ("é 日本", "क्\u200dष")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


TEXTS = """() => [...document.querySelectorAll("*")].flatMap((element) => [
    ...[...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data),
    ...["title", "aria-label", "aria-valuetext"].map((name) => element.getAttribute(name) ?? ""),
])"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_nothing_on_the_page_turns_its_text_around(chromium: Browser, tmp_path: Path) -> None:
    graph = acting_graph()
    features = [str(feature) for feature in graph.nodes.features()]
    card = acting_cards()[0, 1]
    keys = {(one.layer, one.index) for one in graph.nodes.features()}
    cards = {(layer, index): dataclasses.replace(card, layer=layer, index=index) for layer, index in keys}
    page = tlc.save_page(
        graph, tmp_path / "acting.html", title=ACTING, cards=cards, supernodes={ACTING: features[:2]},
        compare=acting_graph(5), nodes=1.0, edges=1.0,
    )  # fmt: skip
    with chromium.tab() as watched:
        tab = watched.open(page)
        seen: list[str] = []
        doings = (
            "store.select(0)", "store.pane.value = 'paths'", "store.pane.value = 'diff'", "store.asTable.value = true",
            "store.dialog.value = 'provenance'", "store.dialog.value = null", "store.query.value = 'red'",
            "store.suggest()", "store.hovered.value = 1",
        )  # fmt: skip
        for doing in doings:
            tab.evaluate(f"tlCircuitsPage.{doing}")
            tab.wait_for_timeout(60)
            seen += tab.evaluate(TEXTS)
        texts = [text for text in seen if "script-src" not in text and text.strip()]
        assert any("\\u202egnp" in text for text in texts)
        assert not {SEEN_BY_NOBODY.findall(text)[0] + text[:80] for text in texts if SEEN_BY_NOBODY.search(text)}
