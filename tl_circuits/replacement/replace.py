"""The full replacement model: every MLP output overwritten by the transcoder's, in the user's own forward passes.

Ameisen et al. 2025, "From Cross-Layer Transcoder to Replacement Model". Attention and norms run, so errors compound.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_circuits.hooks import Model, Tap, installed
from tl_circuits.replacement.localize import check_fit, replaced, warn_of_doubts
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder


class ReplacementCache(Mapping[str, Tensor]):
    """The transcoder's part of the last forward pass inside `replace_mlps`, by SAELens-like names.

    Keys are `blocks.{layer}.{write}.hook_transcoder_` + `acts_post` (batch, pos, feature), `recons` and `error`
    (batch, pos, d_model). `cache[layer]` is `acts_post` of a layer; `cache.sparse(layer)` the same as a sparse tensor.
    """

    def __init__(self, write: str) -> None:
        self._write = write
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, key: str | int) -> Tensor:
        name = self._name(key, "acts_post") if isinstance(key, int) else key
        if name not in self._tensors:
            held = ", ".join(self._tensors) or "nothing: run the model inside replace_mlps first"
            raise KeyError(f"{key!r} is not in the last forward pass, which holds {held}.")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def sparse(self, layer: int) -> Float[Tensor, "batch pos feature"]:
        """The activations of one layer as a sparse COO tensor."""
        return self[layer].to_sparse()

    def _name(self, layer: int, what: str) -> str:
        return f"blocks.{layer}.{self._write}.hook_transcoder_{what}"

    def clear(self) -> None:
        """Forgets the pass before, of which a shorter pass would leave some layers."""
        self._tensors.clear()

    def record(self, layer: int, **tensors: Tensor) -> None:
        """Keeps what one layer computed in this pass."""
        self._tensors |= {self._name(layer, what): tensor for what, tensor in tensors.items()}


@contextmanager
def replace_mlps(
    model: Model, transcoder: CrossLayerTranscoder, *, error_terms: bool = False, mask_bos: bool = True
) -> Iterator[ReplacementCache]:
    """Inside, every forward pass of the model runs with its MLP outputs replaced by the transcoder's reconstruction.

    Yields a `ReplacementCache` that holds the features of the latest pass. With `error_terms`, what the reconstruction
    misses is added back (as a constant for gradients), so outputs are the model's own. The tokens that a sequence
    starts with, where they are the tokenizer's beginning-of-sequence token, keep the model's MLP output (`mask_bos`).
    Passes may be batched, cached and differentiated. On leaving, the model is as it was. Raises `FitError` as
    `localize` does.
    """
    check_fit(model, transcoder)
    sites = Sites.of(model, transcoder.read, transcoder.write)
    warn_of_doubts(model, transcoder)
    cache = ReplacementCache(transcoder.write)
    replacement = _Replacement(model, transcoder, cache, error_terms=error_terms, mask_bos=mask_bos)
    functions: dict[Tap, Callable[[Tensor], Tensor | None]] = {sites.token_ids: replacement.tokens}
    for site in sites.sites:
        functions |= {site.read: replacement.read(site.layer), site.write: replacement.write(site.layer)}
    with installed(model, functions), replaced(model, exact=error_terms):
        yield cache


class _Replacement:
    """What one pass has read so far, and the functions that replace its MLPs."""

    def __init__(
        self,
        model: Model,
        transcoder: CrossLayerTranscoder,
        cache: ReplacementCache,
        *,
        error_terms: bool,
        mask_bos: bool,
    ) -> None:
        self._transcoder, self._cache, self._error_terms = transcoder, cache, error_terms
        self._bos = getattr(model.tokenizer, "bos_token_id", None) if mask_bos else None
        self._pad = getattr(model.tokenizer, "pad_token_id", None)
        self._kept: Tensor | None = None
        self._reads: dict[int, Tensor] = {}
        self._activations: list[Tensor] = []

    def tokens(self, ids: Int[Tensor, "batch pos"]) -> None:
        """Begins a pass: remembers where sequences begin with their BOS token, after any padding on the left."""
        self._cache.clear()
        if self._bos is None:
            return
        is_bos = ids == self._bos
        before_text = is_bos if self._pad is None else is_bos | (ids == self._pad)
        self._kept = (is_bos & before_text.cumprod(-1).bool()).unsqueeze(-1)

    def read(self, layer: int) -> Callable[[Tensor], None]:
        """Encodes what the transcoder reads at a layer."""

        def encode(x: Float[Tensor, "batch pos d_model"]) -> None:
            activations = self._transcoder.encode(x, layer)
            if self._kept is not None:
                activations = activations.masked_fill(self._kept, 0)
            self._activations = [*self._activations[:layer], activations]
            self._reads[layer] = x

        return encode

    def write(self, layer: int) -> Callable[[Tensor], Tensor]:
        """Puts the reconstruction in the place of what the MLP wrote."""

        def decode(wrote: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            recons = self._transcoder.decode(self._activations, layer)
            skip = self._transcoder.skip(self._reads[layer], layer)
            recons = recons if skip is None else recons + skip
            error = (wrote - recons).detach()
            self._cache.record(layer, acts_post=self._activations[layer], recons=recons, error=error)
            # A bridge's norms are in float32 whatever its dtype, and so is what is made of what they write.
            if self._error_terms:
                return (recons + error).to(wrote.dtype)
            return (recons if self._kept is None else torch.where(self._kept, wrote, recons)).to(wrote.dtype)

        return decode
