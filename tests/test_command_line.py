"""The command line: results alone on standard output, one line for an error, and 0, 1 or 2."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner, Result

import tl_circuits as tlc
from tests import graphs, models
from tests.test_docs import same
from tl_circuits.__main__ import DEMO_PROMPT, app
from tl_circuits.graph.report import Output, Report
from tl_circuits.nodes import Kind
from tl_circuits.zoo import named
from tl_circuits.zoo.firing import firing
from tl_circuits.zoo.tokenizer import save_tokenizer, vocabulary
from tl_circuits.zoo.world import World, world

ROOT = Path(__file__).parent.parent
HOSTILE = ("[red]", "a\nb", "\x1b[31mc", "[/]", ":smile:", "\u202e", "\t")
TEXT = "the capital of Texas is"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(named, "load", interrupted)
    result = run("trace", "--prompt", DEMO_PROMPT)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.endswith("tl-circuits: interrupted; files that were finished are whole and stay.\n")


def printed(report: Report, *, width: int = 80, **console: Any) -> str:
    target = Console(width=width, highlight=False, **console)
    with target.capture() as text:
        target.print(report)
    return text.get()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny random GPT-2 with the demo's tokenizer, and a transcoder that fits it, as folders."""
    place = tmp_path_factory.mktemp("tiny")
    save_tokenizer(place / "model", vocabulary())
    config = GPT2Config(
        vocab_size=len(vocabulary()), n_embd=models.D_MODEL, n_layer=models.N_LAYERS, n_head=2, n_positions=16
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(place / "model")
    tlc.save_transcoder(models.transcoder(), place / "clt")
    return str(place / "model"), str(place / "clt")


def trace(folders: tuple[str, str], *more: str, prompt: str = TEXT) -> Result:
    return run("trace", "--model", folders[0], "--transcoder", folders[1], "--prompt", prompt, *more)


# What is printed


def hostile() -> Report:
    graph = graphs.random_graph(0, n_pos=len(HOSTILE), n_features=12)
    labels = {(feature.layer, feature.index): "[bold]\x1b[2J" for feature in graph.nodes.features()}
    graph = dataclasses.replace(
        graph, tokens=HOSTILE, target_labels=("[link=x]", "\r"), probe_error=math.nan
    ).with_labels(labels)
    return Report(graph, (Output("[blue]", 0.5), Output("\x07", 0.25)), {"graph": Path("[b].graph")})


def test_tokens_and_labels_are_printed_and_not_obeyed() -> None:
    text = printed(hostile())
    for token in (*HOSTILE, "[link=x]", "\r", "[blue]", "\x07"):
        assert repr(token) in text
    assert r"[bold]\x1b[2J" in text
    assert "[b].graph" in text
    assert {letter for letter in text if not letter.isprintable()} == {"\n"}


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_report_fits_the_terminal(width: int) -> None:
    report = hostile()
    text = printed(report, width=width)
    assert max(map(len, text.splitlines())) <= width
    for view in report.features:
        assert str(view.id) in text
        assert f"{view.influence:.3f}" in text


def test_colour_is_left_out_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m" in printed(hostile(), force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in printed(hostile(), force_terminal=True, color_system="standard")


def test_the_features_told_are_those_of_most_influence_in_the_order_of_the_graph() -> None:
    graph = graphs.random_graph(1, n_features=20)
    report = dataclasses.replace(hostile(), graph=graph, n_features=5)
    influence = graph.influence()[graph.nodes.span(Kind.FEATURE)]
    rows = [view.row for view in report.features]
    assert rows == sorted(rows)
    assert len(rows) == 5
    left = [row for row in range(len(influence)) if row not in rows]
    assert min(influence[rows]) >= max(influence[left])


def test_a_report_is_json_that_keeps_tokens_as_they_are() -> None:
    report = hostile()
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["tokens"] == list(HOSTILE)
    assert found["features"][0]["label"] == "[bold]\x1b[2J"
    assert found["outputs"][0] == {"token": "[blue]", "probability": 0.5}
    assert found["checks"]["probe_error"] is None
    assert found["checks"]["conservation_error"] == report.graph.conservation_error
    assert sum(found["nodes"].values()) == len(report.graph.nodes)
    assert [path["share"] for path in found["paths"]] == [path.share for path in report.graph.paths(5)]


# What is understood


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trace",), "--prompt"),
        (("trace", "--prompt", "x", "--coverage", "0"), "0 is no share: give a number above 0 and at most 1"),
        (("trace", "--prompt", "x", "--prune", "1.5"), "1.5 is no share"),
        (("trace", "--prompt", "x", "--prune-edges", "nan"), "nan is no share"),
        (("trace", "--prompt", "x", "--max-features", "0"), "--max-features"),
        (("trace", "--prompt", "x", "--class", "jax"), "jax"),
        (
            ("trace", "--prompt", "x", "--model", "gpt2"),
            "'gpt2' brings no transcoder: name a release, a repository or a fol",
        ),
        (("trace", "--prompt", "x", "--variant", "y"), "it is one of a transcoder's: name that too"),
        (("convert", "x"), "OUT"),
        (("convert", "x", "y", "--to", "pickle"), "pickle"),
        (("trace", "--prompt", "x", "--plt", "--transcoder", "y"), "leave out --plt"),
        (("trace", "--prompt", "x", "--plt", "--model", "gpt2", "--transcoder", "y"), "leave out --plt"),
        (("trice",), "trice"),
        (("demo", "--colour"), "--colour"),
    ],
)
def test_what_is_not_understood_ends_with_2(arguments: tuple[str, ...], expected: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["demo", "trace", "trace-many", "list", "convert"])
def test_every_command_explains_itself(command: str) -> None:
    assert command in run("--help").stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    # Whoever documents the commands has to know of every option.
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    options = {word.strip(",") for word in result.stdout.split() if word.startswith("--")} - {"--help"}
    assert {option for option in options if f"`{option}" not in page} == set()


