"""Weights & Biases and TensorBoard beside a run's own log, by stand-ins: what they are told, and what is said."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from models import N_LAYERS
from tests.test_training_run import SHORT, model, tokens
from tl_circuits.errors import FileError, SettingError
from tl_circuits.training import train

TOLD = replace(SHORT, steps=11, finetune_steps=10, finetune_prompts=4)


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Stand-ins for both packages; each opening adds what it was opened with and what it was told."""
    opened: list[SimpleNamespace] = []

    def init(**given: Any) -> SimpleNamespace:
        run = SimpleNamespace(given=given, told={}, closed=False)
        run.log = lambda figures, step: run.told.update({step: figures})
        run.finish = lambda: setattr(run, "closed", True)
        opened.append(run)
        return run

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            self.board = SimpleNamespace(folder=folder, purge=purge_step, told={}, closed=False)
            opened.append(self.board)

        def add_text(self, name: str, text: str, step: int) -> None:
            self.board.text = text

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.board.told.setdefault(step, {})[name] = value

        def close(self) -> None:
            self.board.closed = True

    for name, has in (("wandb", {"init": init}), ("torch.utils.tensorboard", {"SummaryWriter": SummaryWriter})):
        module = ModuleType(name)
        vars(module).update(has)
        monkeypatch.setitem(sys.modules, name, module)
    return opened


@pytest.mark.slow
def test_loggers_are_told_what_the_log_has(tmp_path: Path, boards: list[SimpleNamespace]) -> None:
    train(model(), tokens(), TOLD, folder=tmp_path, loggers=["wandb", "tensorboard"])
    wandb, board = boards
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert list(wandb.told) == list(board.told) == [line["step"] for line in lines] == [0, 10, 20]
    for line, figures in zip(lines, wandb.told.values(), strict=True):
        assert figures == board.told[line["step"]]
        paced = () if "kl" in line else ("tokens", "tokens_per_second")
        for name in ("loss", "lr", "sparsity", "gradient_norm", *paced):
            assert figures[name] == line[name]
        for layer, value in enumerate(line["fvu"]):
            assert figures[f"fvu/layer {layer}"] == value
        assert figures["dead"] == sum(figures[f"dead/layer {layer}"] for layer in range(N_LAYERS))
    assert wandb.told[20]["kl"] == lines[2]["kl"]
    assert wandb.given["config"]["features"] == 24
    assert "features: 24" in board.text
    assert wandb.closed
    assert board.closed


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_run_to_its_loggers(tmp_path: Path, boards: list[SimpleNamespace]) -> None:
    for steps in (0, 10):
        told = replace(TOLD, finetune_steps=steps)
        train(model(), tokens(), told, folder=tmp_path, loggers=["wandb", "tensorboard"])
    first, _, again, board = boards
    assert first.given["id"] == again.given["id"]
    assert again.given["resume"] == "allow"
    assert board.purge == 11
    assert list(again.told) == [20]


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_logger_that_is_not_installed_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        SettingError, match=rf"needs the package {name}.*pip install 'tl-circuits\[{name}\]'.*log\.jsonl"
    ):
        train(model(), tokens(), SHORT, folder=tmp_path, loggers=[name])


def test_loggers_that_are_none_or_have_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="loggers has 'wanbd', which is none of 'wandb', 'tensorboard'"):
        train(model(), tokens(), SHORT, folder=tmp_path, loggers=["wanbd"])
    with pytest.raises(SettingError, match=r"loggers=\['wandb'\] write beside a run's own log: name a folder"):
        train(model(), tokens(), SHORT, loggers=["wandb"])
    with pytest.raises(SettingError, match="loggers='wandb' is no list of names"):
        train(model(), tokens(), SHORT, folder=tmp_path, loggers="wandb")


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(
        FileError, match=r"log\.jsonl' could not be written.*move what is in its place.*goes on from the last"
    ):
        train(model(), tokens(), SHORT, folder=tmp_path)
