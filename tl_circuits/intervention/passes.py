"""Passes of the user's model with features edited: what each way of intervening holds, and what it lets run on.

Ameisen et al. 2025, "Nuances of Steering with Cross-Layer Features": constrained and iterative patching. How the modes
of circuit-tracer's `feature_intervention`, whose values are absolute (`Intervention(feature, value=...)`), come out:

    circuit-tracer                                     here
    constrained_layers=range(n_layers)                 mode="direct" (there, too, norms are held only then)
    constrained_layers=range(a, b + 1)                 mode="constrained", layers=(a, b)
    freeze_attention=True, no constrained_layers       mode="added", attention="frozen"
    freeze_attention=False, no constrained_layers      mode="added", attention="free"

Tokens that follow the prompt run freely, as in its `feature_intervention_generate`: nothing of theirs is held, and what
is edited there is added to what the MLPs write.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.hooks import Tap, installed
from tl_circuits.intervention.edits import Edits
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import decoded, put_back
from tl_circuits.replacement.pieces import idle, working

Mode: TypeAlias = Literal["direct", "constrained", "iterative", "added"]
Attention: TypeAlias = Literal["frozen", "free"]

BATCH_NUMBERS = 2**24
"""The most numbers in any one tensor of a batch: activations of a layer, logits, or what the edits write."""


@dataclass(frozen=True)
class Way:
    """How to intervene: what becomes of MLPs, in which layers, and whether attention patterns are held."""

    mode: Mode
    layers: range
    attention: Attention

    @property
    def re_encodes(self) -> bool:
        """Whether features are encoded anew in the pass, rather than held at what they were on the prompt."""
        return self.mode in ("iterative", "added")

    @property
    def replaces(self) -> bool:
        """Whether what the MLPs of `layers` write is put there, rather than computed by the MLPs."""
        return self.mode != "added"

    def held(self, local: LocalReplacementModel) -> tuple[Tap, ...]:
        """What is put back to its values on the prompt."""
        if self.mode == "direct":
            return local.sites.frozen
        return local.sites.patterns if self.attention == "frozen" else ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What passes with edits came to. Rows are features active before or after, by layer, case, position, index."""

    logits: Float[Tensor, "case pos d_vocab"]
    rows: Int64[Tensor, "row 4"]
    before: Float[Tensor, " row"]
    after: Float[Tensor, " row"]
    preactivations_before: Float[Tensor, " row"]
    preactivations_after: Float[Tensor, " row"]


def unchanged(local: LocalReplacementModel) -> Outcome:
    """One case in which nothing is edited: the prompt's own pass."""
    rows = torch.cat([torch.zeros_like(local.features[:, :1]), local.features], dim=1)
    activations, preactivations = local.activations, local.preactivations
    return Outcome(local.logits[None], rows, activations, activations, preactivations, preactivations)


