"""The folder of a run: what it was told, its log, its checkpoints, and in the end the transcoder and a report."""

import dataclasses
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm.auto import tqdm

from tl_circuits.errors import FileError, SettingError
from tl_circuits.graph.asked import folder_name
from tl_circuits.graph.traced import alone
from tl_circuits.training.checkpoint import Checkpoint, latest_checkpoint, remedy, replace_file, save_checkpoint
from tl_circuits.training.loggers import Logger, figures_of, open_loggers
from tl_circuits.training.run import Run, Step
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.shards import Shards

# What changes nothing of a run but its cost, and what begins only when fitting has ended.
FREE = ("backend", "low_memory")
LATER = ("finetune_steps", "finetune_prompts", "finetune_lr")


@dataclass(eq=False)
class RunFolder:
    """A folder that one run is written into, and taken up again from."""

    path: Path
    shards: Shards
    fresh: bool = False
    loggers: list[Logger] = field(default_factory=list)
    _alone: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, path: Any, shards: Shards) -> "RunFolder":
        """The folder, made where it is missing. Raises `FileError` where it cannot be."""
        found = folder_name(path)
        fresh = not found.exists()
        try:
            (found / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"The folder '{found}' cannot be made ({error}): name another.") from error
        return cls(found, shards, fresh)

    def claim(self, settings: TrainingSettings, data: Mapping[str, Any]) -> Checkpoint | None:
        """The last whole checkpoint, where there is one.

        Raises `FileError` where the folder is another run's, or another process trains in it.
        """
        if self.shards.speaks:
            self._alone.enter_context(alone(self.path, "another run"))
        told = {"settings": dataclasses.asdict(settings), "data": dict(data)}
        place = self.path / "run.json"
        at = latest_checkpoint(self.path / "checkpoints", self.shards, settings.features)
        if place.is_file():
            self._refuse_other(_read(place), told, None if at is None else at.step)
        self.shards.barrier(patiently=True)
        if self.shards.speaks:
            replace_file(place, (json.dumps(told, indent=2) + "\n").encode())
            self._cut_log(0 if at is None else at.step)
        return at

    def open(self, loggers: Iterable[str], settings: TrainingSettings, at: Checkpoint | None) -> None:
        """Opens loggers, in the process that speaks for all, which says where the run goes on from."""
        if at is not None:
            ended = at.step >= settings.all_steps
            self.say("already finished" if ended else f"going on from step {at.step} of {settings.all_steps}")
        if self.shards.speaks:
            step = 0 if at is None else at.step
            try:
                self.loggers = open_loggers(loggers, self.path, dataclasses.asdict(settings), step)
            except SettingError:
                # What was made a moment ago is no run that another could be taken for.
                if self.fresh:
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    def close(self) -> None:
        """Closes the loggers, and lets others in."""
        self._alone.close()
        for logger in self.loggers:
            logger.close()
        self.loggers = []

    def say(self, text: str) -> None:
        """A line on standard error, of the process that speaks for all."""
        if self.shards.speaks:
            tqdm.write(f"'{self.path}': {text}", file=sys.stderr)

    def save(self, run: Run) -> None:
        """Writes a checkpoint."""
        save_checkpoint(self.path / "checkpoints", run.checkpoint(), self.shards)

    def log(self, done: Step, pace: Mapping[str, int | float], every: int, last: int) -> None:
        """A line of the log, every so many steps, and for the last of all."""
        if not self.shards.speaks or (done.step % every and done.step != last):
            return
        log = self.path / "log.jsonl"
        with writing(log), log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**done.to_dict(), **pace}) + "\n")
        for logger in self.loggers:
            logger.log(done.step, {**figures_of(done), **pace})

    def _cut_log(self, step: int) -> None:
        # Steps after the checkpoint are taken again, and logged again.
        log = self.path / "log.jsonl"
        if log.is_file():
            with writing(log):
                said = log.read_text(encoding="utf-8", errors="replace").splitlines()
            replace_file(log, "".join(line + "\n" for line in said if _step_of(line) < step).encode())

    def _refuse_other(self, was: Any, told: Mapping[str, Any], step: int | None) -> None:
        free = FREE + (LATER if step is None or step <= told["settings"]["steps"] else ())
        for part in ("settings", "data"):
            before = was.get(part) if isinstance(was, dict) else None
            if not before or not isinstance(before, dict):
                raise _unreadable(self.path / "run.json", f"it says nothing of its {part}")
            for name, value in told[part].items():
                if name not in free and before.get(name, value) != value:
                    raise FileError(
                        f"'{self.path}' holds a run with {name}={before[name]!r}, and {name}={value!r} was given: "
                        "name another folder, or go on as it was begun."
                    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors inside the block into a `FileError` that names the file."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"'{path}' could not be written ({error}): {remedy(error)}; the checkpoints are kept, and the same call "
            "goes on from the last."
        ) from error


@contextmanager
def terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set inside the block; on leaving, the signal that came does what it did before.

    A second Ctrl-C does so at once. In threads other than the main one, where Python takes no signals, nothing is
    changed.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    taken = [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) is not None else []
    # Whoever ignores Ctrl-C, as shells have background jobs do, goes on ignoring it.
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        taken.append(signal.SIGINT)
    numbers: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and came.is_set():
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            signal.raise_signal(signal.SIGINT)
        numbers.append(number)
        came.set()

    before = {number: signal.signal(number, note) for number in taken}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if numbers:
            signal.raise_signal(numbers[0])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> FileError:
    return FileError(
        f"'{path}' cannot be read ({why}): name another folder, or remove this file, where you know that its "
        "checkpoints are of this model, data and settings."
    )


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
