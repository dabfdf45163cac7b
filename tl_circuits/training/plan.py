"""What a run will take, before anything starts: memory, disk, and time."""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tl_circuits.errors import FileError, FitError, SettingError
from tl_circuits.graph.asked import folder_name, number
from tl_circuits.harvest.cache import bytes_of_cache
from tl_circuits.hooks import Model
from tl_circuits.machine import available_memory, local_processes
from tl_circuits.training.needs import (
    Need,
    bytes_of_data,
    bytes_of_pass,
    bytes_of_sample,
    is_streamed,
    need_of_beginning,
    need_of_finetuning,
    need_of_fit,
    parameters_of,
)
from tl_circuits.training.pace import pace_of
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.transcoder import CrossLayerTranscoder

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
    writable: bool = True

    @property
    def fits(self) -> bool:
        """Whether there is the space, and files may be written."""
        return self.writable and self.needed <= self.free

    def refuse_what_does_not_fit(self) -> None:
        """Raises `SettingError` where there is too little space, and `FileError` where no files may be written."""
        if not self.writable:
            there = _existing(Path(self.path))
            why = "no files may be made there" if there.is_dir() else f"'{there}' is a file"
            raise FileError(f"{self.what} cannot be written in '{self.path}': {why}. Name another.")
        if not self.fits:
            raise SettingError(
                f"{self.what} need {in_units(self.needed)} more in '{self.path}', and {in_units(self.free)} are "
                "free there: free space, name a folder on another disk, give fewer features or tokens, or, for "
                "activations, cache_dtype='int8'."
            )


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes of one process, and of disks; seconds where they were measured, else NaN.

    `sparse_seconds` are of steps at `l0` features on per token and layer, `dense_seconds` of their matrix products
    alone: a run that starts dense and becomes sparse takes something between. `harvest_seconds` are of running the
    model over the data. `finetune_steps` come after `steps`; none of these seconds are of them, and they need
    `finetune_memory`, of whole prompts with `finetune_tokens` tokens together.
    `available` is what each of the processes has that are on this machine, `sharing` of them.
    `widest` is the number of features that would fit in memory, all else alike. `spared` are bytes that `low_memory`
    spares of `memory`, or would; 0 where what activations leave for the backward pass is more than all gradients.
    """

    parameters: int
    memory: int
    available: int
    sharing: int
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
    finetune_memory: int
    finetune_tokens: int
    widest: int
    low_memory: bool
    spared: int

    @property
    def fits(self) -> bool:
        """Whether the run fits in memory and on its disks, so that `train` begins it."""
        return max(self.memory, self.finetune_memory) <= self.available and all(disk.fits for disk in self.disks)

    def refuse_what_does_not_fit(self) -> None:
        """Raises `SettingError` where the run needs more than there is, of memory with a width that would fit."""
        if self.memory > self.available:
            narrower = f"features={self.widest} or fewer, " if self.widest else "fewer batch_tokens or prompts, "
            spares = self.spared and not self.low_memory
            narrower += f"low_memory=True, which spares {in_units(self.spared)}, " if spares else ""
            raise SettingError(
                f"{self.parameters / 1e6:.0f} million parameters need {in_units(self.memory)} in each process, and "
                f"{self._free}: give {narrower}a smaller span, or processes on more machines."
            )
        if self.finetune_memory > self.available:
            narrower = f", features={self.widest} or fewer" if self.widest else ""
            raise SettingError(
                f"Fine-tuning on prompts of up to {self.finetune_tokens} tokens together needs "
                f"{in_units(self.finetune_memory)}, and {self._free}: give fewer "
                f"finetune_prompts, a smaller context{narrower}, or finetune_steps=0."
            )
        for disk in self.disks:
            disk.refuse_what_does_not_fit()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        said = {name: None if value != value else value for name, value in asdict(self).items()}
        return said | {"fits": self.fits, "disks": [asdict(disk) for disk in self.disks]}

    @property
    def _free(self) -> str:
        shared = f" for each of {self.sharing} processes" if self.sharing > 1 else ""
        return f"{in_units(self.available)} are free{shared}"

    @property
    def verdict(self) -> str:
        """Whether it fits, in a few words, with the width that would."""
        if self.memory > self.available:
            would = f"features={self.widest} would" if self.widest else "no width would: see batch_tokens and the data"
            return f"does not fit in memory; {would}"
        if self.finetune_memory > self.available:
            return "fits in memory until it is fine-tuned; fewer finetune_prompts would, or a smaller context"
        short = [disk.what.lower() for disk in self.disks if not disk.fits]
        return f"does not fit on the disk: {' and '.join(short)}" if short else "fits"

    def __rich__(self) -> str:
        memory, held = in_units(self.memory), in_units(self.held)
        parameters = f"{self.parameters / 1e6:.1f} million" if self.parameters >= 1e6 else f"{self.parameters:,}"
        lines = [
            self.verdict,
            f"{parameters} parameters in each process",
            f"{memory} of memory, {held} of it data; {self._free}",
            f"{in_units(self.checkpoint)} of disk for checkpoints",
        ]
        if self.low_memory:
            spared = (
                in_units(self.spared) if self.spared else "nothing: data or activations take more than gradients would"
            )
            lines.append(f"low_memory spares {spared}")
        lines += [f"{d.what} in '{d.path}': {in_units(d.needed)}; {in_units(d.free)} are free" for d in self.disks]
        lines.append(f"{self.tokens} tokens")
        if not math.isnan(self.sparse_seconds):
            lines.append(
                f"{self.harvest_seconds:.0f} s to harvest, {self.sparse_seconds:.0f} s of sparse steps at an L0 of "
                f"{self.l0}, or {self.dense_seconds:.0f} s and more of dense ones"
            )
        if self.finetune_steps:
            lines.append(
                f"{self.finetune_steps} steps of fine-tuning come after these, in {in_units(self.finetune_memory)} of "
                "memory; they take time that is not told"
            )
        return "\n".join(lines)


def in_units(n_bytes: int) -> str:
    """Bytes in the largest decimal unit of which there is one, to three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.{max(0, 2 - int(math.log10(n_bytes / size)))}f} {unit}"
    return f"{n_bytes} bytes"


