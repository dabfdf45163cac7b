"""A settings file that somebody else wrote: read as plain data, and each setting checked before it is used."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tl_circuits.errors import FileError

_LONGEST = 10_000_000
"""Bytes of the longest settings file that is read. Statistics of a large model take a few millions."""


@dataclass(frozen=True)
class Config:
    """A table of settings, and the file that it was read from. Every getter raises `FileError`, quoting both."""

    path: Path
    settings: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return self.settings.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The setting as it stands; `default` where it is absent or null."""
        value = self.settings.get(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number, `least` or more."""
        value = self.get(name, default)
        if type(value) is not int or value < least:
            raise self.error(name, f"not a whole number of at least {least}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if type(value) is not bool:
            raise self.error(name, "neither true nor false")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        """A piece of text, or None where it may be left out."""
        value = self.get(name, default)
        if not isinstance(value, str | None):
            raise self.error(name, "no text")
        return value

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """One of the names that are known."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.error(name, f"unknown: {', '.join(sorted(known))} are read")
        return value

    def table(self, name: str) -> "Config":
        """A table inside the table; empty where it is absent."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise self.error(name, "not a table of settings")
        return Config(self.path, value)

    def error(self, name: str, problem: str) -> FileError:
        """What to raise where a setting is wrong."""
        return FileError(
            f"{name}: {self.settings.get(name)!r:.200} in '{self.path}' is {problem}: correct it, or fetch the file "
            "again."
        )


class _Plain(yaml.SafeLoader):
    """Without aliases, by which a few lines stand for a table that has no end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias is used{self.peek_event().start_mark}")
        return super().compose_node(parent, index)


def read_json(path: Path) -> Config:
    """A JSON file that holds a table. Raises `FileError` where it is missing, too long or anything else."""
    try:
        return Config(path, _table(path, json.loads(_text(path))))
    except (ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is not JSON ({error}): fetch it again.") from error


def read_yaml(path: Path) -> Config:
    """A YAML file that holds a table, without aliases and tags that make objects.

    Raises `FileError` where it is anything else.
    """
    try:
        return Config(path, _table(path, _Plain(_text(path)).get_single_data()))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error).replace("\n", " ")
        raise FileError(
            f"'{path}' is not plain YAML ({problem}): tags that make objects are refused, and so are aliases; fetch it "
            "again."
        ) from error


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _LONGEST:
            raise FileError(
                f"'{path}' is {size} bytes long, and settings of up to {_LONGEST} are read: is it another file?"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"'{path}' cannot be read ({error}): check that it is there, or fetch it again.") from error


def _table(path: Path, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileError(f"'{path}' holds {type(value).__name__}, not a table of settings: fetch it again.")
    return value
