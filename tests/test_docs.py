"""The documentation: its examples run and print what it shows, its pages build, and what it names exists."""

import ast
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # The documentation speaks UTF-8 whatever the machine does.
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=600, check=False
    )


def same(found: str, shown: str) -> bool:
    """Equal text, and numbers equal but for the last digit that is printed: processors round sums differently."""
    if NUMBER.sub("#", found) != NUMBER.sub("#", shown):
        return False
    for a, b in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        decimals = len(b.partition(".")[2]) if "." in b and "e" not in b else 0
        if a != b and not ("." in b and math.isclose(float(a), float(b), rel_tol=0, abs_tol=1.01 * 10**-decimals)):
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_the_documentation_shows(example: Path) -> None:
    process = run(sys.executable, str(example))
    assert process.returncode == 0, process.stderr
    shown = example.with_suffix(".txt").read_text(encoding="utf-8")
    assert same(process.stdout, shown), f"run `make examples`, and look at the difference:\n{process.stdout}"


def test_comparing_outputs_forgives_a_last_digit_and_nothing_else() -> None:
    assert same("12 nodes, +0.61", "12 nodes, +0.61")
    assert same("12 nodes, +0.60", "12 nodes, +0.61")
    assert not same("12 nodes, +0.59", "12 nodes, +0.61")
    assert not same("13 nodes, +0.61", "12 nodes, +0.61")
    assert not same("12 edges, +0.61", "12 nodes, +0.61")


def test_every_example_is_shown_with_its_output() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert EXAMPLES
    for example in EXAMPLES:
        for suffix in (".py", ".txt"):
            assert f'--8<-- "docs/examples/{example.stem}{suffix}"' in pages


def test_every_test_that_is_named_exists() -> None:
    page = (ROOT / "docs" / "how-we-know.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_python_in_the_readme_is_python_that_names_what_there_is() -> None:
    import tl_circuits

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tlc":
                assert node.attr in tl_circuits.__all__


def test_lines_of_the_readme_fit_a_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 125


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    # A copy, so that a test writes nothing into the tree it tests.
    for name in ("docs", "tl_circuits"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    process = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "tutorial.html", "how-it-works.html", "how-we-know.html", "changelog.html"} <= pages
    text = (tmp_path / "site" / "api" / "transcoders.html").read_text(encoding="utf-8")
    assert "Replaces the MLPs of a model by sparse features" in text
    assert "https://fonts" not in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
