"""The tests' own hub answers the real client as the real one would, down to its errors."""

import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import requests
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import Hub


@pytest.fixture
def name(hub: Hub) -> str:
    folder = hub.repository("some/model")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "sub" / "deep" / "note.txt").write_text("deep")
    return "some/model"


def test_the_client_asks_this_hub(hub: Hub) -> None:
    assert hub.url == huggingface_hub.constants.ENDPOINT
    assert not huggingface_hub.constants.is_offline_mode()


def test_nothing_outside_this_machine_can_be_reached() -> None:
    with socket.socket() as outside, pytest.raises(RuntimeError, match="opens a connection"):
        outside.connect(("203.0.113.1", 443))


def test_a_file_arrives_whole_and_is_asked_for_once(hub: Hub, name: str, tmp_path: Path) -> None:
    found = hf_hub_download(name, "sub/weights.safetensors")
    assert Path(found).read_bytes() == bytes(range(256)) * 1000
    assert Path(found).is_relative_to(tmp_path)
    assert hf_hub_download(name, "sub/weights.safetensors", revision=hub.commit(name)) == found
    assert hub.downloaded() == ["sub/weights.safetensors"]
    assert [request.method for request in hub.requests] == ["HEAD", "GET"]


@pytest.mark.slow
def test_a_snapshot_has_the_files_that_match(hub: Hub, name: str) -> None:
    folder = Path(snapshot_download(name, allow_patterns=["sub/*"]))
    assert folder.name == hub.commit(name)
    assert sorted(hub.downloaded()) == ["sub/deep/note.txt", "sub/weights.safetensors"]
    assert (folder / "sub" / "deep" / "note.txt").read_text() == "deep"


@pytest.mark.slow
def test_a_repository_is_listed(name: str) -> None:
    api = HfApi()
    assert [entry.path for entry in api.list_repo_tree(name)] == ["config.json", "sub"]
    assert [entry.path for entry in api.list_repo_tree(name, "sub")] == ["sub/deep", "sub/weights.safetensors"]
    every = ["config.json", "sub", "sub/deep", "sub/deep/note.txt", "sub/weights.safetensors"]
    assert sorted(entry.path for entry in api.list_repo_tree(name, recursive=True, expand=True)) == every
    sizes = {file.rfilename: file.size for file in api.model_info(name, files_metadata=True).siblings or ()}
    assert sizes == {"config.json": 2, "sub/deep/note.txt": 4, "sub/weights.safetensors": 256_000}
    assert api.list_repo_files(name) == sorted(sizes)


def test_part_of_a_file_is_sent_where_part_is_asked_for(hub: Hub, name: str) -> None:
    url = huggingface_hub.hf_hub_url(name, "sub/weights.safetensors")
    part = requests.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["Content-Range"] == "bytes 10-19/256000"
    assert hub.requests[-1].range == "bytes=10-19"
    assert requests.get(url, headers={"Range": "bytes=256000-"}).status_code == 416


def test_what_is_not_there_is_refused_as_the_hub_does(name: str) -> None:
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("nobody/nothing", "config.json")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(name, "other.json")
    with pytest.raises(EntryNotFoundError):
        list(HfApi().list_repo_tree(name, "other"))
    for ask in (snapshot_download, HfApi().model_info):
        with pytest.raises(RevisionNotFoundError):
            ask(name, revision="v2")
    url = huggingface_hub.hf_hub_url(name, "config.json")
    assert requests.get(url.replace("config.json", "sub%2F..%2F..%2Fmodel%2Fconfig.json")).status_code == 404


def test_a_gated_repository_is_listed_and_not_read(hub: Hub, name: str) -> None:
    hub.gated.add(name)
    with pytest.raises(GatedRepoError):
        hf_hub_download(name, "config.json")
    assert HfApi().model_info(name).gated == "manual"


def test_an_old_name_leads_to_the_new_one(hub: Hub, name: str) -> None:
    hub.moved["model"] = name
    assert Path(hf_hub_download("model", "config.json")).read_text() == "{}"
    assert HfApi().model_info("model").id == name


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, name: str) -> None:
    hub.cut_after(100_000)
    found = hf_hub_download(name, "sub/weights.safetensors")
    assert Path(found).read_bytes() == bytes(range(256)) * 1000
    assert [request.range for request in hub.requests if request.method == "GET"] == [None, "bytes=100000-"]


def test_a_connection_that_is_always_cut_is_an_error(hub: Hub, name: str) -> None:
    hub.cut_after(0, times=None)
    with pytest.raises(Exception, match="peer closed connection"):
        hf_hub_download(name, "sub/weights.safetensors")


@pytest.mark.slow
def test_without_network_what_was_downloaded_stays(hub: Hub, name: str) -> None:
    found = hf_hub_download(name, "config.json")
    with hub.down():
        assert hf_hub_download(name, "config.json") == found
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download(name, "sub/weights.safetensors")
        with pytest.raises(requests.ConnectionError):
            requests.get(hub.url)
    assert hf_hub_download(name, "sub/weights.safetensors")


def test_a_file_with_holes_is_streamed(hub: Hub, name: str) -> None:
    with (hub.repository(name) / "large.safetensors").open("wb") as file:
        file.truncate(20 << 30)
    end = requests.get(
        huggingface_hub.hf_hub_url(name, "large.safetensors"), headers={"Range": f"bytes={(20 << 30) - 4}-"}
    )
    assert end.content == bytes(4)


def test_a_commit_names_what_a_repository_holds(hub: Hub, name: str) -> None:
    before = hub.commit(name)
    assert hub.commit(name) == before
    (hub.repository(name) / "config.json").write_text("{ }")
    assert hub.commit(name) != before
    assert Path(hf_hub_download(name, "config.json")).read_text() == "{ }"


@pytest.mark.slow
def test_a_process_of_its_own_asks_this_hub_too(hub: Hub, name: str, tmp_path: Path) -> None:
    script = f"import huggingface_hub as h; print(h.hf_hub_download({name!r}, 'config.json'))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
    assert hub.downloaded() == ["config.json"]
