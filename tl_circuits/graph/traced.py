"""Graphs of many prompts in one folder, and the index that says which file is of which prompt and what failed.

The index is JSON lines, one per prompt as it is done, so that it is right whenever the work is broken off. Several
processes write one each, and `merge` makes them one.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_circuits.errors import FileError, GraphError
from tl_circuits.graph.asked import file_name
from tl_circuits.graph.files import is_whole, write_whole
from tl_circuits.graph.graph import AttributionGraph

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

FORMAT, VERSION = "tl_circuits.traced", "1"
INDEX = "index.jsonl"
_PART = re.compile(r"index\.\d+\.jsonl")
_GRAPH = re.compile(r"\d{4,}(-[a-z0-9]+)*\.graph")
_PARTIAL = re.compile(rf"\.({_GRAPH.pattern}|index(\.\d+)?\.jsonl)\.\d+\.partial")
_LONGEST_SLUG = 60

_KINDS: dict[str, Any] = {
    "number": int,
    "file": str | None,
    "seconds": float | int,
    "n_tokens": int | None,
    "coverage": float | int | None,
    "conservation_error": float | int | None,
    "probe_error": float | int | None,
    "error": str | None,
}


@dataclass(frozen=True)
class Traced:
    """What became of one prompt of many.

    `number` is its place among the prompts, from 0, `prompt` what was traced (text, token ids or chat messages),
    `seconds` what it took. `file` is the graph's, in the folder, and None where the prompt could not be traced; then
    `error` says why. `n_tokens`, `coverage` and the two errors are the graph's.
    """

    number: int
    prompt: Any
    file: str | None = None
    seconds: float = 0.0
    n_tokens: int | None = None
    coverage: float | None = None
    conservation_error: float | None = None
    probe_error: float | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        """`done` or `failed`."""
        return "failed" if self.file is None else "done"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the status as JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"number": self.number, "status": self.status} | plain

    @classmethod
    def from_dict(cls, plain: Any) -> "Traced":
        """What `to_dict` wrote. Raises `ValueError` for anything else."""
        names = {item.name for item in fields(cls)}
        if not isinstance(plain, dict) or plain.keys() != names | {"status"}:
            raise ValueError(f"it holds other fields than {', '.join(sorted(names))}")
        wrong = [name for name, kind in _KINDS.items() if not isinstance(plain[name], kind) or plain[name] is True]
        file, number = plain["file"], plain["number"]
        if not wrong and (number < 0 or (file is None) == (plain["error"] is None)):
            wrong = ["number", "file", "error"]
        if wrong or not (file is None or _GRAPH.fullmatch(file)):
            raise ValueError(f"see {', '.join(wrong) or 'file'}")
        return cls(**{name: plain[name] for name in names})


@dataclass(frozen=True)
class Index:
    """What made the graphs of a folder, of how many prompts, and what became of those that were begun, by number."""

    made_by: Mapping[str, Any]
    n_prompts: int
    entries: Mapping[int, Traced]

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """The index in a folder, with the parts that processes left there.

        Raises `FileError` where there is none, and where it is damaged.
        """
        # Parts first: what is merged meanwhile is then in the index.
        parts = [line for path in _parts(folder) for line in _lines(path, missing_is_empty=True)]
        made_by, n_prompts = _header(folder)
        lines = _lines(folder / INDEX)[1:] + parts
        entries = {entry.number: entry for entry in (_entry(folder, line) for line in lines)}
        return cls(made_by, n_prompts, entries)

    def write(self, folder: Path) -> None:
        """One file in the place of all, whole or not at all. Raises `FileError` where it cannot be written."""
        header = {"format": FORMAT, "version": VERSION, "prompts": self.n_prompts, "made_by": dict(self.made_by)}
        lines = [header] + [self.entries[number].to_dict() for number in sorted(self.entries)]
        text = "".join(_line(line) for line in lines)
        write_whole(folder / INDEX, lambda partial: partial.write_text(text, encoding="utf-8"))
        for part in _parts(folder):
            part.unlink(missing_ok=True)


def begin(folder: Path, made_by: Mapping[str, Any], prompts: Sequence[Any], *, overwrite: bool) -> Index:
    """Makes the folder ready for these prompts, and returns what an earlier call has done of them.

    Prompts that failed may have changed, and a graph that is damaged is as good as none. Raises `FileError` where the
    folder cannot be written or holds something else, and, without `overwrite`, where its graphs were made otherwise or
    of other prompts.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_strange(folder)
        if overwrite:
            _header(folder, missing_is_new=True)
            _remove(folder, _GRAPH, _PART, _PARTIAL)
            (folder / INDEX).unlink(missing_ok=True)
        _remove(folder, _PARTIAL)
        found = Index(made_by, len(prompts), {})
        if (folder / INDEX).exists():
            found = Index.read(folder)
            _check_same(folder, found, made_by, prompts)
        there = {
            number: entry
            for number, entry in found.entries.items()
            if (is_whole(folder / entry.file) if entry.file else prompts[number : number + 1] in ([], [entry.prompt]))
        }
        index = Index(made_by, max(found.n_prompts, len(prompts)), there)
        index.write(folder)
    return index


