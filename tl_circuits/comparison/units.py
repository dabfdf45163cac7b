"""Curves of circuits of units: which unit a circuit takes first, and what the pass computes with those alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from tl_circuits.comparison.areas import REACH
from tl_circuits.comparison.basis import Basis, check_basis
from tl_circuits.comparison.curve import CircuitCurve, Unit, measured_curve, sizes_of
from tl_circuits.comparison.passes import Attention, Errors, Recorded, Scores, held, recorded, through
from tl_circuits.comparison.scorers import Scorer, check_attention, scores
from tl_circuits.comparison.task import Task, check_is_task, check_task
from tl_circuits.errors import PromptError, SettingError
from tl_circuits.hooks import Model, installed


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

    Units without a score come after all others: first those that differ between prompt and counterfactual, then those
    that are on in either, and last, by their numbers, those that are silent in both.

    - `scorer` is one by name, or scores of one's own, (prompt, pos, unit) for each slot.
    - `found_on`: prompts of the same length to find one circuit on, that of the largest |mean score|, which is then
      measured on those of the task: give others than the task's to learn whether a circuit holds beyond them.
    - `attention="frozen"` holds the patterns of each prompt, while scoring too, as attribution graphs do.
    - `sizes` are 0, the powers of 2 and all by default. Areas go straight between them, and `k80` is one of them: give
      the same to all that are compared.

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
        by_slot, rest = _own(scorer, found_on), _rest(clean, corrupted)
    elif found_on is None:
        by_slot, rest = scores(model, basis, task, scorer, **how), _rest(clean, corrupted)
    else:
        _check_positions(task, found_on)
        by_slot = _alike(scores(model, basis, found_on, scorer, **how), len(task))
        rest = _rest_of(model, basis, found_on).expand(len(task), -1)
    _check_scores(by_slot, [units.shape[:3] for units in clean.units])
    cells = [tuple(part.shape[1:]) for part in by_slot]
    worth = torch.cat([part.flatten(1) for part in by_slot], dim=1).abs()
    order = torch.where(worth > 0, worth, rest.to(worth)).argsort(dim=1, descending=True, stable=True)

    def run(size: int, of_circuit: bool) -> Float64[Tensor, "prompt d_vocab"]:
        circuit = _circuit(order, size, cells, of_circuit)
        return through(model, basis, task.clean, corrupted, circuit, errors)

    named = (basis.name, scorer if isinstance(scorer, str) else "given", errors)
    with installed(model, held(model, task.clean, attention)):
        curve = measured_curve(task, named, sizes_of(sizes, order.shape[1]), run, clean.logits, progress)
    best = _best(basis, order[:, :REACH].cpu().contiguous(), cells, (worth > 0).sum(1).tolist())
    return replace(curve, attention=attention, found_on=None if found_on is None else found_on.name, best=best)


def _rest(clean: Recorded, corrupted: Recorded) -> Float64[Tensor, "prompt cell"]:
    """An order for units without a score, below 0: those that differ between the runs, those that are on, the others.

    So what is never on comes last, and how units are numbered decides about nothing that either run tells apart.
    """
    parts = []
    for now, then in zip(clean.units, corrupted.units, strict=True):
        differs, is_on = _size(now - then), _size(now) + _size(then)
        parts.append(torch.where(differs > 0, -1 / (1 + differs), -1 - 1 / (1 + is_on)).flatten(1))
    return torch.cat(parts, dim=1)


def _rest_of(model: Model, basis: Basis, task: Task) -> Float64[Tensor, "1 cell"]:
    return _rest(*(recorded(model, basis, tokens) for tokens in (task.clean, task.corrupted))).mean(0, keepdim=True)


def _size(units: Tensor) -> Float64[Tensor, "prompt pos unit"]:
    size = units.abs().to(torch.float64)
    return size.flatten(3).sum(3) if size.ndim > 3 else size


def _best(
    basis: Basis, order: Int64[Tensor, "prompt cell"], cells: Sequence[tuple[int, ...]], kept: Sequence[int]
) -> tuple[tuple[Unit, ...], ...]:
    """The units that stand at these places of all slots laid one after another, of each prompt so many."""
    starts = torch.tensor([0, *(pos * units for pos, units in cells)]).cumsum(0)
    slots = torch.searchsorted(starts, order, right=True) - 1
    within, width = order - starts[slots], torch.tensor([units for _, units in cells])[slots]
    rows = torch.stack([slots, within // width, within % width], -1).tolist()
    return tuple(tuple(_unit(basis, *place) for place in row[:n]) for row, n in zip(rows, kept, strict=True))


def _unit(basis: Basis, slot: int, pos: int, index: int) -> Unit:
    return Unit(basis.slots[slot].write.name, basis.slots[slot].layer, pos, index)


def _alike(found: Scores, n_prompts: int) -> Scores:
    """The mean scores, for every prompt the same."""
    return tuple(part.mean(0, keepdim=True).expand(n_prompts, -1, -1) for part in found)


def _own(given: Scores, found_on: Task | None) -> Scores:
    if found_on is not None:
        raise SettingError(
            f"found_on={found_on!r} is what to score, but scores were given: name a scorer, or give the scores of one "
            "circuit for each prompt."
        )
    if not isinstance(given, Sequence):
        raise SettingError(f"scorer={given!r:.80} is none: give the name of one, or scores, a tensor for each slot.")
    others = [part for part in given if not isinstance(part, Tensor)]
    if others:
        raise SettingError(
            f"Scores of {type(others[0]).__name__} are none: give a list of torch tensors, (prompt, pos, unit) for "
            "each slot, or the name of a scorer."
        )
    return tuple(given)


def _check_positions(task: Task, found_on: Task) -> None:
    check_is_task(found_on)
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


def _circuit(
    order: Int64[Tensor, "prompt cell"], size: int, cells: Sequence[tuple[int, ...]], of_circuit: bool
) -> list[Bool[Tensor, "prompt pos _"]]:
    on = torch.full(order.shape, not of_circuit, device=order.device)
    on.scatter_(1, order[:, :size], of_circuit)
    parts = on.split([pos * units for pos, units in cells], dim=1)
    return [part.unflatten(1, cell) for part, cell in zip(parts, cells, strict=True)]
