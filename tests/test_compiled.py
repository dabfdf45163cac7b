"""The hand-built circuits: does the graph find what was planted, and nothing else?"""

import pytest
import torch

from tl_circuits.attribution import trace
from tl_circuits.nodes import Feature, Kind
from tl_circuits.replacement import localize, replace_mlps
from tl_circuits.zoo import compiled


@pytest.fixture(scope="module", params=compiled.CIRCUITS, ids=lambda circuit: circuit.__name__)
def circuit(request: pytest.FixtureRequest) -> compiled.Compiled:
    return request.param()


def test_the_model_answers_as_planned(circuit: compiled.Compiled) -> None:
    for prompt in circuit.prompts:
        assert int(circuit.model(prompt.tokens)[0, -1].argmax()) == prompt.answer


def test_the_transcoder_reproduces_the_mlps_to_the_last_bit(circuit: compiled.Compiled) -> None:
    for prompt in circuit.prompts:
        logits = circuit.model(prompt.tokens)
        with replace_mlps(circuit.model, circuit.transcoder):
            assert torch.equal(circuit.model(prompt.tokens), logits)


@pytest.mark.slow
def test_the_graph_finds_exactly_the_planted_edges(circuit: compiled.Compiled) -> None:
    for prompt in circuit.prompts:
        graph = trace(circuit.model, circuit.transcoder, prompt.tokens, [prompt.answer])
        adjacency = graph.adjacency()
        found = {(graph.nodes[s], graph.nodes[t]): adjacency[t, s].item() for t, s in adjacency.nonzero().tolist()}
        assert found == {(edge.source, edge.target): edge.weight for edge in prompt.edges}


@pytest.mark.slow
def test_the_features_of_the_graph_are_those_of_the_plan(circuit: compiled.Compiled) -> None:
    for prompt in circuit.prompts:
        graph = trace(circuit.model, circuit.transcoder, prompt.tokens, [prompt.answer])
        planned = {node for edge in prompt.edges for node in (edge.source, edge.target) if node.kind == Kind.FEATURE}
        assert {graph.nodes[row] for row in range(graph.nodes.count(Kind.FEATURE))} == planned


@torch.no_grad()
def test_the_planted_inputs_of_the_answer_are_its_logit(circuit: compiled.Compiled) -> None:
    # On paper, without any graph: with no constants, the effects on a centred logit have to sum to it.
    for prompt in circuit.prompts:
        logits = circuit.model(prompt.tokens)[0, -1]
        into = sum(edge.weight for edge in prompt.edges if edge.target.kind == Kind.TARGET)
        assert into == pytest.approx(float(logits[prompt.answer] - logits.mean()))


@pytest.mark.slow
def test_a_gate_that_is_shut_has_no_active_feature() -> None:
    circuit = compiled.conjunction()
    opened, *shut = circuit.prompts
    assert localize(circuit.model, circuit.transcoder, opened.tokens).active() == [Feature(0, 3, 0), Feature(1, 3, 0)]
    for prompt in shut:
        assert localize(circuit.model, circuit.transcoder, prompt.tokens).active() == []
