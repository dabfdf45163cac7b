"""Training shared by two processes: the weights of one process, and checkpoints that another number of them reads."""

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models import bridge
from tests.two_processes import tokens
from tests.warm import python
from tl_circuits.errors import SettingError
from tl_circuits.training import TrainingSettings, train
from tl_circuits.training.shards import Shards
from tl_circuits.training.train import _refuse_together
from tl_circuits.transcoder import CrossLayerTranscoder

ROOT = Path(__file__).parents[1]
FIFTY = TrainingSettings(features=25, steps=50, batch_tokens=32, dead_after=5, skip=True)
CASES = {
    "features shared, JumpReLU": (replace(FIFTY, backend="sparse"), 2),
    "features shared, TopK": (replace(FIFTY, activation="topk", k=4, tied="source"), 2),
    "tokens shared": (FIFTY, 1),
    "tokens shared, BatchTopK": (replace(FIFTY, activation="batch_topk", k=4, backend="sparse"), 1),
    "tokens shared, fine-tuned": (replace(FIFTY, steps=20, finetune_steps=5, finetune_prompts=8), 1),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes trained together: weights by case and process, and two runs' folders."""
    out = tmp_path_factory.mktemp("shared")
    alone(FIFTY, folder=out / "by one")
    cases: dict[str, Any] = {
        name: (asdict(told), shards, str(out / f"run {name}")) for name, (told, shards) in CASES.items()
    }
    cases["begun by two"] = (asdict(FIFTY), 2, str(out / "by two"))
    cases["ended by two"] = (asdict(FIFTY), 2, str(out / "by one"))
    rest = ["2", str(free_port()), str(out), json.dumps(cases)]
    command = [sys.executable, "-m", "tests.two_processes"]
    running = [subprocess.Popen([*command, rank, *rest], cwd=ROOT, stderr=subprocess.PIPE, text=True) for rank in "01"]
    try:
        said = [process.communicate(timeout=900)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(said)
    return out


def trained(out: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(out / f"{name}.{rank}") for rank in range(2)]


def alone(told: TrainingSettings, **more: Any) -> CrossLayerTranscoder:
    return train(bridge("gpt2", torch.float32), tokens(), told, **more)


def losses(folder: Path) -> dict[int, float]:
    said = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {step["step"]: step["loss"] for step in said}


def largest_difference(one: CrossLayerTranscoder, other: dict[str, torch.Tensor]) -> float:
    named = dict(one.named_parameters())
    assert set(named) == set(other)
    return max(float((p - other[name]).abs().max() / p.abs().max().clamp_min(1)) for name, p in named.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_train_the_weights_of_one_and_lose_as_much(shared: Path, tmp_path: Path, name: str) -> None:
    whole = alone(CASES[name][0], folder=tmp_path)
    assert losses(shared / f"run {name}") == pytest.approx(losses(tmp_path), rel=1e-5)
    assert len(losses(tmp_path)) >= 3
    for weights in trained(shared, name):
        assert largest_difference(whole, weights) < 1e-5


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_taken_up_by_one(shared: Path) -> None:
    more = replace(FIFTY, finetune_steps=2, finetune_prompts=4)
    # The folder's last checkpoint is of the fiftieth step: what is left is the fine-tuning.
    assert largest_difference(alone(more, folder=shared / "by two"), dict(alone(more).named_parameters())) < 1e-4


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_taken_up_by_two(shared: Path) -> None:
    for weights in trained(shared, "ended by two"):
        assert largest_difference(alone(FIFTY), weights) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_where_one_process_ends_the_others_say_so_and_what_was_begun_is_taken_up(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told, run = replace(FIFTY, steps=6), tmp_path / "run"
    rest = ["2", str(free_port()), str(tmp_path), json.dumps({"run": (asdict(told), 2, str(run))}), how]
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(python, "-m", "tests.two_processes", rank, *rest, cwd=ROOT, timeout=60) for rank in "01"]
    left, ended = (each.result() for each in both)
    assert ended.returncode == -9
    assert left.returncode == 1
    says = r"A process of the 2 that train together has ended or does not answer .*goes on from the last"
    assert re.search(says, left.stderr), left.stderr
    assert largest_difference(alone(told, folder=run), dict(alone(told).named_parameters())) < 1e-5
    assert "going on from step 2 of 6" in capsys.readouterr().err


def test_features_and_tokens_are_shared_out_whole() -> None:
    parts = [Shards(shard, 3).features(25) for shard in range(3)]
    assert [number for part in parts for number in range(25)[part]] == list(range(25))
    tokens_of = [Shards(replica=replica, n_replicas=2).tokens(32) for replica in range(2)]
    assert [number for part in tokens_of for number in range(32)[part]] == list(range(32))


@pytest.mark.parametrize(
    ("place", "told", "says"),
    [
        (
            Shards(0, 2),
            replace(FIFTY, finetune_steps=3),
            "finetune_steps=3 need the whole transcoder.*2 share.*shards=1",
        ),
        (Shards(n_replicas=2), replace(FIFTY, low_memory=True), "low_memory.*2 processes"),
        (Shards(n_replicas=2), replace(FIFTY, batch_tokens=33), "batch_tokens=33 do not divide over 2"),
        (
            Shards(n_replicas=3),
            replace(FIFTY, batch_tokens=33, finetune_steps=1, finetune_prompts=97),
            "finetune_prompts=97",
        ),
    ],
)
def test_what_processes_cannot_do_together_is_refused(place: Shards, told: TrainingSettings, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        _refuse_together(told, place)
    with pytest.raises(SettingError, match="features=1 cannot be shared by 2"):
        Shards(0, 2).features(1)
    with pytest.raises(SettingError, match="batch_tokens=33 do not divide over 2"):
        Shards(n_replicas=2).tokens(33)
