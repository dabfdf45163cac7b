"""Checkpoints that are whole or not there: tensors first, then, in one rename, the file that says what they have to be.

A checkpoint is `step-N.json`, and for each shard of the features a safetensors file beside it. The JSON names the files
with their SHA-256 and carries its own. What does not fit is passed over with a warning, for the checkpoint before it.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError, warn_once
from tl_circuits.training.codes import Backend
from tl_circuits.training.rules import ActivationName
from tl_circuits.training.shards import Shards
from tl_circuits.training.weights import Architecture, is_sharded, shapes_of

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of every parameter that has had a gradient."""
KEPT = 2
"""So many checkpoints stay: the last, and the one before, in case the last is damaged."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after `step` steps: tensors named "kind/parameter", and JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, shards: Shards) -> None:
    """Writes a checkpoint, all shards of the first replica together; older ones than the last two go.

    Raises `FileError` where the disk is full or the folder cannot be written; the checkpoints before it stay.
    """
    stem = f"step-{checkpoint.step:08d}"
    path = folder / f"{stem}.{shards.shard}-of-{shards.n_shards}.safetensors"
    if shards.replica == 0:
        _write(path, checkpoint.tensors)
    shards.barrier()
    if shards.speaks:
        names = [f"{stem}.{shard}-of-{shards.n_shards}.safetensors" for shard in range(shards.n_shards)]
        said = {"step": checkpoint.step, "state": dict(checkpoint.state)}
        said["files"] = {name: digest(folder / name) for name in names}
        replace_file(folder / f"{stem}.json", json.dumps(said | {"sha256": _digest_of(said)}).encode())
        for old in sorted(_steps(folder))[:-KEPT]:
            _remove(folder, old)
    shards.barrier()


def latest_checkpoint(folder: Path, shards: Shards, n_features: int) -> Checkpoint | None:
    """The last whole checkpoint of a folder, this process's share of it, however many processes wrote it.

    Warns (`TLCircuitsWarning`) of any that is torn and therefore passed over.
    """
    left = sorted(_steps(folder))
    while left:
        step = left.pop()
        try:
            said = _said(folder / f"step-{step:08d}.json", step)
        except FileError as damage:
            instead = "The checkpoint before it is used." if left else "There is none before it: the run begins again."
            warn_once(f"{damage} {instead}", stacklevel=3)
            continue
        return Checkpoint(step, _tensors(folder, list(said["files"]), shards.features(n_features)), said["state"])
    return None


def refuse_other_tensors(at: Checkpoint, shape: Architecture, rows: int, activation: ActivationName) -> None:
    """Raises `FileError` for a checkpoint whose tensors are not those of a run of this shape, in float32.

    A whole file may be another run's, or made by hand.
    """
    # BatchTopK gets its thresholds when its fit ends.
    thresholds = activation == "jump_relu" or (activation == "batch_topk" and "weights/threshold.0" in at.tensors)
    d_model, n_layers = shape.d_model, shape.n_layers
    wanted: dict[str, tuple[int, ...]] = {"norm": (), "silent/of": (rows, n_layers)}
    for side in ("read", "write"):
        wanted |= {f"units-{side}_mean": (n_layers, d_model), f"units-{side}_scale": (n_layers,)}
    for name, of in shapes_of(shape, rows, thresholds).items():
        wanted[f"weights/{name}"] = of
        if any(f"{part}/{name}" in at.tensors for part in MOMENTS):
            wanted |= {f"{part}/{name}": of if part != "step" else () for part in MOMENTS}
    for name in sorted({*wanted, *at.tensors}):
        tensor, of = at.tensors.get(name), wanted.get(name)
        kind = torch.float64 if name == "norm" else torch.float32
        if tensor is None or of is None or tensor.shape != of or tensor.dtype != kind:
            found = "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            needed = "no such tensor" if of is None else f"{kind} of shape {of}"
            raise FileError(
                f"The checkpoint of step {at.step} has {found} as {name!r:.80}, and {needed} is needed: it is of "
                "another run. Name another folder, or remove this checkpoint, to go on from the one before."
            )


def remedy(error: Exception) -> str:
    """The next thing to try where a file could not be written."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return "move what is in its place elsewhere, or name another folder"
    refused = number in (errno.EACCES, errno.EPERM, errno.EROFS)
    return "allow writing there, or name another folder" if refused else "free space there"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that is whole or, wherever the writing breaks off, what it was. Raises `FileError`."""
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_bytes(content)
        _settle(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise FileError(
            f"'{path}' could not be written ({error}): {remedy(error)}; the checkpoints are kept, and the same call "
            "goes on from the last."
        ) from error


def _said(path: Path, step: int) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        whole = said.pop("sha256") == _digest_of(said)
        files, same = dict(said["files"]), said["step"] == step
        known = bool(files) and said["state"]["backend"] in get_args(Backend)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"'{path}' is damaged ({type(error).__name__}).") from error
    if not whole:
        raise FileError(f"'{path}' is damaged: its contents do not have the SHA-256 that it names.")
    if not (same and known):
        raise FileError(f"'{path}' is damaged: it is not what a checkpoint of step {step} says of itself.")
    for name, expected in files.items():
        file = path.parent / Path(name).name
        if not file.is_file() or digest(file) != expected:
            raise FileError(f"'{file}' is missing or torn: its SHA-256 is not {expected!s:.12}….")
    return said


def _tensors(folder: Path, names: list[str], features: slice) -> dict[str, Tensor]:
    try:
        with_files = [safe_open(folder / Path(name).name, framework="pt") for name in names]
        keys = list(with_files[0].keys())
        return {key: _tensor(with_files, key, features) for key in keys}
    except (OSError, SafetensorError, RuntimeError, IndexError) as error:
        raise FileError(
            f"'{folder / names[0]}' cannot be read ({error}): remove this checkpoint, to go on from the one before."
        ) from error


def _tensor(files: list[Any], key: str, features: slice) -> Tensor:
    first = files[0].get_slice(key)
    if not first.get_shape() or not is_sharded(key.split("/")[-1]) or "/" not in key:
        return files[0].get_tensor(key)
    parts, begin = [], 0
    for file in files:
        rows = file.get_slice(key)
        n = rows.get_shape()[0]
        low, high = max(features.start, begin) - begin, min(features.stop, begin + n) - begin
        if low < high:
            parts.append(rows[low:high])
        begin += n
    return torch.cat(parts)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    scratch = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.touch()
        mode = scratch.stat().st_mode
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, scratch)
        # safetensors makes files that only their owner may read; a checkpoint is a file like any other.
        scratch.chmod(mode)
        _settle(scratch, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        raise FileError(
            f"A checkpoint of {need / 1e6:.1f} MB could not be written to '{path.parent}' ({error}): {remedy(error)}; "
            "the checkpoints before it are kept, and the same call goes on from the last."
        ) from error


def _settle(scratch: Path, path: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)


def _steps(folder: Path) -> set[int]:
    names = (re.fullmatch(r"step-(\d{8,})\.json", path.name) for path in folder.glob("step-*.json"))
    return {int(name[1]) for name in names if name}


def _remove(folder: Path, step: int) -> None:
    # The JSON goes first: a checkpoint without it is not there.
    (folder / f"step-{step:08d}.json").unlink(missing_ok=True)
    for path in folder.glob(f"step-{step:08d}.*"):
        path.unlink(missing_ok=True)


def _digest_of(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
