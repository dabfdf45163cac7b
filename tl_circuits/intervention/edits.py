"""Interventions on one prompt → edits: an activation, of this feature at this position, becomes factor · a + offset."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import whole
from tl_circuits.nodes import Feature, Intervention
from tl_circuits.replacement import LocalReplacementModel


@dataclass(frozen=True, eq=False)
class Edits:
    """The edits of several cases, which run side by side: `places` are (case, layer, position, index)."""

    places: Int64[Tensor, "edit 4"]
    factor: Float[Tensor, " edit"]
    offset: Float[Tensor, " edit"]
    n_cases: int

    @classmethod
    def of(
        cls, local: LocalReplacementModel, cases: Sequence[Sequence[Intervention]], layers: range, n_new: int = 0
    ) -> "Edits":
        """The edits that these lists of interventions come to, where so many new tokens are read after the prompt.

        Raises `SettingError` as `intervene` says.
        """
        rows, affine = [], []
        for case, interventions in enumerate(cases):
            for feature, intervention in _placed(local, interventions, layers, n_new).items():
                rows.append((case, *feature))
                affine.append(intervention.affine)
        like = local.activations
        factor, offset = like.new_tensor(affine).reshape(-1, 2).unbind(1)
        places = torch.tensor(rows, dtype=torch.int64, device=like.device).reshape(-1, 4)
        return cls(places, factor, offset, len(cases))

    @property
    def moving(self) -> Bool[Tensor, " edit"]:
        """Which of them change anything, whatever the activation is."""
        return (self.factor != 1) | (self.offset != 0)

    def where(self, kept: Bool[Tensor, " edit"]) -> "Edits":
        """Some of them."""
        return Edits(self.places[kept], self.factor[kept], self.offset[kept], self.n_cases)

    def of_cases(self, cases: Sequence[int]) -> "Edits":
        """The edits of some of the cases, which are counted from 0 again."""
        number = self.places.new_full((self.n_cases,), -1)
        number[list(cases)] = torch.arange(len(cases), device=number.device)
        kept = number[self.places[:, 0]] >= 0
        places = self.places[kept]
        places[:, 0] = number[places[:, 0]]
        return Edits(places, self.factor[kept], self.offset[kept], len(cases))

    def applied(self, activations: Float[Tensor, "case pos feature"], layer: int) -> Float[Tensor, "case pos feature"]:
        """The activations of one layer, edited."""
        here = self.places[:, 1] == layer
        at = self.places[here][:, [0, 2, 3]].unbind(1)
        edited = activations.clone()
        edited[at] = self.factor[here] * activations[at] + self.offset[here]
        return edited

    def put(
        self,
        edited: Float[Tensor, "case pos feature"],
        others: Float[Tensor, "case pos feature"],
        layer: int,
    ) -> Float[Tensor, "case pos feature"]:
        """What is edited, among the other features of one layer."""
        at = self.places[self.places[:, 1] == layer][:, [0, 2, 3]].unbind(1)
        together = others.clone()
        together[at] = edited[at]
        return together

    def before(self, local: LocalReplacementModel) -> Float[Tensor, " edit"]:
        """The activations on the prompt of what is edited; 0 for features that are not active."""
        # Features are sorted by these keys, as they are by layer, position and index.
        keys, wanted = (_keys(local, features) for features in (local.features, self.places[:, 1:]))
        if not len(keys):
            return torch.zeros_like(self.factor)
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[found] == wanted, local.activations[found], 0)


def _keys(local: LocalReplacementModel, features: Int64[Tensor, "_ 3"]) -> Int64[Tensor, " _"]:
    layer, pos, index = features.unbind(1)
    return (layer * local.n_pos + pos) * max(local.transcoder.n_features) + index


def _placed(
    local: LocalReplacementModel, interventions: Iterable[Intervention], layers: range, n_new: int
) -> dict[Feature, Intervention]:
    placed: dict[Feature, Intervention] = {}
    for intervention in interventions:
        features = [_checked(local, feature, layers) for feature in intervention.features]
        mine = {
            feature._replace(pos=pos): intervention
            for feature in features
            for pos in _positions(local, feature if intervention.positions is None else intervention.positions, n_new)
        }
        for feature in placed.keys() & mine.keys():
            other = placed[feature]
            # To set or scale alike twice is to do it once, but to add twice is not to add once.
            if other.affine != intervention.affine or intervention.add is not None:
                raise SettingError(
                    f"Two interventions act on {feature}: {other}, and {intervention}. Say once what becomes of each "
                    "feature at each position; run them apart to compare them."
                )
        placed |= mine
    return placed


def _checked(local: LocalReplacementModel, feature: Feature, layers: range) -> Feature:
    layer, _, index = (whole(part) for part in feature)
    n_features = local.transcoder.n_features
    if layer is None or index is None:
        raise SettingError(
            f"{feature!r:.80} is no feature: give its layer, position and index as whole numbers, "
            "tlc.Feature(layer=3, pos=-1, index=120)."
        )
    if not 0 <= layer < len(n_features):
        raise SettingError(
            f"{feature} is of layer {layer}, but the transcoder has layers 0 to {len(n_features) - 1}: name a feature "
            "of one of these."
        )
    if not 0 <= index < n_features[layer]:
        raise SettingError(
            f"{feature} is not in the transcoder, whose layer {layer} has {n_features[layer]} features (0 to "
            f"{n_features[layer] - 1}); local.active() lists those that are active."
        )
    if layer not in layers:
        raise SettingError(
            f"{feature} is of layer {layer}, which layers=({layers[0]}, {layers[-1]}) excludes: begin at layer {layer} "
            "or below, and end there or above."
        )
    return Feature(layer, feature.pos, index)


def _positions(local: LocalReplacementModel, given: Any, n_new: int) -> list[int]:
    n_pos, masked = local.n_pos, local.prompt.masked
    if isinstance(given, slice):
        return _sliced(local, given, n_new)
    # A feature comes with its own position, which is one number.
    several = [given.pos] if isinstance(given, Feature) else given
    several = several.tolist() if isinstance(several, Tensor) else several
    several = [several] if whole(several) is not None else several
    numbers = [whole(pos) for pos in several] if isinstance(several, Iterable) and not isinstance(several, str) else []
    if not numbers or None in numbers:
        said = given.pos if isinstance(given, Feature) else given
        raise SettingError(
            f"Position {said!r:.80} is no position: give a whole number, several or a slice; negative ones count from "
            "the end."
        )
    found = []
    for pos in numbers:
        assert pos is not None
        if not -n_pos <= pos < n_pos + n_new:
            raise SettingError(
                f"Position {pos} lies outside {_what_is_read(local, n_new)}: use 0 to {n_pos + n_new - 1}, or negative "
                "ones."
            )
        absolute = pos + n_pos if pos < 0 else pos
        if absolute in masked:
            raise SettingError(
                f"Position {pos} is masked on this prompt ({local.prompt.masked_why}), so there are no features there: "
                "localize with masked_positions=() to act there too."
            )
        found.append(absolute)
    return found


def _sliced(local: LocalReplacementModel, given: slice, n_new: int) -> list[int]:
    n_pos, stop = local.n_pos, local.n_pos + n_new
    bounds = [given.start, given.stop, given.step]
    if any(bound is not None and whole(bound) is None for bound in bounds) or given.step == 0:
        raise SettingError(f"{given} is no slice of a prompt: give whole numbers, and a step that is not 0.")
    beyond = [bound for bound in bounds[:2] if bound is not None and not -n_pos <= bound <= stop]
    if beyond:
        raise SettingError(
            f"{given} reaches {beyond[0]}, outside {_what_is_read(local, n_new)}: use bounds from {-n_pos} to {stop}, "
            "or None for its ends."
        )
    # Negative bounds count from the end of the prompt, whatever comes after it.
    first, last = (bound + n_pos if bound is not None and bound < 0 else bound for bound in bounds[:2])
    found = [pos for pos in range(stop)[first : last : given.step] if pos not in local.prompt.masked]
    if not found:
        raise SettingError(
            f"{given} holds no position of {_what_is_read(local, n_new)}, of which {list(local.prompt.masked)} are "
            "masked: give one that does."
        )
    return found


def _what_is_read(local: LocalReplacementModel, n_new: int) -> str:
    new = f" and the {n_new} new ones that are read (the last is not)" if n_new else ""
    return f"the prompt of {local.n_pos} tokens{new}"
