"""Tracing many prompts: what the folder holds, what is resumed, what is refused, and several processes."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tl_circuits as tlc
from tests import models
from tl_circuits.__main__ import app
from tl_circuits.attribution import many, trace
from tl_circuits.attribution.made_by import RUN, RUNS, WHOLE, described, fingerprint, made_by
from tl_circuits.attribution.prompts import as_json, read_prompts
from tl_circuits.attribution.prompts import many as one_by_one
from tl_circuits.attribution.ranks import shares
from tl_circuits.graph import Traced, files
from tl_circuits.graph.traced import INDEX, graph_name

ROOT = Path(__file__).parent.parent
Demo = tuple[Any, Any]
PROMPTS = ["the capital of Texas is", "36+59=", "the bird of Texas is"]
HOSTILE = ("../../etc/passwd", "a\nb\x00\x1b[2J", "CON: | aux?*<>", "\u202e\ud800", "-" * 500, "x" * 5000, " ")


@pytest.fixture(scope="module")
def demo() -> Demo:
    return tlc.demo()


TRACED: dict[str, tlc.AttributionGraph] = {}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The prompts that are traced; each is really traced once, since most of these tests are not about graphs."""
    seen: list[Any] = []

    def traced(model: Any, transcoder: Any, prompt: Any, *, targets: tlc.Targets, **settings: Any) -> Any:
        seen.append(prompt)
        asked = settings | {"memory_budget": None, "progress": None}
        key = f"{type(model)} {transcoder} {prompt!r} {described(targets)} {asked}"
        if key not in TRACED:
            TRACED[key] = trace(model, transcoder, prompt, targets, **settings)
        return TRACED[key]

    monkeypatch.setattr(many, "trace", traced)
    return seen


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, at: int) -> None:
    """Tracing raises this at the prompt of that number."""
    count, traced = iter(range(1000)), many.trace

    def fails(*arguments: Any, **settings: Any) -> tlc.AttributionGraph:
        if next(count) == at:
            raise error
        return traced(*arguments, **settings)

    monkeypatch.setattr(many, "trace", fails)


def assert_same(one: tlc.AttributionGraph, other: tlc.AttributionGraph) -> None:
    """Equal bit by bit, in everything that a file holds."""
    for item in fields(tlc.AttributionGraph):
        assert plain(getattr(one, item.name)) == plain(getattr(other, item.name)), item.name


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes()
    return {item.name: plain(getattr(value, item.name)) for item in fields(value)} if is_dataclass(value) else value


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / INDEX).read_text(encoding="utf-8").splitlines()[1:]]


# What is written


@pytest.mark.slow
def test_each_graph_is_the_one_that_trace_gives(demo: Demo, tmp_path: Path) -> None:
    results = tlc.trace_many(*demo, PROMPTS, tmp_path / "out", coverage=0.8)
    assert len(results) == len(PROMPTS)
    for graph, prompt in zip(results, PROMPTS, strict=True):
        assert_same(graph, tlc.trace(*demo, prompt, coverage=0.8))
    assert results.failed == results.missing == ()
    assert repr(results) == f"TraceResults(3 of 3 prompts traced, in {str(tmp_path / 'out')!r})"


def test_trace_many_takes_every_setting_of_trace_with_the_same_default() -> None:
    one, all_ = (inspect.signature(function).parameters for function in (tlc.trace, tlc.trace_many))
    for name in one.keys() - {"model", "transcoder", "prompt"}:
        assert all_[name].default == one[name].default, name


