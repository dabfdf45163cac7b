"""How much of a behaviour the k best units carry, and how much is left without them: one measure for every basis.

    F(k) = (E m(C_k) − E m(∅)) / (E m(M) − E m(∅)),    C(k) the same of all units but the k best,

where C_k is each prompt's own circuit of its k best units, or the one circuit that was found on other prompts, ∅ the
empty circuit and M the model. With errors of the corrupted run ∅ is the same for every basis of the MLPs: all their
outputs are those of the corrupted run. With errors kept or zero, and where heads are units too, a basis has its own ∅,
and its curves are on a scale of their own.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tl_circuits.comparison.areas import REACH, at_size, mean_over_log, mean_over_share
from tl_circuits.comparison.task import Task
from tl_circuits.errors import SettingError, warn_once
from tl_circuits.progress import stage

ENOUGH = 0.8
"""Of faithfulness: k_80 is the least size that reaches it."""
LEFT = 0.2
"""Of completeness: what may be left without the circuit."""
ROUNDING = 1e-6
"""Of the measure: a difference between model and empty circuit that is no larger is nothing to share."""


class Unit(NamedTuple):
    """One unit of a circuit: where it writes, its layer, its position, and its number there.

    Of a transcoder's features the last three are those of `Feature`.
    """

    point: str
    layer: int
    pos: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index is not missed)


@dataclass(frozen=True, eq=False)
class CircuitCurve:
    """Faithfulness and completeness by size of circuit, of one basis, task and scorer.

    - `sizes` (size,): units in each prompt's circuit; the last is all of them.
    - `faithful`, `complete` (size, prompt): the measure m of the circuit alone, and of everything but it.
    - `empty`, `whole` (prompt,): m of the empty circuit and of the model. `answered` (size, prompt): whether the
      circuit alone gives the answer that the model gives.
    - `divergence` (size, prompt): KL(model ‖ circuit) at the last position, in nats; None for graphs' edges, which
      tell two answers apart and no more.
    - `attention`: running, or frozen at the patterns of each prompt. `found_on`: the task that the one circuit of all
      prompts was found on; None where each has its own.
    - `best`: of each prompt the units that have a score, in the order in which circuits take them, at most 512; None
      for edges.
    """

    basis: str
    task: str
    scorer: str
    errors: str
    sizes: tuple[int, ...]
    faithful: Float64[Tensor, "size prompt"]
    complete: Float64[Tensor, "size prompt"]
    answered: Bool[Tensor, "size prompt"]
    empty: Float64[Tensor, " prompt"]
    whole: Float64[Tensor, " prompt"]
    divergence: Float64[Tensor, "size prompt"] | None = None
    attention: str = "running"
    found_on: str | None = None
    best: tuple[tuple[Unit, ...], ...] | None = None

    def circuit(self, prompt: int, size: int) -> tuple[Unit, ...]:
        """The units of a prompt's circuit of that size, the best first; prompts are numbered as in the task.

        Raises `SettingError` for a prompt that there is none of, more units than are kept, and curves of edges.
        """
        if self.best is None:
            raise SettingError("This curve is of edges, and keeps none of them: edge_scores has what each is worth.")
        if not isinstance(prompt, int) or not -len(self.best) <= prompt < len(self.best):
            raise SettingError(f"circuit({prompt}, {size}): the task has {len(self.best)} prompts, from 0.")
        kept = self.best[prompt]
        if not isinstance(size, int) or not 0 <= size <= len(kept):
            raise SettingError(
                f"circuit({prompt}, {size}): {len(kept)} units are kept, the best that have a score. For more, sort "
                "what tl_circuits.comparison.scores gives."
            )
        return kept[:size]

    @property
    def faithfulness(self) -> Float64[Tensor, " size"]:
        """F(k): 0 for the empty circuit, 1 for what does as the model does."""
        return self._share(self.faithful)

    @property
    def completeness(self) -> Float64[Tensor, " size"]:
        """C(k): what everything but the circuit still does; near 0 where the circuit holds all that matters."""
        return self._share(self.complete)

    def at(self, size: int) -> float:
        """F of a size, straight between measured sizes on log2(1 + k); that of all units where there are no more."""
        return float(at_size(self.faithfulness, self.sizes, size))

    def area(self, to: int = REACH) -> float:
        """The mean of F over log2(1 + k) up to a size, the same for all that are compared: it does not move with how
        many units a basis has. Raises `SettingError` for a size below 1."""
        return float(mean_over_log(self.faithfulness, self.sizes, to))

    @property
    def cpr(self) -> float:
        """The area up to 512 units: high where few units do it (after MIB's CPR, which is linear in k)."""
        return self.area()

    @property
    def cmd(self) -> float:
        """Mean of |1 − F| over log2(1 + k) up to 512 units: low where every size does as the model does (after MIB).

        As everywhere, |1 − F| is taken at measured sizes and goes straight between them.
        """
        return float(mean_over_log((1 - self.faithfulness).abs(), self.sizes, REACH))

    @property
    def cpr_linear(self) -> float:
        """Mean of F over the share of units, as MIB has it."""
        return float(mean_over_share(self.faithfulness, self.sizes))

    @property
    def cmd_linear(self) -> float:
        """Mean of |1 − F| over the share of units, as MIB has it."""
        return float(mean_over_share((1 - self.faithfulness).abs(), self.sizes))

    @property
    def k80(self) -> int | None:
        """The least size at which F reaches .8; None where none does."""
        return self._first(self.faithfulness >= ENOUGH)

    @property
    def kc20(self) -> int | None:
        """The least size without which no more than .2 is left; None where there is none."""
        return self._first(self.completeness <= LEFT)

    @property
    def accuracy(self) -> Float64[Tensor, " size"]:
        """The share of prompts to which the circuit alone gives the model's answer."""
        return self.answered.to(torch.float64).mean(1)

    @property
    def recovered(self) -> Float64[Tensor, " size"] | None:
        """1 − E KL(k) / E KL(∅): what the circuit makes good of all that the model says, whatever the two answers.

        0 for the empty circuit, 1 for what says as the model does; None where there is no divergence.
        """
        if self.divergence is None:
            return None
        means = self.divergence.mean(1)
        return 1 - means / means[0]

    def to_dict(self) -> dict[str, Any]:
        """The curves and what sums them up, as JSON values."""
        names = ("basis", "task", "scorer", "errors", "attention", "found_on", "k80", "kc20")
        named = {name: getattr(self, name) for name in names}
        areas = {name: getattr(self, name) for name in ("cpr", "cmd", "cpr_linear", "cmd_linear")}
        curves = {name: getattr(self, name).tolist() for name in ("faithfulness", "completeness", "accuracy")}
        if self.recovered is not None:
            curves["recovered"] = self.recovered.tolist()
        return named | areas | {"sizes": list(self.sizes)} | curves | {"prompts": len(self.whole)}

    def __repr__(self) -> str:
        held = "" if self.attention == "running" else f", attention {self.attention}"
        found = "" if self.found_on is None else f", one circuit found on {self.found_on!r}"
        return (
            f"CircuitCurve({self.basis} on {self.task!r}, {self.scorer}, errors {self.errors}{held}{found}: cpr "
            f"{self.cpr:.3f}, cmd {self.cmd:.3f}, k80 {self.k80})"
        )

    def _share(self, measured: Float64[Tensor, "size prompt"]) -> Float64[Tensor, " size"]:
        empty, whole = self.empty.mean(), self.whole.mean()
        return (measured.mean(1) - empty) / (whole - empty)

    def _first(self, reached: Bool[Tensor, " size"]) -> int | None:
        return next((size for size, is_it in zip(self.sizes, reached.tolist(), strict=True) if is_it), None)


def measured_curve(
    task: Task,
    named: tuple[str, str, str],
    sizes: Sequence[int],
    run: Callable[[int, bool], Float64[Tensor, "prompt d_vocab"]],
    whole: Float64[Tensor, "prompt d_vocab"],
    progress: bool | None,
) -> CircuitCurve:
    """The curve of what `run` gives for a size, of the circuit itself or else of all but it.

    `named` are basis, scorer and errors; `whole` the model's logits. Raises `SettingError` where the model does no
    better on the prompts than the empty circuit.
    """
    measured, answered, model_says, diverged = {}, {}, whole.argmax(-1), {}
    with stage("running circuits", 2 * len(sizes), show=progress) as bar:
        for size in sizes:
            for of_circuit in (True, False):
                logits = run(size, of_circuit)
                measured[size, of_circuit] = task.measure(logits)
                answered[size, of_circuit] = logits.argmax(-1) == model_says
                if of_circuit:
                    diverged[size] = divergence(whole, logits)
                bar.update(1)
    basis, scorer, errors = named
    curve = CircuitCurve(
        basis=basis,
        task=task.name,
        scorer=scorer,
        errors=errors,
        sizes=tuple(sizes),
        faithful=torch.stack([measured[size, True] for size in sizes]),
        complete=torch.stack([measured[size, False] for size in sizes]),
        answered=torch.stack([answered[size, True] for size in sizes]),
        empty=measured[0, True],
        whole=task.measure(whole),
        divergence=torch.stack([diverged[size] for size in sizes]),
    )
    return told_apart(curve)


def divergence(
    whole: Float64[Tensor, "prompt d_vocab"], other: Float64[Tensor, "prompt d_vocab"]
) -> Float64[Tensor, " prompt"]:
    """KL(whole ‖ other) of what the logits say, in nats."""
    own, replaced = whole.log_softmax(-1), other.log_softmax(-1)
    return (own.exp() * (own - replaced)).sum(-1)


def told_apart(curve: CircuitCurve) -> CircuitCurve:
    """The curve. Raises `SettingError` where the model does no better on the prompts than the empty circuit."""
    whole, empty = float(curve.whole.mean()), float(curve.empty.mean())
    if whole - empty > ROUNDING * float(curve.whole.abs().mean()):
        _warn_of_wrong(curve)
        return curve
    if curve.errors == "corrupted":
        how = "Check the answers, or take prompts that the model answers."
    else:
        how = f"With errors {curve.errors} that circuit is the basis's own: take errors='corrupted', or a better basis."
    raise SettingError(
        f"On {curve.task!r} the model measures {whole:.3g}, and the empty circuit {empty:.3g}: it tells the prompts "
        f"from their counterfactuals no better, so no circuit can be found. {how}"
    )


def _warn_of_wrong(curve: CircuitCurve) -> None:
    wrong = (curve.whole <= curve.empty).nonzero()[:, 0].tolist()
    if wrong and curve.errors == "corrupted":
        warn_once(
            f"On {len(wrong)} of the {len(curve.whole)} prompts of {curve.task!r} (first: {wrong[0]}) the model "
            "measures no higher than the empty circuit. They count against the others, so that shares rise for no "
            "good reason: leave them out, as task.answered(model) leaves out those that the model gets wrong.",
            stacklevel=4,
        )


def sizes_of(given: Sequence[int] | None, n_units: int) -> tuple[int, ...]:
    """0, all units, and between them those that were given, or the powers of 2."""
    powers = [2**power for power in range(n_units.bit_length()) if 2**power < n_units]
    chosen = powers if given is None else whole_numbers(given)
    if any(not 0 <= size <= n_units for size in chosen):
        raise SettingError(f"sizes={chosen} leave the 0 to {n_units:,} units that there are.")
    # The empty circuit and all units are the scale that the others are on.
    return tuple(sorted({0, n_units, *chosen}))


def whole_numbers(sizes: Sequence[int]) -> list[int]:
    """Sizes as Python's own integers. Raises `SettingError` for what is none, or below 0."""
    try:
        found = [operator.index(size) for size in sizes]
    except TypeError:
        raise SettingError(f"sizes={sizes!r:.80}: give a list of whole numbers of units, as [1, 2, 4].") from None
    if any(size < 0 for size in found):
        raise SettingError(f"sizes={found}: a circuit has 0 units or more.")
    return found
