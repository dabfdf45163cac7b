"""Transcoders on disk: one file per format. Now there is one, the folder layout of circuit-tracer."""

from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files import circuit_tracer
from tl_circuits.transcoder.files.tensors import PICKLES
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def save_transcoder(transcoder: CrossLayerTranscoder, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a transcoder as a folder in the layout that circuit-tracer reads; returns the folder.

    `load_transcoder(save_transcoder(t, folder))` equals `t` to the last bit: dtypes, skip weights, span and activation
    included. The folder appears whole or not at all. One that exists is replaced only with `overwrite=True`, and only
    where nothing but a transcoder lies in it; a transcoder that was loaded from it may be saved over it.

    Raises `FileError` where the folder exists or cannot be written.
    """
    return circuit_tracer.save(transcoder, Path(folder), overwrite=overwrite)


def load_transcoder(source: str | Path) -> CrossLayerTranscoder:
    """Read a transcoder from a local folder in circuit-tracer's layout (`config.yaml` and safetensors files).

    Weights keep the dtype they are stored in and are memory-mapped: decoders are read row by row, as features become
    active. Pickles are never opened.

    Raises `FileError` where the folder or a layer is missing, a file is damaged or of another format, shapes disagree,
    a threshold is NaN, or an encoder, bias or skip weight is NaN or infinite. Decoder rows are checked when read.
    """
    folder = Path(source).expanduser()
    if folder.suffix.lower() in PICKLES:
        raise FileError(
            f"'{source}' is a {folder.suffix} file. Such files can run code when they are opened, so tl_circuits does "
            "not: "
            "convert it to safetensors where you trust it, and give the folder."
        )
    if folder.is_file():
        raise FileError(f"'{source}' is a file: give the folder that holds it, '{folder.parent}'.")
    if not folder.is_dir():
        raise FileError(
            f"There is no folder '{source}' on this machine. This version loads transcoders from local folders only: "
            "download a hub repository first, then give the path of its folder."
        )
    return circuit_tracer.load(folder)
