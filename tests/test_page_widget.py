"""The page as a widget: what is done there is in the kernel, and what the kernel does is there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models
from tests.browser import CHROMIUM, NO_BROWSER, browser
from tests.graphs import HOSTILE, random_graph
from tests.test_page import unpacked
from tests.test_refusals import refusal

pytest.importorskip("anywidget")

# ipywidgets warns of how it was made where there is no kernel at all.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def local() -> tlc.LocalReplacementModel:
    return tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(4), ())


@pytest.fixture(scope="module")
def graph(local: tlc.LocalReplacementModel) -> tlc.AttributionGraph:
    return tlc.attribute(local)


def from_page(widget: Any, **state: Any) -> None:
    """As the front end sends it."""
    widget.set_state(json.loads(json.dumps(state)))


def test_what_is_done_on_the_page_is_in_the_kernel() -> None:
    graph = random_graph(3, n_features=9)
    feature = graph.nodes.features()[0]
    widget = tlc.widget(graph)
    group = {"label": "Texas", "members": [str(feature)]}
    labels = {f"{feature.layer}/{feature.index}": HOSTILE[0]}
    from_page(widget, work={"pins": [str(feature)], "supernodes": [group], "labels": labels, "nodes": 0.5})
    assert widget.pins == [str(feature)]
    assert widget.supernodes == {"Texas": [str(feature)]}
    assert widget.labels == {(feature.layer, feature.index): HOSTILE[0]}
    assert widget.graph.node(feature).label == HOSTILE[0]
    assert graph.node(feature).label == ""


def test_what_the_kernel_sets_goes_to_the_page() -> None:
    graph = random_graph(3, n_features=9)
    first, second = graph.nodes.features()[:2]
    widget = tlc.widget(graph, pinned=[first], supernodes={"one": [second]})
    assert widget.get_state()["work"]["pins"] == [str(second), str(first)]
    widget.labels = {(0, 1): "Texas"}
    widget.pins = [2, "token@-1"]
    work = widget.get_state()["work"]
    assert work["labels"] == {"0/1": "Texas"}
    assert work["pins"] == [str(graph.nodes[2]), "token@2"]
    assert work["supernodes"] == [{"label": "one", "members": [str(second)]}]
    beside = json.loads(unpacked(widget.page, "page-data"))
    assert (beside["host"], beside["acts"]) == ("widget", False)
    with refusal(tlc.GraphError, "L9/9@0"):
        widget.pins = ["L9/9@0"]


@pytest.mark.parametrize("work", [{"pins": ["L9/9@9"]}, {"labels": {"a": 1}}, {"supernodes": [3]}])
def test_what_is_none_of_the_graph_leaves_things_as_they_were(work: dict[str, Any]) -> None:
    widget = tlc.widget(random_graph(3), pinned=["token@0"])
    from_page(widget, work=work)
    assert widget.pins == ["token@0"]
    assert "none of this graph" in widget.problem


def test_an_intervention_is_asked_from_the_page_and_run(
    graph: tlc.AttributionGraph, local: tlc.LocalReplacementModel
) -> None:
    features = [str(feature) for feature in local.active()[:2]]
    widget = tlc.widget(graph, local)
    from_page(widget, asked={"name": "off", "features": features, "scale": 0, "at": 1})
    expected = tlc.intervene(local, [tlc.Intervention(features, scale=0)])
    assert torch.equal(widget.results["off"].logits, expected.logits)
    (run,) = widget.get_state()["runs"]
    assert run["name"] == "off"
    assert [token["probability"] for token in run["after"]] == [t.probability for t in expected.top_after()]
    # Asked again it is one run, the newest.
    from_page(widget, asked={"name": "off", "features": features, "scale": -1, "at": 2})
    assert len(widget.runs) == 1
    assert "scale=-1" in widget.runs[0]["interventions"][0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "x", "features": [], "scale": 0}, "is no intervention: choose features"),
        ({"name": "x", "features": ["token@0"], "scale": 0}, "does not name a feature"),
        ({"name": "x", "features": ["L0/1@99"], "scale": 0}, "99"),
        ({"name": "x", "features": ["L0/1@0"], "scale": "a"}, "is no intervention"),
    ],
)
def test_what_cannot_be_run_is_said(
    graph: tlc.AttributionGraph, local: tlc.LocalReplacementModel, asked: dict[str, Any], says: str
) -> None:
    widget = tlc.widget(graph, local)
    from_page(widget, asked=asked)
    assert says in widget.problem
    assert widget.runs == []


def test_without_a_model_nothing_runs() -> None:
    widget = tlc.widget(random_graph(3))
    from_page(widget, asked={"name": "x", "features": ["L0/1@1"], "scale": 0})
    assert "tlc.widget(graph, local)" in widget.problem


def test_a_graph_of_another_prompt_is_refused(local: tlc.LocalReplacementModel) -> None:
    with refusal(tlc.GraphError, "another prompt"):
        tlc.widget(random_graph(3), local)


def test_without_anywidget_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tl_circuits.page.kernel", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with refusal(tlc.SettingError, r"pip install 'tl-circuits\[widget\]'", "tlc.show"):
        tlc.widget(random_graph(3))


NOTEBOOK = """<!doctype html><meta charset="utf-8"><title>notebook</title><div id="cell"></div><script type="module">
const state = %s, heard = {};
window.state = state;
window.set = (name, value) => { state[name] = value; (heard["change:" + name] ?? []).forEach((call) => call()); };
const model = { get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes() {},
  on: (name, call) => (heard[name] = [...(heard[name] ?? []), call]), off() {} };
