"""The documentation: its examples run and print what it shows, its pages build, and what it names exists.

`python tests/test_docs.py` writes the README's example, its output and its figures anew, from the files they are from.
"""

import ast
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
BY_NAME = sorted((ROOT / "docs" / "examples" / "by_name").glob("*.py"))
"""Those that load public models and transcoders: real ones for readers, small stand-ins for them here."""
FIRST = ROOT / "docs" / "examples" / "first_look.py"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
UNITS = ROOT / "docs" / "which-units.md"
ATLAS = ROOT / "docs" / "atlas.md"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


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
    # Not when this file is run as a script, which has no package around it.
    from tests.warm import python

    process = python(str(example), cwd=ROOT)
    assert process.returncode == 0, process.stderr
    shown = example.with_suffix(".txt").read_text(encoding="utf-8")
    assert same(process.stdout, shown), f"run `make examples`, and look at the difference:\n{process.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize("example", BY_NAME, ids=lambda path: path.stem)
def test_an_example_that_loads_by_name_prints_what_the_documentation_shows(
    hub: Any, capsys: pytest.CaptureFixture[str], example: Path
) -> None:
    from tests import stand_ins

    for stand_in in stand_ins.ALL.values():
        stand_in.serve(hub)
    for family in ("gemma-2", "gemma-3"):
        stand_ins.serve_model(hub, family, n_layers=26)
    runpy.run_path(str(example))
    assert capsys.readouterr().out == example.with_suffix(".txt").read_text(encoding="utf-8")


def test_comparing_outputs_forgives_a_last_digit_and_nothing_else() -> None:
    assert same("12 nodes, +0.61", "12 nodes, +0.61")
    assert same("12 nodes, +0.60", "12 nodes, +0.61")
    assert not same("12 nodes, +0.59", "12 nodes, +0.61")
    assert not same("13 nodes, +0.61", "12 nodes, +0.61")
    assert not same("12 edges, +0.61", "12 nodes, +0.61")


def test_every_example_is_shown_with_its_output() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert EXAMPLES
    for example in (*EXAMPLES, *BY_NAME):
        for suffix in (".py", ".txt"):
            shown = example.with_suffix(suffix).relative_to(ROOT).as_posix()
            assert f'--8<-- "{shown}"' in pages