def test_help_and_version_do_not_wait_for_model_libraries() -> None:
    code = "import sys, tl_circuits.__main__; print(*{'torch', 'transformer_lens', 'rich.table'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformer_lens"} & set(process.stdout.split())
    assert run("--version").stdout == f"tl-circuits {tlc.__version__}\n"


# What cannot be done


def one_line(result: Result) -> str:
    """The error line; nothing else may be said anywhere but what libraries say on standard error."""
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("tl-circuits:")]
    assert len(lines) == 1
    assert result.stderr.endswith(lines[0] + "\n")
    # An error that comes through to the runner would be a traceback in a shell.
    assert isinstance(result.exception, SystemExit)
    return lines[0]


@pytest.mark.slow
def test_a_transcoder_that_is_not_there() -> None:
    result = run("trace", "--prompt", "x", "--transcoder", "no\nwhere\x1b[31m", "--json")
    assert one_line(result).startswith(r"tl-circuits: There is no folder 'no\nwhere\x1b[31m' on this machine")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("model_class", ["bridge", "hooked"])
def test_a_model_that_is_not_there(folders: tuple[str, str], model_class: str) -> None:
    result = run(
        "trace", "--prompt", "x", "--model", "nobody/nothing", "--transcoder", folders[1], "--class", model_class
    )
    line = one_line(result)
    assert "The model 'nobody/nothing' could not be loaded as a " in line
    assert "Check its name and your connection" in line
    assert len(line) < 600


def test_a_model_without_a_transcoder_is_refused_from_python_too() -> None:
    with pytest.raises(
        tlc.SettingError, match=r"'gpt2' brings no transcoder: give a release, a repository or a folder"
    ):
        named.load("gpt2", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--target", "Austin"), "The target 'Austin' is not in this vocabulary; ' Austin' is one"),
        (("--target", "L9/1@-1"), "L9/1@-1 is of layer 9, but the transcoder has layers 0 to 2"),
        (("--out", "no/such/folder/x.graph"), "'no/such/folder/x.graph' cannot be written"),
        (("--json-out", "."), "'.' cannot be written: give the name of a file in a folder that exists"),
    ],
)
def test_what_is_asked_for_is_not_there(folders: tuple[str, str], arguments: tuple[str, ...], expected: str) -> None:
    assert expected in one_line(trace(folders, *arguments))


