"""What weights alone say of features: the tokens they make likelier, and the tokens whose embeddings they read.

Both leave out everything between: a feature's decoders go straight to the logits, an embedding straight to its encoder.
Norms on the way stand with a denominator of 1, so that their gains and centring count and effects are in the units of
that: within a feature they can be compared, and between features that write (or read) through the same norms.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.features.encoders import CELLS
from tl_circuits.hooks import Model, Tap, installed
from tl_circuits.transcoder import CrossLayerTranscoder

POST_NORMED = "mlp.hook_out"


def logit_directions(
    model: Model, transcoder: CrossLayerTranscoder, layer: int, index: Int64[Tensor, " feature"]
) -> Float[Tensor, "feature d_model"]:
    """What one unit of each feature adds to what the unembedding reads, over all layers that it writes."""
    rows = transcoder.decoder_rows(layer, index)
    rows = rows.to(next(model.parameters()).device, torch.float32)
    written = [
        linear(model, f"blocks.{layer + step}.ln2_post", rows[:, step]) if transcoder.write == POST_NORMED
        else rows[:, step]
        for step in range(rows.shape[1])
    ]  # fmt: skip
    return linear(model, "ln_final", torch.stack(written).sum(0))


def reading_directions(model: Model, transcoder: CrossLayerTranscoder, layer: int) -> Float[Tensor, "token d_model"]:
    """What each token's embedding is where the transcoder reads at this layer."""
    embeddings = cast(Any, model).W_E.detach().float()
    if transcoder.read == "hook_resid_mid":
        return embeddings
    # Where attention and MLP share a norm, a block has no second one.
    shared = "ln2" if hasattr(cast(Any, model).blocks[layer], "ln2") else "ln1"
    return linear(model, f"blocks.{layer}.{shared}", embeddings)


@dataclass(frozen=True, eq=False)
class Strongest:
    """For each feature, ids and values of the tokens with the largest products, the largest first."""

    token: Int64[Tensor, "feature k"]
    value: Float[Tensor, "feature k"]


def strongest(
    left: Float[Tensor, "feature d_model"], right: Float[Tensor, "token d_model"], k: int, *, centred: bool = False
) -> tuple[Strongest, Strongest]:
    """The k tokens with the largest products, and the k with the smallest, the smallest first.

    `centred` takes each feature's mean over all tokens away, which no probability depends on.
    """
    k = min(k, len(right))
    found: list[Tensor] = []
    for part in left.split(max(1, 4 * CELLS // len(right))):
        products = part @ right.T
        products = products - products.mean(1, keepdim=True) if centred else products
        high, low = products.topk(k), products.topk(k, largest=False)
        # Token ids are whole in double precision.
        found.append(torch.stack([each.double() for each in (high.indices, high.values, low.indices, low.values)]))
    ids, values, low_ids, low_values = torch.cat(found, dim=1)
    return Strongest(ids.long(), values.float()), Strongest(low_ids.long(), low_values.float())


def linear(model: Model, norm: str, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What a norm makes of vectors at a denominator of 1, without its bias; the vectors where there is no such norm."""
    module: Any = model
    for part in norm.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part, None)
        if module is None:
            return vectors
    scale = f"{norm}.hook_scale"
    if scale not in model.hook_dict:
        return vectors
    dtype = next(model.parameters()).dtype
    with torch.no_grad(), installed(model, {Tap(scale): torch.ones_like}):
        # A norm computes in the model's precision, and is given a batch of sequences.
        given = vectors.to(dtype)[None]
        return (module(given) - module(torch.zeros_like(given[:, :1])))[0].float()