@pytest.mark.slow
def test_every_test_that_is_named_exists() -> None:
    page = (ROOT / "docs" / "how-we-know.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


# The README


def readme_of(text: str) -> str:
    """The README with its first example, that example's output, and its figures, as the files have them."""
    text = _between(text, "```python\n", "```", FIRST.read_text(encoding="utf-8"))
    text = _between(text, "```text\n", "```", FIRST.with_suffix(".txt").read_text(encoding="utf-8"))
    text = _between(text, "<!-- figures -->\n", "<!-- /figures -->", figures())
    return _between(text, "<!-- benchmarks -->\n", "<!-- /benchmarks -->", benchmarks()) if RESULTS else text


def _between(text: str, start: str, end: str, new: str) -> str:
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    assert found, f"the page lacks {start!r} ... {end!r}"
    return f"{before}{start}{new}{end}{after}"


def figures() -> str:
    """What the demo's transcoder is worth, in a sentence or two."""
    record = json.loads((ROOT / "tl_circuits" / "zoo" / "assets" / "figures.json").read_text(encoding="utf-8"))
    found = record["figures"]
    return _paragraph(
        f"The demo is a toy of {record['model']['n_layers']} layers, and so are its figures. The model answers "
        f"{found['model: two-hop held out']:.1%} of held-out two-hop questions. With every MLP replaced by the "
        f"cross-layer transcoder it still gives its own answer to {found['clt: agreement, two-hop held out']:.1%} of "
        f"them, with {found['clt: mean L0']:.1f} features active per token and layer."
    )


def benchmarks() -> str:
    """What was measured, as a table and sentences, with the conditions it was measured under."""
    report = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
    return report["section"](report["newest"]())


def benchmarks_page_of(text: str) -> str:
    """The page on benchmarks with its tables of training recipes as the files have them."""
    report, tables = (runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py")) for name in ("report", "training_tables"))
    for name in ("chains", "presets", "bandwidths", "crossovers"):
        text = _between(text, f"<!-- {name} -->\n", f"<!-- /{name} -->", tables[name](report["newest"]()))
    return text


def atlas_page_of(text: str) -> str:
    """The page on the atlas with its figures, and what building it took, as the record beside the weights has them."""
    from tl_circuits.zoo.atlas import behaviours

    record = json.loads((ROOT / "tl_circuits/zoo/assets/atlas/figures.json").read_text(encoding="utf-8"))
    found, took = record["figures"], record["took"]
    rows = ["| | after | model | CLT | agrees | PLT | agrees | L0 |", "|---|---|---|---|---|---|---|---|"]
    for name, behaviour in behaviours(seed=record["seed"]).items():
        asked = [
            f"model: right, {name}",
            *(f"{t}: {what}, {name}" for t in ("clt", "plt") for what in ("right", "agreement")),
        ]
        shares = [f"{found[figure]:.1%}" if figure in found else "" for figure in asked]
        rows.append(f"| {' | '.join([name, behaviour.after, *shares, format(found[f'clt: L0, {name}'], '.1f')])} |")
    text = _between(text, "<!-- atlas -->\n", "<!-- /atlas -->", "\n".join(rows) + "\n")
    built = (
        f"What ships took {took['CPU seconds'] / 60:.0f} minutes of processor time, {took['seconds'] / 60:.0f} by the "
        f"clock, with {took['threads']} thread.\n"
    )
    return _between(text, "<!-- built -->\n", "<!-- /built -->", built)


def which_units_of(text: str) -> str:
    """The page on units with its tables as the newest result of the benchmark of circuits has them."""
    report = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
    tables = runpy.run_path(str(ROOT / "benchmarks" / "circuits" / "tables.py"))
    result = tables["newest"](report["newest"]())
    for name, table in tables["TABLES"].items() if result is not None else ():
        if f"<!-- {name} -->" in text:
            text = _between(text, f"<!-- {name} -->\n", f"<!-- /{name} -->", table(result))
    return text


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def test_the_readme_shows_its_example_and_its_figures_as_they_are() -> None:
    text = README.read_text(encoding="utf-8")
    fresh = readme_of(text)
    # Measurements may be newer than the README, but what it says is what a file says.
    stale = [line for line in text.splitlines() if line not in fresh.splitlines()]
    assert not stale, f"run `python tests/test_docs.py`; these lines have changed: {stale}"
    assert FIRST.read_text(encoding="utf-8") in text
    assert FIRST.with_suffix(".txt").read_text(encoding="utf-8") in text


def test_the_page_on_benchmarks_shows_its_tables_as_they_are() -> None:
    text = BENCHMARKS.read_text(encoding="utf-8")
    assert text == benchmarks_page_of(text), "run `python tests/test_docs.py`"


@pytest.mark.slow
def test_the_page_on_the_atlas_shows_its_figures_as_they_are() -> None:
    text = ATLAS.read_text(encoding="utf-8")
    assert text == atlas_page_of(text), "run `python tests/test_docs.py`"


def test_the_page_on_units_shows_its_tables_as_they_are() -> None:
    text = UNITS.read_text(encoding="utf-8")
    assert text == which_units_of(text), "run `python tests/test_docs.py`"


def test_the_readmes_first_screen_ends_with_its_output() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines, start=1) if line.startswith("```")]
    assert fences[3] <= 30
    assert max(map(len, lines)) <= 120


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_page_is_found_from_the_menu_the_front_page_and_the_readme() -> None:
    docs = ROOT / "docs"
    menu = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(menu) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    lists = {
        "docs/": README.read_text(encoding="utf-8").partition("## Documentation")[2],
        "": (docs / "index.md").read_text(encoding="utf-8").partition("## Where to go")[2],
    }
    # A reference is found from the page that it is of; the compiled models have no other page.
    guides = [page for page in menu if "api/" not in page or page == "api/compiled.md"]
    for at, text in lists.items():
        linked = set(re.findall(r"\]\(([^)#]+)", text))
        missing = [page for page in guides if f"{at}{page}" not in linked and page not in ("index.md", "changelog.md")]
        assert not missing, f"link these too: {missing}"


def test_what_pages_call_by_the_short_name_exists() -> None:
    import tl_circuits

    texts = [README, *(ROOT / "docs").rglob("*.md"), *EXAMPLES, *BY_NAME, ROOT / "CHANGELOG.md"]
    for path in texts:
        for name in re.findall(r"\btlc\.(\w+)", path.read_text(encoding="utf-8")):
            assert name in tl_circuits.__all__, f"{path.name}: tlc.{name}"


def test_methods_that_the_readme_names_are_methods_of_a_graph() -> None:
    from tl_circuits import AttributionGraph

    cells = re.findall(r"^\| (`graph\..*?) \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(?:graph)?\.(\w+)`", cell)]
    assert len(names) > 8
    for name in names:
        assert callable(getattr(AttributionGraph, name)), name


# The site


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


if __name__ == "__main__":
    README.write_text(readme_of(README.read_text(encoding="utf-8")), encoding="utf-8")
    BENCHMARKS.write_text(benchmarks_page_of(BENCHMARKS.read_text(encoding="utf-8")), encoding="utf-8")
    UNITS.write_text(which_units_of(UNITS.read_text(encoding="utf-8")), encoding="utf-8")
    ATLAS.write_text(atlas_page_of(ATLAS.read_text(encoding="utf-8")), encoding="utf-8")
