"""A safetensors file, checked before it is trusted and read without being copied."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_circuits.errors import FileError

PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
"""Endings of files that run code when they are opened."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# safetensors itself reads no header longer than this.
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file says it holds: the shape and the dtype of each tensor by its name."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    def get(self, name: str, *shape: int | None, dtypes: Collection[str] = _FLOATS) -> Tensor:
        """One tensor, memory-mapped and in its stored dtype; `None` in `shape` fits any length.

        Raises `FileError` where it is not there, or has another shape or kind of number.
        """
        if name not in self.shapes:
            raise FileError(
                f"'{self.path}' holds {_listed(self.shapes)}, but no {name}: was the file renamed, or written for "
                "another layer?"
            )
        found = self.shapes[name]
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            expected = ", ".join("any" if want is None else str(want) for want in shape)
            raise FileError(
                f"{name} in '{self.path}' has shape {found}, but ({expected}) was expected from the layout and the "
                "files before it: rows are features. Transpose it, or fetch the file again."
            )
        if self.dtypes[name] not in dtypes:
            raise FileError(
                f"{name} in '{self.path}' is stored as {self.dtypes[name]}, and {', '.join(sorted(dtypes))} are read: "
                "convert it."
            )
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise FileError(f"{name} cannot be read from '{self.path}' ({error}): fetch the file again.") from error

    def find(self, name: str, *shape: int | None) -> Tensor | None:
        """The same, or None where no tensor has that name."""
        return self.get(name, *shape) if name in self.shapes else None


def open_tensors(path: Path) -> TensorFile:
    """Read a safetensors file's header, and no tensor. Raises `FileError` where the file is damaged or something else.

    The header ends with the offset of the last byte of data, so a truncated file is known by its length alone.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            n_header = int.from_bytes(start, "little")
            header = file.read(n_header) if n_header <= _LONGEST_HEADER else b""
    except OSError as error:
        raise FileError(f"'{path}' cannot be read ({error}): check that it is a file and may be read.") from error
    if size < 8 or n_header > _LONGEST_HEADER:
        raise _not_safetensors(path, start, size)
    if 8 + n_header > size:
        raise _truncated(path, 8 + n_header, size, least=True)
    entries = _parse_header(path, header)
    expected = 8 + n_header + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size < expected:
        raise _truncated(path, expected, size)
    if size > expected:
        raise FileError(f"'{path}' is {size} bytes long, but its header describes {expected}: fetch the file again.")
    return TensorFile(
        path,
        shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        dtypes={name: entry["dtype"] for name, entry in entries.items()},
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file, on CPU and contiguous, each tensor in its own dtype, readable as other files are."""
    # safetensors refuses tensors that share memory, as views of one parameter do; cloning all but the largest parts
    # them without a second copy of a decoder.
    largest = max(tensors, key=lambda name: tensors[name].numel())
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors makes files that only their owner may read, whatever the umask says.
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor if name == largest else tensor.clone() for name, tensor in plain.items()}, path)
    path.chmod(mode)


def _parse_header(path: Path, raw: bytes) -> dict[str, dict[str, Any]]:
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        well_formed = all(
            isinstance(entry["data_offsets"][1], int)
            and isinstance(entry["dtype"], str)
            and all(isinstance(length, int) for length in entry["shape"])
            for entry in entries.values()
        )
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError):
        well_formed, entries = False, {}
    if not well_formed:
        raise FileError(
            f"'{path}' is not a safetensors file: its header is not the JSON table of tensors. Fetch it again."
        )
    return entries


def _not_safetensors(path: Path, start: bytes, size: int) -> FileError:
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return FileError(
            f"'{path}' is a zip archive or a pickle under another name. Such files can run code when they are opened, "
            "so it was left shut: convert it to safetensors where you trust it."
        )
    return FileError(f"'{path}' ({size} bytes) is not a safetensors file: fetch it again.")


def _truncated(path: Path, expected: int, found: int, *, least: bool = False) -> FileError:
    bound = "at least " if least else ""
    return FileError(
        f"'{path}' is truncated: its header asks for {bound}{expected} bytes and {found} are there. Fetch the file "
        "again."
    )


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    names = sorted(shapes)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "no tensor") + more
