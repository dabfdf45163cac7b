"""What this machine leaves to this process."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

# Where a version of Linux's control groups says what a group may take, what it has, and what of that are files' pages
# that it would give up first.
_UNIFIED = ("memory.max", "memory.current", "inactive_file")
_OLDER = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take without swapping: the machine's, within the limits of its containers.

    `root` is the folder that has `proc` and `sys`.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(root)]))


def local_processes(n_processes: int) -> int:
    """How many of the processes that work together are on this machine: as torchrun says it, else all of them."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(said), n_processes) if n_processes > 1 and said.isdecimal() and int(said) else n_processes


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves, its parents' too: limits hold for all below."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield from _left_along(groups, path, _UNIFIED)
        elif "memory" in controllers.split(","):
            yield from _left_along(groups / "memory", path, _OLDER)


def _left_along(mounted: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    # A container may see its own group as the root, and be told the path that the host has for it.
    inside = PurePosixPath(path.lstrip("/"))
    for group in (inside, *inside.parents):
        left = _left(mounted / group, names)
        if left is not None and ".." not in group.parts:
            yield left


def _left(group: Path, names: tuple[str, str, str]) -> int | None:
    limit, used, spare = names
    try:
        left = int((group / limit).read_text()) - int((group / used).read_text())
    except (OSError, ValueError):
        # There is no such group here, or its limit is "max".
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + int(stat.get(spare, 0))
    except (OSError, ValueError):
        return left
