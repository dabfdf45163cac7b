"""What the page suggests, takes back and reads: supernodes, filters, links under the pointer, long prompts, files."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.browser import AXE, CHROMIUM, NO_AXE, NO_BROWSER, Browser, browser
from tests.graphs import HOSTILE, hostile_graph, random_graph
from tests.test_page_browser import button, serious, until
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)]

LABELS = {(layer, index): f"word{index} of {layer}" for layer in range(4) for index in range(4)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return random_graph(8, n_layers=4, n_pos=3, n_features=24).with_labels(LABELS)


@pytest.fixture(scope="module")
def page(graph: AttributionGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tlc.save_page(graph, tmp_path_factory.mktemp("page") / "some.html", nodes=1.0, edges=1.0)


def supernodes(tab: Any) -> dict[str, list[str]]:
    found = tab.evaluate("tlCircuitsPage.store.work.value.supernodes")
    return {one["label"]: one["members"] for one in found}


def said(groups: dict[str, Any]) -> dict[str, list[str]]:
    return {label: [str(member) for member in members] for label, members in groups.items()}


def test_what_is_suggested_is_lit_accepted_and_taken_back(
    chromium: Browser, page: Path, graph: AttributionGraph
) -> None:
    expected = said(graph.suggest_supernodes())
    first = next(iter(expected))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.keyboard.press("s")
        accept = button(tab, f"Accept {first}")
        accept.focus()
        lit = tab.evaluate("tlCircuitsPage.store.lit.value.map((row) => tlCircuitsPage.store.graph.names[row])")
        assert lit == expected[first]
        tab.keyboard.press("Enter")
        assert supernodes(tab) == {first: expected[first]}
        assert tab.evaluate("tlCircuitsPage.store.lit.value.length") == 0
        assert tab.get_by_role("button", name=f"Accept {first}", exact=True).count() == 0
        tab.keyboard.press("Control+z")
        assert supernodes(tab) == {}


def test_all_suggestions_are_accepted_in_one_step(chromium: Browser, page: Path, graph: AttributionGraph) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        button(tab, "Suggest groups").click()
        button(tab, "Accept all").click()
        assert supernodes(tab) == said(graph.suggest_supernodes())
        # What is in a supernode is not suggested again.
        button(tab, "Suggest groups").click()
        tab.get_by_text("No features on display are alike enough. Move").wait_for()
        button(tab, "Close suggestions").click()
        assert tab.get_by_text("Suggested supernodes").count() == 0
        tab.keyboard.press("Control+z")
        assert supernodes(tab) == {}


def test_hostile_labels_are_suggested_as_words(chromium: Browser, tmp_path: Path) -> None:
    graph = random_graph(4, n_layers=4, n_pos=1, n_features=16)
    hostile = {key: HOSTILE[number % 3] for number, key in enumerate(LABELS)}
    page = tlc.save_page(graph.with_labels(hostile), tmp_path / "hostile.html", nodes=1.0)
    with chromium.tab() as watched:
        tab = watched.open(page)
        button(tab, "Suggest groups").click()
        assert tab.locator(".suggestions li").count() > 0
        assert tab.locator(".suggestions img, .suggestions script").count() == 0
        button(tab, "Accept all").click()
        assert supernodes(tab)


def test_each_filter_is_a_chip_that_takes_it_back(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        chips = tab.get_by_role("group", name="What hides nodes")
        assert chips.count() == 0
        whole = tab.evaluate("tlCircuitsPage.store.rows.value.length")
        tab.evaluate(
            "tlCircuitsPage.store.change({ ...tlCircuitsPage.store.work.value, layers: [1, 2], positions: [1], "
            "sign: 'negative', kinds: [0, 2, 7] })"
        )
        names = ["no errors", "layers 1 to 2", "at 1 “␣Dallas”", "negative edges"]
        assert chips.get_by_role("button").count() == len(names)
        assert tab.evaluate("tlCircuitsPage.store.rows.value.length") < whole
        for name in names:
            chips.get_by_role("button", name=f"Take back: {name.replace('␣', ' ')}").click()
        assert chips.count() == 0
        assert tab.evaluate("tlCircuitsPage.store.rows.value.length") == whole


def test_a_link_under_the_pointer_says_what_it_adds(chromium: Browser, tmp_path: Path) -> None:
    graph = random_graph(1, n_layers=1, n_pos=1, n_features=1, n_targets=1, density=1.0)
    with chromium.tab() as watched:
        tab = watched.open(tlc.save_page(graph, tmp_path / "one.html", nodes=1.0, edges=1.0))
        box = tab.locator("canvas.front").bounding_box()
        # Halfway between the only feature and the output.
        x, y = tab.evaluate("""() => {
            const { layout, view, graph } = tlCircuitsPage.exposed.scene();
            const [from, to] = [0, graph.firstTarget];
            const at = (row) => [layout.x[row] * view.k + view.x, layout.y[row] * view.k + view.y];
            return [(at(from)[0] + at(to)[0]) / 2, (at(from)[1] + at(to)[1]) / 2];
        }""")
        tab.mouse.move(box["x"] + x, box["y"] + y)
        tip = tab.locator(".tip")
        tip.wait_for()
        text = tip.inner_text().replace("−", "-")
        [(source, weight)] = [pair for pair in graph.node("target@0").inputs() if pair[0].id.kind == Kind.FEATURE]
        assert str(source.id) in text
        assert f"{weight:+.2f}" in text
        # The corner, where there is neither link nor node however the graph is laid out meanwhile.
        tab.mouse.move(box["x"] + 3, box["y"] + 3)
        until(tab, "!document.querySelector('.tip')")


def test_of_a_long_prompt_the_rest_is_shown_when_asked_for(chromium: Browser, tmp_path: Path) -> None:
    graph = random_graph(5, n_pos=300, n_features=12, n_layers=2, density=0.02)
    with chromium.tab() as watched:
        tab = watched.open(tlc.save_page(graph, tmp_path / "long.html", nodes=1.0, edges=1.0))
        tokens = tab.get_by_role("group", name="Prompt: press a token to see only its nodes").get_by_role("button")
        assert tokens.count() == 24
        assert tab.evaluate("tlCircuitsPage.exposed.scene().layout.columns.filter(({ pos }) => pos >= 0).length") == 24
        button(tab, "24 of 300 tokens: show all").click()
        assert tokens.count() == 300
        assert tab.evaluate("tlCircuitsPage.store.work.value.allTokens") is True
        button(tab, "All 300 tokens: show those that matter most").click()
        assert tokens.count() == 24


def test_connections_stand_by_size_sign_or_place(chromium: Browser, page: Path, graph: AttributionGraph) -> None:
    row = max(range(24), key=lambda row: len(graph.node(row).inputs()))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate(f"tlCircuitsPage.store.select({row})")
        figures = tab.locator(".connections div").first.locator(".figure:not(.part)")

        def shown() -> list[float]:
            return [float(text.replace("−", "-")) for text in figures.all_inner_texts()]

        assert [abs(value) for value in shown()] == sorted((abs(value) for value in shown()), reverse=True)
        tab.get_by_label("Order of connections").select_option("sign")
        assert shown() == sorted(shown(), reverse=True)
        assert len(shown()) > 2
        tab.get_by_label("Order of connections").select_option("place")
        names = tab.locator(".connections div").first.locator("code").all_inner_texts()
        layers = [int(name[1 : name.index("/")]) for name in names if "/" in name]
        assert layers == sorted(layers, reverse=True)


def read(tab: Any, path: Path) -> None:
    with tab.expect_file_chooser() as chooser:
        button(tab, "Read").click()
    chooser.value.set_files(path)


def test_pins_and_supernodes_are_read_from_a_graph_s_json(
    chromium: Browser, page: Path, graph: AttributionGraph, tmp_path: Path
) -> None:
    features = [str(feature) for feature in graph.nodes.features()]
    path, other = tmp_path / "graph.json", tmp_path / "other.json"
    graph.to_json(path, pinned=features[:1], supernodes={"Texas": features[1:3]})
    other.write_text(json.dumps({"qParams": {"pinnedIds": ["9_9_9"]}}))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.keyboard.press("e")
        read(tab, path)
        until(tab, "tlCircuitsPage.store.work.value.pins.length === 3")
        assert supernodes(tab) == {"Texas": features[1:3]}
        read(tab, other)
        tab.get_by_text("1 node of the file is not in this graph, and left out.").wait_for()


def test_labels_of_another_transcoder_are_taken_with_a_warning(chromium: Browser, page: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    start = {"format": "tl_circuits.labels", "version": "1", "transcoder": "other-clt"}
    path.write_text(json.dumps({**start, "labels": [[0, 1, "lone star"]]}))
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.keyboard.press("e")
        read(tab, path)
        tab.get_by_text("features of other-clt, and this graph has those of toy-clt").wait_for()
        until(tab, "tlCircuitsPage.store.work.value.labels['0/1'] === 'lone star'")


def test_labels_of_other_weights_of_one_name_are_told(chromium: Browser, tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    settings = {"transcoder_weights": "12ab"}
    graph = dataclasses.replace(graph, provenance=dataclasses.replace(graph.provenance, settings=settings))
    start = {"format": "tl_circuits.labels", "version": "1", "transcoder": "toy-clt", "labels": [[0, 1, "lone star"]]}
    with chromium.tab() as watched:
        tab = watched.open(tlc.save_page(graph, tmp_path / "some.html"))
        tab.keyboard.press("e")
        for weights, warnings in (("12ab", 0), ("34cd", 1)):
            path = tmp_path / f"{weights}.json"
            path.write_text(json.dumps({**start, "transcoder_weights": weights}))
            tab.evaluate("tlCircuitsPage.store.change({ ...tlCircuitsPage.store.work.value, labels: {} })")
            read(tab, path)
            until(tab, "tlCircuitsPage.store.work.value.labels['0/1'] === 'lone star'")
            warning = tab.get_by_text("features of toy-clt (34cd), and this graph has those of toy-clt (12ab)")
            assert warning.count() == warnings


def test_the_selection_is_copied_as_python(chromium: Browser, page: Path, graph: AttributionGraph) -> None:
    feature = str(graph.nodes.features()[0])
    with chromium.tab(permissions=["clipboard-read", "clipboard-write"]) as watched:
        tab = watched.open(page)
        tab.evaluate(f"tlCircuitsPage.store.change({{ ...tlCircuitsPage.store.work.value, pins: ['{feature}'] }})")
        tab.keyboard.press("e")
        button(tab, "Copy Python").click()
        until(tab, "tlCircuitsPage.store.said.value === 'Copied.'")
        assert f'pins = ["{feature}"]' in tab.evaluate("navigator.clipboard.readText()")


def test_the_legend_says_what_shapes_and_widths_are(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        legend = watched.open(page).get_by_role("list", name="Legend")
        assert legend.inner_text().split("\n")[:5] == ["feature", "token, output", "error", "adds", "subtracts"]
        widths = [float(path.get_attribute("stroke-width")) for path in legend.locator("svg.soft path").all()]
        assert widths == sorted(set(widths))


def test_print_shows_every_pane_on_white(chromium: Browser, page: Path) -> None:
    with chromium.tab(color_scheme="dark") as watched:
        tab = watched.open(page)
        tab.keyboard.press("s")
        button(tab, "Accept all").click()
        tab.emulate_media(media="print")
        panes = [tab.locator(name).is_visible() for name in (".main", ".side", ".below")]
        assert panes == [True, True, True]
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not tab.locator(".buttons").is_visible()


def test_hostile_chips_are_words(chromium: Browser, tmp_path: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(tlc.save_page(hostile_graph(), tmp_path / "hostile.html"))
        tab.evaluate("tlCircuitsPage.store.change({ ...tlCircuitsPage.store.work.value, positions: [0, 1] })")
        assert tab.get_by_role("group", name="What hides nodes").get_by_role("button").count() == 2
        assert tab.locator(".filters img, .filters script").count() == 0


@pytest.mark.skipif(not AXE.exists(), reason=NO_AXE)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1500), ("dark", 1500), ("light", 390), ("dark", 390)])
def test_axe_finds_nothing_serious_on_suggestions_and_chips(
    chromium: Browser, page: Path, scheme: str, width: int
) -> None:
    with chromium.tab(width, 844, color_scheme=scheme, bypass_csp=True) as watched:
        tab = watched.open(page)
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        tab.evaluate(
            "tlCircuitsPage.store.change({ ...tlCircuitsPage.store.work.value, layers: [0, 2], sign: 'positive' })"
        )
        found = serious(watched)
        tab.keyboard.press("s")
        tab.get_by_role("region", name="Suggested supernodes").wait_for()
        found += serious(watched)
        button(tab, "Close suggestions").click()
        assert not found


def test_every_button_of_suggestions_and_chips_is_reached_by_keys(chromium: Browser, page: Path) -> None:
    with chromium.tab() as watched:
        tab = watched.open(page)
        tab.evaluate("tlCircuitsPage.store.change({ ...tlCircuitsPage.store.work.value, layers: [0, 2] })")
        tab.keyboard.press("s")
        wanted = set(tab.locator(".suggestions button, .filters button").all_inner_texts())
        reached = set()
        for _ in range(80):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.innerText ?? ''"))
        assert wanted <= reached
