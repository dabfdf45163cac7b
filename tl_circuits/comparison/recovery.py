"""How well what is known of a compiled model is found again: planted nodes, edges and variables; how long a circuit is.

Where the truth is rare among many candidates, areas under precision and recall say more than those under ROC curves
(Davis and Goadrich 2006): a score that knows nothing has the share of what is true.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tl_circuits.errors import SettingError


def average_precision(scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]) -> float:
    """The area under precision by recall, AUPRC: Σ (R_n − R_(n−1)) P_n over distinct scores; nan where nothing is true.

    1 where every true item scores higher than every other; items of one score are counted together. Raises
    `SettingError` for scores that are NaN.
    """
    precision, recall = _precision_and_recall(scores, truth)
    return float((recall.diff(prepend=recall.new_zeros(1)) * precision).sum())


def best_f1(scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]) -> float:
    """The best harmonic mean of precision and recall over all thresholds; nan where nothing is true."""
    precision, recall = _precision_and_recall(scores, truth)
    total = precision + recall
    return float((2 * precision * recall / torch.where(total > 0, total, 1.0)).max())


def _precision_and_recall(
    scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"]
) -> tuple[Float64[Tensor, " threshold"], Float64[Tensor, " threshold"]]:
    if scores.shape != truth.shape or not len(scores):
        raise SettingError(f"{len(scores)} scores of {len(truth)} items: give one for each, and at least one.")
    if bool(scores.isnan().any()):
        raise SettingError(
            f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN, which have no order: leave those items out."
        )
    ordered, order = scores.to(torch.float64).sort(descending=True)
    hits = truth[order].to(torch.float64).cumsum(0)
    # The last item of each run of equal scores: a threshold cannot part them.
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=ordered.device)])
    counts = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=ordered.device)
    return (hits / counts)[last], (hits / hits[-1])[last]


@dataclass(frozen=True, eq=False)
class VariableRecovery:
    """For each planted variable the unit that tells it best: by AUPRC, and by the best F1 of a threshold.

    `unit` is the best one by AUPRC.
    """

    unit: Int64[Tensor, " variable"]
    auprc: Float64[Tensor, " variable"]
    f1: Float64[Tensor, " variable"]


def variable_recovery(
    activations: Float[Tensor, "prompt unit"], variables: Bool[Tensor, "prompt variable"]
) -> VariableRecovery:
    """How well the best single unit tells, prompt by prompt, whether each variable is on, by how active it is."""
    precision = [
        [average_precision(unit, truth) for unit in activations.T.contiguous()] for truth in variables.T.contiguous()
    ]
    f1 = [[best_f1(unit, truth) for unit in activations.T.contiguous()] for truth in variables.T.contiguous()]
    auprc, best = torch.tensor(precision, dtype=torch.float64).max(1)
    return VariableRecovery(best, auprc, torch.tensor(f1, dtype=torch.float64).max(1).values)


def description_length(n_units: int, n_candidates: int) -> float:
    """Bits that say which units a circuit is of, among so many: log2 of that many choose n (Stirling's is not used).

    Raises `SettingError` for more units than there are, or fewer than none.
    """
    if not 0 <= n_units <= n_candidates:
        raise SettingError(f"A circuit of {n_units} among {n_candidates} units is none: give 0 to {n_candidates}.")
    return (
        math.lgamma(n_candidates + 1) - math.lgamma(n_units + 1) - math.lgamma(n_candidates - n_units + 1)
    ) / math.log(2)
