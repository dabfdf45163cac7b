"""One way to say how far along a long stage is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm.auto import tqdm


@contextmanager
def stage(name: str, total: int, *, show: bool | None = None) -> Iterator["tqdm[NoReturn]"]:
    """A bar on standard error for a stage of `total` units; call `.update(n)` on what it yields.

    It appears only when the stage has run for two seconds, and (`show=None`) only where a person may be watching:
    a terminal or a notebook.
    """
    hidden = not sys.stderr.isatty() and "ipykernel" not in sys.modules if show is None else not show
    with tqdm(total=total, desc=name, delay=2.0, disable=hidden, leave=False) as bar:
        yield bar
