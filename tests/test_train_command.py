"""`tl-circuits train`: what it writes, what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.test_command_line import run
from tl_circuits.errors import FileError, SettingError
from tl_circuits.train_command import read_task

TASK = """
data = "prompts.txt"
held_out = "unseen.txt"
out = "run"
preset = "per-write"
checkpoint_every = 4

[settings]
features = 16
steps = 8
batch_tokens = 32
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task for the demo's model, with its prompts."""
    (tmp_path / "prompts.txt").write_text(
        "the capital of the state containing Dallas is\nthe state containing Dallas is"
    )
    (tmp_path / "unseen.txt").write_text("the bird of the state containing Oakland is")
    (tmp_path / "task.toml").write_text(TASK)
    return tmp_path / "task.toml"


@pytest.mark.slow
def test_it_trains_saves_and_reports(task: Path) -> None:
    result = run("train", str(task), "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    place = task.parent / "run"
    assert found == json.loads((place / "report.json").read_text())
    assert found["fidelity"]["overall"]["n_prompts"] == 1
    assert [len(row) for row in found["write_shares"]] == [3, 3, 3]
    transcoder = tlc.load_transcoder(place / "transcoder")
    assert transcoder.n_features == (16, 16, 16)
    assert json.loads((place / "run.json").read_text())["settings"]["charge"] == "write"
    again = run("train", str(task))
    assert again.exit_code == 0
    assert "Write shares" in again.stdout


@pytest.mark.slow
def test_a_plan_says_what_it_will_take_and_trains_nothing(task: Path) -> None:
    found = json.loads(run("train", str(task), "--plan", "--json").stdout)
    assert found["parameters"] == 3 * 16 * (64 + 2) + 6 * 16 * 64 + 3 * 64
    assert found["tokens"] == 8 * 32
    assert min(found[name] for name in ("harvest_seconds", "sparse_seconds", "dense_seconds")) > 0
    assert [disk["what"] for disk in found["disks"]] == ["Checkpoints"]
    assert "million parameters" in run("train", str(task), "--plan").stdout
    assert not (task.parent / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("data =", "dta ="), SettingError, "'dta' is no key of it: did you mean 'data'"),
        (('out = "run"', ""), SettingError, "does not say out"),
        (("features = 16", "feature = 16"), SettingError, "'feature' is no training setting: did you mean 'features'"),
        (("checkpoint_every = 4", 'checkpoint_every = "x"'), SettingError, "checkpoint_every='x' is of the wrong kind"),
        (('preset = "per-write"', 'dtype = "int8"'), SettingError, "dtype='int8' is none of float32"),
        (('preset = "per-write"', "loggers = [3]"), SettingError, r"loggers has 3.*none of 'wandb', 'tensorboard'"),
        (('preset = "per-write"', 'loggers = "wandb"'), SettingError, "loggers='wandb' is of the wrong kind"),
        (('preset = "per-write"', "cache = 3"), SettingError, "cache=3 is of the wrong kind"),
        (("per-write", "best"), SettingError, "preset 'best' is none of 'paper'"),
        (("[settings]", "[settings"), FileError, "cannot be read.*give a TOML file"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(
    task: Path, change: tuple[str, str], error: type[Exception], says: str
) -> None:
    task.write_text(TASK.replace(*change))
    with pytest.raises(error, match=says):
        read_task(task)


def test_the_documentations_task_can_be_read() -> None:
    read = read_task(Path(__file__).parents[1] / "docs" / "examples" / "clt.toml")
    assert (read.settings.features, read.settings.cache_dtype, read.loggers) == (6144, "int8", ())


def test_paths_are_from_the_folder_of_the_file(task: Path) -> None:
    read = read_task(task)
    assert (read.cache, read.loggers) == (None, ())
    assert (read.data, read.held_out, read.out) == tuple(task.parent / n for n in ("prompts.txt", "unseen.txt", "run"))
    task.write_text('cache = "kept"\nloggers = ["wandb", "tensorboard"]\n' + TASK)
    assert (read_task(task).cache, read_task(task).loggers) == (task.parent / "kept", ("wandb", "tensorboard"))
    assert (read.model, read.settings.features, read.shards) == ("demo", 16, None)


def test_a_file_that_is_not_there_is_refused_at_the_command_line() -> None:
    result = run("train", "no-such.toml")
    assert result.exit_code == 1
    assert "no-such.toml" in result.stderr
