"""Curves of graphs' edges: what holds of them by law, and one of them against a pass by hand."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models
from tests.test_comparison import planted, task
from tests.test_refusals import refusal
from tl_circuits.comparison import Task, graph_curve, pruned_to
from tl_circuits.errors import SettingError
from tl_circuits.graph import prune
from tl_circuits.nodes import Kind

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_transcoder = pytest.mark.parametrize(
    "options",
    [
        {},
        {"span": 1},
        {"span": 1, "skip": True},
        {"activation": "relu"},
        {"activation": "topk"},
        {"activation": "batchtopk"},
    ],
)


def turned(asked: Task) -> Task:
    return replace(asked, answer=asked.corrupted_answer, corrupted_answer=asked.answer)


@pytest.mark.slow
@both
@every_transcoder
def test_with_errors_kept_all_edges_are_the_model(options: dict[str, Any], model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    transcoder, asked = models.transcoder(**options), task(model)
    try:
        curve = graph_curve(model, transcoder, asked, errors="kept", sizes=[])
    except SettingError:
        # What a random transcoder's features write may say the other answer.
        curve = graph_curve(model, transcoder, turned(asked), errors="kept", sizes=[])
    torch.testing.assert_close(curve.faithful[-1], curve.whole, atol=1e-6, rtol=0)
    assert float(curve.faithfulness[0]) == 0
    torch.testing.assert_close(curve.complete[-1], curve.faithful[0])


@pytest.mark.slow
def test_without_edges_and_errors_the_last_read_is_the_corrupted_runs_in_the_frozen_model() -> None:
    # Nothing of the clean run is left but attention and norms: so transcoders make no difference.
    model = models.model_of("gpt2", "hooked")
    one, other = (graph_curve(model, models.transcoder(seed=seed), task(model), sizes=[]) for seed in (0, 1))
    torch.testing.assert_close(one.empty, other.empty, atol=1e-6, rtol=0)
    assert float((one.empty - one.whole).abs().min()) > 0.1


@pytest.mark.slow
def test_the_planted_edges_are_the_circuit() -> None:
    made, asked = planted()
    curve = graph_curve(made.model, made.transcoder, asked, sizes=[1, 2], errors="kept")
    # token → feature → feature → answer: fewer than all three carry nothing.
    assert curve.faithfulness.tolist() == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert curve.sizes == (0, 1, 2, 3)
    assert curve.complete[1].tolist() == pytest.approx(curve.empty.tolist(), abs=1e-6)


@pytest.mark.slow
def test_a_graph_has_no_edges_for_what_is_silent_on_its_prompt() -> None:
    # The other word's chain, which says the other answer, is off on the prompt: to graphs it is error.
    made, asked = planted()
    curve = graph_curve(made.model, made.transcoder, asked, sizes=[])
    assert float(curve.faithfulness[-1]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.slow
def test_edges_drawn_at_random_are_a_worse_circuit() -> None:
    model, clt = tlc.demo("hooked")
    question = "the capital of the state containing {} is".format
    asked = tlc.Task.of(model, [(question("Dallas"), question("Oakland"), " Austin", " Sacramento")])
    best, drawn = (graph_curve(model, clt, asked, sizes=[64, 256], random=seed) for seed in (None, 0))
    assert float(best.faithfulness[-1]) == pytest.approx(float(drawn.faithfulness[-1]))
    assert best.cpr > drawn.cpr + 0.05


def test_a_graph_is_cut_to_so_many_features_and_edges() -> None:
    model = models.model_of("gpt2", "hooked")
    local = tlc.localize(model, models.transcoder(), torch.tensor([1, 5, 9, 3, 7]))
    graph = tlc.attribute(local)
    scores = []
    for size in (1, 5, 20, graph.nodes.count(Kind.FEATURE)):
        cut = pruned_to(graph, features=size)
        assert cut.nodes.count(Kind.FEATURE) == size
        scores.append(cut.scores().replacement)
    assert scores[-1] == pytest.approx(graph.scores().replacement)
    assert scores[0] < scores[1] < scores[2] < scores[3]
    fewer = pruned_to(graph, edges=30)
    assert len(fewer.edges) < len(graph.edges)
    counted = fewer.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN)[fewer.edges.source]
    assert int(counted.sum()) == 30
    with refusal(SettingError, r"pruned_to\(features=0\): keep at least 1"):
        pruned_to(graph, features=0)
    with refusal(SettingError, r"pruned_to\(edges=2.5\): keep at least 1, and a whole number"):
        inspect.unwrap(pruned_to)(graph, edges=2.5)


@pytest.mark.slow
def test_what_cannot_be_measured_of_graphs_is_refused() -> None:
    model, clt = models.model_of("gpt2", "hooked"), models.transcoder()
    asked = task(model).part([0])
    with refusal(SettingError, r"sizes=\[-1, 5\]: a circuit has 0 units or more"):
        graph_curve(model, clt, asked, sizes=[-1, 5])
    # The graph without edges does better on these answers than the model.
    with refusal(SettingError, "tells the prompts from their counterfactuals no better", "Check the answers"):
        graph_curve(model, clt, turned(asked), sizes=[])


@pytest.mark.slow
def test_a_graph_cut_to_the_wrong_features_scores_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tlc.trace(*tlc.demo("hooked"), "the capital of the state containing Dallas is")
    influence = prune.node_influence
    with monkeypatch.context() as turned_around:
        turned_around.setattr(prune, "node_influence", lambda *of: influence(*of).max() - influence(*of))
        wrong = graph.prune(nodes=0.5, edges=1.0)
    kept = wrong.nodes.count(Kind.FEATURE)
    assert 8 < kept < graph.nodes.count(Kind.FEATURE) / 2 + 8
    right = pruned_to(graph, features=kept)
    assert right.scores().replacement > wrong.scores().replacement + 0.1
    assert right.scores().completeness > wrong.scores().completeness + 0.05
    assert right.scores().completeness_circuit_tracer > wrong.scores().completeness_circuit_tracer + 0.02
