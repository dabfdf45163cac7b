"""Weights as passes use them: those that a model lays out anew in every pass are laid out once for many.

TransformerLens reshapes attention's weights, head by head, into matrices whenever it runs. Autograd keeps each of these
copies, and for a short prompt copying takes longer than all else.
"""

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LAYING_OUT = (Tensor.reshape, Tensor.contiguous)


class LaidOutOnce(TorchFunctionMode):
    """While it is entered, a view of a parameter that is laid out in the same way once more gives what it gave before.

    Holds as long as no parameter changes meanwhile. What was laid out is kept until this is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Any, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's own result, or the one that it had."""
        if func not in LAYING_OUT or not isinstance(args[0]._base, nn.Parameter):
            return func(*args, **(kwargs or {}))
        view = args[0]
        key = (func, id(view._base), view.storage_offset(), view.shape, view.stride(), str((args[1:], kwargs)))
        if key not in self._made:
            self._made[key] = func(*args, **(kwargs or {}))
        return self._made[key]
