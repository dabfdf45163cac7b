"""Unit bases: what a circuit is made of, said so that every basis runs through the same code.

A basis is a sequence of slots in the order of the forward pass. At a slot units are encoded from what passes one point,
and write, with those of the slots before, what passes another; what the units do not account for is the slot's error.
Neurons and heads have none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import FitError
from tl_circuits.hooks import Model, Tap, installed
from tl_circuits.replacement.localize import check_fit, refuse_replaced, warn_of_another_model
from tl_circuits.sites import Sites, head_taps, neuron_taps, warn_of_low_precision
from tl_circuits.transcoder import CrossLayerTranscoder


@dataclass(frozen=True, eq=False)
class Slot:
    """Where some units stand.

    - `encode` makes units (batch, pos, unit, ...) of what passes `read`; a unit may be a vector, as a head is.
    - `decode` makes what passes `write` of the units of all slots so far, this one's last, as far as they write here.
    - `exact`: whether the units account for all that passes, so that there is no error.
    """

    layer: int
    read: Tap
    write: Tap
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Sequence[Tensor]], Tensor]
    exact: bool


@dataclass(frozen=True, eq=False)
class Basis:
    """Units to build circuits of, in slots; `transcoder` is theirs where they are features of one.

    Made of a model by `neurons`, `blocks`, `features` and `saes`.
    """

    name: str
    slots: tuple[Slot, ...]
    transcoder: CrossLayerTranscoder | None = None

    @classmethod
    def neurons(cls, model: Model) -> "Basis":
        """The model's own MLP neurons, `mlp.hook_post`. Raises `FitError` where the model does not show them."""
        taps = neuron_taps(model)
        return cls("neurons", tuple(Slot(layer, tap, tap, _same, _last, exact=True) for layer, tap in enumerate(taps)))

    @classmethod
    def blocks(cls, model: Model) -> "Basis":
        """Attention heads (`attn.hook_z`) and whole MLPs (`hook_mlp_out`), as EAP has them: vectors, and no error."""
        sites = Sites.of(model, "ln2.hook_normalized" if _has_ln2(model) else "mlp.hook_in", "hook_mlp_out")
        slots = []
        for site, head in zip(sites.sites, head_taps(model), strict=True):
            slots.append(Slot(site.layer, head, head, _same, _last, exact=True))
            slots.append(Slot(site.layer, site.write, site.write, _as_one_unit, _from_one_unit, exact=True))
        return cls("heads and MLPs", tuple(slots))

    @classmethod
    def features(cls, model: Model, transcoder: CrossLayerTranscoder, name: str | None = None) -> "Basis":
        """The features of a transcoder, cross-layer or per-layer. A linear skip counts as error: it is no feature's.

        Raises `FitError` where model and transcoder do not fit.
        """
        check_fit(model, transcoder)
        sites = Sites.of(model, transcoder.read, transcoder.write)

        def slot(layer: int) -> Slot:
            return Slot(
                layer,
                sites.sites[layer].read,
                sites.sites[layer].write,
                lambda x: transcoder.encode(x, layer),
                lambda units: transcoder.decode(units, layer),
                exact=False,
            )

        kind = "PLT" if transcoder.is_per_layer else "CLT"
        return cls(name or kind, tuple(slot(layer) for layer in range(transcoder.n_layers)), transcoder)

    @classmethod
    def saes(cls, model: Model, saes: Sequence[Any], name: str = "SAE") -> "Basis":
        """The features of SAELens SAEs, each at its hook point; several a layer make a sparse feature circuit.

        They are taken in the order of the forward pass. Points that have none are the pass's own: compare bases of the
        same points. Raises `FitError` for no SAE or what is none, hook points that the model lacks, never passes or
        has before its blocks, other widths, two SAEs of one point, and SAEs that rescale each input by itself, whose
        decoders depend on what was encoded last.
        """
        given = list(saes) if isinstance(saes, Sequence) else []
        if not given:
            raise FitError(f"Basis.saes was given {type(saes).__name__} without any SAE in it: give a list of SAEs.")
        by_point = {_hook_of(sae): sae for sae in given}
        known = model.hook_dict
        for point in by_point:
            if point not in known:
                raise FitError(f"An SAE reads {point!r}, which is none of the model's {len(known)} hook points.")
            if not point.startswith("blocks."):
                raise FitError(
                    f"An SAE reads {point!r}, before the first block: circuits are of what is in the blocks."
                )
        if len(by_point) < len(given):
            raise FitError(f"Two SAEs read the same point, of {', '.join(by_point)}: give one for each.")
        widths = _as_passed(model, by_point)
        for point, width in widths.items():
            if by_point[point].cfg.d_in != width:
                raise FitError(
                    f"The SAE of {point!r} reads {by_point[point].cfg.d_in} numbers a token, but {width} pass there: "
                    "was it trained on another model?"
                )
        return cls(name, tuple(_sae_slot(point, by_point[point]) for point in widths))

    def __repr__(self) -> str:
        return f"Basis({self.name}, {len(self.slots)} slots)"


