"""The server of `tl-circuits page --serve`: who is answered, what is read, and what is written."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import tl_circuits as tlc
from benchmarks.page import FLAGS
from tests.browser import CHROMIUM, NO_BROWSER
from tests.graphs import HOSTILE, random_graph
from tests.test_page import unpacked
from tests.test_refusals import refusal
from tl_circuits.page import server

testclient = pytest.importorskip("starlette.testclient")

TOKEN = "abcdefghijklmnopqrst"
AT = "http://127.0.0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "graphs"
    inside.mkdir()
    random_graph(3, n_features=9).save(inside / "some.graph")
    random_graph(4).save(tmp_path / "outside.graph")
    (inside / "notes.txt").write_text("private")
    (inside / "link.graph").symlink_to(tmp_path / "outside.graph")
    return inside


def client(folder: Path, *, allow_save: bool = False, base_url: str = AT) -> Any:
    return testclient.TestClient(server.application(folder, TOKEN, allow_save=allow_save), base_url=base_url)


WORK = {"pins": ["token@0"], "supernodes": [{"label": HOSTILE[0], "members": ["token@0"]}], "labels": {"0/1": "Texas"}}


def test_the_graphs_of_the_folder_are_pages(folder: Path) -> None:
    found = client(folder).get(f"/{TOKEN}/")
    assert found.status_code == 200
    assert '<a href="some.graph">' in found.text
    assert "link.graph" not in found.text
    assert "notes" not in found.text
    page = client(folder).get(f"/{TOKEN}/some.graph")
    assert unpacked(page.text, "graph-data").startswith(b"")
    assert json.loads(unpacked(page.text, "page-data"))["host"] is None
    assert "connect-src" not in page.text.split("</head>")[0].split("<style>")[0]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/some.graph", f"/{TOKEN[:-1]}/some.graph", f"/{TOKEN}x/", f"/{TOKEN}/none.graph", f"/{TOKEN}/notes.txt",
        f"/{TOKEN}/link.graph", f"/{TOKEN}/../outside.graph", f"/{TOKEN}/..%2Foutside.graph",
        f"/{TOKEN}/%2e%2e%2foutside.graph", f"/{TOKEN}/..%5Coutside.graph", f"/{TOKEN}/sub/../some.graph/x",
        f"/{TOKEN}/some%00.graph", f"/{TOKEN}/{'a' * 5000}.graph",
    ],
)  # fmt: skip
def test_nothing_else_is_answered(folder: Path, path: str) -> None:
    found = client(folder).get(path)
    assert found.status_code == 404, found.text[:200]


def test_a_link_to_itself_hides_itself_alone(folder: Path) -> None:
    (folder / "loop.graph").symlink_to(folder / "loop.graph")
    assert client(folder).get(f"/{TOKEN}/loop.graph").status_code == 404
    index = client(folder).get(f"/{TOKEN}/")
    assert "some.graph" in index.text
    assert "loop" not in index.text


def test_other_names_of_this_machine_are_not_answered(folder: Path) -> None:
    # A page of elsewhere can let its own name point to this machine.
    assert client(folder, base_url="http://evil.example").get(f"/{TOKEN}/").status_code == 400
    assert client(folder, base_url="http://localhost").get(f"/{TOKEN}/").status_code == 200


def test_nothing_is_written_unasked(folder: Path) -> None:
    before = sorted(folder.iterdir())
    found = client(folder).put(f"/{TOKEN}/some.graph", json=WORK, headers={"Origin": AT})
    assert found.status_code == 403
    assert "--allow-save" in found.text
    assert sorted(folder.iterdir()) == before


def test_what_is_done_is_kept_and_shown_again(folder: Path) -> None:
    here = client(folder, allow_save=True)
    assert here.put(f"/{TOKEN}/some.graph", json=WORK, headers={"Origin": AT}).status_code == 204
    assert json.loads((folder / "some.graph.work.json").read_text()) == WORK
    page = here.get(f"/{TOKEN}/some.graph")
    beside = json.loads(unpacked(page.text, "page-data"))
    assert beside["host"] == "server"
    assert beside["work"]["supernodes"] == WORK["supernodes"]
    assert "connect-src 'self'" in page.text
    # The graph's own file is as it was.
    assert len(tlc.load_graph(folder / "some.graph").labels) == 0


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (b"[", "What was done on the page is no JSON: "),
        (b"\xff\xfe", "What was done on the page is no JSON: "),
        (b"[]", "What was done on a page is a table, not []."),
        (b'{"pins": ["L9/9@9"]}', "pins of a page's work is ['L9/9@9'], which is none of this graph"),
        (b" " * 2_000_001, "It is 2,000,001 bytes large, more than the 2,000,000 kept."),
    ],
)
@pytest.mark.parametrize("allow_save", [False, True])
def test_kept_work_that_is_none_is_named_and_left_as_it_is(
    folder: Path, allow_save: bool, kept: bytes, says: str
) -> None:
    place = folder / "some.graph.work.json"
    place.write_bytes(kept)
    found = client(folder, allow_save=allow_save).get(f"/{TOKEN}/some.graph")
    assert found.status_code == 400
    assert found.text.startswith("'some.graph.work.json' is not what a page of 'some.graph' keeps. ")
    assert says in found.text
    assert found.text.endswith("Move it elsewhere, and the page starts anew; or mend it.")
    assert place.read_bytes() == kept
    place.rename(folder / "elsewhere.json")
    assert client(folder, allow_save=allow_save).get(f"/{TOKEN}/some.graph").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "code", "says"),
    [
        (json.dumps(WORK), {}, 403, "Another page may not write"),
        (json.dumps(WORK), {"Origin": "https://evil.example"}, 403, "Another page may not write"),
        (json.dumps(WORK), {"Origin": "null"}, 403, "Another page may not write"),
        ("[", {"Origin": AT}, 400, "no JSON"),
        ("[" * 100_000, {"Origin": AT}, 400, "no JSON"),
        ("[]", {"Origin": AT}, 400, "is a table, not"),
        ('{"pins": ["L9/9@9"]}', {"Origin": AT}, 400, "pins of a page's work is"),
        ('{"supernodes": [{"label": 3, "members": ["token@0"]}]}', {"Origin": AT}, 400, "supernodes of a page's work"),
        ('{"labels": {"a/b": "c"}}', {"Origin": AT}, 400, "labels of a page's work"),
        (f'{{"nodes": 1{"0" * 400}}}', {"Origin": AT}, 400, "nodes of a page's work is 1000"),
        ('{"nodes": 7}', {"Origin": AT}, 400, "nodes of a page's work is 7"),
        (" " * 2_000_001, {"Origin": AT}, 413, "2000000 bytes"),
    ],
)
def test_what_may_not_be_kept_is_not(folder: Path, body: str, headers: dict[str, str], code: int, says: str) -> None:
    found = client(folder, allow_save=True).put(f"/{TOKEN}/some.graph", content=body, headers=headers)
    assert (found.status_code, says in found.text) == (code, True), found.text
    assert not (folder / "some.graph.work.json").exists()


def test_a_folder_and_a_token_are_needed(folder: Path) -> None:
    with refusal(tlc.SettingError, "A token of 3 letters can be guessed: give at least 16"):
        server.application(folder, "abc")
    with refusal(tlc.FileError, "is no folder: give the one that your graphs are in"):
        server.application(folder / "none", TOKEN)


def test_without_starlette_what_to_install_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with refusal(tlc.SettingError, r"pip install 'tl-circuits\[serve\]'"):
        server.application(folder, TOKEN)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_a_browser_keeps_what_is_done_and_shows_it_again(folder: Path) -> None:
    import uvicorn
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = server.application(folder, TOKEN, allow_save=True)
    running = uvicorn.Server(uvicorn.Config(made, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            tab = chromium.new_page()
            complaints: list[str] = []
            tab.on("console", lambda message: complaints.append(message.text))
            for _ in range(2):
                while not running.started:
                    time.sleep(0.05)
                tab.goto(f"http://127.0.0.1:{port}/{TOKEN}/some.graph")
                tab.wait_for_selector("#search")
                if not (folder / "some.graph.work.json").exists():
                    with tab.expect_response(lambda answer: answer.request.method == "PUT") as answer:
                        tab.get_by_role("button", name="Pin the ten features that matter most").click()
                    assert answer.value.status == 204
            pins = tab.evaluate("tlCircuitsPage.store.work.value.pins")
            chromium.close()
        assert pins == json.loads((folder / "some.graph.work.json").read_text())["pins"] != []
        assert not complaints
    finally:
        running.should_exit = True
        thread.join(timeout=30)


@pytest.mark.slow
def test_it_answers_on_this_machine_alone(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tl_circuits", "page", str(folder), "--serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert address.startswith(f"http://127.0.0.1:{port}/")
        for _ in range(100):
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    assert "some.graph" in answer.read().decode()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        else:
            raise AssertionError("never answered")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        process.terminate()
        process.communicate(timeout=30)
