"""By what a model and its prompts are known again: activations that were kept are not to be taken for another's."""

import hashlib
from typing import cast

import torch
from torch import Tensor

from tl_circuits.hooks import Model, has_user_hooks

COMPUTED_BY = (
    "act_fn", "attn_scale", "attn_scores_soft_cap", "eps", "normalization_type", "parallel_attn_mlp",
    "positional_embedding_type", "rotary_base", "rotary_dim", "window_size",
)  # fmt: skip
"""What of a configuration changes activations at the same weights and in the same class."""


def identity_of(model: Model) -> str:
    """A digest of a model's class, of every number of its parameters, and of what is computed with them."""
    known = hashlib.sha256(type(model).__name__.encode())
    known.update(_numbers_of(model))
    computed = {name: str(getattr(model.cfg, name, None)) for name in COMPUTED_BY}
    known.update(f"{computed} {has_user_hooks(model)}".encode())
    return known.hexdigest()[:16]


def weights_of(model: Model) -> str:
    """A digest of every number of a model's parameters, and of their names: all are read, as a run of it does."""
    return hashlib.sha256(_numbers_of(model)).hexdigest()[:16]


def digest_of(tensor: Tensor) -> str:
    """A digest of a tensor's shape, kind and numbers."""
    known = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    known.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return known.hexdigest()[:16]


def _numbers_of(model: Model) -> bytes:
    named = cast(torch.nn.Module, model).named_parameters()
    return "".join(f"{name} {digest_of(parameter.detach())}" for name, parameter in named).encode()
