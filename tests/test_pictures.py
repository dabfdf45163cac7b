"""Pictures: what is in them, that nothing is shown unasked, and what is refused."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy
import pytest
import torch
from hypothesis import given, settings

import tl_circuits as tlc
from tests import models
from tests.graphs import HOSTILE, Recipe, chain, hostile_graph, random_graph, recipes
from tests.test_refusals import refusal
from tl_circuits.intervention.result import InterventionResult
from tl_circuits.nodes import Kind
from tl_circuits.pictures.attention import attention_from
from tl_circuits.pictures.canvas import NEGATIVE, POSITIVE
from tl_circuits.pictures.errors import error_shares

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("shown unasked"))
    yield pyplot
    pyplot.close("all")


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for those who run without type checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def result() -> InterventionResult:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(5), ())
    return tlc.intervene(local, [tlc.Intervention(local.active()[0], scale=-4)])


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def lines(svg: str, colour: str) -> list[ElementTree.Element]:
    return [path for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("stroke") == colour]


# Of a graph


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "hooked"), ("gpt2", "bridge"), ("llama", "bridge")])
def test_attention_is_the_model_s_own_from_one_token(family: str, kind: Any) -> None:
    model = models.model_of(family, kind)
    local = tlc.localize(model, models.transcoder(), torch.arange(5), ())
    _, cache = model.run_with_cache(torch.arange(5)[None])
    for pos in (0, 3, 4):
        found = attention_from(local, pos)
        expected = [cache[f"blocks.{layer}.attn.hook_pattern"][0, :, pos, : pos + 1] for layer in range(local.n_layers)]
        torch.testing.assert_close(found, torch.stack(expected).float())
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


@pytest.mark.slow
def test_an_attention_plot_has_a_row_for_each_head(pyplot: Any, tmp_path: Path) -> None:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(5), ())
    axes = tlc.plot_attention(local, path=tmp_path / "heads.png", pos=3, layers=[2, 0])
    n_heads = local.model.cfg.n_heads
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"L{layer}H{head}" for layer in (2, 0) for head in range(n_heads)
    ]
    shown = torch.tensor(numpy.asarray(axes.images[0].get_array()))
    torch.testing.assert_close(shown, attention_from(local, 3)[[2, 0]].flatten(0, 1))
    assert len(axes.get_xticklabels()) == 4
    assert "position 3" in axes.get_title(loc="left")
    assert (tmp_path / "heads.png").stat().st_size > 1000
    assert not pyplot.get_fignums()


@pytest.mark.usefixtures("pyplot", "untyped")
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"pos": 5}, "pos=5 lies outside the prompt of 5 tokens: give one of them, say -1"),
        ({"pos": True}, "pos=True lies outside"),
        ({"layers": [0, 9]}, r"layers=\[0, 9\]: give a list of layers of the model, which has 3, say \[0, 2\]"),
        ({"layers": []}, r"layers=\[\]: give a list"),
        ({"layers": 1}, "layers=1: give a list"),
    ],
)
def test_an_attention_plot_that_cannot_be_is_refused(asked: dict[str, Any], says: str) -> None:
    local = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(5), ())
    with refusal(tlc.SettingError, says):
        tlc.plot_attention(local, **asked)
    with refusal(tlc.SettingError, "5 is no local replacement model: give tlc.localize"):
        tlc.plot_attention(5)  # type: ignore


@pytest.mark.usefixtures("pyplot")
def test_a_plot_has_the_strongest_edges_by_sign_and_all_tokens() -> None:
    graph = random_graph(3, n_features=9)
    axes: Any = tlc.plot(graph, max_edges=7)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(graph.tokens)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tokens", "L0", "L1", "L2", "output"]
    drawn = [collection for collection in axes.collections if hasattr(collection, "get_segments")]
    assert sum(len(collection.get_segments()) for collection in drawn) == 7
    dashes = [collection.get_linestyles()[0][1] for collection in drawn if len(collection.get_segments())]
    assert dashes[0] is None
    assert dashes[-1] is not None
    named = [text.get_text() for text in axes.texts]
    assert len(named) == 2
    assert named[0].startswith("word")


@pytest.mark.usefixtures("pyplot")
def test_a_plot_names_the_most_influential_features_and_no_formulas() -> None:
    graph = hostile_graph()
    graph = graph.with_labels(dict.fromkeys(graph.labels, "a $\\frac{1}{$ of\nsome length that is too long"))
    axes: Any = tlc.plot(graph, n_labels=2)
    axes.get_figure().canvas.draw()
    assert [text.get_text()[:5] for text in axes.texts].count("a \\$\\") == 2
    assert not any("\n" in text.get_text() for text in axes.texts)


@pytest.mark.slow
def test_plots_draw_on_the_axes_they_are_given_and_write_the_file_they_are_named(pyplot: Any, tmp_path: Path) -> None:
    graph = random_graph(3)
    _, axes = pyplot.subplots()
    assert tlc.plot(graph, axes) is axes
    assert tlc.plot_error_share(graph, ax=axes) is axes
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        before = pyplot.get_fignums()
        tlc.plot(graph, path=tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
        # What is written is kept by nobody.
        assert pyplot.get_fignums() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "a.svg"]


@pytest.mark.slow
@settings(max_examples=10)
@given(recipes)
def test_error_shares_are_what_replacement_lacks(recipe: Recipe) -> None:
    graph = recipe()
    for some in (graph, graph.prune(0.5, 0.8)):
        replacement = some.scores().replacement
        by_layer, beyond = error_shares(some)
        if replacement == replacement:
            assert float(by_layer.sum()) + beyond == pytest.approx(1 - replacement, abs=1e-9)


def test_an_error_plot_has_a_bar_for_each_layer(pyplot: Any) -> None:
    graph = random_graph(3)
    bars: Any = tlc.plot_error_share(graph).patches
    assert [bar.get_height() for bar in bars] == pytest.approx(error_shares(graph)[0].tolist())
    assert [label.get_text() for label in pyplot.gca().get_xticklabels()] == ["L0", "L1", "L2"]


# Of interventions


@pytest.mark.usefixtures("pyplot")
def test_an_intervention_plot_has_probabilities_before_and_after(result: InterventionResult) -> None:
    axes: Any = tlc.plot_intervention({"off": result, "again": result}, k=3)
    containers: Any = axes.containers
    before, off, again = containers
    tokens = [label.get_text().strip("“”") for label in axes.get_yticklabels()]
    chances = result.logits_before[-1].softmax(-1)
    assert [bar.get_width() for bar in before] == pytest.approx([float(chances[int(token)]) for token in tokens])
    changed = result.logits[-1].softmax(-1)
    assert [bar.get_width() for bar in off] == pytest.approx([float(changed[int(token)]) for token in tokens])
    assert [bar.get_width() for bar in again] == [bar.get_width() for bar in off]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "off", "again"]
    # Told apart in black and white too.
    assert off.patches[0].get_hatch() != again.patches[0].get_hatch()
    assert len(tlc.plot_intervention(result).containers) == 2


@pytest.mark.usefixtures("pyplot", "untyped")
def test_what_is_no_result_is_refused(result: InterventionResult) -> None:
    with refusal(tlc.SettingError, "5 is no result: give what tlc.intervene returned"):
        tlc.plot_intervention({"a": 5})  # pyright: ignore[reportArgumentType]
    with refusal(tlc.SettingError, "{} is no result"):
        tlc.plot_intervention({})
    other = tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(4), ())
    with refusal(tlc.SettingError, "results of 2 prompts: plot those of one prompt"):
        tlc.plot_intervention({"a": result, "b": tlc.intervene(other, [])})
    with refusal(tlc.SettingError, "Position 7 lies outside the prompt of 5 tokens"):
        tlc.plot_intervention(result, pos=7)


# Subgraphs


def test_a_subgraph_s_ties_are_shares_of_inputs_with_their_signs() -> None:
    svg = tlc.subgraph_svg(chain(error=1.0), {"first": ["L0/5@0"], "second": ["L1/6@0"]})
    # token → first +100 %, first → second −75 % (an error is the rest), second → target +75 %
    assert sorted(text for text in texts(svg) if text[-1] == "%") == ["+100%", "+75%", "−75%"]
    assert {"first", "second", "word0", "<bos>"} <= set(texts(svg))
    assert [line.get("stroke-dasharray") for line in lines(svg, NEGATIVE)] == ["6 4", "6 4"]
    assert [line.get("stroke-dasharray") for line in lines(svg, POSITIVE)] == [None, None, None]
    assert "subtracts" in texts(svg)
    assert "subtracts" not in texts(tlc.subgraph_svg(chain(), {"a": ["L0/5@0"]}, legend=False))


def test_a_tie_between_supernodes_is_a_mean_by_influence() -> None:
    graph = random_graph(8, n_features=14, n_layers=4, density=1.0)
    features = graph.nodes.features()
    low, high = ([str(f) for f in features if f.layer == layer] for layer in (0, 3))
    svg = tlc.subgraph_svg(graph, {"low": low, "high": high}, least=1e-6)
    influence = graph.influence().tolist()
    flow = {str(graph.nodes[row]): value for row, value in enumerate(influence)}
    part = 0.0
    for row in graph.to_pandas().edges.to_dict("records"):
        if row["source"] in low and row["target"] in high:
            sign = 1 if row["weight"] > 0 else -1
            part += sign * row["share"] * flow[row["target"]] / sum(flow[name] for name in high)
    assert f"{'−' if part < 0 else '+'}{abs(part):.0%}" in texts(svg)


def test_layers_go_up_and_tokens_across() -> None:
    graph = random_graph(3, n_features=9)
    boxes = [str(feature) for feature in graph.nodes.features()]
    root = ElementTree.fromstring(tlc.subgraph_svg(graph, {}, pinned=[*boxes, "token@0", "token@1", "token@2"]))
    y = {(g[0].text or ""): float(g[1].get("y", 0)) for g in root.iter(f"{SVG}g")}
    heights = [{y[str(f)] for f in graph.nodes.features() if f.layer == layer} for layer in range(3)]
    assert all(len(height) == 1 for height in heights)
    assert [*heights, {y["target 0@2"]}] == sorted([*heights, {y["target 0@2"]}], key=lambda height: -min(height))
    x = [float(g[1].get("x", 0)) for g in root.iter(f"{SVG}g") if (g[0].text or "").startswith("token")]
    assert x == sorted(x)


def test_hostile_labels_are_text(tmp_path: Path) -> None:
    graph = hostile_graph()
    groups = {label or "none": [str(f)] for label, f in zip(HOSTILE, graph.nodes.features(), strict=False)}
    svg = tlc.subgraph_svg(graph, groups, tmp_path / "a.svg", pinned=["token@0"])
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == svg
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
    assert tags == {"svg", "title", "rect", "path", "text", "g"}
    assert not [name for e in ElementTree.fromstring(svg).iter() for name in e.keys() if name.startswith("on")]
    assert "</script><script>" in texts(svg)
    # Two code points that are no characters, which XML does not hold.
    odd = replace(graph, provenance=replace(graph.provenance, prompt="a\ufffe\uffff\x1b"))
    assert ElementTree.fromstring(tlc.subgraph_svg(odd, groups))[0].text == "a���"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"supernodes": {}}, tlc.SettingError, "nothing to draw: give supernodes="),
        ({"supernodes": {"a": "L0/5@0"}}, tlc.SettingError, "give a label and a list of nodes"),
        ({"supernodes": {"a": ["L9/9@0"]}}, tlc.GraphError, "no node L9/9@0"),
        (
            {"supernodes": {"a": ["L0/5@0"], "b": ["L0/5@0"]}},
            tlc.SettingError,
            "supernodes 'a' and 'b': put it into one",
        ),
        ({"supernodes": {}, "pinned": "L0/5@0"}, tlc.SettingError, "pinned='L0/5@0': give a list"),
        ({"supernodes": {"a": [0]}, "least": 0.0}, tlc.SettingError, r"least=0.0\): the smallest part"),
        ({"supernodes": {"a": [0]}, "path": "no/where/a.svg"}, tlc.FileError, "cannot be written"),
    ],
)
def test_a_subgraph_that_cannot_be_is_refused(asked: dict[str, Any], error: type[Exception], says: str) -> None:
    with refusal(error, says):
        tlc.subgraph_svg(chain(), **asked)


@pytest.mark.usefixtures("pyplot", "untyped")
def test_what_cannot_be_plotted_is_refused(tmp_path: Path) -> None:
    plot: Any = tlc.plot
    with refusal(tlc.SettingError, "3 is no graph: give what tlc.trace"):
        plot(3)
    with refusal(tlc.SettingError, "ax=5 are no axes: give those of matplotlib"):
        plot(chain(), 5)
    with refusal(tlc.SettingError, r"plot\(max_edges=-1\): give a whole number from 0"):
        plot(chain(), max_edges=-1)
    with refusal(tlc.FileError, "of no kind that matplotlib writes: give a name that ends in .png"):
        plot(chain(), path=tmp_path / "a.docx")
    with refusal(tlc.FileError, "cannot be written"):
        plot(chain(), path=tmp_path / "no" / "a.png")


@pytest.mark.slow
def test_without_matplotlib_what_to_install_is_said_and_svg_is_drawn() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import tl_circuits as tlc
from tests.graphs import chain
assert "supernode" not in tlc.subgraph_svg(chain(), {"a": ["L0/5@0"]})
try:
    tlc.plot(chain())
except tlc.SettingError as error:
    print(error)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "pip install 'tl-circuits[plot]'" in process.stdout, process.stderr


@pytest.mark.usefixtures("pyplot")
def test_a_graph_of_one_layer_and_one_token_is_drawn() -> None:
    graph = random_graph(0, n_layers=1, n_pos=1, n_features=0, n_targets=1)
    assert graph.nodes.count(Kind.FEATURE) == 0
    assert tlc.plot(graph).get_figure() is not None
    assert tlc.plot_error_share(graph).get_figure() is not None
    assert "word0" in tlc.subgraph_svg(graph, {}, pinned=["token@0"])


# Of circuits


def curve_of(basis: str, values: Sequence[float] = (0, 0.5, 1), **settings: Any) -> tlc.CircuitCurve:
    """A curve of two prompts that measure 4 in the model and 0 in the empty circuit."""
    shares = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 2)
    prompts = torch.ones(2, dtype=torch.float64)
    named: dict[str, Any] = {"task": "two-hop", "scorer": "ig-inputs", "errors": "corrupted"} | settings
    return tlc.CircuitCurve(
        basis=basis,
        sizes=(0, *(4**power for power in range(1, len(values)))),
        faithful=4 * shares,
        complete=4 * (1 - shares),
        answered=shares > 0.5,
        empty=0 * prompts,
        whole=4 * prompts,
        **named,
    )


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()][:-3]


def test_curves_stand_by_size_with_completeness_dotted_below_the_line_of_the_model(pyplot: Any, tmp_path: Path) -> None:
    curves = [curve_of("CLT"), curve_of("neurons", (0, 0.25, 0.5, 1))]
    axes: Any = tlc.plot_curves(curves, path=tmp_path / "curves.png")
    colours = set()
    for curve in curves:
        at = tuple(1 + size for size in curve.sizes)
        solid, dotted = (
            next(line for line in axes.lines if tuple(line.get_xdata()) == at and line.get_linestyle() == style)
            for style in ("-", ":")
        )
        assert list(solid.get_ydata()) == curve.faithfulness.tolist()
        assert list(dotted.get_ydata()) == curve.completeness.tolist()
        assert solid.get_color() == dotted.get_color()
        colours.add(solid.get_color())
    assert len(colours) == 2
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "4", "16", "64"]
    assert any(list(line.get_ydata()) == [1, 1] for line in axes.lines)
    assert axes.get_title(loc="left") == "two-hop, ig-inputs, errors corrupted"
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert not pyplot.get_fignums()


@pytest.mark.slow
@pytest.mark.usefixtures("pyplot")
def test_the_legend_stands_outside_of_the_axes_and_within_the_picture() -> None:
    axes: Any = tlc.plot_curves([curve_of("_x", scorer=f"a scorer of some name, number {n}") for n in range(12)])
    figure = axes.get_figure()
    figure.canvas.draw()
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 > axes.get_window_extent().x1
    assert legend.x1 < figure.bbox.x1
    assert legend.y0 > figure.bbox.y0
    assert axes.get_window_extent().width > figure.bbox.width / 3
    # Each has a look of its own, and none is left out.
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() not in ("None", "")}
    assert len(looks) == len(legend_of(axes)) == 12
    assert tlc.plot_curves(curve_of("CLT"), axes) is axes


@pytest.mark.usefixtures("pyplot")
def test_curves_are_named_by_that_in_which_they_differ() -> None:
    curves = [
        curve_of("CLT"),
        curve_of("CLT", attention="frozen"),
        curve_of("CLT", task="$sums_1$", found_on="others"),
    ]
    assert legend_of(tlc.plot_curves(curves)) == [
        "CLT, two-hop, attention running",
        "CLT, two-hop, attention frozen",
        "CLT, \\$sums_1\\$, attention running, one circuit,\nfound on others",
    ]
    assert legend_of(tlc.plot_curves(curves[:1])) == ["CLT"]
    axes: Any = tlc.plot_curves({"seed 0": curves[0], "seed 1": curves[0]})
    assert legend_of(axes) == ["seed 0", "seed 1"]


@pytest.mark.usefixtures("pyplot", "untyped")
@pytest.mark.parametrize(
    ("given_curves", "says"),
    [
        ([], r"\[\] holds no curves: give what tlc.circuit_curve returned"),
        ({}, "{} holds no curves"),
        (5, "5 holds no curves"),
        ("CLT", "'CLT' holds no curves"),
        ([curve_of("CLT"), 5], r"5 is no curve \(1 of 2 are none\): give what tlc.circuit_curve"),
        ([curve_of("CLT"), curve_of("CLT")], "2 of 2 curves would be named 'CLT', .* as {'seed 0': curve}"),
        ({"a" * 60 + end: curve_of("CLT") for end in "bc"}, "2 of 2 curves would be named 'aaa.*of 48 letters at most"),
    ],
)
def test_what_are_no_curves_is_refused(given_curves: Any, says: str) -> None:
    with refusal(tlc.SettingError, says):
        tlc.plot_curves(given_curves)
