"""How much memory is left: the machine's, and what containers allow."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.models import bridge
from tl_circuits.attribution.planner import default_memory_budget
from tl_circuits.errors import SettingError
from tl_circuits.machine import available_memory, local_processes
from tl_circuits.training import TrainingSettings
from tl_circuits.training.plan import plan

GIB = 2**30
FREE = 64 * GIB


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has 64 GiB to spare."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=FREE))


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder with these control groups; names of files have "__" for "/"."""
    files = {name.replace("__", "/"): text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, limit: str, used: int, inactive: int = 0, *, older: bool = False) -> dict[str, str]:
    """The files of a control group."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if older else ("memory.max", "memory.current")
    stat = f"anon 5\n{'total_' if older else ''}inactive_file {inactive}\n"
    said = dict(zip(names, (limit, str(used)), strict=True)) | {"memory.stat": stat}
    return {f"{folder}{name}": text + "\n" * (name != "memory.stat") for name, text in said.items()}


def test_without_control_groups_the_machine_says_what_is_left(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == FREE
    assert available_memory(machine(tmp_path, "0::/\n")) == FREE


@pytest.mark.parametrize("older", [False, True], ids=["version 2", "version 1"])
def test_a_container_leaves_its_limit_less_what_it_has_that_is_no_page_of_a_file(tmp_path: Path, older: bool) -> None:
    line, folder = ("4:cpu,memory:/\n", "memory/") if older else ("0::/\n", "")
    files = group(folder, str(8 * GIB), 3 * GIB, GIB, older=older)
    assert available_memory(machine(tmp_path, line, **files)) == 6 * GIB


def test_the_tightest_of_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    files = group("pod/", str(5 * GIB), 4 * GIB) | group("pod/one/", str(4 * GIB), 2 * GIB)
    assert available_memory(machine(tmp_path, "0::/pod/one\n", **files)) == GIB
    files = group("pod/", "max", 4 * GIB)
    assert available_memory(machine(tmp_path, "0::/pod/one\n", **files)) == 2 * GIB


def test_a_group_by_the_hosts_path_is_looked_for_at_the_root_of_what_is_mounted(tmp_path: Path) -> None:
    files = group("memory/", str(2 * GIB), GIB, older=True)
    assert available_memory(machine(tmp_path, "4:memory:/docker/0a1b\n", **files)) == GIB


def test_no_limit_bounds_nothing_and_more_than_the_limit_leaves_nothing(tmp_path: Path) -> None:
    unlimited = machine(tmp_path / "a", "4:memory:/\n", **group("memory/", "9223372036854771712", GIB, older=True))
    assert available_memory(unlimited) == FREE
    assert available_memory(machine(tmp_path / "b", "0::/\n", **group("", "1000", 2000))) == 0


@pytest.mark.parametrize("line", ["", "nonsense\n", "0::/../../x\n", "1:memory\n", "\x00:::\n"])
def test_what_cannot_be_read_is_passed_over(tmp_path: Path, line: str) -> None:
    files = {"memory.max": "a lot", "x__memory.max": "1", "memory__memory.limit_in_bytes": ""}
    assert available_memory(machine(tmp_path, line, **files)) == FREE


def test_graphs_and_training_are_planned_within_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("attribution.planner", "training.plan"):
        monkeypatch.setattr(f"tl_circuits.{room}.available_memory", lambda: 5 * GIB)
    assert default_memory_budget() == 5 * GIB // 2
    planned = plan(bridge("gpt2", torch.float32), TrainingSettings(features=10**7), 100)
    assert planned.available == 5 * GIB
    assert not planned.fits


@pytest.mark.parametrize(("said", "here"), [("", 8), ("2", 2), ("16", 8), ("0", 8), ("two", 8), ("²", 8)])
def test_processes_of_one_machine_share_what_is_left(monkeypatch: pytest.MonkeyPatch, said: str, here: int) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
    assert local_processes(1) == 1
    assert local_processes(8) == here
    monkeypatch.setattr("tl_circuits.training.plan.available_memory", lambda: 8 * GIB)
    planned = plan(bridge("gpt2", torch.float32), TrainingSettings(features=10**7), 100, n_shards=4, n_replicas=2)
    assert planned.available == 8 * GIB // here
    with pytest.raises(
        SettingError, match=rf"are free for each of {here} processes: give .*processes on more machines"
    ):
        planned.refuse_what_does_not_fit()
