"""A model taken apart into heads and MLPs: what each adds to the residual stream, and where each reads it."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.errors import FitError
from tl_circuits.hooks import Model, Tap
from tl_circuits.sites import block_taps, embedding_tap, head_taps


@dataclass(frozen=True)
class Reading:
    """Where a block's parts read the residual stream, before their norms, and its queries, keys and values."""

    attn_in: Tap
    projections: tuple[Tap, Tap, Tap]
    mlp_in: Tap


@dataclass(frozen=True, eq=False)
class Parts:
    """A model taken apart: what writes to the residual stream, and what reads it, in the order of the pass."""

    model: Model
    blocks: tuple["Reading", ...]
    final: Tap
    heads: tuple[Tap, ...]
    mlps: tuple[Tap, ...]
    start: Tap

    @classmethod
    def of(cls, model: Model) -> "Parts":
        """The parts of a model. Raises `FitError` where they cannot be told apart.

        So they cannot where attention and MLP read the same (parallel blocks), where what they write passes a norm, and
        where several heads share keys and values.
        """
        _refuse_entangled(model)
        queries, keys, values = (block_taps(model, f"attn.hook_{part}", f"{part} of heads") for part in "qkv")
        blocks = tuple(
            Reading(Tap(f"blocks.{layer}.ln1", "input"), each, Tap(f"blocks.{layer}.ln2", "input"))
            for layer, each in enumerate(zip(queries, keys, values, strict=True))
        )
        mlps = block_taps(model, "hook_mlp_out", "MLP outputs")
        return cls(model, blocks, Tap("ln_final", "input"), head_taps(model), mlps, embedding_tap(model))

    @property
    def n_heads(self) -> int:
        return self.model.cfg.n_heads

    @property
    def sources(self) -> tuple[str, ...]:
        return ("embed", *(name for layer in range(len(self.blocks)) for name in self._of_block(layer)))

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.sources[1:], "logits")

    @property
    def exists(self) -> Bool[Tensor, "target source"]:
        # The embedding, then by block the heads, which do not read each other, and the MLP, which reads them.
        place = [0] + [
            2 * layer + 1 + (part == self.n_heads) for layer in range(len(self.blocks)) for part in self.parts
        ]
        source, target = torch.tensor(place), torch.tensor([*place[1:], 2 * len(self.blocks) + 1])
        return source[None] < target[:, None]

    @property
    def parts(self) -> range:
        """The heads of a block, and its MLP after them."""
        return range(self.n_heads + 1)

    def first(self, layer: int) -> int:
        """The number of a block's first head among the sources."""
        return 1 + layer * len(self.parts)

    def projected(self, layer: int, x: Float[Tensor, "prompt pos head d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of heads that each read a residual stream of their own."""
        block = cast(Any, self.model).blocks[layer]
        normed = block.ln1(x)
        weights = ((getattr(block.attn, f"W_{part}"), getattr(block.attn, f"b_{part}")) for part in "QKV")
        q, k, v = (torch.einsum("bphd,hde->bphe", normed, weight) + bias for weight, bias in weights)
        return q, k, v

    def written(
        self, layer: int, z: Float[Tensor, "prompt pos head d_head"]
    ) -> Float[Tensor, "prompt pos head d_model"]:
        """What each head adds to the residual stream."""
        return torch.einsum("bphe,hed->bphd", z, cast(Any, self.model).blocks[layer].attn.W_O)

    def _of_block(self, layer: int) -> list[str]:
        return [*(f"L{layer}H{head}" for head in range(self.n_heads)), f"MLP{layer}"]


def _refuse_entangled(model: Model) -> None:
    config = model.cfg
    shared = getattr(config, "n_key_value_heads", None)
    for says, is_so in (
        ("attention and MLPs side by side", getattr(config, "parallel_attn_mlp", False)),
        ("norms after attention and MLPs", getattr(config, "use_normalization_before_and_after", False)),
        (f"{shared} sets of keys and values for {config.n_heads} heads", shared not in (None, config.n_heads)),
    ):
        if is_so:
            raise FitError(
                f"This model has {says}, so edges between its heads and MLPs are not defined here: compare units, by "
                "tlc.circuit_curve with tlc.Basis.blocks(model)."
            )
