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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError, warn_once
from tl_circuits.training.shards import Shards
from tl_circuits.training.weights import is_sharded

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
        _replace(folder / f"{stem}.json", json.dumps(said | {"sha256": _digest_of(said)}).encode())
        for old in sorted(_steps(folder))[:-KEPT]:
            _remove(folder, old)
    shards.barrier()


def latest_checkpoint(folder: Path, shards: Shards, n_features: int) -> Checkpoint | None:
    """The last whole checkpoint of a folder, this process's share of it, however many processes wrote it.

    Warns (`TLCircuitsWarning`) of any that is torn and therefore passed over.
    """
    for step in sorted(_steps(folder), reverse=True):
        try:
            said = _said(folder / f"step-{step:08d}.json")
        except FileError as damage:
            warn_once(f"{damage} The checkpoint before it is used.", stacklevel=3)
            continue
        return Checkpoint(step, _tensors(folder, list(said["files"]), shards.features(n_features)), said["state"])
    return None


def remedy(error: Exception) -> str:
    """The next thing to try where a file could not be written."""
    refused = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
    return "allow writing there, or name another folder" if refused else "free space there"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _said(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        whole = said.pop("sha256") == _digest_of(said)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise FileError(f"'{path}' is damaged ({type(error).__name__}).") from error
    if not whole:
        raise FileError(f"'{path}' is damaged: its contents do not have the SHA-256 that it names.")
    for name, expected in said["files"].items():
        file = path.parent / Path(name).name
        if not file.is_file() or digest(file) != expected:
            raise FileError(f"'{file}' is missing or torn: its SHA-256 is not {expected[:12]}….")
    return said


def _tensors(folder: Path, names: list[str], features: slice) -> dict[str, Tensor]:
    try:
        with_files = [safe_open(folder / Path(name).name, framework="pt") for name in names]
        keys = list(with_files[0].keys())
        return {key: _tensor(with_files, key, features) for key in keys}
    except (OSError, SafetensorError) as error:
        raise FileError(f"'{folder / names[0]}' cannot be read ({error}).") from error


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
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, scratch)
        # safetensors makes files that only their owner may read; a checkpoint is a file like any other.
        scratch.chmod(mode)
        _settle(scratch, path)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        raise FileError(
            f"A checkpoint of {need / 1e6:.1f} MB could not be written to '{path.parent}' ({error}): {remedy(error)}; "
            "the checkpoints before it are kept, and the same call goes on from the last."
        ) from error


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_bytes(content)
        _settle(scratch, path)
    except OSError as error:
        raise FileError(f"'{path}' could not be written ({error}): {remedy(error)}.") from error


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
