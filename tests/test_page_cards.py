"""Feature cards on the page, in a real browser: all of a card is there, and whatever is in it is text."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.browser import AXE, CHROMIUM, NO_AXE, NO_BROWSER, Browser, browser
from tests.graphs import HOSTILE, chain
from tests.test_page import unpacked
from tests.test_page_browser import button, serious
from tl_circuits.features import Example, FeatureCard, FeatureCards, Histogram, Interval, OperandGrid
from tl_circuits.page.card import cards_of
from tl_circuits.page.document import document

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)


def card(index: int = 5, *, words: tuple[str, ...] = (" Dal", "las"), layer: int = 0) -> FeatureCard:
    example = Example(("the", *words), (*[0.0] * (len(words) - 1), 0.5, 2.0), len(words), 3)
    return FeatureCard(
        layer,
        index,
        label="las",
        top=(example,),
        intervals=(Interval("quantiles 0 to 1", (example,)),),
        top_logits=((" Austin", 1.5), (words[0], None)),
        bottom_logits=((" Salem", -0.5),),
        embeddings=((words[1], 0.25),),
        histogram=Histogram(0.0, 2.0, (3.0, 0.0, 1.0)),
        maximum=2.0,
        density=0.0004,
        n_tokens=10_000,
        operands=OperandGrid("{a}+{b}=", (1, 2), (3, 4), ((0.0, 4.0), (2.0, 0.0))),
    )


def test_a_page_holds_the_cards_of_its_features_alone() -> None:
    cards = FeatureCards.of([card(), card(6, layer=1), card(9)])
    held = json.loads(unpacked(document(chain(), cards=cards), "page-data"))["cards"]
    assert set(held) == {"0/5", "1/6"}
    found = held["0/5"]
    assert found["top_logits"] == [[" Austin", 1.5], [" Dal", None]]
    assert found["examples"] == [{"tokens": ["the", " Dal", "las"], "activations": [0.0, 0.5, 2.0], "peak": 2}]
    assert found["intervals"] == [{"name": "quantiles 0 to 1", "examples": found["examples"]}]
    assert found["histogram"] == {"low": 0.0, "high": 2.0, "counts": [3.0, 0.0, 1.0]}
    assert found["operands"] == {"template": "{a}+{b}=", "a": [1, 2], "b": [3, 4], "most": 4.0, "cells": "AP+AAA=="}
    assert held == json.loads(unpacked(document(chain(), cards=dict(cards)), "page-data"))["cards"]


def test_what_is_no_card_is_refused_by_name() -> None:
    given: Any = {(0, 5): "x"}
    with pytest.raises(tlc.SettingError, match=r"cards holds \(0, 5\): 'x'. Give .* or what tlc.feature_cards"):
        cards_of(chain().nodes, given)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.mark.slow
@needs_browser
def test_a_node_shows_its_whole_card(chromium: Browser, tmp_path: Path) -> None:
    page = tlc.save_page(chain(), tmp_path / "page.html", cards=FeatureCards.of([card()]))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate("tlCircuitsPage.store.select(tlCircuitsPage.store.graph.names.indexOf('L0/5@0'))")
        shown = tab.get_by_role("region", name="Feature card")
        shown.wait_for()
        text = shown.inner_text()
        for said in ("0.040% of 10,000 tokens", "at most 2.00", "Austin", "+1.50", "Salem", "−0.50", "las"):
            assert said in text, said
        assert shown.get_by_role("img", name="Histogram of its activations").locator("rect").count() == 2
        assert shown.locator("mark.peak").first.inner_text() == "las"
        shown.get_by_role("button", name="More of the card").click()
        assert "quantiles 0 to 1" in shown.inner_text()
        plot = shown.get_by_role("img", name="Active on 2 of 4 prompts “{a}+{b}=”, at most 4.00")
        opacity = "it => [...it.getContext('2d').getImageData(0, 0, 2, 2).data].filter((_, at) => at % 4 === 3)"
        drawn = plot.evaluate(opacity)
        assert [value > 0 for value in drawn] == [False, True, True, False]
        assert drawn[1] == 255
        assert abs(drawn[2] - 128) <= 2
        box = plot.bounding_box()
        assert box is not None
        tab.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
        assert plot.get_attribute("title") == "1+4= 4.00"


@pytest.mark.slow
@needs_browser
def test_hostile_words_of_a_card_are_words(chromium: Browser, tmp_path: Path) -> None:
    page = tlc.save_page(chain(), tmp_path / "page.html", cards=FeatureCards.of([card(words=HOSTILE)]))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate("tlCircuitsPage.store.select(tlCircuitsPage.store.graph.names.indexOf('L0/5@0'))")
        shown = tab.get_by_role("region", name="Feature card")
        shown.get_by_role("button", name="More of the card").click()
        for word in (HOSTILE[0], HOSTILE[1], HOSTILE[6]):
            assert word in shown.inner_text()
        assert tab.evaluate("document.querySelectorAll('img, script:not([type])').length") == 1


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason=NO_AXE)
def test_axe_finds_nothing_serious_on_a_card(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    page = tlc.save_page(chain(), tmp_path / "page.html", cards=FeatureCards.of([card()]))
    with chromium.tab(color_scheme=scheme, bypass_csp=True) as watched:
        tab = watched.open(page)
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        tab.evaluate("tlCircuitsPage.store.select(tlCircuitsPage.store.graph.names.indexOf('L0/5@0'))")
        button(tab, "More of the card").click()
        assert not serious(watched)


@pytest.mark.slow
@needs_browser
def test_a_card_shows_little_until_more_is_asked_for_and_connections_stay_in_sight(
    chromium: Browser, tmp_path: Path
) -> None:
    one = card()
    examples = tuple(dataclasses.replace(one.top[0], prompt=number) for number in range(9))
    effects = tuple((f" word{number}", 1.0) for number in range(9))
    full = dataclasses.replace(one, top=examples, top_logits=effects)
    page = tlc.save_page(chain(), tmp_path / "page.html", cards=FeatureCards.of([full]))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate("tlCircuitsPage.store.select(tlCircuitsPage.store.graph.names.indexOf('L0/5@0'))")
        shown = tab.get_by_role("region", name="Feature card")
        says = shown.locator(".logits > div").first.locator("li")
        assert (shown.locator(".example").count(), says.count()) == (3, 5)
        shown.get_by_role("button", name="More of the card").click()
        n_drawn = sum(len(interval.examples) for interval in full.intervals)
        assert (shown.locator(".example").count(), says.count()) == (9 + n_drawn, 9)
        shown.get_by_role("button", name="Less of the card").click()
        assert shown.locator(".example").count() == 3
