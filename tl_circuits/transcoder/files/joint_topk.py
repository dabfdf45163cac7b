"""Cross-Layer-TopK-CLT (ByteDance-Seed): recognised so that it can be refused.

Its folders look like circuit-tracer's, with W_dec_norm.safetensors beside. A feature is active when a·‖W_dec‖ is among
the largest of *all* layers' features at a position, so that no layer's activations follow from its own input.
"""

from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.layout import Format, matching
from tl_circuits.transcoder.files.refusals import JOINT
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def choices(folder: Path) -> tuple[str, ...]:
    """`("",)` where the norms that the joint choice needs are there."""
    return ("",) if (folder / "W_dec_norm.safetensors").is_file() else ()


def load(folder: Path) -> CrossLayerTranscoder:
    """Raises `FileError` with the reason."""
    raise FileError(
        f"'{folder}' holds a transcoder with a joint top-k (W_dec_norm.safetensors): {JOINT}. Reading it as ReLU would "
        "make other features active than were trained: take a transcoder whose layers choose on their own."
    )


JOINT_TOPK = Format("cross-layer-topk", choices, matching(), lambda folder, _: load(folder))
