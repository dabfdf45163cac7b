"""What autograd keeps of a pass: shorter passes share what a longer one keeps of the weights.

TransformerLens lays attention's weights out anew in every pass, and autograd keeps each of these copies. A prompt of a
thousand tokens is cut into a dozen passes, which would hold a dozen copies of the model's attention weights.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import ReferenceType, ref

import torch
from torch import Tensor

LARGE = 2**14
"""Numbers from which on a tensor is worth comparing."""


class Saved:
    """The tensors that autograd keeps of a pass that runs inside `recorded`, as long as it keeps them.

    With `longer`, each large one that is equal to the one that the longer pass keeps in its place is replaced by it.
    """

    def __init__(self, longer: "Saved | None" = None) -> None:
        self._longer = longer
        self._seen: dict[torch.Size, list[ReferenceType[Tensor]]] = defaultdict(list)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """What autograd keeps meanwhile is recorded."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        # Detached: an operation that kept its own output would keep itself alive.
        kept = tensor.detach()
        if kept.numel() < LARGE:
            return kept
        alike = self._seen[kept.shape]
        known = self._longer._at(kept.shape, len(alike)) if self._longer is not None else None
        if known is not None and known.dtype == kept.dtype and known.device == kept.device and torch.equal(known, kept):
            kept = known
        alike.append(ref(kept))
        return kept

    def _at(self, shape: torch.Size, place: int) -> Tensor | None:
        """The so-many-th tensor of a shape, where it is still kept."""
        alike = self._seen.get(shape, [])
        return alike[place]() if place < len(alike) else None