def test_a_prompt_that_is_too_long(folders: tuple[str, str]) -> None:
    assert "context holds 16" in one_line(trace(folders, prompt="36+59=" * 9))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no folder to write into" in one_line(run("demo", "--out", str(tmp_path / "file" / "below")))


# What is done


@pytest.mark.slow
def test_a_model_and_a_transcoder_in_folders(folders: tuple[str, str], tmp_path: Path) -> None:
    graph, viewed = tmp_path / "x.graph", tmp_path / "x.json"
    result = trace(folders, "--prune", "0.5", "--out", str(graph), "--json-out", str(viewed), "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tokens"] == ["<bos>", "the", " capital", " of", " Texas", " is"]
    assert found["files"] == {"graph": str(graph), "json": str(viewed)}
    kept = tlc.load_graph(graph)
    assert kept.pruned is not None
    assert (kept.pruned.node_threshold, kept.pruned.edge_threshold) == (0.5, 0.98)
    assert found["nodes"]["feature"] == kept.nodes.count(Kind.FEATURE)
    assert len(json.loads(viewed.read_text(encoding="utf-8"))["nodes"]) > 0
    local = tlc.localize(*named.load(*folders), TEXT)
    top = local.logits[-1].softmax(-1).max()
    assert found["outputs"][0]["probability"] == pytest.approx(float(top), rel=1e-5)


