"""How the last residual stream depends on earlier ones: the derivative of a prompt's linear model and of the model."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.hooks import Tap, installed
from tl_circuits.intervention.correlation import cosine
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import put_back


def jacobian_cosines(
    local: LocalReplacementModel, probes: int, generator: torch.Generator
) -> dict[str, dict[int, float]]:
    """The cosine of two Jacobians, by the layer by whose input the last residual stream is derived, at all positions.

    "replacement": the local replacement model's, linear between its active features, and the model's, attention
    patterns held. "no_mlps": the same where no MLP responds. The inner product of two Jacobians is estimated by that of
    what they pull back of so many random vectors (Hutchinson).
    """
    shape = (probes, *local.pieces.embed.shape[1:])
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64).to(local.pieces.embed)
    own = _pulled_back(local, cotangent, put_back(local, local.sites.patterns))
    found = {}
    for name, features in (("replacement", local.features), ("no_mlps", local.features[:0])):
        other = _pulled_back(local, cotangent, put_back(local, local.sites.frozen) | _linear(local, features))
        found[name] = {layer: cosine(other[layer], own[layer]) for layer in own}
    return found


def _pulled_back(
    local: LocalReplacementModel,
    cotangent: Float[Tensor, "probe pos d_model"],
    functions: dict[Tap, Callable[[Tensor], Tensor | None]],
) -> dict[int, Float[Tensor, "probe pos d_model"]]:
    """Jᵀ cotangent, by the layer that the derivative is taken at the input of."""
    entered: dict[int, Tensor] = {}

    def enter(layer: int) -> Callable[[Tensor], Tensor]:
        def see(value: Tensor) -> Tensor:
            if layer not in entered:
                entered[layer] = value if entered else value.detach().clone().requires_grad_()
            return entered[layer]

        return see

    for site in local.sites.sites:
        functions[site.block_in] = enter(site.layer)
    functions[local.sites.sites[-1].block_out] = enter(local.n_layers)
    with torch.inference_mode(False), torch.enable_grad(), installed(local.model, functions):
        local.model(local.prompt.tokens.expand(len(cotangent), -1).clone())
        *layers, last = entered
        pulled = torch.autograd.grad(
            entered[last], [entered[layer] for layer in layers], cotangent.to(entered[last].dtype)
        )
    return {layer: value.detach() for layer, value in zip(layers, pulled, strict=True)}


def _linear(
    local: LocalReplacementModel, features: Float[Tensor, "feature 3"] | Tensor
) -> dict[Tap, Callable[[Tensor], Tensor | None]]:
    """MLPs write what they wrote, and what these features, taken as linear, add as they are pushed."""
    clt = local.transcoder
    moved: dict[int, Tensor] = {}
    reads: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            reads[layer] = x
            _, pos, index = features[features[:, 0] == layer].unbind(1)
            rows = clt.W_enc[layer][index.to(clt.W_enc[layer].device)].to(x)
            moved[layer] = ((x - x.detach())[:, pos] * rows).sum(-1)

        return see

    def write(layer: int) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            out = local.pieces.writes[layer].detach().expand(len(value), -1, -1)
            skip = clt.skip(reads[layer], layer)
            out = out if skip is None else out + skip
            for source in clt.sources(layer):
                _, pos, index = features[features[:, 0] == source].unbind(1)
                rows = clt.W_dec[source][index.to(clt.W_dec[source].device), layer - source].to(out)
                out = out.index_add(1, pos, moved[source].to(out)[..., None] * rows)
            return out

        return put

    taps: dict[Tap, Callable[[Tensor], Tensor | None]] = {}
    for site in local.sites.sites:
        taps |= {site.read: read(site.layer), site.write: write(site.layer)}
    return taps
