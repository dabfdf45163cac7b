"""Which share of effects passes a step, over prompts: effects that cancel must not decide it."""

from collections.abc import Sequence

from tl_circuits import HopCollapse


def mediation(passed: Sequence[HopCollapse]) -> dict[str, float]:
    """The shares mediated in graphs and in the model, each question counted by how large its effect is."""
    told = [each for each in passed if each.graph_effect and each.model_effect]
    if not told:
        return {}
    graph = sum(each.graph * abs(each.graph_effect) for each in told) / sum(abs(each.graph_effect) for each in told)
    model = sum(each.model * abs(each.model_effect) for each in told) / sum(abs(each.model_effect) for each in told)
    return {"mediated, graph": graph, "mediated, model": model, "mediated collapse": abs(graph - model)}
