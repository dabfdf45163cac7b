"""Steps in graphs and in models: how long paths are, and which share of effects passes a layer, over prompts."""

from collections.abc import Sequence

import torch

import tl_circuits as tlc
from tl_circuits import HopCollapse


def mean_path_length(graph: tlc.AttributionGraph) -> float:
    """The mean number of steps to tokens, over the influence that reaches them."""
    reached = graph.path_lengths()
    steps = reached.diff(prepend=reached.new_zeros(1))
    return float((steps * torch.arange(1, len(steps) + 1)).sum() / reached[-1])


def through_layer_1(
    graph: tlc.AttributionGraph, local: tlc.LocalReplacementModel, by_layer: tlc.LocalReplacementModel
) -> HopCollapse | None:
    """What of the effect of layer 0's features at the last token passes layer 1 there; None where either has none.

    In the model it is measured with the features of `by_layer`, whose transcoder writes no other layer.
    """
    first, second, step = (
        [f for f in of.active() if f.layer == layer and f.pos == of.n_pos - 1]
        for of, layer in ((local, 0), (local, 1), (by_layer, 1))
    )
    if not (first and step):
        return None
    return tlc.hop_collapse(graph, local, first, step, mediator_of=by_layer, stands_for=second)


def mediation(passed: Sequence[HopCollapse | None]) -> dict[str, float]:
    """The shares mediated in graphs and in the model, each question counted by how large its effect is.

    Effects that cancel must not decide it.
    """
    told = [each for each in passed if each is not None and each.graph_effect and each.model_effect]
    if not told:
        return {}
    graph = sum(each.graph * abs(each.graph_effect) for each in told) / sum(abs(each.graph_effect) for each in told)
    model = sum(each.model * abs(each.model_effect) for each in told) / sum(abs(each.model_effect) for each in told)
    return {"mediated, graph": graph, "mediated, model": model, "mediated collapse": abs(graph - model)}
