"""Transcoders on disk: one file per format, and the table that recognises them."""

from pathlib import Path

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
    return save(transcoder, Path(folder), overwrite=overwrite)


def load_transcoder(source: str | Path, *, variant: str | None = None) -> CrossLayerTranscoder:
    """Read a transcoder from a local folder, in any of the formats that `load_folder` recognises.

    Weights keep the dtype they are stored in and are memory-mapped where the format allows it: decoders are then read
    row by row, as features become active. Pickles are never opened.

    Raises `FileError` where the folder or a layer is missing, a file is damaged or of an unknown format, more than one
    transcoder lies there and `variant` names none, shapes disagree, a threshold is NaN, or an encoder, bias or skip
    weight is NaN or infinite. Decoder rows are checked when read.
    """
    return load_folder(source, variant=variant)
