"""What a run will take, before anything starts: memory, disk, and a floor of time."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from tl_circuits.errors import SettingError
from tl_circuits.sites import Model
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.source import held_tokens

# float32 weights, two moments, and a gradient where it is held.
COPIES, COPIES_IN_LOW_MEMORY = 4, 3


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes are of one process; `seconds` are what the matrix products of a dense step would take on this machine.

    Sparse steps take less than `seconds`, running the model over the data takes more; neither is counted.
    """

    parameters: int
    memory: int
    available: int
    held: int
    checkpoint: int
    tokens: int
    seconds: float
    features: int

    def refuse_what_does_not_fit(self) -> None:
        """Raises `SettingError` where the run needs more memory than there is, with a width that would fit."""
        if self.memory > self.available:
            rest = self.memory - self.held
            fitting = int(self.features * max(0, self.available - self.held) / rest)
            raise SettingError(
                f"{self.parameters / 1e6:.0f} million parameters need {self.memory / 1e9:.1f} GB in each process, and "
                f"{self.available / 1e9:.1f} GB are free: give features={max(1, fitting)} or fewer, a smaller span, "
                "low_memory=True, or more processes."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def __rich__(self) -> str:
        gigabytes = {
            name: f"{getattr(self, name) / 1e9:.2f} GB" for name in ("memory", "held", "available", "checkpoint")
        }
        return (
            f"{self.parameters / 1e6:.1f} million parameters in each process\n"
            f"{gigabytes['memory']} of memory, {gigabytes['held']} of it data; {gigabytes['available']} are free\n"
            f"{gigabytes['checkpoint']} of disk for checkpoints\n"
            f"{self.tokens} tokens, in {self.seconds:.0f} s of dense matrix products; sparse steps take less"
        )


def plan(
    settings: TrainingSettings, model: Model, n_tokens: int, *, n_shards: int = 1, measure: bool = False
) -> TrainingPlan:
    """What training on so many tokens of the model's takes. With `measure`, matrix products are timed for `seconds`."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    shape = settings.architecture(n_layers, d_model)
    mine = -(-settings.features // n_shards)
    tables = len({shape.table(*pair) for pair in shape.pairs})
    sharded = mine * (n_layers * (d_model + 2) + tables * d_model)
    parameters = sharded + n_layers * d_model * (1 + d_model * settings.skip)
    held = 8 * n_layers * d_model * min(n_tokens, held_tokens(settings, n_layers, d_model))
    # Pre-activations, activations and their gradients of every layer, dense.
    batch = 4 * settings.batch_tokens * n_layers * (4 * mine + 6 * d_model)
    copies = COPIES_IN_LOW_MEMORY if settings.low_memory else COPIES
    decoders = sum(1 for _ in shape.pairs)
    products = settings.batch_tokens * mine * d_model * (4 * n_layers + 6 * decoders) * settings.steps
    return TrainingPlan(
        parameters,
        4 * copies * parameters + held + batch,
        psutil.virtual_memory().available,
        held,
        # Weights and two moments, and two checkpoints are kept while a third is written.
        3 * 12 * parameters,
        settings.batch_tokens * settings.steps,
        products / _products_per_second() if measure else float("nan"),
        settings.features,
    )


def _products_per_second() -> float:
    a = torch.ones(1024, 1024)
    torch.mm(a, a)
    began = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 2 * 1024**3 / (time.perf_counter() - began)