@pytest.mark.slow
def test_a_plan_is_said_instead_of_a_graph(folders: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "x.graph"
    found = json.loads(trace(folders, "--plan", "--memory-budget", "1", "--out", str(out), "--json").stdout)
    assert (found["memory_budget"], found["fits"]) == (10**9, True)
    assert found["n_features"] > 0
    assert not out.exists()
    assert "coverage=0.95 takes about" in " ".join(trace(folders, "--plan").stdout.split())


@pytest.mark.slow
def test_targets_coverage_and_limits_are_passed_on(folders: tuple[str, str]) -> None:
    result = trace(folders, "--target", " Austin", "--target", " robin", "--coverage", "0.5", "--json")
    found = json.loads(result.stdout)
    assert [target["label"] for target in found["targets"]] == [" Austin", " robin"]
    assert 0.5 <= found["coverage"] < 1
    few = json.loads(trace(folders, "--max-features", "1", "--max-targets", "2", "--json").stdout)
    assert len(few["targets"]) == 2
    assert few["provenance"]["settings"]["max_features"] == 1
    (feature,) = json.loads(trace(folders, "--target", "L2/3@-1", "--json").stdout)["targets"]
    assert feature["label"] == "L2/3@5"


@pytest.mark.slow
def test_a_warning_is_one_line_and_not_among_the_results(folders: tuple[str, str]) -> None:
    result = trace(folders, "--dtype", "bfloat16", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["provenance"]["dtype"] == "bfloat16"
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert any(line.startswith("warning: The model is in torch.bfloat16") for line in warned)


@pytest.mark.slow
def test_words_that_the_model_does_not_know_are_warned_of(folders: tuple[str, str]) -> None:
    result = trace(folders, "--json", prompt="the capital of Zembla is")
    assert "warning: The model's vocabulary lacks what stands at positions [4] of the prompt" in result.stderr
    assert "Zembla" in result.stderr
    assert json.loads(result.stdout)["tokens"][4] == "<unk>"
    assert "vocabulary" not in trace(folders, "--json").stderr


@pytest.mark.slow
def test_what_libraries_print_is_not_among_the_results(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[..., Any] = named.load

    def chatty(*arguments: Any, **more: Any) -> Any:
        sys.stdout.write("Loaded pretrained model\n")
        return load(*arguments, **more)

    monkeypatch.setattr(named, "load", chatty)
    result = trace(folders, "--json")
    assert json.loads(result.stdout)
    assert "Loaded pretrained model" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--plt",), ("--class", "hooked"), ("--dtype", "float64", "--class", "hooked")], ids=" ".join
)
def test_the_demo_is_traced_where_no_model_is_named(more: tuple[str, ...]) -> None:
    result = run("trace", "--prompt", DEMO_PROMPT, "--json", *more)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["outputs"][0]["token"] == " Austin"
    assert found["provenance"]["transcoder_kind"] == ("PLT" if "--plt" in more else "CLT")
    assert found["checks"]["conservation_error"] < (1e-10 if "float64" in more else 1e-4)
    assert found["files"] == {}


@pytest.mark.slow
def test_the_demo_prints_what_the_documentation_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    shown = page.split("```text\n")[1].split("```")[0]
    assert same(result.stdout, shown), f"show this in docs/command-line.md:\n{result.stdout}"


@pytest.mark.slow
def test_the_demo_writes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = run("demo", "--out", str(out), "--json")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in out.iterdir()} == {"dallas.graph", "dallas.html", "dallas.json"}
    files = {"graph": "dallas.graph", "page": "dallas.html", "json": "dallas.json"}
    assert json.loads(result.stdout)["files"] == {what: str(out / name) for what, name in files.items()}


@pytest.mark.slow
def test_the_demo_in_a_shell_says_and_writes_what_it_found(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    process = subprocess.run(
        [sys.executable, "-m", "tl_circuits", "demo", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1
    found = json.loads(process.stdout)
    assert found["outputs"][0]["token"] == " Austin"
    # The state that is asked about is a feature of its own at the last token: the second hop starts there.
    states = [
        f for f in found["features"] if f["layer"] == 1 and f["token"] == " is" and f["label"].startswith("Texas")
    ]
    assert states
    graph = tlc.load_graph(tmp_path / "dallas.graph")
    assert graph.node(states[0]["feature"]).label == states[0]["label"]
    shown = json.loads((tmp_path / "dallas.json").read_text(encoding="utf-8"))["nodes"]
    assert 0 < len(shown) < len(graph.nodes)


@pytest.mark.slow
def test_firing_is_the_share_of_summed_activation_by_token_and_by_what_is_asked() -> None:
    model, transcoder = tlc.demo()
    prompts = world().of("city")[::4]
    features = [(1, index) for index in range(transcoder.n_features[1])]
    found = firing(model, transcoder, features, World(prompts, ()))
    by_token, by_state = (defaultdict(lambda: torch.zeros(len(features))) for _ in range(2))
    for prompt in prompts:
        tokens = model.to_tokens(prompt.text + prompt.answer)
        _, cache = model.run_with_cache(tokens)
        active = transcoder.encode(cache[f"blocks.1.{transcoder.read}"][0, 1:], 1).detach()
        by_state[prompt.state] += active.sum(0)
        for token, row in zip(tokens[0, 1:].tolist(), active, strict=True):
            by_token[model.to_string([token])] += row
    total = torch.stack(list(by_state.values())).sum(0)
    told = 0
    for (layer, index), fires in found.items():
        assert layer == 1
        assert str(fires).endswith("never") == (float(total[index]) == 0)
        for words, sums in ((fires.tokens, by_token), (fires.states, by_state)):
            for share in words:
                assert share.share == pytest.approx(float(sums[share.word][index] / total[index]), rel=1e-3)
        if fires.tokens:
            most = max(by_token, key=lambda word: float(by_token[word][index]))
            assert fires.tokens[0].share == pytest.approx(float(by_token[most][index] / total[index]), rel=1e-3)
        told += bool(fires.states)
        # By chance it would be one state in twenty.
        assert all(share.share >= 0.2 for share in fires.states)
    assert told > 20


@pytest.mark.slow
def test_budgets_of_time_and_memory_stop_a_trace_and_refuse_what_does_not_fit(folders: tuple[str, str]) -> None:
    assert json.loads(trace(folders, "--time-budget", "0.001", "--json").stdout)["coverage"] < 1
    little = trace(folders, "--memory-budget", "0.000025")
    assert little.exit_code == 1
    assert "the memory budget is 25,000 bytes: give coverage=0.95 or less" in little.stderr
