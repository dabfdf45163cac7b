"""The script that people run on machines of theirs, against stand-ins: same names, next to no width."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import stand_ins
from tests.hub import Hub

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def accept(out: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Runs the script; what it printed, and the figures that it wrote."""
    command = [sys.executable, "benchmarks/acceptance.py", "--device", "cpu", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert out.exists(), done.stderr
    return done, json.loads(out.read_text())


def test_every_case_is_loaded_by_name_and_traced_and_one_that_fails_stops_no_other(hub: Hub, tmp_path: Path) -> None:
    stand_ins.serve_model(hub, "gpt2", n_layers=12)
    hub.moved["gpt2"] = "openai-community/gpt2"
    stand_ins.dunefsky(hub)
    stand_ins.serve_model(hub, "gemma-3", n_layers=26)
    stand_ins.gemma_scope_2_clt(hub)
    stand_ins.serve_model(hub, "gemma-2", n_layers=26)
    stand_ins.mntss(hub)
    done, found = accept(tmp_path / "figures.json")
    cases = {case["name"]: case for case in found["cases"]}
    assert list(cases) == ["gpt2", "gemma-3-1b", "gemma-2-2b-426k", "gemma-2-2b"]
    missing = cases.pop("gemma-2-2b-426k")
    assert not missing["passed"]
    assert missing["error"]["type"] == "FileError"
    assert "There is no repository 'mntss/clt-gemma-2-2b-426k'" in missing["error"]["message"]
    for name, case in cases.items():
        assert "error" not in case, case["error"]
        # Random weights have all but the answer.
        assert case["checks"] == {"conserves": True, "probe_agrees": True, "has_features": True, "answers": False}, name
        assert case["graph"]["conservation_error"] < 1e-5
        assert case["graph"]["coverage"] >= 0.95
        assert case["graph"]["top_features"]
        assert len(case["l0"]) == len(case["unexplained"]) == case["transcoder"]["layers"]
        assert set(case["seconds"]) == {"transcoder", "model", "localize", "attribute"}
        assert case["memory_gb"]["peak"] > 0
    assert {name: case["transcoder"]["kind"] for name, case in cases.items()} == {
        "gpt2": "per-layer",
        "gemma-3-1b": "cross-layer",
        "gemma-2-2b": "cross-layer",
    }
    assert cases["gemma-3-1b"]["transcoder"]["skip"]
    assert cases["gemma-3-1b"]["masked"]["positions"] == [0, 1, 2, 3]
    assert cases["gpt2"]["transcoder"]["read"] == "ln2.hook_normalized"
    assert found["machine"]["versions"]["tl-circuits"]
    assert found["settings"] == {"device": "cpu", "dtype": "float32", "coverage": 0.95, "max_features": 2000}
    # Nobody is told that all is well where an answer is not the known one.
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    sys.stdout.write(done.stdout)
    assert [line.split()[:2] for line in lines[1:5]] == [[case["name"], "no"] for case in found["cases"]]
    assert all("answers: no" in line and "conserves" not in line for line in (lines[1], lines[2], lines[4]))
    assert lines[5] == f"written to {tmp_path / 'figures.json'}: please send it back"


def test_a_process_that_is_killed_is_an_error_in_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python ends itself before the script starts, as the system would end it in its midst.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif '--one' in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done, found = accept(tmp_path / "out" / "figures.json", "--cases", "gpt2")
    (case,) = found["cases"]
    assert case["error"] == {"type": "ProcessEnded", "message": "It ended with signal 9: out of memory?"}
    assert done.returncode == 1
    assert "gpt2             no     ProcessEnded: It ended with signal 9" in done.stdout
