"""Small pushes of the residual stream: does the local replacement model move as the model does?

Ameisen et al. 2025, appendix "Evaluating Mechanistic Faithfulness": a push at one position, attention patterns held in
both, net changes compared layer by layer. In the local replacement model norm denominators are held too, features are
encoded anew, and errors stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.hooks import Tap, installed
from tl_circuits.intervention.correlation import cosine, nmse
from tl_circuits.intervention.passes import batch_size
from tl_circuits.nodes import Feature
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import decoded, put_back
from tl_circuits.replacement.pieces import working

Taps: TypeAlias = dict[Tap, Callable[[Tensor], Tensor | None]]

KINDS = ("encoder", "decoder", "random")
PUSH = 0.1
"""How much a feature's activation is pushed, as a share of it: the paper adds 0.1 to activations of order 1."""


@dataclass(frozen=True, eq=False)
class Push:
    """A vector that is added to the residual stream entering a layer, at one position.

    - "encoder": along the direction that a feature of this layer reads, as far as raises it by a tenth.
    - "decoder": a tenth of what a feature of the layer below wrote into that layer.
    - "random": a random direction, as long as the encoder's.
    """

    kind: str
    layer: int
    pos: int
    vector: Float[Tensor, " d_model"]


@dataclass(frozen=True)
class Agreement:
    """How alike two models' changes are, so many blocks after a push.

    `residual` compares the residual stream, which carries the push itself along; `mlp` what the last of these blocks'
    MLP writes, which does not.
    """

    kind: str
    hop: int
    model: str
    residual_cosine: float
    residual_nmse: float
    mlp_cosine: float
    mlp_nmse: float


def draw_pushes(local: LocalReplacementModel, per_layer: int, generator: torch.Generator) -> list[Push]:
    """So many pushes of each kind into each layer but the first, of features drawn from those that are active."""
    pushes = []
    for layer in range(1, local.n_layers):
        for feature, activation in _drawn(local, layer, per_layer, generator):
            along = _encoder_direction(local, feature)
            vector = along * (PUSH * activation / along.square().sum().clamp(min=torch.finfo(along.dtype).tiny))
            chance = torch.randn(len(vector), generator=generator, dtype=torch.float64).to(vector)
            pushes.append(Push("encoder", layer, feature.pos, vector))
            pushes.append(Push("random", layer, feature.pos, chance * (vector.norm() / chance.norm())))
        for feature, activation in _drawn(local, layer - 1, per_layer, generator):
            rows = local.transcoder.decoder_rows(layer - 1, torch.tensor([feature.index]))
            pushes.append(Push("decoder", layer, feature.pos, PUSH * activation * rows[0, 0].to(local.activations)))
    return pushes


def agreements(local: LocalReplacementModel, pushes: Sequence[Push]) -> list[Agreement]:
    """How the local replacement model ("replacement") moves against the model, for each push and each block after it.

    And how one does whose MLPs do not respond at all ("no_mlps"): what residual stream and attention alone give.
    """
    found = []
    for start in range(0, len(pushes), batch_size(local)):
        batch = pushes[start : start + batch_size(local)]
        own = _changes(local, batch, put_back(local, local.sites.patterns))
        for name, features_respond in (("replacement", True), ("no_mlps", False)):
            other = _changes(local, batch, _replaced(local, len(batch), features_respond=features_respond))
            found += [
                _compared(name, push, hop, *(changes.at(push.layer + hop, case) for changes in (other, own)))
                for case, push in enumerate(batch)
                for hop in range(1, local.n_layers - push.layer + 1)
            ]
    return found


@dataclass(frozen=True, eq=False)
class _Changes:
    """What pushes changed: `residual` by the layer that is entered, `written` by the MLP that wrote."""

    residual: Mapping[int, Float[Tensor, "case pos d_model"]]
    written: Mapping[int, Float[Tensor, "case pos d_model"]]

    def at(self, layer: int, case: int) -> tuple[Tensor, Tensor]:
        """The residual stream that enters a layer, and what the MLP below wrote into it."""
        return self.residual[layer][case], self.written[layer - 1][case]


