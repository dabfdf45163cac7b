"""What a training run is told."""

from dataclasses import dataclass

from tl_circuits.errors import SettingError


@dataclass(frozen=True)
class TrainingSettings:
    """How wide a transcoder is and how it is trained. Units of losses and thresholds are normalised ones.

    - `features` per layer; `cross_layer=False` trains a per-layer transcoder.
    - `sparsity` is λ of the paper's penalty, reached after `ramp` of the steps; `saturation` is its c.
    - `threshold` and `bandwidth` start and smooth the JumpReLU; a feature silent for `dead_after` steps counts as dead
      and is pulled back by `revival`.
    - `lr` warms up over 50 steps, stays, and falls to nothing over the last fifth.
    - The last `finetune_steps`, on `finetune_prompts` whole prompts each, minimise the replacement model's KL as well.
    """

    features: int
    steps: int = 1000
    batch_tokens: int = 1536
    cross_layer: bool = True
    sparsity: float = 2e-3
    saturation: float = 4.0
    ramp: float = 0.6
    threshold: float = 0.1
    bandwidth: float = 1.0
    dead_after: int = 150
    revival: float = 1e-3
    lr: float = 3e-3
    finetune_steps: int = 0
    finetune_prompts: int = 96
    finetune_lr: float = 1e-3
    read: str = "ln2.hook_normalized"
    write: str = "hook_mlp_out"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("features", "steps", "batch_tokens", "finetune_prompts"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("sparsity", "revival", "threshold", "finetune_steps", "dead_after"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name}={getattr(self, name)} must not be negative: 0 switches it off.")
        for name in ("lr", "finetune_lr", "bandwidth", "saturation"):
            if getattr(self, name) <= 0:
                raise SettingError(f"{name}={getattr(self, name)} must be positive.")
        if not 0 < self.ramp <= 1:
            raise SettingError(f"ramp={self.ramp} is a share of the steps: give a number above 0 and at most 1.")

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
