"""Rankings of features, and of pairs of them, against what ablation does: influence, its baselines, its controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import target_shares
from tl_circuits.intervention.ablation import Ablations
from tl_circuits.intervention.correlation import log_pearson, spearman
from tl_circuits.intervention.prediction import Prediction
from tl_circuits.nodes import Kind

TOP = 5


@dataclass(frozen=True, eq=False)
class Case:
    """One prompt's graph, the rows of the features that were ablated, and the graph's predictions.

    `controls` are predictions of the same graph with its edges shuffled, `dealt` the ablated features' columns dealt
    anew among those of the same layer: each as often as a control is repeated.
    """

    graph: AttributionGraph
    rows: Int64[Tensor, " ablated"]
    prediction: Prediction
    controls: Sequence[Prediction]
    dealt: Sequence[Int64[Tensor, " ablated"]]

    @property
    def layers(self) -> Int64[Tensor, " feature"]:
        """The layer of every feature."""
        return self.graph.nodes.layer[self.graph.nodes.span(Kind.FEATURE)]

    @property
    def activations(self) -> Float64[Tensor, " feature"]:
        """The activation of every feature."""
        return self.graph.activations[self.graph.nodes.span(Kind.FEATURE)].to(torch.float64)

    @property
    def target_shares(self) -> Float64[Tensor, " target"]:
        """The targets' weights, as shares."""
        return target_shares(self.graph.nodes, self.graph.target_weights)[self.graph.nodes.span(Kind.TARGET)]

    def among_layer(self, columns: Float64[Tensor, "*row ablated"]) -> list[Float64[Tensor, "*row ablated"]]:
        """Columns dealt anew among features of the same layer."""
        return [columns[..., order] for order in self.dealt]


def node_figures(case: Case, ablations: Ablations) -> Iterator[tuple[str, float]]:
    """`nodes.{effect}.{ranking}.{statistic}`, `reaching.…`: rankings of features against their effect on the output.

    Effects: `kl`, KL(model ‖ ablated) of the next token, and `target`, the mean |change| of the targets'
    centred logits.
    `top_5` is the summed effect of a ranking's five first as a share of that of the five with the largest effects.
    `reaching.…` is the same among the features that have any influence: others, such as a last layer's at earlier
    positions, have no effect either, and rankings that know as much are right about them at no cost.
    """
    influence = case.prediction.influence[case.rows]
    shares = case.target_shares
    rankings = {
        "influence": [influence],
        "activation": [case.activations[case.rows].abs()],
        "direct_edge": [shares @ case.prediction.direct_on_targets[:, case.rows].abs()],
        "random_in_layer": case.among_layer(influence),
        "shuffled_graph": [control.influence[case.rows] for control in case.controls],
    }
    effects = {"kl": ablations.divergence, "target": shares @ ablations.targets.abs()}
    measures = (("spearman", spearman), ("log_pearson", log_pearson), ("top_5", _top))
    for among, some in (("nodes", influence >= 0), ("reaching", influence > 0)):
        for (name, effect), (ranking, draws) in product(effects.items(), rankings.items()):
            for statistic, measure in measures:
                value = mean(measure(draw[some], effect[some]) for draw in draws)
                yield f"{among}.{name}.{ranking}.{statistic}", value


def pair_figures(case: Case, ablations: Ablations) -> Iterator[tuple[str, float]]:
    """`features.{ranking}.{statistic}`: the influence of features on features, against ablation.

    The effect is |change of the other's activation| / its activation, over the pairs with any influence.
    """
    effect = ablations.activations.abs() / case.activations.abs()[:, None]
    influence = case.prediction.on_features[:, case.rows]
    some = influence > 0
    own = case.activations[case.rows].abs().expand_as(influence)
    rankings: Mapping[str, Sequence[Tensor]] = {
        "influence": [influence],
        "activation": [own],
        "direct_edge": [case.prediction.direct[:, case.rows].abs() / case.activations.abs()[:, None]],
        "random_in_layer": case.among_layer(influence),
        "shuffled_graph": [control.on_features[:, case.rows] for control in case.controls],
    }
    for ranking, draws in rankings.items():
        for statistic, measure in (("spearman", spearman), ("log_pearson", log_pearson)):
            yield f"features.{ranking}.{statistic}", mean(measure(draw[some], effect[some]) for draw in draws)


def mean(values: Iterator[float]) -> float:
    """The mean of what is a number; NaN of nothing."""
    return float(torch.tensor(list(values), dtype=torch.float64).nanmean())


def _top(ranking: Tensor, effect: Tensor) -> float:
    k = min(TOP, len(effect))
    first = ranking.argsort(descending=True, stable=True)[:k]
    largest = effect.topk(k).values.sum()
    return float(effect[first].sum() / largest) if largest > 0 else float("nan")