@pytest.mark.slow
def test_every_setting_reaches_trace(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def traced(*arguments: Any, **settings: Any) -> tlc.AttributionGraph:
        seen.update(settings)
        return trace(*arguments, **settings)

    monkeypatch.setattr(many, "trace", traced)
    wanted = {
        "masked_positions": [0, 1],
        "coverage": 0.5,
        "max_features": 3,
        "time_budget": 60.0,
        "memory_budget": 10**9,
        "progress": False,
    }
    tlc.trace_many(*demo, PROMPTS[:1], tmp_path, targets=" Austin", **wanted)
    assert {name: seen[name] for name in wanted} == wanted
    (graph,) = tlc.TraceResults.load(tmp_path)
    assert graph.target_labels == (" Austin",)
    likely = {"max_targets": 2, "target_probability": 1.0}
    (top,) = tlc.trace_many(*demo, PROMPTS[1:2], tmp_path / "b", **likely)
    assert_same(top, trace(*demo, PROMPTS[1], **likely))
    assert len(top.target_labels) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_the_index_says_what_became_of_each_prompt(demo: Demo, tmp_path: Path) -> None:
    results = tlc.trace_many(*demo, [PROMPTS[1], "", torch.tensor([1, 5, 6])], tmp_path)
    done, failed, ids = index(tmp_path)
    graph = results.graph(0)
    assert done == {
        "number": 0,
        "status": "done",
        "prompt": "36+59=",
        "file": "0000-36-59.graph",
        "seconds": done["seconds"],
        "n_tokens": 7,
        "coverage": 1.0,
        "conservation_error": graph.conservation_error,
        "probe_error": graph.probe_error,
        "error": None,
    }
    assert done["seconds"] > 0
    assert (failed["status"], failed["file"]) == ("failed", None)
    assert failed["error"] == "PromptError: The prompt '' is empty: give at least one token."
    assert (ids["prompt"], ids["file"]) == ([1, 5, 6], "0002.graph")
    assert [entry.to_dict() for entry in results.entries] == [done, failed, ids]


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_graphs_are_loaded_one_at_a_time(demo: Demo, tmp_path: Path) -> None:
    results = tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    (tmp_path / "0001-36-59.graph").unlink()
    graphs = iter(results)
    assert next(graphs).provenance.prompt.endswith("Texas is")
    with pytest.raises(tlc.FileError, match=r"There is no file '.*0001-36-59.graph'"):
        next(graphs)


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_a_graph_that_is_not_there_is_asked_for(demo: Demo, tmp_path: Path) -> None:
    results = tlc.trace_many(*demo, ["", "36+59="], tmp_path)
    with pytest.raises(tlc.GraphError, match=r"Prompt 0 has no graph in .*: it failed with PromptError: The prompt ''"):
        results.graph(0)
    with pytest.raises(tlc.GraphError, match=r"Prompt 2 has no graph in .*: there are 2 prompts, numbered from 0"):
        results.graph(2)


@given(prompt=st.one_of(st.text(), st.sampled_from(HOSTILE)), number=st.integers(0, 10**6 - 2))
def test_names_of_files_are_safe_and_in_order(prompt: str, number: int) -> None:
    name, following = graph_name(number, 10**6, prompt), graph_name(number + 1, 10**6, "")
    assert name < following
    assert name.isascii()
    assert len(name) < 80
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert name.count(".") == 1
    assert Traced.from_dict(Traced(number, prompt, name).to_dict()).file == name


def test_names_of_files_tell_their_prompts() -> None:
    chat = [{"role": "user", "content": "Where is Dallas?"}]
    assert graph_name(3, 5, "The capital, of Texas") == "0003-the-capital-of-texas.graph"
    assert graph_name(3, 5, chat) == "0003-where-is-dallas.graph"
    assert graph_name(3, 5, [4, 5]) == graph_name(3, 5, "\u4f60\u597d") == "0003.graph"


@pytest.mark.slow
def test_hostile_prompts_are_traced_or_fail_each_for_itself(demo: Demo, tmp_path: Path) -> None:
    with pytest.warns(tlc.TLCircuitsWarning, match="vocabulary lacks"):
        results = tlc.trace_many(*demo, HOSTILE, tmp_path / "out")
    assert len(results.entries) == len(HOSTILE)
    assert len(results) >= 2
    assert {path.parent for path in tmp_path.rglob("*.graph")} == {tmp_path / "out"}


# What fails


@pytest.mark.slow
def test_a_prompt_that_fails_does_not_stop_the_rest_and_is_tried_again(
    demo: Demo, tmp_path: Path, calls: list[Any]
) -> None:
    prompts: Any = ["36+59=", [1, 10**6], [None], "11+12="]
    results = tlc.trace_many(*demo, prompts, tmp_path)
    assert [entry.number for entry in results.done] == [0, 3]
    assert "outside the vocabulary" in str(results.failed[0].error)
    assert "[None] was given" in str(results.failed[1].error)
    assert "2 of 4 prompts traced, 2 failed" in repr(results)
    calls.clear()
    tlc.trace_many(*demo, prompts, tmp_path)
    assert calls == [[1, 10**6], [None]]
    calls.clear()
    results = tlc.trace_many(*demo, ["36+59=", "22+13=", [None], "11+12=", "45+33="], tmp_path)
    assert calls == ["22+13=", [None], "45+33="]
    assert [entry.prompt for entry in results.failed] == [[None]]


def out_of_memory() -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    return caught.value


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("error", [out_of_memory, MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory")])
def test_a_prompt_that_takes_too_much_memory_does_not_stop_the_rest(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    failing(monkeypatch, error(), at=0)
    results = tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    assert (len(results), len(results.failed)) == (1, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ZeroDivisionError(), KeyboardInterrupt()])
def test_what_is_nobodys_fault_ends_it_and_what_is_done_stays(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failing(monkeypatch, error, at=1)
    with pytest.raises(type(error)):
        tlc.trace_many(*demo, PROMPTS, tmp_path)
    left = tlc.TraceResults.load(tmp_path)
    assert "1 of 3 prompts traced, 2 not come to" in repr(left)
    assert left.missing == (1, 2)
    assert_same(left.graph(0), tlc.trace(*demo, PROMPTS[0]))
    with pytest.raises(tlc.GraphError, match=r"Prompt 1 has no graph .*: it was not come to; call trace_many again"):
        left.graph(1)


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_no_half_written_graph_is_taken_for_a_whole_one(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    tlc.trace_many(*demo, PROMPTS[:1], tmp_path)

    def half(_columns: Any, path: Path, _metadata: Any) -> None:
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(files, "save_file", half)
        with pytest.raises(tlc.FileError if isinstance(error, OSError) else KeyboardInterrupt):
            tlc.trace_many(*demo, PROMPTS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert tlc.TraceResults.load(tmp_path).missing == (1, 2)
    assert len(tlc.trace_many(*demo, PROMPTS, tmp_path)) == 3


# What is resumed


@pytest.mark.slow
def test_what_is_done_is_not_traced_again_and_prompts_may_follow(demo: Demo, tmp_path: Path, calls: list[Any]) -> None:
    tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    assert calls == PROMPTS[:2]
    calls.clear()
    assert len(tlc.trace_many(*demo, PROMPTS, tmp_path)) == 3
    assert calls == PROMPTS[2:]
    (tmp_path / "0001-36-59.graph").unlink()
    calls.clear()
    results = tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    assert calls == PROMPTS[1:2]
    assert (len(results), results.n_prompts) == (2, 2)
    assert len(tlc.TraceResults.load(tmp_path)) == 3


@pytest.mark.slow
def test_memory_and_progress_may_change(demo: Demo, tmp_path: Path, calls: list[Any]) -> None:
    tlc.trace_many(*demo, PROMPTS[:1], tmp_path)
    tlc.trace_many(*demo, PROMPTS[:1], tmp_path, memory_budget=10**9, progress=False)
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"coverage": 0.5}, r"coverage 1.0, not 0.5\. "),
        ({"max_features": 4}, r"max_features None, not 4\. "),
        ({"time_budget": 9.5}, r"time_budget None, not 9.5\. "),
        ({"masked_positions": (0, 1)}, r"masked_positions None, not \[0, 1\]\. "),
        ({"max_targets": 2}, r"targets 'top 10 to 0.95 at -1', not 'top 2 to 0.95 at -1'\. "),
        (
            {"targets": [" Austin"]},
            r"targets 'top 10 to 0.95 at -1', not \"tokens ' Austin' at -1\"\. ",
        ),
        ({"prompts": [PROMPTS[1]]}, r"other prompts \(1 of them; number 0 is 'the capital.*', not '36\+59='\)\. "),
        ({"coverage": 0.5, "max_targets": 2}, r"targets .*; coverage 1.0, not 0.5\. "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_and_prompts_are_refused(
    demo: Demo, tmp_path: Path, calls: list[Any], changed: dict[str, Any], says: str
) -> None:
    prompts = PROMPTS[:1]
    tlc.trace_many(*demo, prompts, tmp_path)
    calls.clear()
    with pytest.raises(tlc.FileError, match=f"holds graphs that were made with {says}") as caught:
        tlc.trace_many(*demo, **({"prompts": prompts, "folder": tmp_path} | changed))
    assert "Give another folder, or overwrite=True (--overwrite) to trace all anew" in str(caught.value)
    assert calls == []
    assert len(tlc.TraceResults.load(tmp_path)) == 1


@pytest.mark.slow
def test_another_model_or_transcoder_is_refused(tmp_path: Path, demo: Demo) -> None:
    model, clt = tlc.demo()
    prompt = PROMPTS[1:2]
    tlc.trace_many(model, clt, prompt, tmp_path)
    hooked, says = model.hooks([("blocks.0.hook_resid_mid", lambda value, hook: value)]), "own hooks False, not True"  # noqa: ARG005
    with hooked, pytest.raises(tlc.FileError, match=f"made with {says}"):
        tlc.trace_many(model, clt, prompt, tmp_path)
    with pytest.raises(
        tlc.FileError, match=r"made with transcoder 'layers=3.*transcoder weights '\w{16}', not '\w{16}'"
    ):
        tlc.trace_many(model, tlc.demo(transcoder="plt")[1], prompt, tmp_path)
    with torch.no_grad():
        clt.b_dec[1, 4] += 1
    with pytest.raises(
        tlc.FileError, match=r"made with transcoder weights '\w{16}', not '\w{16}'\. Give another folder"
    ):
        tlc.trace_many(model, clt, prompt, tmp_path)
    with torch.no_grad():
        next(iter(model.parameters()))[3, 4] += 1
    with pytest.raises(tlc.FileError, match=r"made with weights '\w{16}', not '\w{16}'\. Give another folder"):
        tlc.trace_many(model, demo[1], prompt, tmp_path)


def test_weights_are_told_by_a_sample_where_they_are_many() -> None:
    small, large = torch.nn.Linear(5, 7, bias=False), torch.nn.Linear(WHOLE // 512 + 1, 512, bias=False)
    with torch.no_grad():
        for module, changes in ((small, 1), (large, large.weight.numel())):
            before = fingerprint(module)
            assert before == fingerprint(module)
            module.weight.view(-1)[-changes:] += 1
            assert fingerprint(module) != before
    assert RUN * RUNS < WHOLE


def test_a_model_is_told_by_all_its_numbers_and_a_transcoder_by_a_sample_of_large_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("WHOLE", 8), ("RUNS", 2), ("RUN", 1)):
        monkeypatch.setattr(f"tl_circuits.attribution.made_by.{name}", value)
    model, clt = tlc.demo()
    wanted = tlc.Targets.top()
    before = made_by(model, clt, wanted, None, {})
    with torch.no_grad():
        for tensor in (next(iter(model.parameters())), clt.W_enc[0]):
            tensor[3, 4] += 1e-3
    after = made_by(model, clt, wanted, None, {})
    assert [name for name in after if after[name] != before[name]] == ["weights"]


@pytest.mark.slow
def test_overwriting_traces_all_anew_and_removes_what_was_written_alone(
    demo: Demo, tmp_path: Path, calls: list[Any]
) -> None:
    tlc.trace_many(*demo, PROMPTS, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine.graph").write_text("mine")
    calls.clear()
    results = tlc.trace_many(*demo, PROMPTS[1:2], tmp_path, coverage=0.5, overwrite=True)
    assert calls == PROMPTS[1:2]
    assert results.graph(0).provenance.settings["coverage"] == 0.5
    assert {path.name for path in tmp_path.iterdir()} == {INDEX, "0000-36-59.graph", "notes.txt", "mine.graph"}


@pytest.mark.slow
def test_an_index_that_was_broken_off_in_the_middle_of_a_line_goes_on(
    demo: Demo, tmp_path: Path, calls: list[Any]
) -> None:
    tlc.trace_many(*demo, PROMPTS, tmp_path)
    text = (tmp_path / INDEX).read_text(encoding="utf-8")
    (tmp_path / INDEX).write_text(text[:-30], encoding="utf-8")
    (tmp_path / ".0002-x.graph.12.partial").touch()
    assert tlc.TraceResults.load(tmp_path).missing == (2,)
    calls.clear()
    assert len(tlc.trace_many(*demo, PROMPTS, tmp_path)) == 3
    assert calls == PROMPTS[2:]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda _: b"", lambda whole: b"\xff" + whole[1:]])
def test_a_graph_that_was_damaged_is_traced_anew(
    demo: Demo, tmp_path: Path, calls: list[Any], damage: Callable[[bytes], bytes]
) -> None:
    results = tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    path = tmp_path / str(results.done[1].file)
    path.write_bytes(damage(path.read_bytes()))
    calls.clear()
    results = tlc.trace_many(*demo, PROMPTS[:2], tmp_path)
    assert calls == PROMPTS[1:2]
    assert [graph.provenance.prompt.endswith("59=") for graph in results] == [False, True]


# What is refused


@pytest.mark.slow
def test_a_folder_that_another_call_fills_is_refused_until_that_ends(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def traced(*arguments: Any, **settings: Any) -> tlc.AttributionGraph:
        for overwrite in (False, True):
            with pytest.raises(
                tlc.FileError, match=r"is being filled by another call of trace_many: wait until"
            ) as one:
                tlc.trace_many(*demo, PROMPTS, tmp_path, overwrite=overwrite)
            said.append(one)
        assert tlc.TraceResults.load(tmp_path).missing == (0,)
        return trace(*arguments, **settings)

    monkeypatch.setattr(many, "trace", traced)
    assert len(tlc.trace_many(*demo, PROMPTS[:1], tmp_path)) == 1
    assert len(said) == 2
    monkeypatch.setattr(many, "trace", trace)
    assert len(tlc.trace_many(*demo, PROMPTS[:2], tmp_path)) == 2
    assert len(list(tmp_path.iterdir())) == 3


def of(entry: dict[str, Any]) -> str:
    return json.dumps(Traced(0, "36+59=", "0000-36-59.graph").to_dict() | entry) + "\n"


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    "line",
    [
        "no JSON\n",
        "[" * 100_000 + "\n",
        "{}\n",
        of({"file": "../../../etc/passwd"}),
        of({"file": "0000-\x00.graph"}),
        of({"file": "C:0000.graph"}),
        of({"number": -1}),
        of({"number": True}),
        of({"seconds": "1"}),
        of({"file": None}),
        of({"error": "both"}),
        of({"more": 1}),
    ],
    ids=lambda line: line[:40],
)
def test_a_damaged_index_is_refused_and_can_be_overwritten(demo: Demo, tmp_path: Path, line: str) -> None:
    tlc.trace_many(*demo, PROMPTS[1:2], tmp_path)
    with (tmp_path / INDEX).open("a", encoding="utf-8") as file:
        file.write(line)
    for call in (lambda: tlc.TraceResults.load(tmp_path), lambda: tlc.trace_many(*demo, PROMPTS[1:2], tmp_path)):
        with pytest.raises(tlc.FileError, match=r"which is no traced prompt \(.*Take that line out, or trace all anew"):
            call()
    assert len(tlc.trace_many(*demo, PROMPTS[1:2], tmp_path, overwrite=True)) == 1


@pytest.mark.parametrize(
    "header", ["", "[]\n", "{}\n", "null\n", '{"format": "tl_circuits.traced", "version": "9"}\n', "\udcff\n"]
)
def test_an_index_of_something_else_is_refused_and_stays(demo: Demo, tmp_path: Path, header: str) -> None:
    (tmp_path / INDEX).write_text(header, encoding="utf-8", errors="surrogateescape")
    for overwrite in (False, True):
        with pytest.raises(tlc.FileError, match=r"does not begin as 'tl_circuits.traced' version '1'|cannot be read"):
            tlc.trace_many(*demo, PROMPTS[:1], tmp_path, overwrite=overwrite)
    assert (tmp_path / INDEX).exists()


def test_results_of_no_folder() -> None:
    with pytest.raises(
        tlc.FileError, match=r"There is no 'nowhere.index.jsonl': give the folder that trace_many wrote"
    ):
        tlc.TraceResults.load("nowhere")


def test_output_that_cannot_be_written_is_refused_before_anything_is_traced(
    demo: Demo, tmp_path: Path, calls: list[Any]
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(tlc.FileError, match=r"is no folder that can be written into .*give another folder"):
            tlc.trace_many(*demo, PROMPTS, folder)
    with pytest.raises(
        tlc.FileError, match=r"holds 1 files \(file\) and no 'index.jsonl' of traced prompts: give a new"
    ):
        tlc.trace_many(*demo, PROMPTS, tmp_path, overwrite=True)
    assert calls == []
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        ({"prompts": "36+59="}, tlc.PromptError, "a list of prompts, .*'36.59=' was given. Put one prompt in brackets"),
        ({"prompts": torch.tensor([1, 2])}, tlc.PromptError, "Put one prompt in brackets"),
        ({"prompts": 5}, tlc.PromptError, "5 was given"),
        ({"prompts": [1, 2, 3]}, tlc.PromptError, r"\[1, 2, 3\] is one prompt, of token ids or chat messages"),
        ({"prompts": [{"role": "user", "content": "a"}]}, tlc.PromptError, "is one prompt, .* put it in brackets"),
        ({"prompts": list(torch.tensor([1, 2]))}, tlc.PromptError, "is one prompt, of token ids or chat messages"),
        ({"prompts": []}, tlc.PromptError, r"No prompts were given \(\[\]\): give at least one"),
        ({"coverage": 0.0}, tlc.SettingError, r"coverage=0.0 is outside \(0, 1\]"),
        ({"max_features": 0}, tlc.SettingError, "max_features=0 expands nothing"),
        ({"time_budget": 0}, tlc.SettingError, "time_budget=0 is no time"),
        ({"memory_budget": 0}, tlc.SettingError, "memory_budget=0 is no memory"),
        ({"max_targets": 0}, tlc.SettingError, "max_targets=0 leaves nothing to explain"),
        ({"targets": []}, tlc.TargetError, "No targets were given"),
        ({"masked_positions": [0.5]}, tlc.PromptError, r"masked_positions=\[0.5\] are not all whole numbers"),
        ({"overwrite": "no"}, tlc.SettingError, "overwrite='no' is neither True nor False"),
        ({"folder": ""}, tlc.FileError, "'' names no file"),
        ({"transcoder": models.transcoder()}, tlc.FitError, "This transcoder is 16 wide, .* has d_model 64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_the_call_is_said_before_anything_is_written(
    demo: Demo, tmp_path: Path, changed: dict[str, Any], kind: type[Exception], says: str
) -> None:
    call: Any = inspect.unwrap(tlc.trace_many)
    asked = {"model": demo[0], "transcoder": demo[1], "prompts": PROMPTS[:1], "folder": tmp_path / "out"} | changed
    with pytest.raises(kind, match=says):
        call(**asked)
    assert list(tmp_path.iterdir()) == []


# Prompts


def test_a_tensor_of_one_token_is_a_prompt_and_no_token() -> None:
    prompts = [torch.tensor([3]), torch.tensor([4, 5])]
    assert all(a is b for a, b in zip(one_by_one(prompts), prompts, strict=True))


@pytest.mark.slow
def test_prompts_come_in_any_sequence_or_in_a_file(demo: Demo, tmp_path: Path) -> None:
    rows = torch.tensor([[1, 5, 6], [1, 6, 5]])
    for number, prompts in enumerate((rows, list(rows), rows.tolist(), (row for row in rows), rows.numpy().tolist())):
        results = tlc.trace_many(*demo, prompts, tmp_path / str(number))
        assert [entry.prompt for entry in results.entries] == [[1, 5, 6], [1, 6, 5]]
        assert len(results) == 2
    (tmp_path / "prompts.txt").write_text("36+59=\n11+12=\n")
    results = tlc.trace_many(*demo, tmp_path / "prompts.txt", tmp_path / "file")
    assert [entry.prompt for entry in results.done] == ["36+59=", "11+12="]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a\ud800b", "a\ud800b"),
        ((1, np.int64(2)), [1, 2]),
        (range(3), [0, 1, 2]),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        ([{"role": "user", "content": "x"}], [{"role": "user", "content": "x"}]),
        ({"a", }, "{'a'}"),
        (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_a_prompt_is_known_again_by_json(prompt: Any, expected: Any) -> None:
    assert as_json(prompt) == expected
    assert json.loads(json.dumps(as_json(prompt))) == expected


def test_a_text_file_holds_a_prompt_a_line_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "prompts.TXT"
    path.write_bytes("\ufeffone \r\n two\u2028three\x0b\n\tfour".encode())
    assert read_prompts(path) == ["one ", " two\u2028three\x0b", "\tfour"]


def test_a_file_of_json_lines_holds_texts_ids_and_chats(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "two\nlines"}]
    lines: list[Any] = ["a \n text", [1, 2], chat, {"prompt": "b", "id": 7}, {"prompt": chat}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_prompts(tmp_path / "p.jsonl") == ["a \n text", [1, 2], chat, "b", chat]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", b"one\n\ntwo\n", "Line 2 of '.*p.txt' is empty: take it out, or write a prompt there"),
        ("p.txt", b"one\n  \t\n", "Line 2 of '.*p.txt' is empty"),
        ("p.txt", b"one\n\n", "Line 2 of '.*p.txt' is empty"),
        ("p.jsonl", b'"one"\n\n"two"', "Line 2 of '.*p.jsonl' is empty"),
        ("p.txt", b"", "'.*p.txt' holds no prompts: write one a line"),
        ("p.txt", b"\xff\xfe", "'.*p.txt' cannot be read .*give a file of prompts in UTF-8"),
        ("p.csv", b"one", "'.*p.csv' is neither '.txt' .one prompt a line. nor '.jsonl'"),
        ("p.jsonl", b"one\n", "Line 1 of '.*p.jsonl' is no JSON .*: 'one'. Mend that line"),
        ("p.jsonl", b"[" * 100_000, "Line 1 of '.*p.jsonl' is no JSON"),
        ("p.jsonl", b'"one"\n{"text": "two"}\n', "Line 2 of '.*p.jsonl' is no prompt: .*Write a text in quotes"),
        ("p.jsonl", b'""\n', "Line 1 of '.*p.jsonl' is no prompt"),
        ("p.jsonl", b"7\n", "Line 1 of '.*p.jsonl' is no prompt"),
    ],
)
def test_a_file_of_prompts_is_refused_with_the_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(tlc.FileError, match=says):
        read_prompts(tmp_path / name)


def test_a_file_of_prompts_that_is_not_there() -> None:
    with pytest.raises(tlc.FileError, match=r"'nowhere.txt' cannot be read .*No such file"):
        read_prompts("nowhere.txt")


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["trace-many", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_traces_a_file_and_goes_on_where_it_was_broken_off(tmp_path: Path, calls: list[Any]) -> None:
    (tmp_path / "p.txt").write_text("36+59=\n" + "9" * 200 + "\n")
    for _ in range(2):
        result = run(tmp_path / "p.txt", tmp_path / "out", "--coverage", "0.9", "--target", "9")
        assert result.exit_code == 1
        assert result.stdout.startswith("1 of 2 prompts traced, 1 failed, in")
        assert "context holds" in result.stdout
        assert "give the same command again" in result.stderr
    assert calls == ["36+59=", "9" * 200, "9" * 200]
    (graph,) = tlc.TraceResults.load(tmp_path / "out")
    assert (graph.target_labels, graph.provenance.settings["coverage"]) == (("9",), 0.9)


@pytest.mark.slow
def test_the_command_prints_json(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('"36+59="\n')
    result = run(tmp_path / "p.jsonl", tmp_path / "out", "--plt", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["prompts"], found["missing"], found["traced"][0]["file"]) == (1, [], "0000-36-59.graph")
    assert tlc.TraceResults.load(tmp_path / "out").graph(0).provenance.transcoder_kind == "PLT"
    again = run(tmp_path / "p.jsonl", tmp_path / "out")
    assert again.exit_code == 1
    assert "tl-circuits: " in again.stderr
    assert "Give another folder" in again.stderr
    assert run(tmp_path / "p.jsonl", tmp_path / "out", "--overwrite").exit_code == 0


def test_the_command_refuses_an_empty_line_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("36+59=\n\n")
    result = run(tmp_path / "p.txt", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "tl-circuits: Line 2 of" in result.stderr
    assert not (tmp_path / "out").exists()


# Several processes


@given(costs=st.lists(st.integers(0, 1000), max_size=30), n_shares=st.integers(1, 5))
def test_shares_hold_each_prompt_once_and_cost_nearly_alike(costs: list[int], n_shares: int) -> None:
    found = shares(costs, n_shares)
    assert len(found) == n_shares
    assert sorted(place for share in found for place in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in found)
    sums = [sum(costs[place] for place in share) for share in found]
    assert max(sums) - min(sums) <= max(costs, default=0)


LONGER = [*PROMPTS, "11+12=", "the flower of the state containing Dallas is", "", "1+2="]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.mark.slow
def test_two_processes_write_the_same_graphs_as_one(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps({'prompt': prompt or ' '})}\n" for prompt in LONGER))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launch, "tl_circuits", "trace-many", str(tmp_path / "p.jsonl"), str(tmp_path / "two"), "--json"]
    two = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr
    assert len(json.loads(two.stdout)["traced"]) == len(LONGER)
    with pytest.warns(tlc.TLCircuitsWarning, match="vocabulary lacks"):
        one = tlc.trace_many(*demo, [prompt or " " for prompt in LONGER], tmp_path / "one")
    both = [one, tlc.TraceResults.load(tmp_path / "two")]
    for a, b in zip(*both, strict=True):
        assert_same(a, b)
    names = [sorted(path.name for path in results.folder.iterdir()) for results in both]
    assert names[0] == names[1]
    headers = [(results.folder / INDEX).read_text().splitlines()[0] for results in both]
    assert headers[0] == headers[1]


RANK = """
import os, sys, warnings, torch, torch.distributed as dist
import tl_circuits as tlc
from tl_circuits.attribution import many, trace

rank, folder, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
prompts = sys.argv[4:]
dist.init_process_group("gloo", init_method=f"file://{folder}.meet", rank=rank, world_size=2)
model, clt = tlc.demo("hooked")
count = 0

def traced(*arguments, **settings):
    global count
    count += 1
    if rank == 1 and count == 2 and how == "fails":
        raise ZeroDivisionError
    if rank == 1 and count == 2 and how == "hangs":
        sys.stdin.read()
    return tlc.trace(*arguments, **settings)

def call(folder, **settings):
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            results = tlc.trace_many(model, clt, prompts, folder, **settings)
        print(results, *[w.message for w in said if w.category is tlc.TLCircuitsWarning], flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)

many.trace = traced
if how == "hangs":
    many.PATIENCE = 0.1
if how == "disagree":
    call("/dev/null/x" if rank == 0 else folder)
    call(folder, coverage=0.5 if rank == 0 else 1.0)
else:
    call(folder)
if rank == 1:
    # It lives on; the other must not wait for it.
    sys.stdin.read()
"""


def two(tmp_path: Path, how: str, prompts: list[str]) -> tuple[str, str]:
    """What each of two processes printed."""
    arguments = [str(tmp_path / "out"), how, *prompts]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), *arguments],
            env=ENVIRONMENT, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    # The first ends by itself, whatever the second does.
    first = processes[0].communicate(timeout=300)[0]
    if how == "hangs":
        processes[1].kill()
    return first, processes[1].communicate(timeout=300)[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_process_that_fails_or_hangs_does_not_hang_the_others_and_loses_nothing(
    demo: Demo, tmp_path: Path, calls: list[Any], how: str
) -> None:
    prompts = [*PROMPTS, "11+12=", "22+13=", "45+33="]
    first, second = two(tmp_path, how, prompts)
    assert "not come to, in" in first
    assert "Processes 1 did not finish their share, so" in first
    assert "call trace_many again for the rest" in " ".join(first.split())
    assert ("ZeroDivisionError" in second) == (how == "fails")
    left = tlc.TraceResults.load(tmp_path / "out")
    # Of the second process's share the first prompt alone was done.
    assert len(left) >= 3
    assert left.missing
    results = tlc.trace_many(tlc.demo("hooked")[0], demo[1], prompts, tmp_path / "out")
    assert len(results) == len(prompts)
    assert calls == [prompts[number] for number in left.missing]


@pytest.mark.slow
def test_what_one_process_cannot_begin_none_does(tmp_path: Path) -> None:
    first, second = two(tmp_path, "disagree", PROMPTS)
    begun, traced = first.splitlines()
    assert begun.startswith("FileError '/dev/null/x' is no folder that can be written into")
    refused, differs = second.splitlines()
    assert refused == begun
    assert differs.startswith("SettingError Process 1 of 2 was given another model, transcoder, settings or prompts")
    assert "Processes 1 did not finish their share" in traced
