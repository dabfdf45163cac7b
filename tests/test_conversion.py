"""Pickled transcoders are converted without running what they hold."""

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.dunefsky import write_dunefsky
from tests.formats.formulas import assert_computes
from tl_circuits.errors import FileError
from tl_circuits.transcoder.files import convert, load_folder
from tl_circuits.transcoder.files.dunefsky import read
from tl_circuits.transcoder.load import load_transcoder


def test_dunefsky_is_converted_and_computes_what_its_formula_says(tmp_path: Path) -> None:
    written = write_dunefsky(tmp_path / "pt")
    found = load_transcoder(convert(tmp_path / "pt", tmp_path / "converted"))
    assert_computes(found, written)
    assert found.processed_weights


def test_what_is_not_converted_stays_shut(tmp_path: Path) -> None:
    write_dunefsky(tmp_path / "pt")
    with pytest.raises(
        FileError, match=r"no transcoder in a format that is read.*\.pt was left shut.*`tl-circuits convert FOLDER OUT`"
    ):
        load_folder(tmp_path / "pt")


class Door:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("content", [Door(), {"cfg": Door()}, {"state_dict": Door()}])
def test_a_pickle_that_runs_code_is_not_converted(tmp_path: Path, content: object) -> None:
    write_dunefsky(tmp_path / "pt")
    path = sorted((tmp_path / "pt").iterdir())[1]
    torch.save(content, path)
    with pytest.raises(FileError, match=r"blocks.1.pt' cannot be read as weights and plain settings"):
        convert(tmp_path / "pt", tmp_path / "converted")
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(FileError, match=r"blocks.1.pt' cannot be read as weights and plain settings"):
        convert(tmp_path / "pt", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


@pytest.mark.slow
@given(place=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_read_and_never_a_stack_trace(place: int, value: int) -> None:
    with TemporaryDirectory() as folder:
        write_dunefsky(Path(folder) / "pt")
        path = sorted((Path(folder) / "pt").iterdir())[0]
        content = bytearray(path.read_bytes())
        content[place % len(content)] = value
        path.write_bytes(content)
        told = str(path.parent)
        try:
            read(Path(folder) / "pt")
        except FileError as error:
            told = str(error)
        assert str(path.parent) in told
        assert len(told) < 600


def test_a_folder_that_is_not_dunefskys_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no .pt files \(it holds nothing\)"):
        convert(tmp_path, tmp_path / "converted")
    torch.save({"weights": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"does not hold cfg and state_dict"):
        convert(tmp_path, tmp_path / "converted")
    write_dunefsky(tmp_path / "sae", out_hook_point=None)
    with pytest.raises(FileError, match=r"cfg.out_hook_point in .* is None, but the hook point of a block"):
        convert(tmp_path / "sae", tmp_path / "converted")
    write_dunefsky(tmp_path / "some")
    next((tmp_path / "some").glob("*1.pt")).unlink()
    with pytest.raises(FileError, match=r"has no transcoder of layer 1; files of layers 0, 2 are there"):
        convert(tmp_path / "some", tmp_path / "converted")
