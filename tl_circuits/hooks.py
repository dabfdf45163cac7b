"""How functions are put on a model's forward pass, and taken off again.

A `Tap` is one place where a tensor passes. Most taps are TransformerLens hook points; where a model class lacks one
(plain HookedTransformer has no `mlp.hook_in`), the tap is the input or output of the module itself. `installed` is the
only way by which this package puts a hook on a model, and it takes every one off again.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Model(Protocol):
    """What is asked of a model: HookedTransformer, TransformerBridge and their SAELens children have it."""

    cfg: Any
    tokenizer: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]: ...

    @property
    def W_U(self) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def __call__(self, tokens: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Tap:
    """A place where a tensor passes: a hook point by name, or a module's first input or its output."""

    name: str
    kind: Literal["hook", "input", "output"] = "hook"


@contextmanager
def installed(model: Model, functions: Mapping[Tap, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Calls each function on what passes its tap, and puts what it returns, if anything, in its place.

    They are called after the user's own hooks of the same point. On leaving, by whatever way, none is left.
    """
    with ExitStack() as stack:
        # TransformerLens says for each norm and pass that an edited norm scale leaves its native path: as is wanted.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*(hook_scale|hook_normalized).*", category=UserWarning)
        # Not model.hooks(): a bridge lists all its hook points anew for each hook that it is given.
        points, level = model.hook_dict, next(_LEVELS)
        for tap, function in functions.items():
            if tap.kind == "hook":
                points[tap.name].add_hook(partial(_as_hook, function), level=level)
                stack.callback(points[tap.name].remove_hooks, "fwd", level=level)
            else:
                stack.callback(_register(_submodule(model, tap.name), tap.kind, function).remove)
        yield


class _Reached(Exception):
    """The last tap of interest was passed."""


def run_to(model: Model, tokens: Tensor, functions: Mapping[Tap, Callable[[Tensor], Tensor | None]], last: Tap) -> None:
    """Runs the model with these functions installed, no further than the tap `last`, where one of them is called."""

    def stop(value: Tensor) -> None:
        functions[last](value)
        raise _Reached

    with suppress(_Reached), installed(model, {**functions, last: stop}):
        model(tokens)


_LEVELS = itertools.count(-2, -1)
"""Context levels of our own: TransformerLens counts its levels up from 0, and takes hooks off by level."""


def has_user_hooks(model: Model) -> bool:
    """Whether anybody has hooks on the model: they may act on positions that a shorter prompt does not have."""
    return any(
        not getattr(hook, "__module__", "").startswith(_LIBRARIES)
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


_LIBRARIES = ("transformer_lens.model_bridge.", "transformers.")
"""Whose hooks are nobody's: a bridge and the model that it wraps put hooks on their own modules, to carry outputs."""


def _submodule(model: Model, path: str) -> nn.Module:
    module: Any = model
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def _register(
    module: nn.Module, kind: str, function: Callable[[Tensor], Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    if kind == "output":
        return module.register_forward_hook(partial(_after, function))
    return module.register_forward_pre_hook(partial(_before, function))


# Not functions within functions: tests check types, and would wrap them anew for every hook of every pass.


def _before(
    function: Callable[[Tensor], Tensor | None], _module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    changed = function(args[0])
    return None if changed is None else (changed, *args[1:])


def _after(
    function: Callable[[Tensor], Tensor | None], _module: nn.Module, _args: tuple[Any, ...], out: Tensor
) -> Tensor | None:
    return function(out)


def _as_hook(function: Callable[[Tensor], Tensor | None], tensor: Tensor, **_: Any) -> Tensor | None:
    return function(tensor)
