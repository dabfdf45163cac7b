"""What makes a graph what it is, beside its prompt, as JSON values. Graphs of one folder agree in it."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from tl_circuits.attribution.targets import Targets
from tl_circuits.harvest.identity import weights_of
from tl_circuits.hooks import Model, has_user_hooks
from tl_circuits.transcoder import CrossLayerTranscoder

WHOLE = 2**20
"""Tensors of up to so many numbers are told by all of them, larger ones by a sample: they may be files of gigabytes."""
RUNS, RUN = 16, 64
"""The sample: so many runs of so many numbers. Each run brings some pages of a file into memory."""


def made_by(
    model: Model,
    transcoder: CrossLayerTranscoder,
    targets: Targets,
    masked_positions: Sequence[int] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The model, the transcoder and the settings.

    A model is told by a hash of all its numbers, a transcoder by one of a sample: most of it may never be read.
    """
    return {
        "model": str(model.cfg.model_name),
        "class": type(model).__name__,
        "weights": weights_of(model),
        "prepend_bos": getattr(model.cfg, "default_prepend_bos", None),
        "own hooks": has_user_hooks(model),
        "transcoder": f"{transcoder.extra_repr()}, {transcoder.activation!r}",
        "transcoder weights": fingerprint(transcoder),
        "targets": described(targets),
        "masked_positions": None if masked_positions is None else list(masked_positions),
        **settings,
    }


def fingerprint(module: nn.Module) -> str:
    """A hash of the names, shapes and dtypes of all parameters, and of their numbers: of large ones, of a sample."""
    digest = sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
        digest.update(_sample(parameter.detach()))
    return digest.hexdigest()[:16]


def described(targets: Targets) -> str:
    """What is to be explained, in words that are the same for the same targets."""
    if targets.kind == "top":
        return f"top {targets.max_targets} to {targets.target_probability:g} at {targets.pos}"
    said = [targets.kind, ", ".join(_described(item) for item in targets.wanted), f"at {targets.pos}"]
    said += [] if targets.layer is None else [f"of layer {targets.layer}"]
    said += [] if targets.weights is None else [f"weighing {', '.join(map(repr, targets.weights))}"]
    said += [] if not targets.labels else [f"called {', '.join(map(repr, targets.labels))}"]
    return " ".join(said)


def _described(item: Any) -> str:
    return sha256(_sample(item)).hexdigest()[:16] if isinstance(item, Tensor) else repr(item)


def _sample(tensor: Tensor) -> bytes:
    n_numbers = tensor.numel()
    if n_numbers > WHOLE:
        first = torch.linspace(0, n_numbers - RUN, RUNS, dtype=torch.float64, device=tensor.device).long()
        places = first[:, None] + torch.arange(RUN, device=tensor.device)
        tensor = tensor[torch.unravel_index(places.flatten(), tensor.shape)]
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
