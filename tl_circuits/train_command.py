"""`tl-circuits train`: a transcoder from a file that says what to train on what."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_circuits.errors import FileError, SettingError
from tl_circuits.options import AsJson
from tl_circuits.terminal import Shown, say, show, working

if TYPE_CHECKING:
    from tl_circuits.hooks import Model
    from tl_circuits.training import TrainingSettings
    from tl_circuits.training.plan import TrainingPlan
    from tl_circuits.training.report import TrainingReport

KEYS: Mapping[str, type | tuple[type, ...]] = {
    "model": str,
    "class": str,
    "dtype": str,
    "data": (str, dict),
    "held_out": (str, dict),
    "out": str,
    "preset": str,
    "checkpoint_every": int,
    "cache": str,
    "loggers": list,
    "shards": int,
    "settings": dict,
}
REQUIRED = ("model", "data", "out", "settings")
CHOICES = {"class": ("bridge", "hooked"), "dtype": ("float32", "float64", "bfloat16", "float16")}
# Of a data set; the first is what has to be said.
DATASET_KEYS = ("dataset", "split", "config")
# Where no prompts are held out, so many of the trained ones are reported on.
REPORTED = 64


@dataclass(frozen=True)
class NamedDataset:
    """A data set by the name, or the folder, that `datasets` takes, and which part of it."""

    dataset: str
    split: str = "train"
    config: str | None = None


@dataclass(frozen=True)
class Task:
    """What a file asks for: paths are those it names, from its own folder on."""

    model: str
    model_class: str
    dtype: str
    data: Path | NamedDataset
    held_out: Path | NamedDataset | None
    out: Path
    checkpoint_every: int
    cache: Path | None
    loggers: tuple[str, ...]
    shards: int | None
    settings: "TrainingSettings"


@dataclass(frozen=True)
class Trained:
    """The report of a run, and where its files are."""

    report: "TrainingReport"
    files: Mapping[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return self.report.to_dict() | {"files": {what: str(path) for what, path in self.files.items()}}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        from tl_circuits.graph.report import visible

        table = Table(title="Files", box=None, show_header=False, title_justify="left")
        for what, path in self.files.items():
            table.add_row(what, Text(visible(path), overflow="fold"))
        return Group(self.report.__rich__(), table)


def train_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What to train; see the documentation.")],
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what it will take of memory, disk and time, and train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a transcoder as a TOML file says; where it was broken off, the same command goes on.

    Checkpoints, a log, the transcoder and a report go into the folder that the file names. Where torchrun starts
    several processes, they train together.
    """
    report: Shown | None = None
    fits = True
    with working():
        import torch

        from tl_circuits.attribution.ranks import as_launched
        from tl_circuits.zoo.named import load_model

        task = read_task(file)
        texts = _texts(task.data)
        held_out = None if task.held_out is None else _texts(task.held_out)
        with as_launched() as speaks:
            say(f"loading {task.model}")
            kind = "hooked" if task.model_class == "hooked" else "bridge"
            model = load_model(task.model, kind, getattr(torch, task.dtype))
            if plan_only:
                report = planned = _planned(model, texts, task)
                fits = planned.fits
            else:
                report = _trained(model, texts, held_out, task, speaks)
    if report is not None and speaks:
        show(report, as_json)
    if not fits:
        raise typer.Exit(1)


def _texts(data: Path | NamedDataset) -> Any:
    if isinstance(data, NamedDataset):
        from tl_circuits.harvest.dataset import streamed

        return streamed(data.dataset, data.split, data.config)
    from tl_circuits.attribution.prompts import read_prompts

    return read_prompts(data, corpus=True)


def _planned(model: "Model", texts: Any, task: Task) -> "TrainingPlan":
    from tl_circuits.harvest import Prompts
    from tl_circuits.training.plan import plan

    settings = task.settings
    prompts = Prompts.of(model, texts, settings.context, settings.steps * settings.batch_tokens)
    n_tokens, width = prompts.n_kept, prompts.tokens.shape[1]
    asked = {"n_shards": task.shards or 1, "width": width, "folder": task.out, "cache": task.cache}
    reckoned = plan(model, settings, n_tokens, **asked)
    # What does not fit is not begun, not even to tell the time of it.
    if not reckoned.fits:
        return reckoned
    say(f"it {reckoned.verdict}; measuring")
    return plan(model, settings, n_tokens, **asked, measure=True)


