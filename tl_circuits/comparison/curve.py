"""How much of a behaviour the k best units carry, and how much is left without them: one measure for every basis.

    F(k) = (E m(C_k) − E m(∅)) / (E m(M) − E m(∅)),    C(k) the same of all units but the k best,

where C_k is each prompt's own circuit of its k best units, or the one circuit that was found on other prompts, ∅ the
empty circuit and M the model. With errors of the corrupted run ∅ is the same for every basis of the MLPs: all their
outputs are those of the corrupted run. With errors kept or zero, and where heads are units too, a basis has its own ∅,
and its curves are on a scale of their own.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from tl_circuits.comparison.basis import Basis, check_basis
from tl_circuits.comparison.passes import Attention, Errors, Scores, held, recorded, through
from tl_circuits.comparison.scorers import Scorer, check_attention, scores
from tl_circuits.comparison.task import Task, check_task
from tl_circuits.errors import PromptError, SettingError
from tl_circuits.progress import stage
from tl_circuits.sites import Model, installed

ENOUGH = 0.8
"""Of faithfulness: k_80 is the least size that reaches it."""
LEFT = 0.2
"""Of completeness: what may be left without the circuit."""
ROUNDING = 1e-6
"""Of the measure: a difference between model and empty circuit that is no larger is nothing to share."""


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

    @property
    def faithfulness(self) -> Float64[Tensor, " size"]:
        """F(k): 0 for the empty circuit, 1 for what does as the model does."""
        return self._share(self.faithful)

    @property
    def completeness(self) -> Float64[Tensor, " size"]:
        """C(k): what everything but the circuit still does; near 0 where the circuit holds all that matters."""
        return self._share(self.complete)

    @property
    def cpr(self) -> float:
        """Mean of F over log2(1 + k): high where few units do it (after MIB's CPR, which is linear in k)."""
        return self._area(self.faithfulness)

    @property
    def cmd(self) -> float:
        """Mean of |1 − F| over log2(1 + k): low where every size does as the model does (after MIB's CMD)."""
        return self._area((1 - self.faithfulness).abs())

    @property
    def cpr_linear(self) -> float:
        """Mean of F over the share of units, as MIB has it."""
        return self._mean(self.faithfulness, torch.tensor(self.sizes, dtype=torch.float64))

    @property
    def cmd_linear(self) -> float:
        """Mean of |1 − F| over the share of units, as MIB has it."""
        return self._mean((1 - self.faithfulness).abs(), torch.tensor(self.sizes, dtype=torch.float64))

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
        return (
            f"CircuitCurve({self.basis} on {self.task!r}, {self.scorer}, errors {self.errors}: cpr {self.cpr:.3f}, cmd "
            f"{self.cmd:.3f}, k80 {self.k80})"
        )

    def _share(self, measured: Float64[Tensor, "size prompt"]) -> Float64[Tensor, " size"]:
        empty, whole = self.empty.mean(), self.whole.mean()
        return (measured.mean(1) - empty) / (whole - empty)

    def _area(self, curve: Float64[Tensor, " size"]) -> float:
        return self._mean(curve, torch.log2(1 + torch.tensor(self.sizes, dtype=torch.float64)))

    def _mean(self, curve: Float64[Tensor, " size"], at: Float64[Tensor, " size"]) -> float:
        return float(torch.trapezoid(curve, at) / (at[-1] - at[0]))

    def _first(self, reached: Bool[Tensor, " size"]) -> int | None:
        return next((size for size, is_it in zip(self.sizes, reached.tolist(), strict=True) if is_it), None)


def circuit_curve(
    model: Model,
    basis: Basis,
    task: Task,
    scorer: Scorer | Scores = "ig-inputs",
    *,
    errors: Errors = "corrupted",
    attention: Attention = "running",
    found_on: Task | None = None,
    sizes: Sequence[int] | None = None,
    steps: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> CircuitCurve:
    """The curves of the circuits that a scorer picks: for each prompt its own k units of the largest |score|.

    - `scorer` is one by name, or scores of one's own, (prompt, pos, unit) for each slot.
    - `found_on`: prompts of the same length to find one circuit on, that of the largest |mean score|, which is then
      measured on those of the task: give others than the task's to learn whether a circuit holds beyond them.
    - `attention="frozen"` holds the patterns of each prompt, while scoring too, as attribution graphs do.
    - `sizes` are 0, the powers of 2 and all by default.

    Raises `SettingError` for errors, attention, sizes and scores that are none, and where the model does no better on
    the prompts than on their counterfactuals: there is nothing to share then; `FitError` for a basis of another model,
    and `PromptError` where `found_on` has prompts of another length.
    """
    if errors not in get_args(Errors):
        raise SettingError(f"errors={errors!r} is none: give one of {', '.join(get_args(Errors))}.")
    check_attention(attention)
    check_basis(model, basis)
    check_task(model, task)
    clean, corrupted = (recorded(model, basis, tokens) for tokens in (task.clean, task.corrupted))
    how: dict[str, Any] = {"attention": attention, "steps": steps, "seed": seed}
    if not isinstance(scorer, str):
        _check_own(found_on)
        by_slot = tuple(scorer)
    elif found_on is None:
        by_slot = scores(model, basis, task, scorer, **how)
    else:
        _check_positions(task, found_on)
        by_slot = _alike(scores(model, basis, found_on, scorer, **how), len(task))
    _check_scores(by_slot, [units.shape[:3] for units in clean.units])
    cells = [tuple(part.shape[1:]) for part in by_slot]
    order = torch.cat([part.flatten(1) for part in by_slot], dim=1).abs().argsort(dim=1, descending=True, stable=True)

    def run(size: int, of_circuit: bool) -> Float64[Tensor, "prompt d_vocab"]:
        circuit = _circuit(order, size, cells, of_circuit)
        return through(model, basis, task.clean, corrupted, circuit, errors)

    named = (basis.name, scorer if isinstance(scorer, str) else "given", errors)
    with installed(model, held(model, task.clean, attention)):
        curve = measured_curve(task, named, sizes_of(sizes, order.shape[1]), run, clean.logits, progress)
    return replace(curve, attention=attention, found_on=None if found_on is None else found_on.name)


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
        return curve
    if curve.errors == "corrupted":
        how = "Check the answers, or take prompts that the model answers."
    else:
        how = f"With errors {curve.errors} that circuit is the basis's own: take errors='corrupted', or a better basis."
    raise SettingError(
        f"On {curve.task!r} the model measures {whole:.3g}, and the empty circuit {empty:.3g}: it tells the prompts "
        f"from their counterfactuals no better, so no circuit can be found. {how}"
    )


def _alike(found: Scores, n_prompts: int) -> Scores:
    """The mean scores, for every prompt the same."""
    return tuple(part.mean(0, keepdim=True).expand(n_prompts, -1, -1) for part in found)


def _check_own(found_on: Task | None) -> None:
    if found_on is not None:
        raise SettingError(
            f"found_on={found_on!r} is what to score, but scores were given: name a scorer, or give the scores of one "
            "circuit for each prompt."
        )


def _check_positions(task: Task, found_on: Task) -> None:
    wanted, given = task.clean.shape[1], found_on.clean.shape[1]
    if wanted != given:
        raise PromptError(
            f"{found_on!r} was to find the circuit of {task!r}: units stand at positions, so give prompts of {wanted} "
            "tokens."
        )


def _check_scores(given: Scores, shapes: Sequence[Sequence[int]]) -> None:
    found, wanted = [tuple(part.shape) for part in given], [tuple(shape) for shape in shapes]
    if found != wanted:
        raise SettingError(
            f"Scores have shapes {found}, but the units of the slots are {wanted}: give one for each unit."
        )
    for number, part in enumerate(given):
        if not bool(part.isfinite().all()):
            raise SettingError(f"Scores of slot {number} hold NaN or infinity: no order can be made of them.")


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


def _circuit(
    order: Int64[Tensor, "prompt cell"], size: int, cells: Sequence[tuple[int, ...]], of_circuit: bool
) -> list[Bool[Tensor, "prompt pos _"]]:
    on = torch.full(order.shape, not of_circuit, device=order.device)
    on.scatter_(1, order[:, :size], of_circuit)
    parts = on.split([pos * units for pos, units in cells], dim=1)
    return [part.unflatten(1, cell) for part, cell in zip(parts, cells, strict=True)]
