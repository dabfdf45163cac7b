"""What a training run is told."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import torch

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import flag, whole
from tl_circuits.harvest import CacheForm
from tl_circuits.training.rules import ActivationName, Rule
from tl_circuits.training.step import Costs, Penalty, Per
from tl_circuits.training.weights import Architecture, Tied

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "per-write": {"charge": "write"},
        "per-direction": {"charge": "direction"},
        "topk": {"activation": "topk", "k": 16, "sparsity": 0.0},
        "batch-topk": {"activation": "batch_topk", "k": 16, "sparsity": 0.0},
        "relu": {"activation": "relu", "penalty": "l1", "sparsity": 3e-3},
        "dunefsky": {
            "cross_layer": False,
            "activation": "relu",
            "penalty": "l1",
            "sparsity": 1.4e-4,
            "lr": 4e-4,
            "batch_tokens": 4096,
            "revival": 0.0,
        },
    }
)


MOST, LARGEST = 2**53, 1e30
"""Counts are below the one, so that floats count them; numbers are within the other, so that float32 holds them."""


@dataclass(frozen=True)
class TrainingSettings:
    """How wide a transcoder is and how it is trained. Units of losses and thresholds are normalised ones.

    - `features` per layer. A feature writes its own layer and, with `cross_layer`, all later ones, or the first `span`
      of them. `tied="source"`: it writes the same row into each; `tied="target"`: features of one index write the same
      row into a layer. `skip` adds a linear path from each MLP's input to its output.
    - `activation`: "jump_relu" (thresholds start at `threshold` and learn by a straight-through estimate of width
      `bandwidth`), "topk" and "batch_topk" (`k` features per token and layer, never across layers), "relu". BatchTopK
      becomes a JumpReLU when training ends, each layer's threshold such that k features are on per token on average.
    - `sparsity` is the weight λ of the penalty, reached after `ramp` of the steps: "tanh" (the paper's; `saturation` is
      its c) or "l1", of an activation times the norm of its decoders. `charge="feature"` takes the norm of all decoders
      together; "write" charges each layer written by itself, against features that write two steps of a chain;
      "direction" charges what goes on along a feature's first row once, and what it writes beside that by layer.
    - A feature silent for `dead_after` steps counts as dead and is pulled back by `revival`.
    - `initial_l0`: how many features per layer are on at first, by biases set from data; None: biases start at 0.
    - `lr` warms up over 50 steps, stays, and falls to nothing over the last fifth.
    - `finetune_steps` more steps after `steps`, on `finetune_prompts` whole prompts each, minimise the replacement
      model's KL as well.
    - `context`: the most tokens of a prompt: texts and lists are cut, a wider matrix is refused.
    - What is harvested is held in memory, up to `buffer_tokens` tokens of it, 2^23 at most (None: as many as take 2^30
      bytes), and batches are drawn from it with replacement; more data comes in blocks of so many, or of two batches,
      without.
    - `backend`: "dense", "sparse", or "auto", which chooses by the measured density; results agree up to rounding.
    - `working_dtype="bfloat16"` multiplies copies of encoders and decoders in bfloat16, at some loss of precision; the
      weights themselves, their updates and checkpoints stay float32.
    - `cache_dtype`: how a cache on disk keeps activations, "float32" or "int8", a quarter of it, with a scale for every
      token and layer.
    - `low_memory` updates parameters inside the backward pass, so that one gradient is held at a time: of weights, two
      moments and gradients, three remain. It spares nothing where activations of dense steps take more than gradients,
      as `plan` says. Gradients are clipped by the norm of the step before; where none is, weights are the same, bit for
      bit. Fine-tuning holds gradients all the same.

    The thresholds themselves are trained, not their logarithms: Adam moves every parameter by about `lr` a step, which
    would move a small threshold's logarithm hardly at all.
    """

    features: int
    steps: int = 1000
    batch_tokens: int = 1536
    cross_layer: bool = True
    span: int | None = None
    tied: Tied = "none"
    skip: bool = False
    activation: ActivationName = "jump_relu"
    k: int = 16
    penalty: Penalty = "tanh"
    charge: Per = "feature"
    sparsity: float = 2e-3
    saturation: float = 4.0
    ramp: float = 0.6
    threshold: float = 0.1
    bandwidth: float = 1.0
    initial_l0: int | None = None
    dead_after: int = 150
    revival: float = 1e-3
    lr: float = 3e-3
    finetune_steps: int = 0
    finetune_prompts: int = 96
    finetune_lr: float = 1e-3
    read: str = "ln2.hook_normalized"
    write: str = "hook_mlp_out"
    context: int | None = None
    buffer_tokens: int | None = None
    backend: Literal["auto", "dense", "sparse"] = "auto"
    low_memory: bool = False
    working_dtype: Literal["float32", "bfloat16"] = "float32"
    cache_dtype: CacheForm = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_numbers()
        for name, values in _CHOICES.items():
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in values:
                raise SettingError(f"{name}={getattr(self, name)!r:.80} is none of {', '.join(map(repr, values))}.")
        for name in ("cross_layer", "skip", "low_memory"):
            flag(name, getattr(self, name))
        for name in ("read", "write"):
            if not isinstance(getattr(self, name), str):
                raise SettingError(
                    f"{name}={getattr(self, name)!r:.80} is no hook point: give a name in quotation marks."
                )
        if not 0 < self.ramp <= 1:
            raise SettingError(f"ramp={self.ramp} is a share of the steps: give a number above 0 and at most 1.")
        if self.span is not None and not self.cross_layer:
            raise SettingError(
                f"span={self.span} is for features that write later layers: leave out cross_layer=False."
            )
        for name in ("k", "initial_l0"):
            if (getattr(self, name) or 0) > self.features and (name != "k" or "topk" in self.activation):
                raise SettingError(
                    f"{name}={getattr(self, name)} features cannot be on of {self.features}: give fewer."
                )

    @classmethod
    def preset(cls, name: str, **settings: Any) -> "TrainingSettings":
        """A recipe by name, with settings of your own, `features` at least.

        "paper" (Ameisen et al. 2025, the defaults), "per-write" and "per-direction" (the same, charged so), "topk",
        "batch-topk", "relu" (L1), "dunefsky" (Dunefsky et al. 2024: a per-layer ReLU transcoder with L1; their
        unit-norm decoders become the norm in the penalty, and λ is in normalised units).
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise SettingError(f"preset {name!r:.80} is none of {', '.join(map(repr, PRESETS))}.")
        return cls.of({**PRESETS[name], **settings})

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "TrainingSettings":
        """Settings from names and values, say of a file. Raises `SettingError` for names that are no settings."""
        if not isinstance(given, Mapping):
            raise SettingError(f"{given!r:.80} are no settings by name: give a dictionary, say {{'features': 512}}.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                near = get_close_matches(str(name), known, 1)
                meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
                raise SettingError(f"{name!r:.80} is no training setting: {meant}")
        if "features" not in given:
            raise SettingError("features is missing: say how many features each layer is to have.")
        return cls(**given)

    def architecture(self, n_layers: int, d_model: int) -> Architecture:
        """The parameters this makes for a model."""
        span = 1 if not self.cross_layer else self.span or n_layers
        return Architecture(n_layers, d_model, self.features, span, self.tied, self.skip)

    @property
    def rule(self) -> Rule:
        """The activation while training."""
        return Rule(self.activation, self.k, self.bandwidth)

    @property
    def costs(self) -> Costs:
        """What activations cost."""
        return Costs(self.penalty, self.charge, self.saturation)

    @property
    def working(self) -> torch.dtype:
        """The dtype of the products with encoders and decoders."""
        return torch.bfloat16 if self.working_dtype == "bfloat16" else torch.float32

    @property
    def all_steps(self) -> int:
        """Steps in all, fine-tuning included."""
        return self.steps + self.finetune_steps

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: warm-up, constant, then linear down to a fiftieth over the last fifth."""
        left = 1 - step / self.steps
        return self.lr * min(1.0, (step + 1) / 50) * min(1.0, max(0.02, left / 0.2))

    def sparsity_at(self, step: int) -> float:
        """λ of a step: a linear ramp from 0, so that features are learnt before they are paid for."""
        return self.sparsity * min(1.0, step / (self.steps * self.ramp))

    def finetune_lr_at(self, step: int) -> float:
        """The learning rate of a fine-tuning step: a short warm-up, then linear down to a twentieth."""
        return self.finetune_lr * min(1.0, (step + 1) / 20) * (1 - 0.95 * step / self.finetune_steps)

    def _check_counts(self) -> None:
        optional = ("span", "initial_l0", "context", "buffer_tokens")
        for name in ("features", "steps", "batch_tokens", "finetune_prompts", "k", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            found = whole(value)
            if found is None or not 1 <= found < MOST:
                raise SettingError(f"{name}={value!r:.80} must be at least 1, as a whole number, and below 2**53.")
            # Numbers of other libraries are no JSON, which the record of a run is.
            object.__setattr__(self, name, found)
        if self.context == 1:
            raise SettingError(
                "context=1 leaves prompts of one token, which attends to nothing but itself: give 2 or more."
            )
        for name in ("finetune_steps", "dead_after", "seed"):
            found = whole(getattr(self, name))
            if found is None or found < 0 or found >= 2**31:
                raise SettingError(f"{name}={getattr(self, name)!r:.80} must be a whole number from 0 to 2147483647.")
            object.__setattr__(self, name, found)

    def _check_numbers(self) -> None:
        positive = ("lr", "finetune_lr", "bandwidth", "saturation")
        for name in ("sparsity", "revival", "threshold", "ramp", *positive):
            value = getattr(self, name)
            number = cast(float, value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")
            if not abs(number) <= LARGEST:
                raise SettingError(f"{name}={value!r:.80} must be a finite number, of {LARGEST:g} at most.")
            if value < 0:
                raise SettingError(f"{name}={value} must not be negative: 0 switches it off.")
            if name in positive and value < 1 / LARGEST:
                raise SettingError(f"{name}={value} must be positive, and at least {1 / LARGEST:g}.")
            object.__setattr__(self, name, float(value))


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "activation": get_args(ActivationName),
    "penalty": get_args(Penalty),
    "charge": get_args(Per),
    "tied": get_args(Tied),
    "backend": ("auto", "dense", "sparse"),
    "working_dtype": ("float32", "bfloat16"),
    "cache_dtype": get_args(CacheForm),
}
