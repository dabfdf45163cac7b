"""What transcoders of other packages may hold and ours does not: refused where it is there, and never left out."""

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.tensors import TensorFile

BETWEEN_LAYERS = (
    "it is a linear path from one layer's input to another layer's output, whereas here a skip stays in its layer"
)
JOINT = (
    "a choice among the features of several layers together, so that what is active at one layer is not decided by "
    "that layer's input alone, as freezing a model layer by layer needs"
)


def refuse_nonzero(file: TensorFile, name: str, shape: tuple[int, ...], reason: str) -> None:
    """Raises `FileError` unless the tensor is all zeros, as it is where it was never trained."""
    tensor = file.get(name, *shape)
    count = int((tensor != 0).sum())
    if count:
        raise FileError(
            f"{name} in '{file.path}' holds {count} of {tensor.numel()} numbers that are not 0: {reason}. It is "
            "refused, not left out: take a transcoder trained without it."
        )
