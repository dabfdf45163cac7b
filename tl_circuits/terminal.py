"""What the commands print: results on standard output, what they say and what goes wrong on standard error."""

import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import typer

from tl_circuits.errors import FileError, TLCircuitsError, TLCircuitsWarning


@runtime_checkable
class Shown(Protocol):
    """What can be shown: rich prints it, and programs get its values."""

    def to_dict(self) -> dict[str, Any]: ...


@contextmanager
def working() -> Iterator[None]:
    """What libraries print meanwhile goes to standard error; an error of ours is one line there, and exit code 1.

    So is Ctrl-C, with exit code 130.
    """
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings("always", category=TLCircuitsWarning)
            # Whoever asks for a HookedTransformer by name need not be told that TransformerLens 4 will drop it.
            warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
            warnings.showwarning = _in_one_line(warnings.showwarning)
            yield
    except TLCircuitsError as error:
        typer.echo(f"tl-circuits: {one_line(error)}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("tl-circuits: interrupted; files that were finished are whole and stay.", err=True)
        raise typer.Exit(130) from None


def _in_one_line(otherwise: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        if issubclass(category, TLCircuitsWarning):
            typer.echo(f"warning: {one_line(message)}", err=True)
        else:
            otherwise(message, category, *where, **more)

    return show


def say(text: str) -> None:
    """What is done now, to whoever watches."""
    if sys.stderr.isatty():
        typer.echo(f"{one_line(text)} ...", err=True)


def one_line(message: object) -> str:
    """A message as one line of visible characters."""
    from tl_circuits.graph.report import visible

    return visible(" ".join(str(message).split()))


def make_folder(folder: Path) -> None:
    """Makes it, where it is missing. Raises `FileError` where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"'{folder}' is no folder to write into ({error.strerror}): give another with --out."
        ) from error


def check_place(file: Path | None) -> None:
    """Raises `FileError` where no file can be written there."""
    # Said before minutes of tracing, and not after them.
    if file is not None and (file.expanduser().is_dir() or not file.expanduser().parent.is_dir()):
        raise FileError(f"'{file}' cannot be written: give the name of a file in a folder that exists.")


def show(report: Shown, as_json: bool) -> None:
    """A result on standard output: as one JSON object, or as rich prints it."""
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(report.to_dict(), allow_nan=False))
    else:
        # A token that the terminal's encoding lacks is written as an escape, not refused.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        console = Console(highlight=False)
        with console.capture() as printed:
            console.print(report)
        typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
