"""Pages as files: what is in them, what is refused, and the command that writes them."""

import base64
import gzip
import hashlib
import html
import json
import math
import re
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch

import tl_circuits as tlc
from tests import models
from tests.graphs import HOSTILE, chain, hostile_graph, random_graph
from tests.test_command_line import run
from tl_circuits.intervention.report import InterventionReport
from tl_circuits.page import Card
from tl_circuits.page.document import ASSETS, document, viewer
from tl_circuits.page.frame import Frame

EMPTY_RUN: dict[str, Any] = {
    "interventions": [], "mode": "direct", "layers": [0, 1], "tokens": ["x"], "before": [], "after": [], "moved": [],
}  # fmt: skip

BUDGET = 120 * 1024
"""What the viewer may weigh, compressed."""


class Elements(HTMLParser):
    """The elements of a document and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def unpacked(page: str, name: str) -> bytes:
    (text,) = (text for attributes, text in Elements(page).all("script") if attributes.get("id") == name)
    return gzip.decompress(base64.b64decode(text))


def work(page: str) -> dict[str, Any]:
    return json.loads(unpacked(page, "page-data"))["work"]


# What a page holds


def test_the_graph_s_own_file_is_in_the_page(tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    page = tlc.save_page(graph, tmp_path / "graph.html").read_text(encoding="utf-8")
    inside = tmp_path / "inside.graph"
    inside.write_bytes(unpacked(page, "graph-data"))
    found = tlc.load_graph(inside)
    assert torch.equal(found.adjacency(), graph.adjacency())
    assert found.labels == graph.labels
    assert found.provenance == graph.provenance
    assert found.scores() == graph.scores()


def test_the_same_graph_makes_the_same_page() -> None:
    assert document(random_graph(3)) == document(random_graph(3))


def test_nothing_in_a_page_points_elsewhere() -> None:
    elements = Elements(document(hostile_graph(), title=HOSTILE[0])).found
    for tag, attributes, _ in elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not attributes.keys() & {"src", "href", "srcset", "action", "style"}
        assert not [name for name in attributes if name.startswith("on")]


def test_only_the_viewer_may_run() -> None:
    elements = Elements(document(hostile_graph()))
    (policy,) = (
        attributes["content"] or ""
        for attributes, _ in elements.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for content, kind in zip(viewer(), ("script-src", "style-src"), strict=True):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert [text.strip() for attributes, text in elements.all("script") if not attributes] == [viewer()[0]]
    assert [text.strip() for _, text in elements.all("style")] == [viewer()[1]]


def test_hostile_words_are_not_in_the_markup() -> None:
    graph = hostile_graph()
    card = Card([(HOSTILE[0], 1.0)], (), [([HOSTILE[1]], [0.5])])
    cards = {(feature.layer, feature.index): card for feature in graph.nodes.features()}
    page = document(graph, title="</title><script>alert(1)</script>\u2028\ud800", cards=cards)
    outside = page.replace(viewer()[0], "").replace(viewer()[1], "")
    assert "alert(1)" in outside
    assert len(re.findall("<script", outside)) == 3
    assert "onerror" not in outside
    (title,) = (text.strip() for _, text in Elements(page).all("title"))
    assert title == "</title><script>alert(1)</script>\\u2028\\ud800"


def test_the_viewer_keeps_within_its_budget() -> None:
    size = sum(len(gzip.compress(content.encode(), mtime=0)) for content in viewer())
    assert size <= BUDGET, f"{size / 1024:.1f} KiB"


def test_the_viewer_brings_the_licences_of_what_it_is_made_of() -> None:
    text = (ASSETS / "LICENSES.txt").read_text(encoding="utf-8")
    for name in ("preact", "@preact/signals", "d3-zoom", "d3-quadtree", "d3-selection"):
        assert re.search(rf"^{name} \d+\.\d+\.\d+ \((MIT|ISC)\)$", text, re.MULTILINE), name


def test_the_lock_file_names_no_place_but_the_public_registry() -> None:
    lock = json.loads((ASSETS.parent / "viewer" / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        assert not package.get("link"), name
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/"), name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_a_page_starts_with_what_is_asked_for() -> None:
    graph = random_graph(3, n_features=9)
    first, second, third = map(str, graph.nodes.features()[:3])
    asked = {"pinned": [first, "token@-1"], "supernodes": {"pair": [second, 2]}, "nodes": 0.5, "edges": 1.0}
    found = work(document(graph, **asked))
    assert found["pins"] == [first, "token@2", second, third]
    assert found["supernodes"] == [{"label": "pair", "members": [second, third]}]
    assert (found["nodes"], found["edges"]) == (0.5, 1.0)
    assert work(document(graph)) == {"pins": [], "supernodes": []}


def test_json_of_a_pruned_graph_is_shown_whole_and_its_scores_say_what_they_are_of(tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    graph.prune(0.8, 0.9).to_json(tmp_path / "cut.json")
    graph.to_json(tmp_path / "whole.json")
    cut, whole = tlc.load_graph(tmp_path / "cut.json"), tlc.load_graph(tmp_path / "whole.json")
    assert (cut.cut_before, whole.cut_before) == (True, False)
    shown = work(document(cut))
    assert (shown["nodes"], shown["edges"]) == (1, 1)
    assert "nodes" not in work(document(whole))
    assert work(document(cut, nodes=0.5))["nodes"] == 0.5
    said = "of what the file holds alone: what was pruned before is not counted"
    assert said in cut.scores().note
    assert said not in whole.scores().note
    assert "before it was written as JSON" in str(cut)
    assert not tlc.load_graph(graph.prune(0.8, 0.9).save(tmp_path / "cut.graph")).cut_before


def test_a_page_is_called_as_browsers_know_it(tmp_path: Path) -> None:
    with pytest.raises(
        tlc.SettingError, match=r"a.txt' is a page's file and browsers go by its name: call it '.*a.html'"
    ):
        tlc.save_page(random_graph(3), tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_page_to_write(tmp_path: Path) -> None:
    result = run("page", str(tmp_path))
    assert result.exit_code == 1
    assert "is a folder: give a graph's file, or --serve" in " ".join(result.stderr.split())


def test_a_node_stands_in_one_supernode() -> None:
    graph = random_graph(3, n_features=9)
    name = str(graph.nodes[0])
    with pytest.raises(tlc.SettingError, match=r"is in the supernodes 'x' and 'y': a node stands in one"):
        document(graph, supernodes={"x": [name], "y": [name]})
    document(graph, supernodes={"x": [name, name]})


def test_cards_of_other_graphs_stay_out() -> None:
    graph = chain()
    card = Card([(" Austin", 2.0)], [(" Salem", -1.5)], [(["a", "b"], [0.0, 1.23456])])
    cards = json.loads(unpacked(document(graph, cards={(0, 5): card, (7, 7): card}), "page-data"))["cards"]
    assert cards == {
        "0/5": {
            "top_logits": [[" Austin", 2.0]],
            "bottom_logits": [[" Salem", -1.5]],
            "examples": [{"tokens": ["a", "b"], "activations": [0.0, 1.2346]}],
        }
    }


def test_the_live_page_of_the_documentation_has_this_viewer() -> None:
    page = (ASSETS.parents[2] / "docs" / "live" / "dallas.html").read_text(encoding="utf-8")
    fresh = "run `tl-circuits demo --out FOLDER`, and take dallas.html of that folder to docs/live"
    assert viewer()[0] in page, fresh
    assert viewer()[1] in page, fresh


@pytest.mark.slow
def test_interventions_and_a_difference_are_recorded() -> None:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(4), ())
    graph = tlc.attribute(local)
    first = local.active()[0]
    result = tlc.intervene(local, [tlc.Intervention(first, scale=-1)])
    page = document(graph, interventions={"off": result}, compare=graph.prune(0.5, 0.8))
    beside = json.loads(unpacked(page, "page-data"))
    (run,) = beside["runs"]
    assert (run["name"], run["interventions"]) == ("off", [f"{first} scale=-1"])
    assert [token["probability"] for token in run["before"]] == [t.probability for t in result.top_before()]
    assert run["moved"]
    # What the command prints is as good.
    printed = json.loads(json.dumps(InterventionReport(result).to_dict()))
    assert json.loads(unpacked(document(graph, interventions={"off": printed}), "page-data"))["runs"] == [run]
    gone = [one for one in beside["diff"]["nodes"] if one["there"] is None]
    assert beside["diff"]["only_here"] >= len(gone) > 0
    assert {one["here"] for one in gone} <= {str(graph.nodes[row]) for row in range(len(graph.nodes))}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([1], r"interventions=\[1\]: give a name and what tlc.intervene returned"),
        ({"a": 5}, r"interventions\['a'\]=5: give what tlc.intervene returned"),
        ({"a": {"mode": "x"}}, r"interventions\['a'\] is no intervention: see interventions, layers, tokens"),
        ({"a": {**EMPTY_RUN, "before": [{"text": "a", "probability": "b"}]}}, "no intervention: see before"),
        ({"a": {**EMPTY_RUN, "after": [{"text": "a", "probability": 10**400}]}}, "no intervention: see after"),
        ({"a": {**EMPTY_RUN, "continuation": math.nan}}, "no intervention: see continuation"),
        ({"a": {**EMPTY_RUN, "moved": [3]}}, "no intervention: see moved"),
        ({"a": EMPTY_RUN}, r"is of another prompt: 'x', not '<bos>'. Give interventions on the graph's own"),
    ],
)
def test_interventions_that_are_none_of_this_prompt_are_refused(
    monkeypatch: pytest.MonkeyPatch, runs: Any, says: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(tlc.SettingError, match=says):
        document(chain(), interventions=runs)


def test_labels_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b'layer,index,label\r\n2,623,"say ""Austin"", now"\r\n0,1,\'=1+1\r\n')
    assert tlc.load_labels(path) == {(2, 623): 'say "Austin", now', (0, 1): "=1+1"}
    for text, says in (
        ("a,b\n", "does not begin with layer,index,label"),
        ("layer,index,label\n2,x,a\n3,4\n", r"2 labels in .* row 0 is \[2, 'x', 'a'\]; row 1 is \[3, 4\]"),
        ('layer,index,label\n2,3,"a', "cannot be read as CSV"),
    ):
        path.write_text(text)
        with pytest.raises(tlc.FileError, match=says):
            tlc.load_labels(path)


# What is refused


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"nodes": 0.0}, r"nodes=0.0 is no share of influence: give 0 < nodes <= 1"),
        ({"edges": 1.5}, r"edges=1.5 is no share of influence"),
        ({"pinned": "L0/5@0"}, r"pinned='L0/5@0': give a list of nodes"),
        ({"supernodes": {"a": "L0/5@0"}}, r"supernodes\['a'\]='L0/5@0': give a list"),
        ({"max_edges": 0}, r"save_page\(max_edges=0\): ask for at least 1"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(tlc.SettingError, match=says):
        document(chain(), **asked)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"top_logits": [("a", float("nan"))]}, r"top_logits holds \('a', nan\): give \(token, effect\)"),
        ({"examples": [(["a"], [1.0, 2.0])]}, r"examples holds .* of equal length"),
    ],
)
def test_a_card_that_cannot_be_is_refused(card: dict[str, Any], says: str) -> None:
    with pytest.raises(tlc.SettingError, match=says):
        Card(**card)


def test_a_graph_too_large_is_refused_with_the_numbers(tmp_path: Path) -> None:
    graph = chain()
    with pytest.raises(
        tlc.GraphError, match=rf"has {len(graph.edges)} edges, a page takes 3.*graph.prune\(0.95, 0.99\)"
    ):
        tlc.save_page(graph, tmp_path / "x.html", max_edges=3)


def test_nodes_that_the_graph_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tlc.GraphError, match="L0/99@0"):
        tlc.save_page(chain(), tmp_path / "x.html", pinned=["L0/99@0"])
    assert not (tmp_path / "x.html").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tlc.FileError, match=r"cannot be written.*Give a file name"):
        tlc.save_page(chain(), tmp_path / "no" / "x.html")


# Showing it


def test_a_notebook_s_frame_is_sandboxed_and_holds_the_page() -> None:
    page = document(hostile_graph())
    text = Frame(page, 500)._repr_html_()
    ((attributes, _),) = Elements(text).all("iframe")
    assert attributes["sandbox"] == "allow-scripts allow-downloads allow-popups allow-modals"
    assert attributes["srcdoc"] == page
    assert "height:500px" in (attributes["style"] or "")
    assert html.escape(page) in text


def test_show_displays_a_frame_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    tlc.show(chain(), height=444, title="small")
    (frame,) = shown
    assert "height:444px" in frame._repr_html_()
    with pytest.raises(tlc.SettingError, match=r"show\(height=0\)"):
        tlc.show(chain(), height=0)


def test_show_opens_a_browser_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    tlc.show(chain())
    (address,) = opened
    assert Path(address.removeprefix("file://")).read_text(encoding="utf-8") == document(chain())


# The command


def test_the_command_writes_a_page_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    file = random_graph(3).save(tmp_path / "some.graph")
    result = run("page", str(file), "--open")
    assert result.exit_code == 0, result.output
    assert "some.html" in result.stdout.replace("\n", "")
    assert opened == [(tmp_path / "some.html").resolve().as_uri()]
    assert (tmp_path / "some.html").read_text(encoding="utf-8") == document(random_graph(3))


def test_the_command_takes_labels_and_sliders(tmp_path: Path) -> None:
    file, labels, out = chain().save(tmp_path / "some.graph"), tmp_path / "labels.json", tmp_path / "page.html"
    labels.write_text(json.dumps({"format": "tl_circuits.labels", "version": "1", "labels": [[0, 5, "Texas"]]}))
    result = run("page", str(file), "-o", str(out), "--labels", str(labels), "--nodes", "0.5", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"page": str(out), "bytes": out.stat().st_size, "nodes": 11, "edges": 6}
    text = out.read_text(encoding="utf-8")
    assert work(text)["nodes"] == 0.5
    (tmp_path / "inside.graph").write_bytes(unpacked(text, "graph-data"))
    assert tlc.load_graph(tmp_path / "inside.graph").labels == {(0, 5): "Texas"}


def test_the_command_takes_the_json_of_a_viewer_and_what_was_put_together_there(tmp_path: Path) -> None:
    graph = random_graph(3, n_features=9)
    first, second, third = map(str, graph.nodes.features()[:3])
    graph.to_json(tmp_path / "some.json", pinned=[third], supernodes={"pair": [first, second]})
    result = run("page", str(tmp_path / "some.json"))
    assert result.exit_code == 0, result.output
    found = work((tmp_path / "some.html").read_text(encoding="utf-8"))
    assert found["supernodes"] == [{"label": "pair", "members": [first, second]}]
    assert sorted(found["pins"]) == sorted([first, second, third])


def test_the_command_takes_interventions_and_another_graph(tmp_path: Path) -> None:
    file, run_file = random_graph(3).save(tmp_path / "a.graph"), tmp_path / "off.json"
    other = random_graph(4).save(tmp_path / "b.graph")
    run_file.write_text(json.dumps({**EMPTY_RUN, "tokens": list(random_graph(3).tokens)}))
    result = run("page", str(file), "--intervention", str(run_file), "--compare", str(other))
    assert result.exit_code == 0, result.output
    beside = json.loads(unpacked((tmp_path / "a.html").read_text(encoding="utf-8"), "page-data"))
    assert [one["name"] for one in beside["runs"]] == ["off"]
    assert beside["diff"]["only_here"] > 0
    run_file.write_text("[")
    result = run("page", str(file), "--intervention", str(run_file))
    assert result.exit_code == 1
    assert "off.json" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["missing.graph"], 1, "missing.graph"),
        (["missing.graph", "--nodes", "2"], 2, "2 is no share"),
        (["missing.graph", "-o", "no/where.html"], 1, "no/where.html"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, says: str) -> None:
    result = run("page", *arguments)
    assert result.exit_code == code
    assert says in result.stderr.replace("\n", " ")