def check_basis(model: Model, basis: Basis) -> None:
    """Raises `FitError` where a basis was made of a model of other layers, width or hook points.

    Warns of a transcoder that says it was trained on another model. Of one model or of another of the same shape, what
    all units reach together tells more than this can: F of the last size.
    """
    if not isinstance(basis, Basis):
        raise FitError(
            f"A basis is needed, and {type(basis).__name__} was given: make one by tlc.Basis.features(model, "
            "transcoder), .saes(model, saes), .neurons(model) or .blocks(model)."
        )
    if not basis.slots:
        raise FitError(f"{basis!r} has no units: make it by Basis.features, .saes, .neurons or .blocks.")
    refuse_replaced(model)
    warn_of_low_precision(
        model, "what circuits measure is rounded to it, and small effects come out of order", stacklevel=4
    )
    # A bridge lists all its hook points anew whenever it is asked for them.
    known = model.hook_dict
    taps = (tap for slot in basis.slots for tap in (slot.read, slot.write) if tap.kind == "hook")
    missing = [tap.name for tap in taps if tap.name not in known]
    if missing:
        raise FitError(
            f"{basis!r} reads or writes {missing[0]!r}, which is none of this model's {len(known)} hook "
            "points: make the basis of this model."
        )
    n_layers = len({slot.layer for slot in basis.slots})
    if basis.transcoder is not None:
        check_fit(model, basis.transcoder)
        warn_of_another_model(model, basis.transcoder)
    elif basis.slots[0].exact and n_layers < model.cfg.n_layers:
        raise FitError(
            f"{basis!r} are of {n_layers} layers, but the model has {model.cfg.n_layers}: make the basis of this model."
        )


def _as_passed(model: Model, points: Iterable[str]) -> dict[str, int]:
    """The width of each point, in the order in which a pass reaches them: a model lists them in another."""
    reached: dict[str, int] = {}

    def note(point: str) -> Callable[[Tensor], None]:
        return lambda value: reached.__setitem__(point, value[0, 0].numel())

    noting = {Tap(point): note(point) for point in points}
    token = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
    with torch.no_grad(), installed(model, noting):
        model(token)
    never = [tap.name for tap in noting if tap.name not in reached]
    if never:
        raise FitError(
            f"An SAE reads {never[0]!r}, which nothing passes in this model: switch that hook on, or take an SAE of "
            "another point."
        )
    return reached


def _sae_slot(point: str, sae: Any) -> Slot:
    tap, parts = Tap(point), point.split(".")
    layer = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    return Slot(layer, tap, tap, sae.encode, lambda units: sae.decode(units[-1]), exact=False)


def _hook_of(sae: Any) -> str:
    if not hasattr(getattr(sae, "cfg", None), "metadata"):
        raise FitError(f"{type(sae).__name__} is no SAE of SAELens: give a list of what sae_lens.SAE loads.")
    if getattr(sae.cfg, "d_out", None) is not None:
        raise FitError(
            f"{type(sae).__name__} is a transcoder, which reads one point and writes another: "
            "tlc.load_transcoder(list of them) makes one transcoder, and tlc.Basis.features(model, transcoder) its "
            "basis."
        )
    if getattr(sae.cfg, "normalize_activations", "none") not in ("none", None):
        raise FitError(
            f"An SAE has normalize_activations={sae.cfg.normalize_activations!r}: fold it in first "
            "(sae.fold_activation_norm_scaling_factor), or take one without."
        )
    return str(sae.cfg.metadata.hook_name)


def _has_ln2(model: Model) -> bool:
    return any(name.endswith("ln2.hook_normalized") for name in model.hook_dict)


def _same(value: Tensor) -> Tensor:
    return value


def _last(units: Sequence[Tensor]) -> Tensor:
    return units[-1]


def _as_one_unit(value: Tensor) -> Tensor:
    return value.unsqueeze(2)


def _from_one_unit(units: Sequence[Tensor]) -> Tensor:
    return torch.squeeze(units[-1], 2)
