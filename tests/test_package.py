"""The package as a whole: its public names, what they load, which room may import which, and what a wheel holds."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tl_circuits

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tl_circuits"

PUBLIC = [
    "AttributionGraph",
    "Basis",
    "BatchTopK",
    "CircuitCurve",
    "CrossLayerTranscoder",
    "FaithfulnessReport",
    "Feature",
    "FeatureCard",
    "FeatureCards",
    "FidelityReport",
    "FileError",
    "FitError",
    "GenerationResult",
    "GraphError",
    "GraphScores",
    "HopCollapse",
    "Intervention",
    "InterventionResult",
    "JumpReLU",
    "LocalReplacementModel",
    "Operands",
    "Plan",
    "PromptError",
    "ReLU",
    "Release",
    "SettingError",
    "TLCircuitsError",
    "TLCircuitsWarning",
    "Target",
    "TargetError",
    "Targets",
    "Task",
    "TopK",
    "TraceResults",
    "TrainingSettings",
    "Validation",
    "WriteShares",
    "as_saes",
    "atlas",
    "attribute",
    "circuit_curve",
    "demo",
    "evaluate",
    "faithfulness",
    "feature_cards",
    "generate",
    "hop_collapse",
    "intervene",
    "load_cards",
    "load_graph",
    "load_labels",
    "load_supernodes",
    "load_transcoder",
    "localize",
    "plan",
    "plot",
    "plot_attention",
    "plot_curves",
    "plot_error_share",
    "plot_intervention",
    "register_release",
    "register_saelens_classes",
    "releases",
    "replace_mlps",
    "save_page",
    "save_transcoder",
    "score_labels",
    "show",
    "subgraph_svg",
    "trace",
    "trace_many",
    "train",
    "training_report",
    "validate",
    "widget",
    "write_shares",
]


def run(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# The public names


def test_the_public_names_are_these() -> None:
    assert tl_circuits.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(tl_circuits, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(tl_circuits)


def test_type_checkers_see_the_same_names_from_the_same_rooms() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.asname) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {(f"tl_circuits.{room}", name) for room, names in tl_circuits._ROOMS.items() for name in names}


def test_another_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prune'; it offers AttributionGraph, Basis, BatchTopK"):
        tl_circuits.prune  # noqa: B018


LOADED = "import sys; print(*sorted({'torch', 'transformer_lens', 'sae_lens', 'transformers'} & set(sys.modules)))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import tl_circuits", ""),
        ("import tl_circuits; tl_circuits.AttributionGraph, tl_circuits.GraphScores, tl_circuits.Feature", "torch"),
        ("from tl_circuits import CrossLayerTranscoder, load_transcoder, save_transcoder", "torch"),
    ],
)
def test_a_name_loads_no_more_than_it_needs(statement: str, loaded: str) -> None:
    process = run(sys.executable, "-c", f"{statement}; {LOADED}")
    assert process.stdout.strip() == loaded, process.stderr


# The house


@pytest.mark.slow
def test_a_room_imports_only_from_below() -> None:
    pytest.importorskip("importlinter")
    process = run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
def test_no_room_imports_the_front_door() -> None:
    through = {
        str(path)
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "tl_circuits"
    }
    assert through == set()


@pytest.mark.slow
def test_sae_lens_is_imported_in_one_file_only() -> None:
    users = {path.as_posix() for path, tree in modules() if any(n.split(".")[0] == "sae_lens" for n in imported(tree))}
    assert users <= {"saelens.py"}


# Dunefsky's transcoders and circuit-tracer's graphs are pickles, which these convert by torch.load(weights_only=True).
CONVERT_PICKLES = {"transcoder/files/dunefsky.py", "graph/circuit_tracer.py"}


@pytest.mark.slow
def test_no_pickle_is_ever_executed() -> None:
    for path, tree in modules():
        opened = imported(tree) & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        unsafe = {"torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec", "pickle.load", "pickle.loads"}
        assert not {ast.unparse(call.func) for call in calls} & unsafe, path
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        assert all("weights_only=True" in ast.unparse(call) for call in loads), path
        if path.as_posix() not in CONVERT_PICKLES:
            assert not opened, path
            assert not loads, path


@pytest.mark.slow
def test_files_and_functions_are_short() -> None:
    for path, tree in modules():
        assert len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) <= 400, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.slow
def test_nothing_is_named_for_what_is_left_over() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert not {path.as_posix() for path, _ in modules() if {path.stem, *path.parts} & drawers}


# What is installed


def test_the_changelog_names_this_version_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## [")]
    assert headings[0].startswith(f"## [{tl_circuits.__version__}]")


@pytest.mark.slow
def test_every_dependency_is_brought_by_transformer_lens_or_sae_lens_already() -> None:
    brought = {canonicalize_name(name) for root in ("transformer-lens", "sae-lens") for name in closure(root)}
    ours = {canonicalize_name(Requirement(line).name) for line in pyproject()["project"]["dependencies"]}
    assert ours - brought == set()


def closure(root: str) -> set[str]:
    found, waiting = set(), [root]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # a dependency of another platform
            continue
        needed = [Requirement(line) for line in lines]
        waiting += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def test_what_is_pinned_covers_what_is_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines[1:])}
    project = pyproject()["project"]
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        need = Requirement(line)
        (pin,) = pins[canonicalize_name(need.name)].specifier
        assert need.specifier.contains(pin.version), f"{line} does not allow the pin {pin.version}"
    assert str(pins[canonicalize_name("torch")]) == "torch==2.13.0"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    process = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    assert process.returncode == 0, process.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_alone_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    # Before the checkout that tests run from, which an editable install puts on the path too.
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "HF_HUB_OFFLINE": "1"}
    where = "import tl_circuits, sys; print(tl_circuits.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
    command = [sys.executable, "-m", "tl_circuits", "demo", "--json"]
    demo = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert demo.returncode == 0, demo.stderr
    assert "Austin" in demo.stdout


@pytest.mark.slow
def test_a_wheel_holds_the_code_the_data_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"tl_circuits-{tl_circuits.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    tracked = run("git", "ls-files", "tl_circuits")
    if tracked.returncode == 0:
        # What the page's viewer is built from stays behind; what was built comes along.
        sources = {name for name in tracked.stdout.split() if name.startswith("tl_circuits/page/viewer/")}
        assert set(tracked.stdout.split()) - sources <= names
        assert not sources & names
        assert "tl_circuits/page/assets/viewer.js" in names
    assert {"tl_circuits/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert not {name for name in names if name.split("/")[0] not in ("tl_circuits", info)}
    assert "License-Expression: MIT" in metadata
    assert "tl-circuits = tl_circuits.__main__:main" in scripts