def _compared(name: str, push: Push, hop: int, other: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Agreement:
    measures = [measure(theirs, ours) for theirs, ours in zip(other, own, strict=True) for measure in (cosine, nmse)]
    return Agreement(push.kind, hop, name, *measures)


def _changes(local: LocalReplacementModel, pushes: Sequence[Push], functions: Taps) -> _Changes:
    residual: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {}

    def enter(layer: int) -> Callable[[Tensor], Tensor]:
        def push(value: Tensor) -> Tensor:
            pushed = value.clone()
            for case, one in enumerate(pushes):
                if one.layer == layer:
                    pushed[case, one.pos] += one.vector.to(value)
            residual[layer] = pushed - local.pieces.block_in[layer].detach()
            return pushed

        return push

    def keep(layer: int, put: Callable[[Tensor], Tensor | None] | None) -> Callable[[Tensor], Tensor]:
        def write(value: Tensor) -> Tensor:
            replaced = None if put is None else put(value)
            now = value if replaced is None else replaced
            written[layer] = now - _wrote(local, layer)
            return now

        return write

    for site in local.sites.sites:
        functions[site.block_in] = enter(site.layer)
        functions[site.write] = keep(site.layer, functions.get(site.write))
    functions[local.sites.sites[-1].block_out] = enter(local.n_layers)
    with torch.inference_mode(False), torch.no_grad(), installed(local.model, functions):
        local.model(local.prompt.tokens.expand(len(pushes), -1).clone())
    return _Changes(residual, written)


def _replaced(local: LocalReplacementModel, n_cases: int, *, features_respond: bool) -> Taps:
    """The local replacement model as functions of a pass: norms and patterns held, features encoded anew or left."""
    functions = put_back(local, local.sites.frozen)
    change = local.activations.new_zeros(local.n_layers, n_cases, local.n_pos, local.transcoder.d_model)

    def read(layer: int) -> Callable[[Tensor], None]:
        def encode(x: Tensor) -> None:
            skipped[layer] = local.transcoder.skip(x, layer)
            if features_respond:
                _change_writes(local, change, working(x), layer)

        return encode

    def write(layer: int) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            out = local.pieces.writes[layer].detach() + change[layer].to(value)
            skip = skipped[layer]
            return out if skip is None else out + skip.to(value)

        return put

    skipped: dict[int, Tensor | None] = {}
    for site in local.sites.sites:
        functions |= {site.read: read(site.layer), site.write: write(site.layer)}
    return functions


def _change_writes(local: LocalReplacementModel, change: Tensor, x: Tensor, layer: int) -> None:
    """Adds what the features of a layer write, reading x, less what they wrote on the prompt."""
    clt, masked = local.transcoder, list(local.prompt.masked)
    new, old = clt.encode(x, layer), clt.encode(working(local.pieces.reads[layer]), layer).expand(len(x), -1, -1)
    case, pos, index = at = ((new != old) & _unmasked(local, masked)).nonzero(as_tuple=True)
    cell = case * local.n_pos + pos
    features = torch.stack([torch.full_like(cell, layer), cell, index], dim=1).repeat(2, 1)
    signs = torch.ones_like(new[at])
    # A shift makes writes affine, so both states are decoded, and not their difference.
    both, times = torch.cat([new[at], old[at]]), torch.cat([signs, -signs])
    change += decoded(clt, features, both, len(x) * local.n_pos, times).view_as(change)


def _unmasked(local: LocalReplacementModel, masked: list[int]) -> Bool[Tensor, "pos 1"]:
    kept = torch.ones(local.n_pos, 1, dtype=torch.bool, device=local.activations.device)
    kept[masked] = False
    return kept


def _wrote(local: LocalReplacementModel, layer: int) -> Float[Tensor, "1 pos d_model"]:
    constant = local.pieces.writes[layer].detach()
    skip = local.transcoder.skip(local.pieces.reads[layer].detach(), layer)
    return constant if skip is None else constant + skip


def _encoder_direction(local: LocalReplacementModel, feature: Feature) -> Float[Tensor, " d_model"]:
    """The gradient of a feature's pre-activation in the residual stream that enters its layer, at its own position."""
    layer, pos, index = feature
    encoder = local.transcoder.W_enc[layer][index].to(local.activations)
    at_input = encoder.new_zeros(1, local.n_pos, len(encoder))
    local.pieces.pull_back_read(layer, encoder[None], torch.tensor([pos], device=encoder.device), at_input)
    return at_input[0, pos]


def _drawn(
    local: LocalReplacementModel, layer: int, count: int, generator: torch.Generator
) -> list[tuple[Feature, float]]:
    rows = (local.features[:, 0] == layer).nonzero()[:, 0].cpu()
    chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
    kept = zip(local.features[chosen].tolist(), local.activations[chosen].tolist(), strict=True)
    return [(Feature(*feature), activation) for feature, activation in kept]