def _trained(model: "Model", texts: Any, held_out: Any | None, task: Task, speaks: bool) -> "Trained | None":
    from tl_circuits.harvest import Prompts
    from tl_circuits.training import train
    from tl_circuits.training.report import TOKENS_OF_SHARES, training_report
    from tl_circuits.transcoder.files import save_transcoder

    # What is no prompt is better told now than when training has ended.
    if held_out is not None:
        Prompts.of(model, held_out, most_tokens=TOKENS_OF_SHARES)
    found = train(
        model,
        texts,
        task.settings,
        folder=task.out,
        checkpoint_every=task.checkpoint_every,
        cache=task.cache,
        loggers=task.loggers,
        shards=task.shards,
    )
    if not speaks:
        return None
    files = {"transcoder": task.out / "transcoder", "report": task.out / "report.json", "log": task.out / "log.jsonl"}
    save_transcoder(found, files["transcoder"], overwrite=True)
    trained_on = texts[:REPORTED] if isinstance(texts, list) else texts.take(REPORTED)
    reported = trained_on if held_out is None else held_out
    report = training_report(model, found, reported, trained_on=held_out is None)
    _keep(report, files["report"])
    return Trained(report, files)


def _keep(report: Shown, place: Path) -> None:
    from tl_circuits.training.folder import writing

    with writing(place):
        place.write_text(json.dumps(report.to_dict(), indent=2) + "\n")


def read_task(file: Path) -> Task:
    """What a file asks for. Raises `FileError` for what is no such file, and `SettingError` for what it cannot ask."""
    try:
        said = tomllib.loads(file.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FileError(
            f"'{file}' cannot be read ({error}): give a TOML file such as the documentation shows."
        ) from error
    for name, value in said.items():
        if name not in KEYS:
            raise SettingError(f"'{file}': {name!r:.80} is no key of it: {_meant(name)}")
        if not isinstance(value, KEYS[name]) or isinstance(value, bool):
            raise SettingError(f"'{file}': {name}={value!r:.80} is of the wrong kind: see the documentation's example.")
        if value == "" or (isinstance(value, int) and value < 1):
            raise SettingError(f"'{file}': {name}={value!r} says nothing: give at least 1, a name, or leave it out.")
        if value not in CHOICES.get(name, (value,)):
            raise SettingError(f"'{file}': {name}={value!r:.80} is none of {', '.join(CHOICES[name])}.")
    missing = [name for name in REQUIRED if name not in said]
    if missing:
        raise SettingError(f"'{file}' does not say {', '.join(missing)}: see the documentation's example.")
    return _task(file, said)


def _meant(name: str) -> str:
    from tl_circuits.training import TrainingSettings

    if name in (field.name for field in fields(TrainingSettings)):
        return f"{name} belongs under [settings]."
    near = get_close_matches(name, KEYS, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KEYS)}."


def _task(file: Path, said: Mapping[str, Any]) -> Task:
    from tl_circuits.training import TrainingSettings
    from tl_circuits.training.loggers import check_loggers

    settings, folder = said["settings"], file.expanduser().parent
    misplaced = [name for name in settings if name in KEYS]
    if misplaced:
        raise SettingError(f"'{file}': {', '.join(misplaced)} belongs above [settings], not under it.")
    held_out, cache = said.get("held_out"), said.get("cache")
    made = TrainingSettings.preset(said["preset"], **settings) if "preset" in said else TrainingSettings.of(settings)
    return Task(
        said["model"],
        said.get("class", "bridge"),
        said.get("dtype", "float32"),
        _data(file, "data", said["data"]),
        None if held_out is None else _data(file, "held_out", held_out),
        folder / said["out"],
        said.get("checkpoint_every", 200),
        None if cache is None else folder / cache,
        check_loggers(said.get("loggers", ()), said["out"]),
        said.get("shards"),
        made,
    )


def _data(file: Path, key: str, said: str | Mapping[str, Any]) -> Path | NamedDataset:
    folder = file.expanduser().parent
    if isinstance(said, str):
        return folder / said
    wrong = [name for name, value in said.items() if name not in DATASET_KEYS or not isinstance(value, str)]
    if wrong or DATASET_KEYS[0] not in said:
        raise SettingError(
            f"'{file}': {key}={said!s:.80} names no data set: give {key} = {{ dataset = \"owner/name\" }}, and split "
            "and config as texts where need be."
        )
    local = folder / said["dataset"]
    return NamedDataset(**{**said, "dataset": str(local) if local.is_dir() else said["dataset"]})
