"""What an intervention did: logits, likely tokens and features, before and after."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import number, whole
from tl_circuits.intervention.passes import Outcome, Way
from tl_circuits.nodes import Feature, Intervention
from tl_circuits.replacement import LocalReplacementModel

if TYPE_CHECKING:
    from rich.console import RenderableType


class TopToken(NamedTuple):
    """A likely next token."""

    id: int
    text: str
    probability: float
    logit: float


@dataclass(frozen=True, eq=False)
class FeatureChanges:
    """Every feature that is active before or after an intervention, by layer, position and index.

    - `features` (layer, position, index); `before` and `after`: activations, as the model's own pass and the changed
      one are encoded. A feature that is intervened on is at the value it was given.
    - `preactivations_before`, `preactivations_after`: W_enc x + b_enc of the same features, which an intervention on a
      feature leaves alone unless something upstream of it changed.
    """

    features: Int64[Tensor, "feature 3"]
    before: Float[Tensor, " feature"]
    after: Float[Tensor, " feature"]
    preactivations_before: Float[Tensor, " feature"]
    preactivations_after: Float[Tensor, " feature"]

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"FeatureChanges({len(self)} features: {self.appeared} appeared, {self.vanished} vanished)"

    @property
    def change(self) -> Float[Tensor, " feature"]:
        """Activations after, less those before."""
        return self.after - self.before

    @property
    def appeared(self) -> int:
        """How many features became active."""
        return int(((self.before == 0) & (self.after != 0)).sum())

    @property
    def vanished(self) -> int:
        """How many features were active and are no longer."""
        return int(((self.before != 0) & (self.after == 0)).sum())

    def strongest(self, k: int = 10) -> list[tuple[Feature, float, float]]:
        """The k features whose activation changed the most: each with its activation before and after."""
        order = self.change.abs().argsort(descending=True, stable=True)[: number("strongest", "k", k)]
        kept = order[self.change[order] != 0]
        columns = (self.features[kept].tolist(), self.before[kept].tolist(), self.after[kept].tolist())
        return [(Feature(*feature), before, after) for feature, before, after in zip(*columns, strict=True)]


@dataclass(frozen=True, eq=False)
class InterventionResult:
    """What became of a prompt's logits and features.

    - `interventions`, `mode`, `layers` (first and last), `attention`: what was done.
    - `logits` (pos, d_vocab) after it, as the model gives them; `logits_before`, the model's own.
    - `changes`: features before and after, `FeatureChanges`.
    - `inactive`: features intervened on that were not active on the prompt. To scale these changes nothing.
    """

    local: LocalReplacementModel
    interventions: tuple[Intervention, ...]
    mode: str
    layers: tuple[int, int]
    attention: str
    logits: Float[Tensor, "pos d_vocab"]
    changes: FeatureChanges
    inactive: tuple[Feature, ...]

    @property
    def logits_before(self) -> Float[Tensor, "pos d_vocab"]:
        """The model's own logits on the prompt."""
        return self.local.logits

    def top_before(self, k: int = 5, *, pos: int = -1) -> list[TopToken]:
        """The model's k likeliest next tokens at a position."""
        return self._top(self.logits_before, k, pos)

    def top_after(self, k: int = 5, *, pos: int = -1) -> list[TopToken]:
        """The k likeliest next tokens at a position after the intervention."""
        return self._top(self.logits, k, pos)

    def _top(self, logits: Tensor, k: int, pos: int) -> list[TopToken]:
        n_pos, n_top = self.local.n_pos, min(number("top", "k", k), logits.shape[-1])
        if whole(pos) is None or not -n_pos <= pos < n_pos:
            raise SettingError(
                f"Position {pos!r:.80} lies outside the prompt of {n_pos} tokens: use 0 to {n_pos - 1}, or negative "
                "ones."
            )
        row = logits[pos].to(self.local.activations)
        top = row.topk(n_top)
        likely = row.softmax(-1)[top.indices]
        return [
            TopToken(token, self._text(token), probability, logit)
            for token, probability, logit in zip(*(x.tolist() for x in (top.indices, likely, top.values)), strict=True)
        ]

    def _text(self, token: int) -> str:
        tokenizer = self.local.model.tokenizer
        return str(token) if tokenizer is None else tokenizer.decode([token])

    def __repr__(self) -> str:
        first, last = self.layers
        done = "; ".join(str(intervention) for intervention in self.interventions[:3]) or "nothing"
        more = len(self.interventions) - 3
        (was,), (now,) = self.top_before(1), self.top_after(1)
        then = torch.softmax(self.logits[-1].to(self.local.activations), -1)[was.id]
        silent = f", {len(self.inactive)} of those intervened on not active" if self.inactive else ""
        return (
            f"InterventionResult({done}{f' and {more} more' if more > 0 else ''}; {self.mode}, layers {first} to "
            f"{last}, attention {self.attention}: {was.text!r} {was.probability:.3f} -> {then:.3f}, likeliest now "
            f"{now.text!r} {now.probability:.3f}; of {len(self.changes)} features {self.changes.appeared} appeared and "
            f"{self.changes.vanished} vanished{silent})"
        )

    def __rich__(self) -> "RenderableType":
        # Loaded by name, since a report is of a result and imports this file.
        return import_module("tl_circuits.intervention.report").InterventionReport(self)


def result_of(
    local: LocalReplacementModel,
    interventions: tuple[Intervention, ...],
    way: Way,
    outcome: Outcome,
    case: int,
    inactive: tuple[Feature, ...],
) -> InterventionResult:
    """The result of one case of a pass."""
    mine = outcome.rows[:, 0] == case
    changes = FeatureChanges(
        outcome.rows[mine][:, 1:],
        outcome.before[mine],
        outcome.after[mine],
        outcome.preactivations_before[mine],
        outcome.preactivations_after[mine],
    )
    layers = (way.layers[0], way.layers[-1])
    logits = outcome.logits[case]
    return InterventionResult(local, interventions, way.mode, layers, way.attention, logits, changes, inactive)
