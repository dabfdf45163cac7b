"""What a name stands for: a model that ships, or one that TransformerLens finds; and what to trace it with."""

from pathlib import Path
from typing import Literal

import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from tl_circuits.errors import FileError, SettingError
from tl_circuits.hooks import Model
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.load import prepare
from tl_circuits.zoo.atlas import atlas
from tl_circuits.zoo.demo import demo

SHIPPED = {"demo": demo, "atlas": atlas}
LONGEST_REASON = 200


def load(
    name: str,
    source: str | Path | None,
    *,
    variant: str | None = None,
    shipped: Literal["clt", "plt"] = "clt",
    kind: Literal["bridge", "hooked"] = "bridge",
    dtype: torch.dtype = torch.float32,
) -> tuple[Model, CrossLayerTranscoder]:
    """The model of that name, and a transcoder by its name or folder; those that ship (`SHIPPED`) bring their own.

    A folder with a model that transformers saved is a name too; `source` and `variant` are what `load_transcoder`
    takes. Raises `FileError` where model or transcoder cannot be loaded, and `SettingError` where another model
    is to be had without a transcoder, and where a variant is named of none.
    """
    if source is None and variant is not None:
        raise SettingError(f"The variant {variant!r} is one of no transcoder: give the transcoder too.")
    # A name that is wrong is told at once, whichever of the two it is; then the model goes first, as the smaller one.
    transcoder = None if source is None else prepare(source, variant=variant)
    if name in SHIPPED:
        model, own = SHIPPED[name](kind, shipped)
        return model if dtype == torch.float32 else model.to(dtype), own if transcoder is None else transcoder()
    if transcoder is None:
        raise SettingError(
            f"The model {name!r} brings no transcoder: give a release, a repository or a folder. `tl-circuits list "
            f"--model {name}` names those there are."
        )
    return _from_library(name, kind, dtype), transcoder()


def load_model(name: str, kind: Literal["bridge", "hooked"] = "bridge", dtype: torch.dtype = torch.float32) -> Model:
    """The model of that name alone. Raises `FileError` where it cannot be loaded."""
    if name in SHIPPED:
        model, _ = SHIPPED[name](kind)
        return model if dtype == torch.float32 else model.to(dtype)
    return _from_library(name, kind, dtype)


def _from_library(name: str, kind: Literal["bridge", "hooked"], dtype: torch.dtype) -> Model:
    bridged = kind == "bridge"
    boot = TransformerBridge.boot_transformers if bridged else HookedTransformer.from_pretrained_no_processing
    try:
        return boot(name, dtype=dtype).eval()
    # The hub, transformers and TransformerLens raise a dozen kinds of errors, each of them about this name.
    except Exception as error:
        reason = " ".join(str(error).split())
        cut = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
        raise FileError(
            f"The model {name!r} could not be loaded as a {'TransformerBridge' if bridged else 'HookedTransformer'} "
            f"({type(error).__name__}: {cut}). Check its name and your connection; a bridge also takes the path of a "
            "folder, and for a model behind a licence log in first with `hf auth login`."
        ) from error
