"""How much each unit matters to a task: gradients times differences, exact ablation, or influence in a graph.

A score is the estimated change of the task's measure when the unit, of the clean run, is set to its value in the
corrupted one, with the sign turned: what keeping the unit is worth. Errors are the pass's own throughout, so that all
bases are scored on the model itself.

- `attribution-patching`: the gradient on the clean run (Nanda 2023; EAP, Syed et al. 2023).
- `relp`: the same, with the rules of relevance propagation for gradients (RelP, Jafari et al. 2025).
- `ig-inputs`: the mean gradient on the way from the corrupted to the clean embeddings (EAP-IG, Hanna et al. 2024).
- `ig-activations`: the mean gradient on the way between the two values of the units themselves, one slot at a time
  (Marks et al. 2024).
- `ablation`: the change itself, a pass for each unit.
- `influence`: of features of a transcoder, their influence in each prompt's attribution graph, which has no sign.
- `random`: no score at all but a draw, among units that differ between the two runs: what any scorer has to beat.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tl_circuits.comparison.basis import Basis, check_basis
from tl_circuits.comparison.influence import influence_scores
from tl_circuits.comparison.passes import Attention, Recorded, Scores, held, passing, pushed, recorded
from tl_circuits.comparison.relevance import relevance_rules
from tl_circuits.comparison.task import Task, check_task
from tl_circuits.errors import SettingError
from tl_circuits.hooks import Model, installed
from tl_circuits.sites import embedding_tap

Scorer = Literal["attribution-patching", "relp", "ig-inputs", "ig-activations", "ablation", "influence", "random"]

MOST_ABLATED = 100_000
"""The most passes that ablation may take: beyond, gradients are what is feasible."""


def scores(
    model: Model,
    basis: Basis,
    task: Task,
    scorer: Scorer,
    *,
    attention: Attention = "running",
    steps: int = 5,
    seed: int = 0,
) -> Scores:
    """What keeping each unit is worth to each prompt; `steps` are those of integrated gradients, `seed` of "random".

    Where attention is frozen, gradients and ablations are of the model with the patterns of the prompts; graphs, which
    influence is of, always have them. Raises `SettingError` for a scorer that does not exist, steps that are none,
    ablations that would not end, and influence where units are not a transcoder's; `FitError` for a basis of another
    model, and by "relp" for one whose MLPs do not show what their activation functions read and give.
    """
    if scorer not in get_args(Scorer):
        raise SettingError(f"scorer={scorer!r} is none: give one of {', '.join(get_args(Scorer))}.")
    if not isinstance(steps, int) or steps < 1:
        raise SettingError(f"steps={steps} integrates nothing: give a whole number, 1 or more.")
    if not isinstance(seed, int):
        raise SettingError(f"seed={seed!r} is none: give a whole number.")
    check_attention(attention)
    check_basis(model, basis)
    check_task(model, task)
    if scorer == "influence":
        if basis.transcoder is None:
            raise SettingError(
                f"scorer='influence' is of attribution graphs, and {basis.name} are no transcoder's features: score "
                "them by 'ig-inputs'."
            )
        return influence_scores(model, basis.transcoder, task)
    clean, corrupted = (recorded(model, basis, tokens) for tokens in (task.clean, task.corrupted))
    if scorer == "random":
        draw = torch.Generator().manual_seed(seed)
        pairs = zip(clean.units, corrupted.units, strict=True)
        return tuple(torch.rand(now.shape[:3], generator=draw) * _differs(now, then).cpu() for now, then in pairs)
    with installed(model, held(model, task.clean, attention)):
        if scorer == "ablation":
            return _ablated(model, basis, task, clean, corrupted)
        if scorer == "ig-activations":
            return _along_units(model, basis, task, clean, corrupted, steps)
        mixed = _midpoints(steps) if scorer == "ig-inputs" else [1.0]
        with installed(model, relevance_rules(model) if scorer == "relp" else {}):
            gradients = _along_inputs(model, basis, task, mixed)
        return tuple(map(_times, gradients, _differences(clean, corrupted)))


def check_attention(attention: str) -> None:
    """Raises `SettingError` for an attention that is none."""
    if attention not in get_args(Attention):
        raise SettingError(f"attention={attention!r} is none: give one of {', '.join(get_args(Attention))}.")


def _differences(clean: Recorded, corrupted: Recorded) -> list[Tensor]:
    return [now - then for now, then in zip(clean.units, corrupted.units, strict=True)]


def _midpoints(steps: int) -> list[float]:
    return [(step + 0.5) / steps for step in range(steps)]


def _times(gradient: Tensor, difference: Tensor) -> Tensor:
    product = gradient * difference
    return product.flatten(3).sum(3) if product.ndim > 3 else product


def _gradients(
    model: Model, basis: Basis, task: Task, tokens: Int64[Tensor, "prompt pos"], put: Callable[[int, Tensor], Tensor]
) -> list[Tensor]:
    """The gradient of the summed measure in what is added to the units of each slot."""
    pushes: dict[int, Tensor] = {}

    def pushing(number: int, units: Tensor) -> Tensor:
        units = put(number, units)
        pushes[number] = torch.zeros_like(units, requires_grad=True)
        return units + pushes[number]

    with torch.inference_mode(False), torch.enable_grad():
        logits = pushed(model, basis, tokens.clone(), pushing)
        found = torch.autograd.grad(task.measure(logits).sum(), [pushes[n] for n in range(len(basis.slots))])
    return list(found)


def _along_inputs(model: Model, basis: Basis, task: Task, mixed: Sequence[float]) -> list[Tensor]:
    tap = embedding_tap(model)
    ends = [passing(model, tokens, [tap])[tap] for tokens in (task.corrupted, task.clean)]
    total: list[Tensor] = []
    for share in mixed:
        between = ends[0] + share * (ends[1] - ends[0])
        with installed(model, {tap: lambda value, between=between: between.to(value)}):
            found = _gradients(model, basis, task, task.clean, lambda _, units: units)
        total = found if not total else [before + now for before, now in zip(total, found, strict=True)]
    return [gradient / len(mixed) for gradient in total]


def _along_units(model: Model, basis: Basis, task: Task, clean: Recorded, corrupted: Recorded, steps: int) -> Scores:
    differences = _differences(clean, corrupted)

    def gradient(number: int, share: float) -> Tensor:
        def put(here: int, units: Tensor) -> Tensor:
            between = corrupted.units[number] + share * differences[number]
            return between.to(units) if here == number else units

        return _gradients(model, basis, task, task.clean, put)[number]

    return tuple(
        _times(torch.stack([gradient(number, share) for share in _midpoints(steps)]).mean(0), difference)
        for number, difference in enumerate(differences)
    )


def _ablated(model: Model, basis: Basis, task: Task, clean: Recorded, corrupted: Recorded) -> Scores:
    whole = task.measure(clean.logits)
    differs = [_differs(now, then) for now, then in zip(clean.units, corrupted.units, strict=True)]
    cells = sum(int(mask.any(0).sum()) for mask in differs)
    if cells > MOST_ABLATED:
        raise SettingError(
            f"{cells:,} units differ between the runs, a pass each: ablate fewer than {MOST_ABLATED:,}, or score by "
            "'ig-inputs'."
        )
    found = [torch.zeros(mask.shape, dtype=torch.float64, device=mask.device) for mask in differs]
    for number, mask in enumerate(differs):
        for pos, unit in mask.any(0).nonzero().tolist():
            without = _without(model, basis, task, corrupted, (number, pos, unit))
            found[number][:, pos, unit] = whole - task.measure(without)
    return tuple(found)


def _differs(now: Tensor, then: Tensor) -> Tensor:
    differs = now != then
    return differs.flatten(3).any(3) if differs.ndim > 3 else differs


def _without(
    model: Model, basis: Basis, task: Task, corrupted: Recorded, cell: tuple[int, int, int]
) -> Float64[Tensor, "prompt d_vocab"]:
    at, pos, unit = cell

    def put(number: int, units: Tensor) -> Tensor:
        if number != at:
            return units
        changed = units.clone()
        changed[:, pos, unit] = corrupted.units[number][:, pos, unit].to(units)
        return changed

    with torch.no_grad():
        return pushed(model, basis, task.clean, put)