const widget = (await import("data:text/javascript;base64,%s")).default;
widget.render({ model, el: document.getElementById("cell") });
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_page_and_kernel_hear_each_other_in_a_browser(
    graph: tlc.AttributionGraph, local: tlc.LocalReplacementModel, tmp_path: Path
) -> None:
    from base64 import b64encode

    widget = tlc.widget(graph, local)
    first, second = (str(feature) for feature in local.active()[:2])
    widget.pins = [first]
    state = {name: widget.get_state()[name] for name in ("page", "height", "work", "runs", "problem")}
    esm = b64encode(widget.get_state()["_esm"].encode()).decode()
    cell = tmp_path / "cell.html"
    cell.write_text(NOTEBOOK % (json.dumps(state).replace("<", "\\u003c"), esm), encoding="utf-8")
    with browser() as chromium, chromium.tab() as watched:
        tab = watched.tab
        tab.goto(cell.as_uri())
        frame = tab.frame_locator("iframe")
        frame.get_by_label("Search labels, tokens and node names").wait_for()
        page = tab.frames[1]
        tab.wait_for_timeout(300)
        assert page.evaluate("tlCircuitsPage.store.work.value.pins") == [first]
        # From the page to the kernel.
        page.evaluate(f"tlCircuitsPage.store.change({{...tlCircuitsPage.store.work.value, pins: ['{second}']}})")
        tab.wait_for_function(f"state.work.pins.length === 1 && state.work.pins[0] !== '{first}'")
        from_page(widget, work=tab.evaluate("state.work"))
        assert widget.pins == [second]
        # An intervention, asked there and run here.
        frame.get_by_role("tab", name="Interventions").click()
        frame.get_by_role("button", name="Run", exact=True).click()
        tab.wait_for_function("state.asked")
        from_page(widget, asked=tab.evaluate("state.asked"))
        assert not widget.problem
        # From the kernel to the page.
        tab.evaluate("runs => set('runs', runs)", widget.get_state()["runs"])
        frame.locator(".run").wait_for()
        assert "all that is pinned × 0" in frame.locator(".run").inner_text()
        tab.evaluate("work => set('work', work)", {"pins": [], "supernodes": [], "labels": {"0/1": "Texas"}})
        tab.wait_for_timeout(300)
        assert page.evaluate("tlCircuitsPage.store.labels.value.get('0/1')") == "Texas"
