"""A folder that is written whole or not at all."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tl_circuits.errors import FileError


@contextmanager
def new_folder(folder: Path, *, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which takes its place when the block ends and vanishes when it raises.

    A folder that exists is replaced only where `replaces` is given and true of every file in it. Raises `FileError`
    where something is in the way or the disk refuses.
    """
    check_free(folder, replaces)
    draft = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        try:
            yield draft
            _take_place(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise FileError(f"'{folder}' cannot be written ({error}): free space there, or give another folder.") from error


def check_free(folder: Path, replaces: Callable[[Path], bool] | None) -> None:
    """Raises `FileError` where a folder may not be written, since something is there that is not to be replaced."""
    if folder.is_dir():
        found = sorted(folder.iterdir())
        if found and replaces is None:
            raise FileError(
                f"'{folder}' exists and holds {len(found)} files: give overwrite=True (--overwrite) to "
                "replace it, or another folder."
            )
        strange = [path.name for path in found if replaces is not None and not replaces(path)]
        if strange:
            raise FileError(
                f"'{folder}' holds more than a transcoder ({', '.join(strange[:5])}), so it is not replaced: give "
                "another folder."
            )
    elif folder.exists():
        raise FileError(f"'{folder}' is a file: give the name of a folder.")


def _take_place(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_name(draft.name + ".old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
