"""Transcoders on disk: one file per format, and the table that recognises them."""

from os import PathLike
from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.circuit_tracer import save
from tl_circuits.transcoder.files.dunefsky import convert as convert
from tl_circuits.transcoder.files.formats import load_folder
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def save_transcoder(transcoder: CrossLayerTranscoder, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a transcoder as a folder in the layout that circuit-tracer reads; returns the folder.

    `load_transcoder(save_transcoder(t, folder))` equals `t` to the last bit: dtypes, skip weights, span and activation
    included. The folder appears whole or not at all. One that exists is replaced only with `overwrite=True`, and only
    where nothing but a transcoder lies in it; a transcoder that was loaded from it may be saved over it.

    Raises `FileError` where the folder exists or cannot be written.
    """
    if not isinstance(transcoder, CrossLayerTranscoder):
        raise FileError(
            f"{transcoder!r:.80} is no transcoder: call save_transcoder(transcoder, folder), in this order."
        )
    return save(transcoder, _path(folder), overwrite=overwrite)


def load_transcoder(source: str | Path, *, variant: str | None = None) -> CrossLayerTranscoder:
    """Read a transcoder from a local folder, in any of the formats that `load_folder` recognises.

    Weights keep the dtype they are stored in and are memory-mapped where the format allows it: decoders are then read
    row by row, as features become active. Pickles are never opened.

    Raises `FileError` where the folder or a layer is missing, a file is damaged or of an unknown format, more than one
    transcoder lies there and `variant` names none, shapes disagree, a threshold is NaN, or an encoder, bias or skip
    weight is NaN or infinite. Decoder rows are checked when read.
    """
    return load_folder(_path(source), variant=variant)


def _path(given: object) -> Path:
    if not isinstance(given, str | PathLike) or not str(given):
        raise FileError(f"{given!r:.80} is no path of a folder: give a text or a pathlib.Path.")
    return Path(given)
