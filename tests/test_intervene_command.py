"""`tl-circuits intervene`: what it prints, what it gives to programs, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from tests.test_command_line import TEXT, folders, run
from tl_circuits.__main__ import DEMO_PROMPT

assert folders  # A fixture: pytest finds it by this name.

AUSTIN = ("intervene", "--prompt", DEMO_PROMPT, "--layers", "0,1")
TEXAN = ("-f", "L0/321@-1", "-f", "L1/386@9")


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_it_says_what_intervene_says() -> None:
    found = printed(*AUSTIN, *TEXAN, "--scale", "-2", "--generate", "2")
    model, clt = tlc.demo()
    local = tlc.localize(model, clt, DEMO_PROMPT)
    done = tlc.Intervention(["L0/321@-1", "L1/386@9"], scale=-2)
    result = tlc.intervene(local, done, layers=(0, 1))
    assert [token["text"] for token in found["after"]] == [token.text for token in result.top_after(5)]
    assert found["after"][0]["probability"] == pytest.approx(result.top_after(1)[0].probability, abs=1e-5)
    assert found["before"][0]["text"] == " Austin" != found["after"][0]["text"]
    assert found["features"] == ["L0/321@-1", "L1/386@9"]
    assert (found["mode"], found["layers"], found["attention"]) == ("constrained", [0, 1], "frozen")
    moved = [str(feature) for feature, *_ in result.changes.strongest(12)]
    assert [change["feature"] for change in found["moved"]] == [f for f in moved if f not in ("L0/321@9", "L1/386@9")]
    assert found["continuation"]["before"] == " Austin<eos>"
    assert found["continuation"]["after"] == tlc.generate(local, done, 2, layers=(0, 1)).text


@pytest.mark.slow
def test_people_see_it_in_a_table() -> None:
    result = run(*AUSTIN, *TEXAN, "-f", "L0/3@5", "--set", "0", "--generate", "2")
    assert result.exit_code == 0
    assert "mode constrained, layers 0 to 1, attention frozen" in result.stdout
    for part in ("3 features (L0/321@-1, ...) value=0", "Before\n", "' Austin'", "What moved elsewhere", "L0/3@5"):
        assert part in result.stdout
    assert "Not active on this prompt" in result.stdout
    assert "before  ' Austin<eos>'" in result.stdout


@pytest.mark.slow
def test_a_supernode_of_a_file_is_acted_on(tmp_path: Path, folders: tuple[str, str]) -> None:
    model, clt = tlc.demo()
    path = tmp_path / "dallas.json"
    tlc.trace(model, clt, DEMO_PROMPT).to_json(
        path, supernodes={"Texas": ["L0/321@9", "L1/386@9"]}, pinned=["L2/623@9"]
    )
    texas = printed(*AUSTIN, "--supernodes", str(path), "--supernode", "Texas", "--add", "1.5")
    assert texas["features"] == ["L0/321@9", "L1/386@9"]
    assert texas["interventions"] == ["2 features (L0/321@9, ...) add=1.5"]
    everything = printed("intervene", "-p", DEMO_PROMPT, "--supernodes", str(path), "--scale", "0", "--mode", "added")
    assert everything["features"] == ["L0/321@9", "L1/386@9", "L2/623@9"]
    plain = tmp_path / "plain.json"
    tlc.trace(model, clt, DEMO_PROMPT).to_json(plain)
    without = run(*AUSTIN, "--supernodes", str(plain), "--scale", "0")
    assert (without.exit_code, "has no supernodes and no pins" in without.stderr) == (1, True)
    unknown = run(*AUSTIN, "--supernodes", str(path), "--supernode", "Ohio", "--scale", "0")
    assert unknown.exit_code == 1
    assert "has no supernode 'Ohio': it has 'Texas', 'L2/623@9'." in unknown.stderr
    other = printed(
        "intervene", "--model", folders[0], "--transcoder", folders[1], "-p", TEXT, "-f", "L0/3@-1", "--add", "2",
        "--attention", "free",
    )  # fmt: skip
    assert (other["attention"], other["layers"]) == ("free", [0, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("-f", "L9/3@-1", "--scale", "0"), 1, "is of layer 9, but the transcoder has layers 0 to 2"),
        (("-f", "L0/9999@-1", "--scale", "0"), 1, "is not in the transcoder, whose layer 0 has 768 features"),
        (("-f", "L0/3@99", "--scale", "0"), 1, "Position 99 lies outside the prompt of 10 tokens"),
        (("-f", "Texas", "--scale", "0"), 1, "'Texas' does not name a feature: write it as"),
        (
            (
                "-f",
                "L0/3@-1",
            ),
            1,
            "was given nothing to do: give one of scale, value and add",
        ),
        (("-f", "L0/3@-1", "--scale", "0", "--add", "1"), 1, "give one of"),
        (("-f", "L0/3@-1", "--scale", "nan"), 1, "scale=nan: give a finite number"),
        (("--scale", "0"), 1, "on no feature was given: name at least one"),
        (("-f", "L2/3@-1", "--scale", "0", "--layers", "0,1"), 1, r"which layers=(0, 1) excludes"),
        (("-f", "L0/3@-1", "--scale", "0", "--layers", "3"), 2, "'3' are no layers: give the first and the last"),
        (("-f", "L0/3@-1", "--scale", "0", "--mode", "steer"), 2, "'steer' is not one of"),
        (("-f", "L0/3@-1", "--scale", "0", "--generate", "0"), 2, "Input should be greater than or equal to 1"),
        (("-f", "L0/3@-1", "--scale", "0", "--generate", "50"), 1, "exceed the model's context of 16"),
        (("--supernode", "Texas", "--scale", "0"), 2, "it is one of a file's: name that too"),
        (("--supernodes", "none.json", "--scale", "0"), 1, "'none.json' cannot be read"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], code: int, says: str) -> None:
    result = run("intervene", "--prompt", DEMO_PROMPT, *arguments)
    assert result.exit_code == code
    assert says in " ".join(result.stderr.split())
    assert not result.stdout
