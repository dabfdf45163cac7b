"""A local replacement model and interventions → what the model would have said.

Ameisen et al. 2025, "Validating Attribution Graph Hypotheses with Interventions".
"""

from collections.abc import Sequence
from typing import Any, get_args, overload

from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import whole
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.passes import Attention, Mode, Way, batch_size, run, unchanged
from tl_circuits.intervention.result import InterventionResult, result_of
from tl_circuits.nodes import Feature, Intervention
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import check_unhooked_since, refuse_replaced


@overload
def intervene(
    local: LocalReplacementModel,
    interventions: Intervention | Sequence[Intervention],
    layers: tuple[int, int] | None = None,
    attention: Attention = "frozen",
    mode: Mode = "constrained",
) -> InterventionResult: ...
@overload
def intervene(
    local: LocalReplacementModel,
    interventions: Sequence[Sequence[Intervention]],
    layers: tuple[int, int] | None = None,
    attention: Attention = "frozen",
    mode: Mode = "constrained",
) -> list[InterventionResult]: ...
def intervene(
    local: LocalReplacementModel,
    interventions: Any,
    layers: tuple[int, int] | None = None,
    attention: Attention = "frozen",
    mode: Mode = "constrained",
) -> InterventionResult | list[InterventionResult]:
    """What the model would have said, had these features been otherwise; a list of lists runs as a batch.

    `layers=(a, b)`, both of them included, default all, says where the transcoder stands for the MLPs: features of
    these layers can be intervened on, and what they write above b is left out.

    - "constrained" (the paper's): what the features write is changed once, from the prompt's own activations, and the
      MLPs of `layers` are held at what they wrote plus that change. Norms, attention and the layers above b run on.
    - "iterative": in `layers`, features are encoded anew from what the pass reads, then scaled, set or added to, and
      MLPs write what they wrote plus what all of these changes come to. Knock-on effects run through the features;
      what the transcoder fails to explain stays as it was.
    - "direct": attention, norms and MLPs of all layers are held. What features and logits read changes by the sum of
      the graph's edges.
    - "added": the model's own MLPs run, and the change is added to what those in `layers` write (circuit-tracer's way).
      A later MLP may compute again what a cross-layer feature has already written for it.

    `attention="frozen"` holds attention patterns, but not what attention moves, at the prompt's. A skip of the
    transcoder always runs on what the pass reads. Features need not be active. Positions of a slice that are masked are
    left out. What changes nothing gives `local.logits`, bit for bit. The model is as it was afterwards.

    Raises `SettingError` for features, positions and layers that do not exist, layers that leave a feature out, and two
    different interventions on one feature at one position; `FitError` where the model's hooks are not those under which
    it was localized.
    """
    way = as_way(local, layers, attention, mode)
    check_unhooked_since(local)
    refuse_replaced(local.model)
    several, cases = as_cases(interventions)
    found = _run(local, cases, way)
    return found if several else found[0]


def _run(local: LocalReplacementModel, cases: list[tuple[Intervention, ...]], way: Way) -> list[InterventionResult]:
    edits = Edits.of(local, cases, way.layers)
    before = edits.before(local)
    changed = edits.places[edits.factor * before + edits.offset != before, 0].unique().tolist()
    outcomes = dict.fromkeys(range(len(cases)), (unchanged(local), 0))
    size = batch_size(local)
    for start in range(0, len(changed), size):
        batch = changed[start : start + size]
        outcome = run(local, edits.of_cases(batch), way)
        for row, case in enumerate(batch):
            refuse_overflow(local, outcome.logits[row], cases[case])
        outcomes |= {case: (outcome, row) for row, case in enumerate(batch)}
    silent = edits.places[before == 0].tolist()
    inactive = [tuple(Feature(*place) for owner, *place in silent if owner == case) for case in range(len(cases))]
    return [result_of(local, done, way, *outcomes[case], inactive[case]) for case, done in enumerate(cases)]


def refuse_overflow(local: LocalReplacementModel, logits: Tensor, done: Sequence[Intervention]) -> None:
    """Raises `SettingError` where logits after interventions are not finite."""
    if not bool(logits.isfinite().all()):
        said = "; ".join(map(str, done))
        largest = local.activations.abs().max() if len(local.activations) else 0.0
        raise SettingError(
            f"The logits after {said:.160} are not finite: {logits.dtype} overflows. The largest activation on this "
            f"prompt is {float(largest):.3g}; set features to that order."
        )


def as_way(local: LocalReplacementModel, layers: Any, attention: Any, mode: Any) -> Way:
    """How to intervene, as it was asked for. Raises `SettingError` as `intervene` says."""
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"{type(local).__name__} is no local replacement model: give tlc.localize(model, clt, prompt)."
        )
    for name, value, known in (("mode", mode, get_args(Mode)), ("attention", attention, get_args(Attention))):
        if value not in known:
            raise SettingError(f"{name}={value!r:.80} is none of {', '.join(known)}: give one of these.")
    everything = range(local.n_layers)
    asked = everything if layers is None else _range(local, layers)
    if mode == "direct" and (attention == "free" or asked != everything):
        raise SettingError(
            f"mode='direct' holds attention and all {local.n_layers} layers, but attention={attention!r} and "
            f"layers={layers!r} were given: leave both out, or give mode='constrained'."
        )
    return Way(mode, asked, attention)


def _range(local: LocalReplacementModel, layers: Any) -> range:
    ends = (
        [whole(end) for end in layers] if isinstance(layers, Sequence) and not isinstance(layers, str | range) else []
    )
    match ends:
        case [int(first), int(last)] if 0 <= first <= last < local.n_layers:
            return range(first, last + 1)
        case _:
            raise SettingError(
                f"layers={layers!r:.80} is no run of layers of this model: give the first and the last of them, both "
                f"included, from 0 to {local.n_layers - 1}, say layers=(0, {local.n_layers - 1})."
            )


def as_cases(given: Any) -> tuple[bool, list[tuple[Intervention, ...]]]:
    """Whether several cases were given, and each as its interventions."""
    if isinstance(given, Intervention):
        return False, [(given,)]
    if isinstance(given, list | tuple):
        if all(isinstance(item, Intervention) for item in given):
            return False, [tuple(given)]
        if all(isinstance(case, list | tuple) and all(isinstance(i, Intervention) for i in case) for case in given):
            return True, [tuple(case) for case in given]
    raise SettingError(
        f"{given!r:.80} are no interventions: give a list of tlc.Intervention('L3/120@-1', scale=0), or a list of such "
        "lists, to run each of them."
    )
