"""A graph's signed effects against ablation: edges, and apart from them what runs through other features.

With attention held, a direct effect is nearly bound to be what the graph says, and with norms held too it is: what is
left to differ are the norms, which run here. Knock-on effects test more: there the model's own MLPs answer.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from tl_circuits.intervention.ablation import Ablations
from tl_circuits.intervention.correlation import log_pearson, sign_agreement, spearman
from tl_circuits.intervention.prediction import Prediction
from tl_circuits.intervention.rankings import Case, mean

STATISTICS = (("spearman", spearman), ("log_pearson", log_pearson), ("sign", sign_agreement))


def edge_figures(case: Case, held: Ablations, own: Ablations) -> Iterator[tuple[str, float]]:
    """`{effect}.{where}.{by}.{statistic}`: predicted and measured change of pre-activations and targets.

    - `direct`: a feature's edge, against ablation with all MLPs held.
    - `total`: what the graph sums over all paths, against ablation where MLPs above the feature's layer run on.
    - `knock_on`: what the graph sums over paths through other features, against measured total less direct; from two
      layers apart on, since before there is none.

    `where` is `layers_1`, `layers_2`, … for features so many layers apart, and `target`. `by` is `graph`, or a control
    (`shuffled_graph`, `random_in_layer`), or, for totals, the baseline `direct_edge` alone. Pairs without a predicted
    effect are left out.
    """
    for where, rows, apart in _places(case):
        for effect in ("direct", "total", "knock_on"):
            if effect == "knock_on" and apart is not None and apart < 2:
                continue
            measured = _measured(effect, rows is None, held, own)
            predicted = _predicted(effect, rows is None, case.prediction)[:, case.rows]
            controls = [_predicted(effect, rows is None, control)[:, case.rows] for control in case.controls]
            by = {"graph": [predicted], "shuffled_graph": controls, "random_in_layer": case.among_layer(predicted)}
            if effect == "total":
                by["direct_edge"] = [_predicted("direct", rows is None, case.prediction)[:, case.rows]]
            some = (predicted != 0) if rows is None else (predicted != 0) & rows
            yield from _scored(f"{effect}.{where}", by, measured, some)


def difference_figures(
    own: Ablations, total: Tensor, direct: Tensor, controls: Sequence[Tensor]
) -> Iterator[tuple[str, float]]:
    """`difference.{by}.sign`: does ablation move the likeliest token against the second one the way the graph says?

    `sign_of_largest` asks so of the half of the features that move it the most.
    """
    measured = own.difference
    largest = measured.abs() >= measured.abs().median() if len(measured) else measured.bool()
    for by, draws in (("graph", [total]), ("direct_edge", [direct]), ("shuffled_graph", controls)):
        yield f"difference.{by}.sign", mean(sign_agreement(draw, measured) for draw in draws)
        yield (
            f"difference.{by}.sign_of_largest",
            mean(sign_agreement(draw[largest], measured[largest]) for draw in draws),
        )
        yield f"difference.{by}.spearman", mean(spearman(draw, measured) for draw in draws)


def _places(case: Case) -> Iterator[tuple[str, Tensor | None, int | None]]:
    apart = case.layers[:, None] - case.layers[case.rows][None]
    for distance in range(1, case.graph.provenance.n_layers):
        yield f"layers_{distance}", apart == distance, distance
    yield "target", None, None


def _predicted(effect: str, on_targets: bool, prediction: Prediction) -> Tensor:
    return getattr(prediction, f"{effect}_on_targets" if on_targets else effect)


def _measured(effect: str, on_targets: bool, held: Ablations, own: Ablations) -> Tensor:
    direct, total = (side.targets if on_targets else side.preactivations for side in (held, own))
    return {"direct": direct, "total": total, "knock_on": total - direct}[effect]


def _scored(name: str, by: dict[str, list[Tensor]], measured: Tensor, some: Tensor) -> Iterator[tuple[str, float]]:
    for who, draws in by.items():
        for statistic, measure in STATISTICS:
            yield f"{name}.{who}.{statistic}", mean(measure(draw[some], measured[some]) for draw in draws)
