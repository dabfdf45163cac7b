"""Scores from attribution graphs, for the features of a transcoder: what the graph itself ranks by."""

import torch
from jaxtyping import Float64
from torch import Tensor

from tl_circuits.attribution import Targets, attribute
from tl_circuits.comparison.passes import Scores
from tl_circuits.comparison.task import Task
from tl_circuits.hooks import Model
from tl_circuits.nodes import Kind
from tl_circuits.progress import stage
from tl_circuits.replacement import localize
from tl_circuits.transcoder import CrossLayerTranscoder


def influence_scores(
    model: Model, transcoder: CrossLayerTranscoder, task: Task, *, progress: bool | None = None
) -> Scores:
    """Of each feature its influence on the difference of the two answers' logits, in each prompt's own graph.

    Influence has no sign (Ameisen et al. 2025, "Graph Pruning"). Features that are not active have none.
    """
    found = [torch.zeros(*task.clean.shape, n_features, dtype=torch.float64) for n_features in transcoder.n_features]
    with stage("tracing prompts", len(task), show=progress) as bar:
        for prompt in range(len(task)):
            cells, influence = _influence(model, transcoder, task, prompt)
            for layer in range(len(found)):
                here = cells[:, 0] == layer
                _, pos, index = cells[here].unbind(1)
                found[layer][prompt, pos, index] = influence[here]
            bar.update(1)
    return tuple(found)


def _influence(
    model: Model, transcoder: CrossLayerTranscoder, task: Task, prompt: int
) -> tuple[Tensor, Float64[Tensor, " feature"]]:
    # Nothing is masked: what a circuit is made of is every unit at every position.
    local = localize(model, transcoder, task.clean[prompt], masked_positions=())
    target = Targets.difference(int(task.answer[prompt]), int(task.corrupted_answer[prompt]))
    graph = attribute(local, target, progress=False)
    return local.features.cpu(), graph.influence()[graph.nodes.span(Kind.FEATURE)]
