"""The model's own passes over prompts, and what its MLPs read and write in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import FitError, PromptError
from tl_circuits.hooks import Model, Tap, run_to
from tl_circuits.sites import Sites

TOKENS_PER_PASS = 16_384
# What one pass leaves of activations, at most, as far as a single prompt allows.
PASS_BYTES = 2**28


@dataclass(frozen=True)
class Pairs:
    """MLP inputs and outputs of every kept token, and the prompt that each token is of."""

    reads: Float[Tensor, "layer token d_model"]
    writes: Float[Tensor, "layer token d_model"]
    prompt: Int64[Tensor, " token"]


def passes(shape: Sequence[int], n_layers: int, d_model: int) -> Iterator[slice]:
    """The prompts of each pass of the model, of token ids of shape (prompt, position)."""
    n_prompts, width = shape
    each = max(1, tokens_of_pass(n_layers, d_model) // width)
    for first in range(0, n_prompts, each):
        yield slice(first, min(n_prompts, first + each))


def tokens_of_pass(n_layers: int, d_model: int) -> int:
    """How many tokens run through the model together, where a prompt is no longer."""
    return min(TOKENS_PER_PASS, PASS_BYTES // (8 * n_layers * d_model))


@torch.no_grad()
def collect(
    model: Model,
    tokens: Int64[Tensor, "prompt pos"],
    kept: Bool[Tensor, "prompt pos"],
    read: str,
    write: str,
    numbers: Int64[Tensor, " prompt"] | None = None,
) -> Pairs:
    """Runs the model over the prompts, no further than its last MLP, and keeps what passes at the kept tokens.

    `numbers` are the prompts' own, where these are some of many. Raises `FitError` where NaN or infinity passes, with
    the layer, the batch of prompts that ran together, and the prompt.
    """
    if not bool(kept.any()):
        raise PromptError(
            f"None of the {tokens.numel()} tokens is left to train on: all are padding or beginnings of sequence."
        )
    sites = Sites.of(model, read, write).sites
    named = torch.arange(len(tokens)) if numbers is None else numbers
    reads, writes = (_Side(len(sites), int(kept.sum())) for _ in range(2))
    first = 0
    for part in passes(tokens.shape, len(sites), model.cfg.d_model):
        functions: dict[Tap, Callable[[Tensor], None]] = {}
        for site in sites:
            for tap, side, does in ((site.read, reads, "reads"), (site.write, writes, "writes")):
                what = f"what the MLP of layer {site.layer} {does}"
                functions[tap] = _put(side, site.layer, first, kept[part], named[part], what)
        run_to(model, tokens[part], functions, sites[-1].write)
        first += int(kept[part].sum())
    return Pairs(reads.rows, writes.rows, prompt=kept.nonzero()[:, 0])


class _Side:
    """What all layers read, or write, laid out once: putting parts together would hold it twice."""

    rows: Tensor

    def __init__(self, n_layers: int, n_tokens: int) -> None:
        self._shape = (n_layers, n_tokens)

    def put(self, layer: int, first: int, rows: Tensor) -> None:
        if not hasattr(self, "rows"):
            self.rows = rows.new_empty(*self._shape, rows.shape[1])
        self.rows[layer, first : first + len(rows)] = rows


def _put(side: _Side, layer: int, first: int, keep: Tensor, numbers: Tensor, what: str) -> Callable[[Tensor], None]:
    def put(x: Tensor) -> None:
        kept = x[keep].float()
        finite = kept.isfinite()
        if not bool(finite.all()):
            prompt = int(numbers[keep.nonzero()[:, 0]][(~finite).any(1).nonzero()[0, 0]])
            raise FitError(
                f"{int((~finite).sum())} NaN or infinite numbers are in {what}, in the batch of {len(keep)} prompts "
                f"that begins with prompt {int(numbers[0])}, first in prompt {prompt}: run the model in float32, or "
                "leave such prompts out."
            )
        side.put(layer, first, kept)

    return put
