"""Transcoders on disk: one file per format, and the table that recognises them."""

from os import PathLike
from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.circuit_tracer import save as save_circuit_tracer
from tl_circuits.transcoder.files.dunefsky import convert as convert
from tl_circuits.transcoder.files.formats import load_folder as load_folder
from tl_circuits.transcoder.files.saelens_folders import save as save_saelens
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_SAVE = {"circuit-tracer": save_circuit_tracer, "saelens": save_saelens}


def save_transcoder(
    transcoder: CrossLayerTranscoder, folder: str | Path, *, layout: str = "circuit-tracer", overwrite: bool = False
) -> Path:
    """Write a transcoder as a folder; returns the folder.

    - `layout="circuit-tracer"` is the layout of the package of that name, and our own: what it has no place for is kept
      under keys of ours. `load_transcoder(save_transcoder(t, folder))` equals `t` to the last bit: dtypes, skip
      weights, span and activation included.
    - `layout="saelens"` is a folder for each layer, `layer_0`, `layer_1`, …, for `SAE.load_from_disk`. It holds
      per-layer transcoders alone. TopK and GroupMax need `tlc.register_saelens_classes()` where SAELens loads them,
      BatchTopK becomes the JumpReLU that it is at inference, and a JumpReLU's bandwidth, which matters in training
      only, is left out.

    The folder appears whole or not at all. One that exists is replaced only with `overwrite=True`, and only where
    nothing but a transcoder in the same layout lies in it; a transcoder that was loaded from it may be saved over it.

    Raises `FileError` where the folder exists or cannot be written, and `FitError` where the layout cannot hold it.
    """
    if not isinstance(transcoder, CrossLayerTranscoder):
        raise FileError(
            f"{transcoder!r:.80} is no transcoder: call save_transcoder(transcoder, folder), in this order."
        )
    if not isinstance(folder, str | PathLike) or not str(folder):
        raise FileError(f"{folder!r:.80} is no path of a folder: give a text or a pathlib.Path.")
    if layout not in _SAVE:
        raise FileError(f"layout={layout!r:.80} is unknown: give one of {', '.join(_SAVE)}.")
    return _SAVE[layout](transcoder, Path(folder), overwrite=overwrite)