def batch_size(local: LocalReplacementModel) -> int:
    """How many cases run side by side."""
    # Hooks of the user's own may count on one prompt.
    if local.hooked:
        return 1
    widest = max(*local.transcoder.n_features, local.logits.shape[-1], local.n_layers * local.transcoder.d_model)
    return max(1, BATCH_NUMBERS // (local.n_pos * widest))


def run(local: LocalReplacementModel, edits: Edits, way: Way, new: Sequence[int] = ()) -> Outcome:
    """One pass of all cases side by side, with these new tokens after the prompt, which run freely."""
    running = _Pass(local, edits, way, len(new))
    tokens = torch.cat([local.prompt.tokens, local.prompt.tokens.new_tensor(new)])
    with torch.inference_mode(False), torch.no_grad(), installed(local.model, running.functions()):
        logits = local.model(tokens.expand(edits.n_cases, -1).clone())
    rows, values = (torch.cat(parts) for parts in zip(*running.seen, strict=True))
    return Outcome(logits.detach(), rows, *values.unbind(1))


class _Pass:
    """What a pass has read and is to write. `written` is what the edits change of each layer's write."""

    def __init__(self, local: LocalReplacementModel, edits: Edits, way: Way, n_new: int) -> None:
        self._local, self._edits, self._way = local, edits, way
        self._n_pos, self._n_new = local.n_pos + n_new, n_new
        self._cells = edits.n_cases * self._n_pos
        self._reads: dict[int, Tensor] = {}
        self._written = local.activations.new_zeros(local.n_layers, self._cells, local.transcoder.d_model)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def functions(self) -> dict[Tap, Callable[[Tensor], Tensor | None]]:
        """What to call at each tap."""
        held = put_back(self._local, self._way.held(self._local))
        functions = {tap: self._over_prompt(put) for tap, put in held.items()} if self._n_new else held
        for site in self._local.sites.sites:
            functions[site.read] = self._read(site.layer)
            if site.layer in self._way.layers:
                functions[site.write] = self._write(site.layer)
                # Hooks of the user's own may need all that the MLP computes.
                if self._way.replaces and not self._local.hooked and not self._n_new:
                    functions[site.mlp_in] = idle(functions.get(site.mlp_in))
        return functions

    def _read(self, layer: int) -> Callable[[Tensor], None]:
        def encode(x: Float[Tensor, "case pos d_model"]) -> None:
            self._reads[layer] = x
            clean_preactivations, clean = self._encoded(self._local.pieces.reads[layer], layer)
            preactivations, activations = self._encoded(x, layer)
            clean = self._then(clean, activations)
            clean_preactivations = self._then(clean_preactivations, preactivations)
            edited = self._edits.applied(activations if self._way.re_encodes else clean, layer)
            if layer in self._way.layers:
                self._change_writes(activations if self._way.mode == "added" else clean, edited, layer)
            shown = self._edits.put(edited, activations, layer)
            self._keep(layer, (clean, shown, clean_preactivations, preactivations))

        return encode

    def _then(self, clean: Tensor, now: Tensor) -> Tensor:
        """Values on the prompt's own pass, and after the prompt those of this one: there is no other to hold to."""
        clean = clean.expand(len(now), *clean.shape[1:])
        return torch.cat([clean, now[:, self._local.n_pos :]], dim=1) if self._n_new else clean

    def _over_prompt(self, put: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
        """Holds what is of the prompt. Later tokens stand after it in every dimension that counts tokens."""

        def hold(value: Tensor) -> Tensor | None:
            held = put(value)
            if held is None or held.shape == value.shape:
                return held
            mixed = value.clone()
            mixed[tuple(map(slice, held.shape))] = held
            return mixed

        return hold

    def _encoded(self, x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        preactivations = self._local.transcoder.preactivations(working(x), layer)
        activations = self._local.transcoder.activation(preactivations, layer)
        activations[:, list(self._local.prompt.masked)] = 0
        return preactivations, activations

    def _change_writes(self, old: Tensor, new: Tensor, layer: int) -> None:
        """Adds what these features write, less what they would write, at this layer and those above."""
        at = case, pos, index = (new != old).nonzero(as_tuple=True)
        if not len(case):
            return
        cell = case * self._n_pos + pos
        features = torch.stack([torch.full_like(cell, layer), cell, index], dim=1)
        # A shift makes writes affine, so both states are decoded, and not their difference.
        both, signs = torch.cat([new[at], old[at]]), torch.ones_like(new[at])
        self._written += decoded(
            self._local.transcoder, features.repeat(2, 1), both, self._cells, times=torch.cat([signs, -signs])
        )

    def _write(self, layer: int) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            change, n_prompt = self._written[layer].view(self._edits.n_cases, self._n_pos, -1), self._local.n_pos
            if not self._way.replaces:
                return value + change.to(value)
            constant = self._local.pieces.writes[layer].detach() + change[:, :n_prompt].to(value)
            skip = self._local.transcoder.skip(self._reads[layer][:, :n_prompt], layer)
            held = constant if skip is None else constant + skip.to(value)
            return torch.cat([held, (value + change.to(value))[:, n_prompt:]], dim=1) if self._n_new else held

        return put

    def _keep(self, layer: int, values: tuple[Tensor, ...]) -> None:
        """Keeps what became of features that are active before or after: the first two of the values are not 0."""
        at = case, pos, index = ((values[0] != 0) | (values[1] != 0)).nonzero(as_tuple=True)
        rows = torch.stack([case, torch.full_like(case, layer), pos, index], dim=1)
        self.seen.append((rows, torch.stack([value[at] for value in values], dim=1)))