def add(folder: Path, rank: int, entry: Traced) -> None:
    """Appends to the index, or to this process's part of it. Raises `FileError` where it cannot be written."""
    name = INDEX if rank == 0 else f"index.{rank}.jsonl"
    with writing(folder), (folder / name).open("a", encoding="utf-8") as file:
        file.write(_line(entry.to_dict()))


def merge(folder: Path) -> None:
    """One index in the order of prompts, of all the parts that processes wrote."""
    with writing(folder):
        Index.read(folder).write(folder)


def graph_name(number: int, n_prompts: int, prompt: Any) -> str:
    """The name of a prompt's file: its number and its first words, in letters that every file system takes."""
    said = prompt[-1].get("content") if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict) else prompt
    words = re.findall(r"[a-z0-9]+", said.lower()) if isinstance(said, str) else []
    slug = "-".join(words)[:_LONGEST_SLUG].strip("-")
    digits = max(4, len(str(n_prompts - 1)))
    return f"{number:0{digits}}{'-' if slug else ''}{slug}.graph"


@dataclass(frozen=True, repr=False)
class TraceResults:
    """What `trace_many` made of many prompts: a graph each in a folder, loaded one at a time as one iterates.

    `entries` say what became of each prompt, by number; `failed` are those of them that could not be traced, and
    `missing` the numbers of prompts that nobody has come to. `len` counts the graphs.
    """

    folder: Path
    n_prompts: int
    entries: tuple[Traced, ...]

    @classmethod
    def load(cls, folder: str | Path) -> "TraceResults":
        """What a folder holds, also while it is filled or where that was broken off. No model is needed.

        Raises `FileError` where the folder holds no index or a damaged one.
        """
        index = Index.read(file_name(folder))
        return cls(file_name(folder), index.n_prompts, tuple(index.entries[number] for number in sorted(index.entries)))

    def first(self, n_prompts: int) -> "TraceResults":
        """Of the first so many prompts alone."""
        entries = tuple(entry for entry in self.entries if entry.number < n_prompts)
        return TraceResults(self.folder, min(n_prompts, self.n_prompts), entries)

    @property
    def done(self) -> tuple[Traced, ...]:
        """The prompts that have a graph."""
        return tuple(entry for entry in self.entries if entry.file is not None)

    @property
    def failed(self) -> tuple[Traced, ...]:
        """The prompts that could not be traced, each with its `error`."""
        return tuple(entry for entry in self.entries if entry.file is None)

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the prompts that were not come to."""
        begun = {entry.number for entry in self.entries}
        return tuple(number for number in range(self.n_prompts) if number not in begun)

    def graph(self, number: int) -> AttributionGraph:
        """The graph of the prompt of that number. Raises `GraphError` where it has none, and says why."""
        entry = next((entry for entry in self.entries if entry.number == number), None)
        if entry is None or entry.file is None:
            why = f"it failed with {entry.error}" if entry else f"there are {self.n_prompts} prompts, numbered from 0"
            why = "it was not come to; call trace_many again" if number in self.missing else why
            raise GraphError(f"Prompt {number!r:.40} has no graph in '{self.folder}': {why}.")
        return AttributionGraph.load(self.folder / entry.file)

    def __iter__(self) -> Iterator[AttributionGraph]:
        return (self.graph(entry.number) for entry in self.done)

    def __len__(self) -> int:
        return len(self.done)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"TraceResults({self._counts()}, in {str(self.folder)!r})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "folder": str(self.folder),
            "prompts": self.n_prompts,
            "missing": list(self.missing),
            "traced": [entry.to_dict() for entry in self.entries],
        }

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        from tl_circuits.graph.report import visible

        yield Text(f"{self._counts()}, in {visible(self.folder)}", overflow="fold")
        for entry in self.failed:
            yield Text(f"{entry.number}  {visible(entry.prompt):.60}  {visible(entry.error)}", overflow="fold")

    def _counts(self) -> str:
        counts = [f"{len(self)} of {self.n_prompts} prompts traced"]
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        counts += [f"{len(self.missing)} not come to"] if self.missing else []
        return ", ".join(counts)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """An error of the file system in this block is a `FileError`."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"'{folder}' is no folder that can be written into ({error.strerror or error}): free space there, or give "
            "another folder."
        ) from error


