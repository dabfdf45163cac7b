"""`tl-circuits train`: what it writes, what it prints, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.test_command_line import run
from tl_circuits.attribution.prompts import read_prompts
from tl_circuits.errors import FileError, SettingError
from tl_circuits.train_command import read_task

TASK = """
model = "demo"
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
    files = found.pop("files")
    assert files == {
        "transcoder": str(place / "transcoder"), "report": str(place / "report.json"), "log": str(place / "log.jsonl"),
    }  # fmt: skip
    assert all(Path(path).exists() for path in files.values())
    assert found == json.loads((place / "report.json").read_text())
    assert found["trained_on"] is False
    assert found["fidelity"]["overall"]["n_prompts"] == 1
    assert [len(row) for row in found["write_shares"]] == [3, 3, 3]
    transcoder = tlc.load_transcoder(place / "transcoder")
    assert transcoder.n_features == (16, 16, 16)
    assert json.loads((place / "run.json").read_text())["settings"]["charge"] == "write"
    again = run("train", str(task))
    assert again.exit_code == 0
    assert "Write shares" in again.stdout
    assert "Files" in again.stdout
    assert "transcoder" in again.stdout
    assert "Of the training data" not in again.stdout
    task.write_text(TASK.replace('held_out = "unseen.txt"', ""))
    seen = run("train", str(task))
    assert "Of the training data, not of prompts held out" in seen.stdout
    assert json.loads((place / "report.json").read_text())["trained_on"] is True


@pytest.mark.slow
def test_a_data_set_is_trained_on_as_far_as_the_steps_take(task: Path) -> None:
    folder = task.parent / "rows"
    folder.mkdir()
    rows = [{"text": "the capital of the state containing Dallas is"}] * 100 + [{"text": None}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task.write_text(TASK.replace('"prompts.txt"', '{ dataset = "rows" }').replace('held_out = "unseen.txt"', ""))
    result = run("train", str(task), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trained_on"] is True
    # 8 steps of 32 tokens; the last row, which is none, is never come to.
    assert json.loads(run("train", str(task), "--plan", "--json").stdout)["tokens"] == 8 * 32
    task.write_text(TASK.replace('"unseen.txt"', '{ dataset = "rows", split = "test" }'))
    refused = run("train", str(task))
    assert refused.exit_code == 1
    assert "could not be opened at its part 'test'" in " ".join(refused.stderr.split())


def test_what_is_held_out_is_looked_at_before_training(task: Path) -> None:
    (task.parent / "unseen.jsonl").write_text('["capital", "of"]\n')
    task.write_text(TASK.replace("unseen.txt", "unseen.jsonl"))
    refused = run("train", str(task))
    assert refused.exit_code == 1
    assert "Row 0, ['capital', 'of'], is no prompt" in " ".join(refused.stderr.split())
    assert not (task.parent / "run").exists()


@pytest.mark.parametrize(
    "said", ['{ split = "train" }', "{ dataset = 3 }", '{ dataset = "a/b", part = "train" }', "{}"]
)
def test_data_that_name_no_data_set_are_refused(task: Path, said: str) -> None:
    task.write_text(TASK.replace('"prompts.txt"', said))
    with pytest.raises(SettingError, match=r"names no data set: give data = \{ dataset = "):
        read_task(task)


@pytest.mark.slow
def test_a_plan_says_what_it_will_take_and_trains_nothing(task: Path) -> None:
    found = json.loads(run("train", str(task), "--plan", "--json").stdout)
    assert found["parameters"] == 3 * 16 * (64 + 2) + 6 * 16 * 64 + 3 * 64
    assert found["tokens"] == 8 * 32
    assert min(found[name] for name in ("harvest_seconds", "sparse_seconds", "dense_seconds")) > 0
    assert [disk["what"] for disk in found["disks"]] == ["Checkpoints"]
    assert found["fits"] is True
    assert "parameters in each process" in run("train", str(task), "--plan").stdout
    assert not (task.parent / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("data =", "dta ="), SettingError, "'dta' is no key of it: did you mean 'data'"),
        (('out = "run"', ""), SettingError, "does not say out"),
        (('model = "demo"', ""), SettingError, "does not say model"),
        (('out = "run"', 'out = "run"\nfeatures = 9'), SettingError, r"features belongs under \[settings\]"),
        (("features = 16", 'features = 16\ncache = "kept"'), SettingError, r"cache belongs above \[settings\]"),
        (("features = 16", "feature = 16"), SettingError, "'feature' is no training setting: did you mean 'features'"),
        (
            ("checkpoint_every = 4", "checkpoint_every = 0"),
            SettingError,
            "checkpoint_every=0 says nothing: give at least 1",
        ),
        (('out = "run"', 'out = ""'), SettingError, "out='' says nothing"),
        (("data =", "a = " + 3000 * "[" + 3000 * "]" + "\ndata ="), FileError, "cannot be read .*recursion"),
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


def test_a_plan_of_what_does_not_fit_says_what_would_and_measures_nothing(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tl_circuits.training.plan.pace_of", lambda *_: pytest.fail("measured"))
    task.write_text(TASK.replace("features = 16", "features = 100_000_000_000"))
    result = run("train", str(task), "--plan")
    assert result.exit_code == 1
    would = re.search(r"does not fit in memory; features=(\d+) would", result.stdout)
    assert would is not None
    assert 1000 < int(would[1]) < 100_000_000_000


def test_a_plan_refuses_what_training_refuses(task: Path) -> None:
    task.write_text(TASK + 'cache_dtype = "int8"')
    result = run("train", str(task), "--plan")
    assert result.exit_code == 1
    assert "cache_dtype='int8' is for activations on disk" in result.stderr


def test_a_corpus_may_have_empty_lines_and_texts_by_that_name(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("one\n\n  \ntwo\n\n")
    (tmp_path / "corpus.jsonl").write_text('{"text": "one"}\n\n{"prompt": "two", "text": "no"}\n"three"\n')
    (tmp_path / "empty.txt").write_text("\n \n")
    assert read_prompts(tmp_path / "corpus.txt", corpus=True) == ["one", "two"]
    assert read_prompts(tmp_path / "corpus.jsonl", corpus=True) == ["one", "two", "three"]
    with pytest.raises(FileError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt", corpus=True)
    with pytest.raises(FileError, match=r"Line 2 of .* is empty"):
        read_prompts(tmp_path / "corpus.txt")
    with pytest.raises(FileError, match=r"Line 1 of .* is no prompt"):
        read_prompts(tmp_path / "corpus.jsonl")
