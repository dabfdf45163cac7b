"""The page in a real browser, offline: nothing asked, nothing complained of, and everything by keyboard."""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx
import pytest

import tl_circuits as tlc
from tests.browser import AXE, CHROMIUM, NO_AXE, NO_BROWSER, VIEWER, Browser, Watched, browser
from tests.graphs import HOSTILE, hostile_graph, random_graph
from tl_circuits.features import FeatureCard
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind
from tl_circuits.page import Card, load_labels
from tl_circuits.page.document import ASSETS, document
from tl_circuits.page.frame import Frame

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
pytestmark = pytest.mark.slow

TEXAS = ["L0/398@9", "L1/386@9", "L0/321@9", "L1/98@9", "L2/623@9", "L1/410@9", "L1/737@9", "L2/524@9"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def dallas() -> AttributionGraph:
    from tl_circuits.zoo.firing import labelled

    model, clt = tlc.demo()
    return labelled(tlc.trace(model, clt, "the capital of the state containing Dallas is"), model, clt)


@pytest.fixture(scope="module")
def page(dallas: AttributionGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = Card([(" Austin", 1.5)], [(" Salem", -0.5)], [(["the", " Dal", "las"], [0.0, 1.0, 2.5])])
    return tlc.save_page(dallas, tmp_path_factory.mktemp("page") / "dallas.html", cards={(2, 623): card})


def button(tab: Any, name: str) -> Any:
    return tab.get_by_role("button", name=name, exact=True)


def find(tab: Any, word: str) -> None:
    tab.keyboard.press("/")
    tab.keyboard.type(word)
    tab.get_by_role("listbox").wait_for()


def until(tab: Any, holds: str) -> None:
    # The page's policy forbids what Playwright's own waiting does.
    for _ in range(200):
        if tab.evaluate(holds):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"{holds} did not come true")


def downloaded(tab: Any, name: str) -> Path:
    with tab.expect_download() as download:
        button(tab, name).click()
    return Path(download.value.path())


# The tutorial


@needs_browser
def test_the_tutorial_s_click_path_names_the_texas_step(chromium: Browser) -> None:
    with chromium.tab() as watched:
        # The page that the documentation links to.
        tab = watched.open(VIEWER.parents[2] / "docs" / "live" / "dallas.html")
        tab.get_by_label("Search labels, tokens and node names").click()
        tab.keyboard.type("Texas")
        tab.get_by_text("20 nodes found, 8 on display").wait_for()
        button(tab, "Group as supernode").click()
        name = tab.get_by_label("Name of the supernode")
        assert name.evaluate("element => element === document.activeElement")
        tab.keyboard.type("Texas")
        tab.keyboard.press("Enter")
        tab.get_by_role("button", name="Supernode Texas of 8 nodes").wait_for()
        assert watched.work()["supernodes"] == [{"label": "Texas", "members": TEXAS}]


# What is shown


@needs_browser
def test_the_page_asks_nothing_and_complains_of_nothing(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        for name in ("Filters", "Export", "About", "Help", "Link to this view"):
            button(tab, name).click()
            tab.get_by_role("dialog").wait_for()
            tab.keyboard.press("Escape")
            until(tab, "!document.querySelector('dialog[open]')")
        button(tab, "Table").click()
        button(tab, "Table").click()
        tab.get_by_role("tab", name="Paths").click()
        button(tab, "Pin the ten features that matter most").click()
        assert tab.locator("#subgraph .box").count() > 3
        assert watched.requests == [page.as_uri()]


@needs_browser
def test_sliders_prune_and_score_as_python_does(chromium: Browser, page: Path, dallas: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        for name, value in (("Nodes", "0.5"), ("Edges", "0.9")):
            tab.get_by_label(f"{name}: share of influence kept").fill(value)
        small = dallas.prune(0.5, 0.9)
        for name in ("replacement", "completeness"):
            shown = tab.locator(f"[data-score={name}]")
            assert float(shown.get_attribute("data-value")) == pytest.approx(getattr(small.scores(), name), abs=1e-6)
        assert tab.get_by_text(f"{len(small.edges)} edges").count() == 1
        assert tab.get_by_text(f"{small.nodes.count(Kind.FEATURE)} features", exact=True).count() == 1


@needs_browser
def test_a_node_shows_its_figures_and_what_feeds_it(chromium: Browser, page: Path, dallas: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        node = tab.locator("section.node")
        node.get_by_text("L2/623@9 at").wait_for()
        text = node.inner_text()
        view = dallas.node("L2/623@9")
        assert f"{view.activation:.2f}" in text
        assert f"{view.influence * 100:.1f}%" in text
        assert "Austin" in text
        assert "+1.50" in text
        assert "Dal" in text
        strongest, weight = dallas.prune().node("L2/623@9").inputs(1)[0]
        assert f"+{weight:.2f}" in node.locator(".link").first.inner_text()
        assert str(strongest.id) in node.locator(".link").first.inner_text()


@needs_browser
def test_filters_hide_and_scores_stay(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        kinds = "[...tlCircuitsPage.store.rows.value].map(row => tlCircuitsPage.store.graph.nodes.kind[row])"
        score = tab.locator("[data-score=replacement]").inner_text()
        assert 1 in tab.evaluate(kinds)
        tab.keyboard.press("f")
        tab.get_by_label("errors", exact=True).uncheck()
        assert 1 not in tab.evaluate(kinds)
        tab.get_by_label("negative").check()
        assert tab.evaluate("tlCircuitsPage.store.links.value.every(link => link.weight < 0)")
        tab.locator("select").first.select_option("2")
        layers = "tlCircuitsPage.store.rows.value.map(row => tlCircuitsPage.store.graph.names[row])"
        assert {name.split("/")[0] for name in tab.evaluate(layers) if name.startswith("L")} == {"L2"}
        tab.keyboard.press("Escape")
        tab.get_by_role("button", name="capital").first.click()
        assert {name.split("@")[1] for name in tab.evaluate(layers)} == {"2", "9"}
        assert tab.locator("[data-score=replacement]").inner_text() == score


@needs_browser
def test_paths_run_between_the_ends_that_are_chosen(chromium: Browser, page: Path, dallas: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        find(tab, "las")
        tab.keyboard.press("Enter")
        tab.get_by_role("tab", name="Paths").click()
        tab.get_by_label("From: use selected").click()
        paths = dallas.prune().paths(source=dallas.prune().node("token@8").row)
        shown = tab.locator(".pathlist li").all_inner_texts()
        selected = tab.evaluate("tlCircuitsPage.store.graph.names[tlCircuitsPage.store.selected.value]")
        assert selected == "token@8"
        assert len(shown) == len(paths)
        assert f"{paths[0].share * 100:.1f}%" in shown[0]
        tab.get_by_label("Pin path 1").click()
        assert set(watched.work()["pins"]) == {str(view.id) for view in paths[0].nodes}


@needs_browser
def test_the_shares_of_paths_are_those_of_the_python_beside_them(
    chromium: Browser, page: Path, dallas: AttributionGraph
) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.get_by_role("tab", name="Paths").click()
        for nodes in (None, "0.6"):
            if nodes:
                tab.get_by_label("Nodes: share of influence kept").fill(nodes)
            call = tab.locator(".paths .note code").inner_text()
            small = dallas.prune(float(nodes or 0.8), 0.98)
            assert call == f"graph.prune({nodes or '0.8'}, 0.98).paths()"
            shown = [text.splitlines() for text in tab.locator(".pathlist .figures").all_inner_texts()]
            shares = [path.share * 100 for path in small.paths()]
            assert [f"share {share:.{int(share < 10)}f}%" for share in shares] == [first for first, *_ in shown]


@needs_browser
def test_the_edges_on_display_are_counted_and_exported_all_of_them(
    chromium: Browser, page: Path, dallas: AttributionGraph, tmp_path: Path
) -> None:
    dense = random_graph(3, n_layers=6, n_pos=6, n_features=140, density=0.5)
    wide = tlc.save_page(dense, tmp_path / "dense.html", nodes=1.0, edges=1.0)
    for path, small in ((page, dallas.prune()), (wide, dense.prune(1.0, 1.0))):
        hidden = {*Kind} - {Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET}
        kinds = small.nodes.kind.tolist()
        shown = sum(
            kinds[source] not in hidden and kinds[target] not in hidden
            for source, target in zip(small.edges.source.tolist(), small.edges.target.tolist(), strict=True)
        )
        with chromium.tab(accept_downloads=True) as watched:
            tab = watched.open(path)
            slider = tab.get_by_label("Edges: share of influence kept").get_attribute("aria-valuetext")
            counts = f"{len(small.edges):,} edges, {shown:,} on display"
            assert slider.endswith(counts)
            assert shown != len(small.edges)
            tab.keyboard.press("e")
            assert tab.get_by_text(f"All {shown:,} edges on display, of {len(small.edges):,} that").count() == 1
            lines = downloaded(tab, "Edges as CSV").read_text(encoding="utf-8").splitlines()
            assert len(lines) == 1 + shown
            drawn = tab.evaluate("tlCircuitsPage.store.links.value.length")
            assert drawn == min(shown, 2000)
    assert shown > 2000


@needs_browser
def test_what_is_wrong_with_a_graph_is_said(chromium: Browser, tmp_path: Path) -> None:
    graph = random_graph(4, n_layers=3, n_features=8)
    text = document(graph)
    start = text.index('id="graph-data">') + len('id="graph-data">')
    stop = text.index("</script>", start)
    path = tmp_path / "bad.html"
    path.write_text(text[:start] + text[start : start + 400] + text[stop:], encoding="utf-8")
    with chromium.tab() as watched:
        watched.tab.goto(path.as_uri())
        alert = watched.tab.get_by_role("alert")
        assert "cannot be unpacked" in alert.inner_text()
        assert watched.tab.get_by_text("tlc.save_page").count() == 1


# State


@needs_browser
def test_a_link_shows_what_its_sender_saw(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        find(tab, "Texas")
        button(tab, "Group as supernode").click()
        tab.keyboard.type("Lone ☆ star")
        tab.keyboard.press("Enter")
        tab.get_by_label("Nodes: share of influence kept").fill("0.6")
        tab.keyboard.press("l")
        link = tab.get_by_label("Link", exact=True)
        until(tab, "document.querySelector('dialog input[readonly]').value.includes('#v1=')")
        address, work = link.input_value(), watched.work()
    assert work["supernodes"][0]["label"] == "Lone ☆ star"
    with chromium.tab() as watched:
        watched.open(page, "#" + address.split("#")[1])
        assert watched.work() == work


@needs_browser
def test_the_address_follows_what_is_done(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        button(tab, "Pin the ten features that matter most").click()
        until(tab, "location.hash.startsWith('#v1=')")
        work = watched.work()
        tab.reload()
        tab.wait_for_selector("#search")
        assert watched.work() == work


@needs_browser
def test_a_link_that_does_not_fit_is_told_so(chromium: Browser, page: Path, tmp_path: Path) -> None:
    other = tlc.save_page(random_graph(4, n_layers=3, n_features=8), tmp_path / "other.html", nodes=1.0)
    with chromium.tab() as watched:
        tab = watched.open(page)
        button(tab, "Pin the ten features that matter most").click()
        until(tab, "location.hash.startsWith('#v1=')")
        whole, pins = tab.evaluate("location.hash"), watched.work()["pins"]
        tab.reload()
        tab.wait_for_selector("#search")
        assert tab.get_by_role("alert").count() == 0
    for hash in (whole[: len(whole) // 2], "#v1=garbage!!", "#v2=abc"):
        with chromium.tab() as watched:
            tab = watched.open(page, hash)
            assert "This link is damaged" in tab.get_by_role("alert").inner_text()
            button(tab, "Close this notice").click()
            until(tab, "!document.querySelector('.notice')")
    with chromium.tab() as watched:
        tab = watched.open(other, whole)
        here = tab.evaluate("tlCircuitsPage.store.graph.names")
        missing = [name for name in pins if name not in here]
        said = tab.get_by_role("alert").inner_text()
        assert f"made on another graph. Of the 10 nodes that it pins or groups, {len(missing)} are missing" in said
        assert watched.work()["pins"] == [name for name in pins if name in here]


@needs_browser
def test_undo_and_redo_by_keys(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        assert button(tab, "Undo").is_disabled()
        find(tab, "Texas")
        button(tab, "Pin 8 features").click()
        tab.keyboard.press("Escape")
        tab.locator("canvas.front").focus()
        tab.keyboard.press("Control+z")
        assert watched.work()["pins"] == []
        tab.keyboard.press("Control+Shift+Z")
        assert sorted(watched.work()["pins"]) == sorted(TEXAS)
        tab.keyboard.press("Control+z")
        button(tab, "Redo").click()
        assert len(watched.work()["pins"]) == 8


@needs_browser
@pytest.mark.parametrize("view", ["canvas.front", "tr[tabindex='0']"])
def test_who_has_found_a_node_acts_on_it_by_keys(chromium: Browser, page: Path, view: str) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        if view != "canvas.front":
            tab.keyboard.press("t")
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        until(tab, f"document.activeElement.matches(`{view}`)")
        tab.keyboard.press("p")
        assert watched.work()["pins"] == ["L2/623@9"]
        find(tab, "Texas")
        for query, at in (("", "#search"), ("", view)):
            tab.keyboard.press("Escape")
            assert tab.evaluate("tlCircuitsPage.store.query.value") == query
            until(tab, f"document.activeElement.matches(`{at}`)")
        tab.keyboard.press("?")
        tab.get_by_role("dialog", name="Help").wait_for()


@needs_browser
def test_who_has_named_something_is_where_it_is(chromium: Browser, page: Path) -> None:
    with chromium.tab(reduced_motion="reduce") as watched:
        tab = watched.open(page)
        find(tab, "Texas")
        button(tab, "Group as supernode").click()
        said = tab.locator(".said")
        assert "Type its name" in said.inner_text()
        tab.keyboard.type("Lone star")
        tab.keyboard.press("Enter")
        here = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.className"
        for keys, label in (((), "Lone star"), (("F2", "Escape"), "Lone star"), (("F2", "x", "Enter"), "x")):
            for key in keys:
                tab.keyboard.press(key)
            until(tab, f"({here}).startsWith('Supernode {label} of')")
            assert said.inner_text() == f"Named “{label}”."
        picture = tab.locator("#subgraph").bounding_box()
        message = said.bounding_box()
        assert message["y"] + message["height"] < picture["y"]
        until(tab, "tlCircuitsPage.store.said.value === ''")
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        for key in ("Enter", "Escape"):
            tab.keyboard.press("r")
            tab.get_by_label("Label of feature L2/623").wait_for()
            tab.keyboard.press(key)
            until(tab, f"({here}).startsWith('Attribution graph')")
        button(tab, "Edit label").click()
        until(tab, f"({here}) === 'Label of feature L2/623'")
        tab.keyboard.press("Enter")
        until(tab, f"({here}) === 'Edit label'")


@needs_browser
def test_a_search_keeps_the_ends_of_paths(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        for word, end in (("las", "From"), ("L2/623", "To")):
            find(tab, word)
            tab.keyboard.press("Enter")
            tab.get_by_role("tab", name="Paths").click()
            tab.get_by_label(f"{end}: use selected").click()
        find(tab, "L1/386")
        tab.keyboard.press("Enter")
        assert tab.get_by_role("tab", name="Paths").get_attribute("aria-selected") == "true"
        tab.get_by_role("tab", name="Node").click()
        tab.get_by_role("tab", name="Paths").click()
        steps = tab.locator(".pathlist li").first.locator(".chip")
        assert [steps.first.get_attribute("title"), steps.last.get_attribute("title")] == ["token@8", "L2/623@9"]


@needs_browser
def test_labels_are_edited_and_found(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        tab.locator("canvas.front").focus()
        tab.keyboard.press("r")
        tab.get_by_label("Label of feature L2/623").fill("the Lone Star State")
        tab.keyboard.press("Enter")
        assert watched.work()["labels"] == {"2/623": "the Lone Star State"}
        find(tab, "lone star")
        tab.get_by_text("1 node found").wait_for()


@needs_browser
def test_a_long_label_leaves_room_for_the_rest(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        label = "word " * 1000 + "end"
        tab.evaluate(f"(s => s.change({{...s.work.value, labels: {{'2/623': '{label}'}}}}))(tlCircuitsPage.store)")
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        title = tab.locator(".node h2")
        assert title.bounding_box()["height"] < 120
        button(tab, "More of the label").click()
        until(tab, "document.querySelector('.node h2').offsetHeight > 400")
        button(tab, "Less of the label").click()
        until(tab, "document.querySelector('.node h2').offsetHeight < 120")
        tab.evaluate("tlCircuitsPage.store.hovered.value = tlCircuitsPage.store.selected.value")
        assert tab.locator(".tip").bounding_box()["height"] < 150
        tab.keyboard.press("r")
        assert tab.get_by_label("Label of feature L2/623").input_value() == label


@needs_browser
def test_boxes_are_told_apart_and_strong_ties_have_their_part(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        same = {"2/623": "one word", "1/386": "one word"}
        pins = ["L2/623@9", "L1/386@9", "L0/496@9"]
        tab.evaluate(f"(s => s.change({{...s.work.value, pins: {pins}, labels: {same}}}))(tlCircuitsPage.store)")
        tab.locator("#subgraph .box").first.wait_for()
        texts = tab.locator("#subgraph .box text").all_text_contents()
        assert len(set(texts)) == len(texts)
        assert {"one word L2/623@9", "one word L1/386@9"} < set(texts)
        amounts = tab.locator("#subgraph .amount")
        assert amounts.count() > 2
        for tie in tab.locator("#subgraph .tie:has(.amount)").all():
            title = tie.locator("title").text_content()
            amount = tie.locator(".amount").text_content()
            assert f": {amount} of its inputs" in title
            assert float(amount[1:-1]) >= 5
        places = [one.bounding_box() for one in (*amounts.all(), *tab.locator("#subgraph .target").all())]
        over = [
            (a, b)
            for at, a in enumerate(places)
            for b in places[:at]
            if min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"]) > 1
            and min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"]) > 1
        ]
        assert not over


# Keys


FOCUSABLE = """() => [...document.querySelectorAll("button, input, select, a[href], [tabindex]")]
  .filter((element) => element.tabIndex >= 0 && !element.disabled && element.checkVisibility())
  .map((element, at) => { element.dataset.test = at; return at; })"""


@needs_browser
@pytest.mark.parametrize("keys", ["", "t", "e", "f", "?", "i"])
def test_tab_reaches_every_control(chromium: Browser, page: Path, keys: str) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        button(tab, "Pin the ten features that matter most").click()
        tab.evaluate("document.activeElement.blur()")
        if keys:
            tab.keyboard.press(keys)
            tab.wait_for_timeout(100)
        wanted = set(tab.evaluate(FOCUSABLE))
        if keys in "efi?" and keys:
            # A dialog holds the focus: what lies behind it is not reached.
            wanted = set(
                tab.evaluate("[...document.querySelectorAll('dialog[open] [data-test]')].map(e => +e.dataset.test)")
            )
        reached = set()
        for _ in range(2 * len(wanted) + 8):
            at = tab.evaluate("document.activeElement.dataset.test ?? null")
            reached |= {int(at)} if at is not None else set()
            tab.keyboard.press("Tab")
        radios = tab.evaluate(
            "[...document.querySelectorAll('input[type=radio]:not(:checked)')].map(e => +e.dataset.test)"
        )
        missed = wanted - reached - set(radios)
        html = [tab.evaluate(f"document.querySelector('[data-test=\"{at}\"]').outerHTML")[:120] for at in missed]
        assert not missed, html
        assert wanted


@needs_browser
def test_arrows_walk_the_graph_and_keys_act_on_it(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.locator("canvas.front").focus()
        selected = "(s => s.selected.value === null ? null : s.graph.names[s.selected.value])(tlCircuitsPage.store)"
        tab.keyboard.press("ArrowUp")
        assert tab.evaluate(selected) == "L0/496@9"
        seen = []
        for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"):
            tab.keyboard.press(key)
            seen.append(tab.evaluate(selected))
        assert seen[2] == seen[3] == "target 138@9"
        assert seen[0].startswith("L1/")
        assert seen[4].startswith("L2/")
        assert seen[5] != seen[4] == seen[6]
        tab.keyboard.press("p")
        assert watched.work()["pins"] == [seen[6]]
        tab.keyboard.press("m")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("m")
        tab.keyboard.press("g")
        tab.keyboard.type("pair")
        tab.keyboard.press("Enter")
        (group,) = watched.work()["supernodes"]
        assert (group["label"], len(group["members"])) == ("pair", 2)
        tab.get_by_role("button", name="Supernode pair").focus()
        tab.keyboard.press("F2")
        tab.keyboard.type("two")
        tab.keyboard.press("Enter")
        tab.get_by_role("button", name="Supernode two").focus()
        tab.keyboard.press("Delete")
        assert watched.work()["supernodes"] == []
        assert "selected" not in tab.locator("[role=status].said").inner_text()


@needs_browser
def test_the_table_is_the_graph_for_keys(chromium: Browser, page: Path, dallas: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.keyboard.press("t")
        rows = tab.locator("tr[data-at]")
        small = dallas.prune()
        top = max(small.nodes.features(), key=lambda feature: dallas.node(feature).influence)
        tokens = max(range(10), key=lambda pos: dallas.node(f"token@{pos}").influence)
        best = max([str(top), f"token@{tokens}"], key=lambda name: dallas.node(name).influence)
        assert best in rows.first.inner_text()
        tab.get_by_role("button", name="layer", exact=True).click()
        assert tab.locator("th[aria-sort=ascending]").inner_text().startswith("layer")
        rows.first.focus()
        for key in ("ArrowDown", "ArrowDown", "End", "Home", "ArrowDown", "Enter", "p"):
            tab.keyboard.press(key)
            tab.wait_for_timeout(50)
        name = tab.evaluate("tlCircuitsPage.store.graph.names[tlCircuitsPage.store.selected.value]")
        assert watched.work()["pins"] == [name]
        assert tab.locator("tr[aria-selected=true]").inner_text().startswith("●")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason=NO_AXE)
def test_axe_finds_nothing_serious(chromium: Browser, page: Path, scheme: str) -> None:
    # The policy of the page lets no other script in; axe is let past it here alone.
    with chromium.tab(color_scheme=scheme, bypass_csp=True) as watched:
        tab = watched.open(page)
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        found = serious(watched)
        find(tab, "Texas")
        found += serious(watched)
        button(tab, "Group as supernode").click()
        tab.keyboard.press("Enter")
        find(tab, "L2/623")
        tab.keyboard.press("Enter")
        found += serious(watched)
        tab.locator("canvas.front").focus()
        for key in "tfei?l":
            tab.keyboard.press(key)
            tab.wait_for_timeout(150)
            found += serious(watched)
            if key != "t":
                tab.keyboard.press("Escape")
                tab.wait_for_timeout(50)
        tab.set_viewport_size({"width": 390, "height": 844})
        for name in ("Graph", "Node", "Subgraph", "Paths"):
            tab.get_by_role("navigation").get_by_role("button", name=name, exact=True).click()
            found += serious(watched)
        assert not found, "\n".join(found)


def serious(watched: Watched) -> list[str]:
    # Messages fade: their contrast is judged when they are there.
    watched.tab.add_style_tag(content="*, *::before { animation: none !important; transition: none !important }")
    violations = watched.tab.evaluate("axe.run().then((result) => result.violations)")
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'][:140] for node in violation['nodes'][:3]]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]


# Hostile words


@needs_browser
def test_hostile_words_are_words(chromium: Browser, tmp_path: Path) -> None:
    graph = hostile_graph()
    cards = {
        (feature.layer, feature.index): Card([(HOSTILE[0], 1.0)], [(HOSTILE[1], -1.0)], [([HOSTILE[1]], [1.0])])
        for feature in graph.nodes.features()
    }
    names = [str(feature) for feature in graph.nodes.features()]
    groups = {word: [name] for word, name in zip(HOSTILE[:5], names, strict=False)}
    path = tlc.save_page(
        graph, tmp_path / "hostile.html", cards=cards, supernodes=groups, title=HOSTILE[1] + HOSTILE[0]
    )
    with chromium.tab() as watched:
        tab = watched.open(path)
        for row in range(len(graph.nodes)):
            tab.evaluate(f"tlCircuitsPage.store.select({row}); tlCircuitsPage.store.hovered.value = {row}")
        tab.evaluate("tlCircuitsPage.store.select(0)")
        find(tab, "<img")
        for key in ("Escape", "t", "i"):
            tab.keyboard.press(key)
        tab.evaluate("tlCircuitsPage.store.dialog.value = 'provenance'")
        assert HOSTILE[0] in tab.locator("dialog[open]").inner_text()
        assert tab.evaluate("document.querySelectorAll('img, b img').length") == 0
        assert tab.evaluate("document.scripts.length") == 1
        drawn = tab.evaluate("[tlCircuitsPage.subgraphSvgText(), document.title]")
        ElementTree.fromstring(drawn[0])
        assert HOSTILE[1] in drawn[1]


@needs_browser
def test_the_policy_stops_what_would_run(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate(
            """const image = '<img src="https://example.com/x.png" onerror="window.ran = 1">';
            document.body.insertAdjacentHTML("beforeend", image);
            const script = document.createElement("script"); script.textContent = "window.ran = 2";
            document.body.append(script); fetch("https://example.com").catch(() => 0);"""
        )
        tab.wait_for_timeout(200)
        assert tab.evaluate("window.ran ?? null") is None
        blocked = [complaint for complaint in watched.complaints if "Content Security Policy" in complaint]
        assert len(blocked) >= 3
        watched.complaints.clear()
        watched.requests.clear()


@needs_browser
def test_a_sandboxed_frame_works(chromium: Browser, dallas: AttributionGraph, tmp_path: Path) -> None:
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><title>x</title>{Frame(document(dallas), 800)._repr_html_()}", encoding="utf-8")
    with chromium.tab() as watched:
        watched.tab.goto(outer.as_uri())
        frame = watched.tab.frame_locator("iframe")
        frame.get_by_label("Search labels, tokens and node names").fill("Texas")
        frame.get_by_role("button", name="Group as supernode").click()
        watched.tab.keyboard.press("Enter")
        frame.get_by_role("button", name="Supernode Texas of 8 nodes").wait_for()
        watched.tab.wait_for_timeout(500)
        reach = "(() => { try { return parent.document.title } catch (error) { return error.name } })()"
        assert watched.tab.frames[1].evaluate(reach) == "SecurityError"


# Small screens, print


@needs_browser
def test_a_telephone_shows_one_pane_at_a_time(chromium: Browser, page: Path) -> None:
    with chromium.tab(390, 844, has_touch=True, is_mobile=True) as watched:
        tab = watched.open(page)
        switch = tab.get_by_role("navigation")
        for name, inside in (
            ("Node", ".node"),
            ("Paths", ".paths"),
            ("Subgraph", ".subgraph"),
            ("Graph", "canvas.front"),
        ):
            switch.get_by_role("button", name=name, exact=True).tap()
            tab.locator(inside).first.wait_for(state="visible")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390
            assert tab.locator(".pane:visible").count() == 1
        spot = tab.evaluate(
            """(() => { const {x, y} = document.querySelector("canvas.front").getBoundingClientRect();
            const {layout, view} = tlCircuitsPage.exposed.scene();
            const row = tlCircuitsPage.store.graph.rowOf.get("token@2");
            return [x + layout.x[row] * view.k + view.x, y + layout.y[row] * view.k + view.y] })()"""
        )
        tab.touchscreen.tap(*spot)
        assert tab.evaluate("tlCircuitsPage.store.graph.names[tlCircuitsPage.store.selected.value]") == "token@2"
        hold = {"bubbles": True, "pointerType": "touch", "clientX": spot[0], "clientY": spot[1]}
        tab.locator("canvas.front").dispatch_event("pointerdown", hold)
        tab.wait_for_timeout(700)
        assert watched.work()["pins"] == ["token@2"]


def themed(tab: Any, expected: list[str]) -> None:
    # The browser tells the page of a change when it comes to it.
    until(tab, f"document.documentElement.dataset.theme === '{expected[0]}'")
    assert tab.evaluate(THEME) == expected


THEME = """(() => { const {colours} = tlCircuitsPage.exposed.scene();
return [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor, colours.ink] })()"""
LIGHT, DARK = ["light", "rgb(243, 244, 246)", "#1a1f27"], ["dark", "rgb(13, 16, 21)", "#e8ebf0"]


@needs_browser
@pytest.mark.parametrize(("scheme", "system", "other"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_colours_follow_the_system_and_the_button(
    chromium: Browser, page: Path, scheme: Any, system: list[str], other: list[str]
) -> None:
    with chromium.tab(color_scheme=scheme) as watched:
        tab = watched.open(page)
        themed(tab, system)
        # The system may change its mind while the page is open.
        tab.emulate_media(color_scheme=other[0])
        themed(tab, other)
        tab.emulate_media(color_scheme=scheme)
        tab.keyboard.press("d")
        themed(tab, LIGHT)
        tab.emulate_media(color_scheme=other[0])
        themed(tab, LIGHT)
        tab.keyboard.press("d")
        themed(tab, DARK)
        tab.emulate_media(media="print")
        assert not tab.get_by_label("Search labels, tokens and node names").is_visible()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@needs_browser
@pytest.mark.parametrize(("scheme", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_before_the_script_and_without_it_the_ground_is_the_system_s(
    chromium: Browser, page: Path, scheme: Any, theme: list[str]
) -> None:
    with chromium.tab(color_scheme=scheme, java_script_enabled=False) as watched:
        watched.tab.goto(page.as_uri())
        style = watched.tab.evaluate(
            "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
        )
        ink = "rgb(26, 31, 39)" if scheme == "light" else "rgb(232, 235, 240)"
        assert style == [theme[1], ink]


# What goes with the graph


@needs_browser
def test_recorded_interventions_and_a_difference_are_shown(
    chromium: Browser, dallas: AttributionGraph, tmp_path: Path
) -> None:
    run = {
        "interventions": ["L1/386@9 scale=0"], "mode": "constrained", "layers": [0, 1], "tokens": list(dallas.tokens),
        "before": [{"text": " Austin", "probability": 0.75}], "after": [{"text": HOSTILE[0], "probability": 0.5}],
        "moved": [{"feature": name, "before": 3.63, "after": 0.0} for name in ("L2/623@9", "L2/9@9")],
    }  # fmt: skip
    small = dallas.prune()
    path = tlc.save_page(small, tmp_path / "a.html", interventions={"Texas off": run}, compare=dallas.prune(0.6, 0.9))
    with chromium.tab() as watched:
        tab = watched.open(path)
        tab.get_by_role("tab", name="Interventions").click()
        text = tab.locator(".run").inner_text()
        for said in (
            "Texas off",
            "L1/386@9 scale=0",
            "layers 0 to 1",
            "75%",
            HOSTILE[0],
            "3.63 → 0",
            "not in the graph",
        ):
            assert said in text, said
        tab.get_by_role("button", name="L2/623@9").click()
        assert tab.evaluate("tlCircuitsPage.store.graph.names[tlCircuitsPage.store.selected.value]") == "L2/623@9"
        tab.get_by_role("tab", name="Difference").click()
        gone = small.nodes.count(Kind.FEATURE) - dallas.prune(0.6, 0.9).nodes.count(Kind.FEATURE)
        tab.get_by_text(f"{gone} only here, 0 only there").wait_for()
        button(tab, "Mark what is only here").click()
        assert tab.evaluate("tlCircuitsPage.store.marked.value.size") == gone
        tab.set_viewport_size({"width": 390, "height": 844})
        switch = tab.get_by_role("navigation")
        assert switch.evaluate("element => element.scrollWidth") <= 390
        switch.get_by_role("button", name="Runs").click()
        assert tab.locator(".run").is_visible()


@needs_browser
def test_a_map_shows_where_one_is_and_leads_elsewhere(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        corner = """(([x, y]) => { const pen = document.querySelector("canvas.front").getContext("2d");
        const ratio = Math.min(2, devicePixelRatio); return pen.getImageData(x * ratio, y * ratio, 1, 1).data[3] })"""
        size = tab.evaluate("(({width, height}) => [width, height])(tlCircuitsPage.exposed.scene())")
        inside = [size[0] - 14, 14]
        for _ in range(4):
            button(tab, "Zoom in").click()
        tab.wait_for_timeout(400)
        assert tab.evaluate(corner, inside) > 200
        before = tab.evaluate("tlCircuitsPage.exposed.scene().view.x")
        tab.locator("canvas.front").click(position={"x": inside[0], "y": inside[1]})
        assert tab.evaluate("tlCircuitsPage.exposed.scene().view.x") < before
        assert tab.evaluate("tlCircuitsPage.store.selected.value") is None


@needs_browser
def test_dense_features_are_hidden_and_pins_stay(chromium: Browser, dallas: AttributionGraph, tmp_path: Path) -> None:
    dense, rare = FeatureCard(0, 398, density=0.2), FeatureCard(1, 386, density=0.001)
    path = tlc.save_page(dallas, tmp_path / "a.html", cards={(0, 398): dense, (1, 386): rare})
    shown = "tlCircuitsPage.store.rows.value.map(row => tlCircuitsPage.store.graph.names[row])"
    with chromium.tab() as watched:
        tab = watched.open(path)
        assert {"L0/398@9", "L1/386@9"} <= set(tab.evaluate(shown))
        tab.keyboard.press("f")
        tab.get_by_label("Density").select_option("0.1")
        assert "L0/398@9" not in tab.evaluate(shown)
        assert "L1/386@9" in tab.evaluate(shown)
        assert watched.work()["density"] == 0.1
        tab.evaluate("tlCircuitsPage.store.change({...tlCircuitsPage.store.work.value, pins: ['L0/398@9']})")
        assert "L0/398@9" in tab.evaluate(shown)
        button(tab, "Show everything again").click()
        assert watched.work()["density"] is None


@needs_browser
def test_what_leads_to_a_node_is_marked(chromium: Browser, page: Path, dallas: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        find(tab, "L1/386")
        tab.keyboard.press("Enter")
        tab.get_by_role("tab", name="Paths").click()
        drawn = dallas.prune().to_networkx()
        names = "[...tlCircuitsPage.store.marked.value].map(row => tlCircuitsPage.store.graph.names[row])"
        for way, reached in (("upstream", networkx.ancestors), ("downstream", networkx.descendants)):
            button(tab, f"Mark {way}").click()
            assert set(tab.evaluate(names)) == {"L1/386@9"} | reached(drawn, "L1/386@9")


# Files


@needs_browser
def test_files_are_what_they_say(chromium: Browser, page: Path, dallas: AttributionGraph, tmp_path: Path) -> None:
    with chromium.tab(accept_downloads=True) as watched:
        tab = watched.open(page)
        find(tab, "Texas")
        button(tab, "Group as supernode").click()
        tab.keyboard.press("Enter")
        tab.locator("canvas.front").focus()
        tab.keyboard.press("e")
        for name in ("Graph as SVG", "Subgraph as SVG"):
            root = ElementTree.parse(downloaded(tab, name)).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "Texas" in "".join(root.itertext())
        assert downloaded(tab, "Graph as PNG").read_bytes().startswith(b"\x89PNG")
        written = downloaded(tab, "JSON")
        assert tlc.load_supernodes(written) == {"Texas": tuple(map(tlc.Feature.parse, TEXAS))}
        assert len(json.loads(written.read_text())["links"]) == len(json.loads(dallas.prune().to_json())["links"])
        nodes = list(csv.DictReader(downloaded(tab, "Nodes as CSV").read_text(encoding="utf-8").splitlines()))
        assert {row["node"] for row in nodes} >= set(TEXAS)
        edges = list(csv.DictReader(downloaded(tab, "Edges as CSV").read_text(encoding="utf-8").splitlines()))
        (edge,) = (row for row in edges if (row["source"], row["target"]) == ("L2/64@9", "target 138@9"))
        assert float(edge["weight"]) == pytest.approx(
            dict(dallas.node("target 138@9").inputs(1))[dallas.node("L2/64@9")]
        )
        assert ast.parse(downloaded(tab, "Python").read_text())
        assert load_labels(downloaded(tab, "Labels")) == dict(dallas.labels)
        table = shutil.copy(downloaded(tab, "Labels as CSV"), tmp_path / "labels.csv")
        assert load_labels(table) == dict(dallas.labels)
        assert '"L2/64@9" -> "target 138@9"' in downloaded(tab, "Graphviz").read_text(encoding="utf-8")


@needs_browser
def test_labels_are_read_from_a_file(chromium: Browser, page: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    start = {"format": "tl_circuits.labels", "version": "1"}
    good.write_text(json.dumps({**start, "labels": [[2, 623, "lone star"]]}))
    bad.write_text(json.dumps({**start, "labels": [[2, 623]] * 9}))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.keyboard.press("e")
        for path in (bad, good):
            with tab.expect_file_chooser() as chooser:
                button(tab, "Read").click()
            chooser.value.set_files(path)
            if path is bad:
                tab.get_by_role("alert").wait_for()
                assert tab.get_by_role("alert").locator("li").count() == 5
        until(tab, "tlCircuitsPage.store.work.value.labels['2/623'] === 'lone star'")
        assert tab.get_by_role("alert").count() == 0


@needs_browser
def test_the_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "page.json"
    size = ["--n-nodes", "1500", "--n-edges", "6000", "--runs", "1"]
    # A process of its own, since Playwright lets only one of its kind run in each.
    command = [sys.executable, "-m", "benchmarks.page", *size, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=VIEWER.parents[2])
    figures = json.loads(out.read_text())["figures"]
    assert 0 < figures["prune_anew_ms"] < figures["prune_anew_to_frame_ms"]
    assert figures["first_paint_s"] > 0


# The bundle


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not on this machine, so the viewer cannot be built")
@pytest.mark.skipif(not AXE.exists(), reason=f"its packages are not installed: run `npm ci` in {VIEWER}")
def test_the_bundle_is_what_its_sources_build(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path)}
    subprocess.run(["npm", "run", "make"], cwd=VIEWER, env=environment, check=True, capture_output=True, timeout=300)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in ASSETS.iterdir()}