@contextmanager
def alone(folder: Path, others: str) -> Iterator[None]:
    """Makes the folder, and keeps others from filling it meanwhile. The system lets go of it when this process ends.

    Raises `FileError` where somebody fills it already. Systems that cannot lock folders (Windows, some that are shared
    by a network) do not notice.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            _lock(folder, others, stack)
        yield


def _lock(folder: Path, others: str, until: ExitStack) -> None:
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    until.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(
            f"'{folder}' is being filled by {others}: wait until that has ended, or give another folder."
        ) from None


def _refuse_strange(folder: Path) -> None:
    found = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    if found and INDEX not in found:
        raise FileError(
            f"'{folder}' holds {len(found)} files ({', '.join(found[:3])}) and no '{INDEX}' of traced prompts: give a "
            "new folder."
        )


def _check_same(folder: Path, found: Index, made_by: Mapping[str, Any], prompts: Sequence[Any]) -> None:
    # Through JSON, as what was read has been: a tuple there is a list here.
    asked = json.loads(json.dumps(dict(made_by)))
    differ = [
        f"{name} {found.made_by.get(name)!r:.60}, not {asked.get(name)!r:.60}"
        for name in asked | found.made_by
        if asked.get(name) != found.made_by.get(name)
    ]
    others = [
        number
        for number, entry in sorted(found.entries.items())
        if entry.file is not None and number < len(prompts) and entry.prompt != prompts[number]
    ]
    if others:
        was, asks = found.entries[others[0]].prompt, prompts[others[0]]
        differ.append(f"other prompts ({len(others)} of them; number {others[0]} is {was!r:.60}, not {asks!r:.60})")
    if differ:
        raise FileError(
            f"'{folder}' holds graphs that were made with {'; '.join(differ)}. Give another folder, or overwrite=True "
            "(--overwrite) to trace all anew. Prompts that failed may be changed, and others may be added at the end."
        )


def _header(folder: Path, *, missing_is_new: bool = False) -> tuple[dict[str, Any], int]:
    path = folder / INDEX
    if missing_is_new and not path.exists():
        return {}, 0
    try:
        header = json.loads(_lines(path)[0])
        if (header["format"], header["version"]) == (FORMAT, VERSION):
            made_by, n_prompts = header["made_by"], header["prompts"]
            if isinstance(made_by, dict) and type(n_prompts) is int:
                return made_by, n_prompts
    except (ValueError, RecursionError, TypeError, LookupError):
        pass
    raise FileError(
        f"'{path}' does not begin as {FORMAT!r} version {VERSION!r} does: it is not what trace_many wrote, or damaged. "
        "Give another folder."
    )


def _entry(folder: Path, line: str) -> Traced:
    try:
        return Traced.from_dict(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"The index of '{folder}' holds {line!r:.80}, which is no traced prompt ({error}). Take that line out, or "
            "trace all anew with overwrite=True (--overwrite)."
        ) from error


def _lines(path: Path, *, missing_is_empty: bool = False) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing_is_empty:
            return []
        raise FileError(f"There is no '{path}': give the folder that trace_many wrote.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read ({error}): give the folder that trace_many wrote.") from error
    # What stands after the last line break was being written when somebody broke it off.
    return text.split("\n")[:-1]


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("index.*.jsonl") if _PART.fullmatch(path.name))


def _remove(folder: Path, *names: re.Pattern[str]) -> None:
    for path in list(folder.iterdir()):
        if any(name.fullmatch(path.name) for name in names):
            path.unlink()
