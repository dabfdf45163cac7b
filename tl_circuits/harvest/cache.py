"""What MLPs read and write, kept on disk: harvested once, read in any order, by many runs.

A shard is a safetensors file with the kept tokens of some prompts, and a JSON file beside it, written after it, with
its SHA-256 and that of the record of what it was harvested from. A shard without its JSON is not there. Numbers are
float32, or whole ones of eight bits with a scale for every token and layer, which take a quarter.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError, warn_once
from tl_circuits.harvest.identity import identity_of
from tl_circuits.harvest.pairs import Pairs, collect, passes
from tl_circuits.harvest.prompts import Prompts
from tl_circuits.hooks import Model
from tl_circuits.progress import stage

CacheForm = Literal["float32", "int8"]
SIDES = ("reads", "writes")
ABANDONED = 3600
"""After so many seconds without a change, half a shard is nobody's."""


def bytes_of_cache(n_tokens: int, n_layers: int, d_model: int, form: CacheForm) -> int:
    """The disk that activations of so many tokens take."""
    return 2 * n_tokens * n_layers * (4 * d_model if form == "float32" else d_model + 4)


@dataclass(frozen=True, eq=False)
class ActivationCache:
    """A folder with the pairs of all prompts."""

    folder: Path
    prompts: Prompts
    n_layers: int
    d_model: int
    form: CacheForm
    record: Mapping[str, Any]

    @classmethod
    def harvested(
        cls,
        folder: Path,
        model: Model,
        prompts: Prompts,
        read: str,
        write: str,
        form: CacheForm = "float32",
        *,
        place: tuple[int, int] = (0, 1),
        wait: Callable[[], None] = lambda: None,
        progress: bool | None = None,
    ) -> "ActivationCache":
        """The cache, with what is missing or torn harvested. Of several processes, `place` is whose turn is each shard.

        Raises `FileError` where the folder is another cache's, or the disk is full; what is there by then stays, and
        the same call goes on from it. Warns (`TLCircuitsWarning`) of torn shards.
        """
        record = _record(model, prompts, read, write, form)
        cache = cls(folder, prompts, model.cfg.n_layers, model.cfg.d_model, form, record)
        cache._claim()
        cache._sweep()
        number, size = place
        mine = range(number, len(cache._parts), size)
        with stage("activations", len(mine), show=progress) as bar:
            for shard in mine:
                if not cache._is_whole(shard):
                    cache._write(shard, _harvested(model, prompts, cache._parts[shard], read, write))
                bar.update(1)
        wait()
        return cache

    def pairs(self, rows: Int64[Tensor, " prompt"]) -> Pairs:
        """The pairs of some prompts, as `collect` gives them."""
        n_kept, bounds = self._n_kept, self._bounds
        first = n_kept.cumsum(0) - n_kept
        lengths = n_kept[rows]
        offsets = first[rows] - (lengths.cumsum(0) - lengths)
        token = torch.arange(int(lengths.sum())) + offsets.repeat_interleave(lengths)
        prompt = torch.arange(len(rows)).repeat_interleave(lengths)
        reads, writes = (torch.empty(self.n_layers, len(token), self.d_model, dtype=torch.float32) for _ in SIDES)
        shard_of = torch.searchsorted(bounds, token, right=True) - 1
        for shard in shard_of.unique().tolist():
            where = (shard_of == shard).nonzero()[:, 0]
            for side, out in zip(SIDES, (reads, writes), strict=True):
                out[:, where] = self._rows(shard, side, token[where] - bounds[shard])
        return Pairs(reads, writes, prompt)

    @cached_property
    def _parts(self) -> list[slice]:
        return list(passes(self.prompts.tokens.shape, self.n_layers, self.d_model))

    @cached_property
    def _n_kept(self) -> Int64[Tensor, " prompt"]:
        return self.prompts.kept.sum(1)

    @cached_property
    def _bounds(self) -> Int64[Tensor, " shard"]:
        """The first token of every shard."""
        each = torch.tensor([int(self._n_kept[part].sum()) for part in self._parts])
        return each.cumsum(0) - each

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}-of-{len(self._parts):05d}.safetensors"

    @cached_property
    def _record_digest(self) -> str:
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def _claim(self) -> None:
        place = self.folder / "cache.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not place.is_file():
                _settle(place, json.dumps(self.record, indent=2).encode())
            was = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(
                f"'{place}' cannot be made or read ({error}): name another folder for the cache."
            ) from error
        for name, value in self.record.items():
            if not isinstance(was, dict) or was.get(name) != value:
                found = was.get(name) if isinstance(was, dict) else was
                raise FileError(
                    f"'{self.folder}' holds activations with {name}={found!r:.60}, and {name}={value!r} is needed: "
                    "name another folder for the cache, or remove this one."
                )

    def _sweep(self) -> None:
        # Half a shard of a process that was killed; those of others that write just now are young.
        for scratch in self.folder.glob("shard-*.part"):
            with suppress(OSError):
                if time.time() - scratch.stat().st_mtime > ABANDONED:
                    scratch.unlink()

    def _is_whole(self, shard: int) -> bool:
        path = self._path(shard)
        said = path.with_suffix(".json")
        if not said.is_file():
            return False
        with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError), path.open("rb") as file:
            kept = json.loads(said.read_bytes())
            same = kept["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
            if same and kept["record"] == self._record_digest and self._has_its_shapes(shard):
                return True
        warn_once(
            f"'{path}' is missing, torn or of something else: it does not have its SHA-256, and is harvested again.",
            stacklevel=5,
        )
        return False

    def _has_its_shapes(self, shard: int) -> bool:
        n_tokens = int(self._n_kept[self._parts[shard]].sum())
        rows, kind = (n_tokens, self.n_layers, self.d_model), "F32" if self.form == "float32" else "I8"
        wanted = {side: (rows, kind) for side in SIDES}
        if self.form == "int8":
            wanted |= {f"{side}_scale": (rows[:2], "F32") for side in SIDES}
        with safe_open(self._path(shard), framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()} == wanted

    def _write(self, shard: int, pairs: Pairs) -> None:
        path = self._path(shard)
        # Another process may be writing the same shard: each has a scratch of its own.
        scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
        tensors: dict[str, Tensor] = {}
        for side in SIDES:
            rows = getattr(pairs, side).transpose(0, 1).contiguous().cpu()
            tensors |= {side: rows} if self.form == "float32" else _in_eight_bits(side, rows)
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            scratch.touch()
            mode = scratch.stat().st_mode
            save_file(tensors, scratch)
            # safetensors makes files that only their owner may read; a shard is a file like any other.
            scratch.chmod(mode)
            with scratch.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            scratch.replace(path)
            _settle(path.with_suffix(".json"), json.dumps({"sha256": digest, "record": self._record_digest}).encode())
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            raise FileError(
                f"Shard {shard} of {len(self._parts)}, {need / 1e6:.1f} MB of activations, could not be written to "
                f"'{self.folder}' ({error}): free space there, or set cache_dtype='int8', which takes a quarter; the "
                f"{shard} shards before it are kept, and the same call goes on from there."
            ) from error

    def _rows(self, shard: int, side: str, at: Int64[Tensor, " token"]) -> Float[Tensor, "layer token d_model"]:
        # Mapped, not read: only the rows that are asked for come from the disk.
        try:
            with safe_open(self._path(shard), framework="pt") as file:
                rows = file.get_tensor(side)[at]
                scale = None if self.form == "float32" else file.get_tensor(f"{side}_scale")[at]
        except (OSError, SafetensorError, IndexError) as error:
            raise FileError(
                f"'{self._path(shard)}' cannot be read ({error}): the same call harvests it again."
            ) from error
        return (rows if scale is None else rows * scale[:, :, None]).transpose(0, 1)


def _harvested(model: Model, prompts: Prompts, part: slice, read: str, write: str) -> Pairs:
    tokens, kept = prompts.tokens[part], prompts.kept[part]
    if not bool(kept.any()):
        nothing = torch.empty(model.cfg.n_layers, 0, model.cfg.d_model, dtype=torch.float32)
        return Pairs(nothing, nothing, torch.empty(0, dtype=torch.int64))
    return collect(model, tokens, kept, read, write, torch.arange(part.start, part.stop))


def _in_eight_bits(side: str, rows: Float[Tensor, "token layer d_model"]) -> dict[str, Tensor]:
    scale = rows.abs().amax(2) / 127
    whole = (rows / scale.clamp_min(torch.finfo(scale.dtype).tiny)[:, :, None]).round_().to(torch.int8)
    return {side: whole, f"{side}_scale": scale}


def _record(model: Model, prompts: Prompts, read: str, write: str, form: CacheForm) -> dict[str, Any]:
    return {
        "model": identity_of(model),
        "read": read,
        "write": write,
        "form": form,
        "prompts": list(prompts.tokens.shape),
        "fingerprint": prompts.fingerprint(),
    }


def _settle(path: Path, content: bytes) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
