"""What a run will take, before anything starts: memory, disk, and time."""

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tl_circuits.errors import SettingError
from tl_circuits.harvest.cache import bytes_of_cache
from tl_circuits.harvest.pairs import tokens_of_pass
from tl_circuits.sites import Model
from tl_circuits.training.pace import Pace, pace_of
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.source import held_tokens

# float32 weights, two moments, and a gradient where it is held.
COPIES, COPIES_IN_LOW_MEMORY = 4, 3
# A checkpoint has weights and two moments; two are kept while a third is written.
CHECKPOINTS = 3
# How many features are on per token and layer, where nothing is set that says it.
USUAL_L0 = 30


@dataclass(frozen=True)
class Disk:
    """Bytes that something needs on a disk, beside what is there of it, and bytes that are free."""

    what: str
    path: str
    needed: int
    free: int

    def refuse_what_does_not_fit(self) -> None:
        """Raises `SettingError` where there is too little space."""
        if self.needed > self.free:
            raise SettingError(
                f"{self.what} need {self.needed / 1e9:.2f} GB more in '{self.path}', and {self.free / 1e9:.2f} GB are "
                "free there: free space, name a folder on another disk, give fewer features or tokens, or, for "
                "activations, cache_dtype='int8'."
            )


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes of one process, and of disks; seconds where they were measured, else NaN.

    `sparse_seconds` are of steps at `l0` features on per token and layer, `dense_seconds` of their matrix products
    alone: a run that starts dense and becomes sparse takes something between. `harvest_seconds` are of running the
    model over the data. `finetune_steps` come after `steps`; none of these seconds are of them.
    """

    parameters: int
    memory: int
    available: int
    held: int
    checkpoint: int
    tokens: int
    features: int
    l0: int
    disks: tuple[Disk, ...]
    harvest_seconds: float
    sparse_seconds: float
    dense_seconds: float
    finetune_steps: int

    def refuse_what_does_not_fit(self) -> None:
        """Raises `SettingError` where the run needs more than there is, of memory with a width that would fit."""
        if self.memory > self.available:
            rest = self.memory - self.held
            fitting = int(self.features * max(0, self.available - self.held) / rest)
            raise SettingError(
                f"{self.parameters / 1e6:.0f} million parameters need {self.memory / 1e9:.1f} GB in each process, and "
                f"{self.available / 1e9:.1f} GB are free: give features={max(1, fitting)} or fewer, a smaller span, "
                "low_memory=True, or more processes."
            )
        for disk in self.disks:
            disk.refuse_what_does_not_fit()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        said = {name: None if value != value else value for name, value in asdict(self).items()}
        return said | {"disks": [asdict(disk) for disk in self.disks]}

    def __rich__(self) -> str:
        gigabytes = {
            name: f"{getattr(self, name) / 1e9:.2f} GB" for name in ("memory", "held", "available", "checkpoint")
        }
        lines = [
            f"{self.parameters / 1e6:.1f} million parameters in each process",
            f"{gigabytes['memory']} of memory, {gigabytes['held']} of it data; {gigabytes['available']} are free",
            f"{gigabytes['checkpoint']} of disk for checkpoints",
        ]
        lines += [
            f"{d.what} in '{d.path}': {d.needed / 1e9:.2f} GB; {d.free / 1e9:.2f} GB are free" for d in self.disks
        ]
        lines.append(f"{self.tokens} tokens")
        if not math.isnan(self.sparse_seconds):
            lines.append(
                f"{self.harvest_seconds:.0f} s to harvest, {self.sparse_seconds:.0f} s of sparse steps at an L0 of "
                f"{self.l0}, or {self.dense_seconds:.0f} s and more of dense ones"
            )
        if self.finetune_steps:
            lines.append(
                f"{self.finetune_steps} steps of fine-tuning come after these, which take time that is not told"
            )
        return "\n".join(lines)


def plan(
    settings: TrainingSettings,
    model: Model,
    n_tokens: int,
    *,
    n_shards: int = 1,
    folder: Path | None = None,
    cache: Path | None = None,
    measure: bool = False,
) -> TrainingPlan:
    """What training on so many tokens of the model's takes. With `measure`, a little of it is done to tell the time."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    shape = settings.architecture(n_layers, d_model)
    mine = -(-settings.features // n_shards)
    tables = len({shape.table(*pair) for pair in shape.pairs})
    sharded = mine * (n_layers * (d_model + 2) + tables * d_model)
    parameters = sharded + n_layers * d_model * (1 + d_model * settings.skip)
    room = held_tokens(settings, n_layers, d_model)
    streamed = n_tokens > room
    # While it is harvested or shuffled it is there twice; from a cache, the next block is there too.
    blocks = 3 if streamed and cache is not None else 2
    held = blocks * 8 * n_layers * d_model * min(n_tokens, room) + 9 * n_tokens
    # What the model itself takes in a pass over prompts: inside MLPs, and scores and patterns of one attention layer.
    width = min(settings.context or model.cfg.n_ctx, model.cfg.n_ctx)
    inside = 4 * (model.cfg.d_mlp or 4 * d_model) + 8 * d_model + 2 * model.cfg.n_heads * width
    passing = 4 * min(n_tokens, tokens_of_pass(n_layers, d_model)) * inside
    # Pre-activations, activations and their gradients of every layer, dense.
    batch = 4 * settings.batch_tokens * n_layers * (4 * mine + 6 * d_model)
    copies = COPIES_IN_LOW_MEMORY if settings.low_memory else COPIES
    checkpoint = CHECKPOINTS * 12 * parameters * n_shards
    activations = bytes_of_cache(n_tokens, n_layers, d_model, settings.cache_dtype)
    disks = [
        _disk(what, path, needed, pattern)
        for what, path, needed, pattern in (
            ("Checkpoints", folder, checkpoint, "checkpoints/*.safetensors"),
            ("Activations", cache, activations, "*.safetensors"),
        )
        if path is not None
    ]
    l0 = min(settings.k if "topk" in settings.activation else settings.initial_l0 or USUAL_L0, mine)
    nan = float("nan")
    pace = pace_of(model, settings, mine, l0) if measure else Pace(nan, nan, nan, nan)
    pairs = sum(1 for _ in shape.pairs)
    harvested = settings.steps * settings.batch_tokens if streamed and cache is None else n_tokens
    products = settings.batch_tokens * mine * d_model * (4 * n_layers + 6 * pairs)
    return TrainingPlan(
        parameters,
        4 * copies * parameters + held + passing + batch,
        psutil.virtual_memory().available,
        held,
        checkpoint,
        settings.batch_tokens * settings.steps,
        settings.features,
        l0,
        tuple(disks),
        harvested * pace.token,
        settings.steps * (n_layers * pace.layer + pairs * pace.pair),
        settings.steps * products / pace.products,
        settings.finetune_steps,
    )


def _disk(what: str, path: Path, needed: int, pattern: str) -> Disk:
    there = sum(found.stat().st_size for found in path.glob(pattern))
    exists = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    return Disk(what, str(path), max(0, needed - there), shutil.disk_usage(exists).free)
