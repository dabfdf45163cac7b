"""A hand-built circuit of five features, all of them linear where they are active: ablation has known answers."""

from dataclasses import replace
from functools import cache

import torch

import tl_circuits as tlc
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.transcoder import CrossLayerTranscoder, ReLU
from tl_circuits.zoo.compiled import (
    ASK,
    BOS,
    NO,
    YES,
    A,
    Compiled,
    _edge,
    _feature,
    _Head,
    _logit,
    _Plan,
    _prompt,
    _Unit,
)

# What each feature does to the answer, by layer and index: two chains, and one feature that writes it straight.
TO_ANSWER = {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 0.5, (1, 0): 1.0, (1, 1): 2.0}


@cache
def ladder() -> Compiled:
    """Word → (attention) → two chains of two features and one feature alone → answer, at the question mark."""
    neurons = (
        (
            _Unit({"at ask: a": 1}, {"left": 1}),
            _Unit({"at ask: a": 1}, {"right": 2}),
            _Unit({"at ask: a": 1}, {"answer": 0.5}),
        ),
        (_Unit({"left": 1}, {"answer": 1}), _Unit({"right": 1}, {"answer": 1})),
    )
    plan = _Plan(
        embeds={A: {"a": 1}},
        heads=((_Head(2, 1, {"a": ("at ask: a", 1)}),), ()),
        neurons=neurons,
        features=neurons,
        unembeds={YES: {"answer": 1}, NO: {"answer": -1}},
    )
    edges = tuple(_edge(_feature(layer, 2, index), _logit(2, YES), w) for (layer, index), w in TO_ANSWER.items())
    return plan.compile(_prompt([BOS, A, ASK], YES, edges))


def local(compiled: Compiled | None = None) -> LocalReplacementModel:
    """The local replacement model of a compiled circuit's first prompt."""
    compiled = ladder() if compiled is None else compiled
    return tlc.localize(compiled.model, compiled.transcoder, compiled.prompts[0].tokens)


def graph(compiled: Compiled | None = None) -> AttributionGraph:
    """Its graph, with the answer as the target."""
    compiled = ladder() if compiled is None else compiled
    return tlc.attribute(local(compiled), [compiled.prompts[0].answer])


def with_edge(given: AttributionGraph, source: str, target: str, weight: float) -> AttributionGraph:
    """The graph with one of its edges changed to what the model does not do."""
    edges, row, column = given.edges, given.nodes.row_named(target), given.nodes.row_named(source)
    changed = torch.where((edges.target == row) & (edges.source == column), weight, edges.weight)
    return replace(given, edges=replace(edges, weight=changed))


def collapsed(compiled: Compiled) -> CrossLayerTranscoder:
    """The transcoder of a chain whose first features write both of its steps, the second ones nothing."""
    plain = compiled.transcoder
    first, second = plain.W_dec[0].clone(), plain.W_dec[1]
    # On the prompt the chain's second feature is what the first one writes to it, over its own activation.
    for row, activation in ((0, 2.0), (1, 1.0)):
        after = float(first[row, 0] @ plain.W_enc[1][row] * activation + plain.b_enc[1][row])
        first[row, 1] = second[row, 0] * after / activation
    return CrossLayerTranscoder(
        list(plain.W_enc), list(plain.b_enc), [first, torch.zeros_like(second)], plain.b_dec, activation=ReLU()
    )


def feature_rows(given: AttributionGraph) -> dict[tuple[int, int], int]:
    """The row of each feature by layer and index."""
    ids = [given.nodes[row] for row in range(given.nodes.count(Kind.FEATURE))]
    return {(node.layer, node.index): row for row, node in enumerate(ids)}
