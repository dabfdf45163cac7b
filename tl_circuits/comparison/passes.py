"""One forward pass for every basis: units on the circuit are the pass's own, all others the corrupted run's.

At every slot f = encode(x) on the pass as it is by then; f' = f on the circuit and the corrupted run's f elsewhere;
what is written is decode(f') + e. The error e is the corrupted run's (primary: with no unit on the circuit every slot
then writes what it wrote there, whatever the basis), the pass's own, or none. Tokens are the clean ones, and attention
is computed from what passes (`running`) or held at the patterns of the clean run (`frozen`, as attribution graphs have
it).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from tl_circuits.comparison.basis import Basis, Slot
from tl_circuits.hooks import Model, Tap, installed
from tl_circuits.sites import pattern_taps

Errors = Literal["corrupted", "kept", "zero"]

Attention = Literal["running", "frozen"]

Circuit = Sequence[Bool[Tensor, "prompt pos _"]]
"""For each slot, which units are on the circuit of each prompt."""

Scores = tuple[Tensor, ...]
"""For each slot (prompt, pos, unit), how much the unit matters to the prompt."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """An unchanged pass: units and errors of each slot, and the logits at the last position."""

    units: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]
    logits: Float64[Tensor, "prompt d_vocab"]


@dataclass(eq=False)
class _Pass:
    """What one pass has computed so far. `put` makes of a slot's units those that are written."""

    basis: Basis
    put: Callable[[int, Tensor], Tensor]
    error: Callable[[int, Tensor, Tensor], Tensor | None]
    units: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)

    def functions(self) -> dict[Tap, Callable[[Tensor], Tensor | None]]:
        """What to call at each tap."""
        functions: dict[Tap, Callable[[Tensor], Tensor | None]] = {}
        for number, slot in enumerate(self.basis.slots):
            if slot.read == slot.write:
                functions[slot.read] = partial(self._both, number, slot)
            else:
                functions |= {
                    slot.read: partial(self._read, number, slot),
                    slot.write: partial(self._write, number, slot),
                }
        return functions

    def _both(self, number: int, slot: Slot, value: Tensor) -> Tensor:
        self._read(number, slot, value)
        return self._write(number, slot, value)

    def _read(self, number: int, slot: Slot, value: Tensor) -> None:
        units = slot.encode(value)
        self.units = [*self.units[:number], units]
        self.written = [*self.written[:number], self.put(number, units)]

    def _write(self, number: int, slot: Slot, value: Tensor) -> Tensor:
        decoded = slot.decode(self.written[: number + 1])
        if slot.exact:
            self.errors = [*self.errors[:number], torch.zeros_like(value[:0])]
            return decoded.to(value)
        own = value - slot.decode(self.units[: number + 1])
        self.errors = [*self.errors[:number], own]
        error = self.error(number, own, value)
        return (decoded if error is None else decoded + error).to(value)


def recorded(model: Model, basis: Basis, tokens: Int64[Tensor, "prompt pos"]) -> Recorded:
    """The model's own pass, seen through the units of a basis."""
    state = _Pass(basis, put=lambda _, units: units, error=lambda _, own, __: own)
    with torch.no_grad(), installed(model, state.functions()):
        logits = last_logits(model, tokens)
    return Recorded(tuple(state.units), tuple(state.errors), logits)


def through(
    model: Model,
    basis: Basis,
    tokens: Int64[Tensor, "prompt pos"],
    corrupted: Recorded,
    circuit: Circuit,
    errors: Errors,
) -> Float64[Tensor, "prompt d_vocab"]:
    """Logits at the last position where only the circuit carries what the tokens say."""

    def put(number: int, units: Tensor) -> Tensor:
        on = circuit[number].reshape(*circuit[number].shape, *[1] * (units.ndim - 3)).to(units.device)
        return torch.where(on, units, corrupted.units[number])

    def error(number: int, own: Tensor, _: Tensor) -> Tensor | None:
        return {"corrupted": corrupted.errors[number], "kept": own, "zero": None}[errors]

    with torch.no_grad(), installed(model, _Pass(basis, put, error).functions()):
        return last_logits(model, tokens)


def pushed(
    model: Model, basis: Basis, tokens: Int64[Tensor, "prompt pos"], put: Callable[[int, Tensor], Tensor]
) -> Float64[Tensor, "prompt d_vocab"]:
    """Logits at the last position where `put` has changed units and errors are the pass's own; differentiable."""
    state = _Pass(basis, put, error=lambda _, own, __: own)
    with installed(model, state.functions()):
        return last_logits(model, tokens)


def held(
    model: Model, tokens: Int64[Tensor, "prompt pos"], attention: Attention
) -> Mapping[Tap, Callable[[Tensor], Tensor]]:
    """What to install so that attention is that of the model's own pass; nothing where it is `running`.

    Raises `FitError` where the model does not show its patterns.
    """
    if attention == "running":
        return {}
    patterns = passing(model, tokens, pattern_taps(model))
    return {tap: lambda value, pattern=pattern: pattern.to(value) for tap, pattern in patterns.items()}


def passing(model: Model, tokens: Int64[Tensor, "prompt pos"], taps: Iterable[Tap]) -> dict[Tap, Tensor]:
    """What passes these taps in the model's own pass."""
    seen: dict[Tap, Tensor] = {}

    def keep(tap: Tap) -> Callable[[Tensor], None]:
        return lambda value: seen.__setitem__(tap, value.detach().clone())

    # Tensors of inference mode could not be held in a pass that is differentiated.
    with torch.inference_mode(False), torch.no_grad(), installed(model, {tap: keep(tap) for tap in taps}):
        last_logits(model, tokens)
    return seen


def last_logits(model: Model, tokens: Int64[Tensor, "prompt pos"]) -> Float64[Tensor, "prompt d_vocab"]:
    """The model's logits at the last position."""
    return model(tokens)[:, -1].to(torch.float64)