def check_asked(model: Any, settings: Any, cache: Any) -> None:
    """Raises `FitError` for what is no model to train on, and `SettingError` for what are no settings of a run."""
    if not hasattr(model, "hook_dict") or isinstance(model, CrossLayerTranscoder):
        raise FitError(
            f"A {type(model).__name__} is no model to train on: give a HookedTransformer or a TransformerBridge first."
        )
    if not isinstance(settings, TrainingSettings):
        raise SettingError(f"{settings!r:.60} are no settings: give tlc.TrainingSettings(features=...).")
    if (settings.span or 0) > model.cfg.n_layers:
        raise SettingError(
            f"span={settings.span} is more than the model's {model.cfg.n_layers} layers: give {model.cfg.n_layers} or "
            "fewer, or leave it out, to write all later ones."
        )
    if cache is None and settings.cache_dtype != "float32":
        raise SettingError(
            f"cache_dtype={settings.cache_dtype!r} is for activations on disk: name a folder for them, cache=..."
        )


def plan(
    model: Model,
    settings: TrainingSettings,
    n_tokens: int,
    *,
    n_shards: int = 1,
    n_replicas: int = 1,
    width: int | None = None,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    measure: bool = False,
) -> TrainingPlan:
    """What training on so many tokens of the model's takes. With `measure`, a little of it is done to tell the time.

    `width` is the length of the longest prompt (default: `context`, or the model's). Of several processes, `n_shards`
    share the features, and each batch's tokens are shared by `n_replicas`.

    Raises what `train` raises for a model and settings that it refuses, but not for what does not fit.
    """
    check_asked(model, settings, cache)
    n_tokens, n_shards = number("plan", "n_tokens", n_tokens), number("plan", "n_shards", n_shards)
    n_replicas = number("plan", "n_replicas", n_replicas)
    longest = _longest(model, settings, width)
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    mine = -(-settings.features // n_shards)
    sample = bytes_of_sample(settings, n_layers, d_model, n_tokens)
    held = sample + bytes_of_data(settings, n_layers, d_model, n_tokens, cache is not None)
    beside = held + bytes_of_pass(model, longest, n_tokens)
    within, without = (
        _stages(model, replace(settings, low_memory=low), longest, n_replicas, beside, sample) for low in (True, False)
    )
    stages = within if settings.low_memory else without
    each, others = parameters_of(settings.architecture(n_layers, d_model))
    sharing = local_processes(n_shards * n_replicas)
    available = available_memory() // sharing
    checkpoint = CHECKPOINTS * 12 * (mine * each + others) * n_shards
    once = cache is not None or not is_streamed(settings, n_layers, d_model, n_tokens)
    l0, harvested = _l0(settings, mine), n_tokens if once else settings.steps * settings.batch_tokens
    seconds = _seconds(model, settings, mine, l0, harvested) if measure else (math.nan, math.nan, math.nan)
    return TrainingPlan(
        parameters=mine * each + others,
        memory=_most(stages[:2], mine),
        available=available,
        sharing=sharing,
        held=held,
        checkpoint=checkpoint,
        tokens=settings.batch_tokens * settings.steps,
        features=settings.features,
        l0=l0,
        disks=_disks(folder, checkpoint, cache, bytes_of_cache(n_tokens, n_layers, d_model, settings.cache_dtype)),
        harvest_seconds=seconds[0],
        sparse_seconds=seconds[1],
        dense_seconds=seconds[2],
        finetune_steps=settings.finetune_steps,
        finetune_memory=stages[2].of(mine) if settings.finetune_steps else 0,
        finetune_tokens=settings.finetune_prompts * longest,
        widest=min(stage.widest(available) for stage in stages) * n_shards,
        low_memory=settings.low_memory,
        spared=max(0, _most(without[:2], mine) - _most(within[:2], mine)),
    )


def _stages(
    model: Model, settings: TrainingSettings, longest: int, n_replicas: int, beside: int, sample: int
) -> list[Need]:
    """The memory of beginning, of training and, where there is any, of fine-tuning, each with what is held beside."""
    shape = settings.architecture(model.cfg.n_layers, model.cfg.d_model)
    stages = [need_of_beginning(shape, settings, sample), need_of_fit(shape, settings, n_replicas)]
    if settings.finetune_steps:
        stages.append(need_of_finetuning(model, shape, settings, longest, n_replicas))
    return [replace(stage, beside=stage.beside + beside) for stage in stages]


def _most(stages: Sequence[Need], n_features: int) -> int:
    return max(stage.of(n_features) for stage in stages)


def _seconds(
    model: Model, settings: TrainingSettings, n_features: int, l0: int, harvested: int
) -> tuple[float, float, float]:
    """Of the harvest, of sparse steps, and of the products of dense ones."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    pace = pace_of(model, settings, n_features, l0)
    pairs = sum(1 for _ in settings.architecture(n_layers, d_model).pairs)
    products = settings.batch_tokens * n_features * d_model * (4 * n_layers + 6 * pairs)
    return (
        harvested * pace.token,
        settings.steps * (n_layers * pace.layer + pairs * pace.pair),
        settings.steps * products / pace.products,
    )


def _longest(model: Model, settings: TrainingSettings, width: int | None) -> int:
    if width is not None:
        return number("plan", "width", width)
    return min(settings.context or model.cfg.n_ctx, model.cfg.n_ctx)


def _l0(settings: TrainingSettings, n_features: int) -> int:
    return min(settings.k if "topk" in settings.activation else settings.initial_l0 or USUAL_L0, n_features)


def _disks(folder: str | Path | None, checkpoint: int, cache: str | Path | None, activations: int) -> tuple[Disk, ...]:
    needs = (
        ("Checkpoints", folder, checkpoint, "checkpoints/*.safetensors"),
        ("Activations", cache, activations, "*.safetensors"),
    )
    return tuple(_disk(what, folder_name(path), needed, kept) for what, path, needed, kept in needs if path is not None)


def _disk(what: str, path: Path, needed: int, pattern: str) -> Disk:
    try:
        there = sum(found.stat().st_size for found in path.glob(pattern))
        exists = _existing(path)
        usage = shutil.disk_usage(exists)
    except OSError as error:
        raise FileError(f"'{path!s:.80}' cannot be looked at ({error.strerror}): name another folder.") from error
    # A file system of the kernel's own, such as /proc, says that it has no size.
    writable = exists.is_dir() and os.access(exists, os.W_OK) and usage.total > 0
    return Disk(what, str(path), max(0, needed - there), usage.free, writable)


def _existing(path: Path) -> Path:
    return next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
