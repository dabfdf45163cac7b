"""Independent writers: each writes a small set exactly as its package does, and says what that package computes."""

from collections.abc import Callable
from pathlib import Path

from tests.formats.clt_forge import write_clt_forge
from tests.formats.clt_training import Run, write_clt_training
from tests.formats.crosslayer_coding import write_crosslayer_coding
from tests.formats.crosslayer_transcoder import write_crosslayer_transcoder
from tests.formats.formulas import Written
from tests.formats.gemma_scope import write_gemma_scope_2
from tests.formats.saelens import write_saelens

WRITERS: dict[str, Callable[[Path], Written]] = {
    "gemma-scope-2 cross-layer": lambda folder: write_gemma_scope_2(folder, cross_layer=True),
    "gemma-scope-2 per-layer": lambda folder: write_gemma_scope_2(folder, cross_layer=False),
    "clt-training": lambda folder: write_clt_training(folder, Run(n_layers=8, cross_layer=2)),
    "crosslayer-transcoder": write_crosslayer_transcoder,
    "crosslayer-coding": write_crosslayer_coding,
    "clt-forge": write_clt_forge,
    "saelens": write_saelens,
}
