"""Passes of the user's model with its MLPs replaced, or ablated, and the sums over each prompt's tokens they come to.

Features are decoded layer by layer into what they write, as they are found: no layer's activations are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import FitError
from tl_circuits.hooks import Model, Tap, installed, run_to
from tl_circuits.replacement.localize import add_decoded
from tl_circuits.replacement.pieces import working
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder

BATCH_NUMBERS = 2**22
"""The most numbers in any one tensor of a batch, where it holds several prompts."""

Functions = dict[Tap, Callable[[Tensor], Tensor | None]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one length. `rows` are their places among all prompts, `group` the numbers of their sets."""

    tokens: Int64[Tensor, "prompt pos"]
    masked: Bool[Tensor, "prompt pos"]
    rows: Int64[Tensor, " prompt"]
    group: Int64[Tensor, " prompt"]
    names: Sequence[str]

    def over_tokens(self, values: Tensor) -> Tensor:
        """The sum over each prompt's tokens, in float64, less those that are masked."""
        values = values.double() if values.ndim == 2 else values.double().sum(-1)
        return values.masked_fill(self.masked, 0).sum(1)


class Reconstruction:
    """What features write in one pass, summed up as layers are read. Masked tokens have no features."""

    def __init__(self, transcoder: CrossLayerTranscoder, masked: Bool[Tensor, "prompt pos"]) -> None:
        self._transcoder, self._masked = transcoder, masked
        self._written: Tensor | None = None
        self._read: Tensor | None = None

    def read(self, x: Float[Tensor, "prompt pos d_model"], layer: int) -> Float[Tensor, "prompt pos feature"]:
        """The activations of one layer, whose writes are added to those of the layers below."""
        self._read = working(x)
        activations = self._transcoder.encode(self._read, layer).masked_fill(self._masked[..., None], 0)
        if self._written is None:
            n_layers, d_model = self._transcoder.n_layers, self._transcoder.d_model
            self._written = activations.new_zeros(n_layers, self._masked.numel(), d_model)
        token, index = activations.flatten(0, 1).nonzero(as_tuple=True)
        add_decoded(self._written, self._transcoder, layer, token, index, activations.flatten(0, 1)[token, index])
        return activations

    def of(self, layer: int) -> Float[Tensor, "prompt pos d_model"]:
        """ŷ of the layer that was read last."""
        assert self._written is not None
        assert self._read is not None
        recons = self._written[layer].view_as(self._read) + self._transcoder.b_dec[layer].to(self._read)
        skip = self._transcoder.skip(self._read, layer)
        recons = recons if skip is None else recons + skip
        if not bool(recons.isfinite().all()):
            _refuse_damaged_rows(self._transcoder, layer)
        return recons


class FidelityPasses:
    """Runs batches, and sums up. Each prompt's sums are columns of `sums`, by name: (prompt,) or (prompt, layer).

    `scopes` are the tokens that a mean is taken over: "set", and "all" where there are several sets. `active` counts
    the tokens at which each feature was active, for each layer (set, feature).
    """

    def __init__(
        self,
        model: Model,
        transcoder: CrossLayerTranscoder,
        *,
        n_prompts: int,
        n_sets: int,
        each_layer: bool,
    ) -> None:
        self._model, self._transcoder, self._each_layer = model, transcoder, each_layer
        self._sites = Sites.of(model, transcoder.read, transcoder.write)
        self._n_prompts = n_prompts
        device = next(model.parameters()).device
        shape = (n_sets, transcoder.n_layers, transcoder.d_model)
        self._total = torch.zeros(shape, dtype=torch.float64, device=device)
        self._n_tokens = torch.zeros(n_sets, dtype=torch.float64, device=device)
        self._means: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.active = [torch.zeros(n_sets, n, dtype=torch.int64, device=device) for n in transcoder.n_features]

    def average(self, batch: Batch) -> None:
        """Adds what the MLPs write on a batch to the means."""

        def add(layer: int) -> Callable[[Tensor], None]:
            def take(wrote: Float[Tensor, "prompt pos d_model"]) -> None:
                kept = wrote.double().masked_fill(batch.masked[..., None], 0)
                self._total[:, layer].index_add_(0, batch.group, kept.sum(1))

            return take

        self._n_tokens.index_add_(0, batch.group, (~batch.masked).sum(1).double())
        functions: Functions = {site.write: add(site.layer) for site in self._sites.sites}
        run_to(self._model, batch.tokens, functions, self._sites.sites[-1].write)

    def end_average(self) -> None:
        """Takes the means. Every batch was averaged, and none measured."""
        self._means = {"set": self._total / self._n_tokens[:, None, None]}
        if len(self._total) > 1:
            self._means["all"] = (self._total.sum(0) / self._n_tokens.sum()).expand_as(self._total)

    @property
    def scopes(self) -> tuple[str, ...]:
        """What means were taken over."""
        return tuple(self._means)

    def measure(self, batch: Batch) -> None:
        """One pass of the model itself, one with all MLPs replaced, and one with them ablated for each scope."""
        kept = ~batch.masked
        self._put(batch, "tokens", kept.sum(1))
        self._put(batch, "predicted", kept[:, :-1].sum(1))
        self._put(batch, "prompts", torch.ones_like(batch.rows))
        own, recons = self._own(batch)
        self._compare(batch, "replaced", own, self._run(batch, "with its MLPs replaced", self._replaced(batch)))
        for scope, means in self._means.items():
            ablated = {site.write: self._held(batch, means[batch.group, site.layer]) for site in self._sites.sites}
            self._compare(batch, f"ablated {scope}", own, self._run(batch, "with its MLPs ablated", ablated))
        for layer, written in enumerate(recons):
            function = self._held(batch, written)
            alone = self._run(batch, f"with MLP {layer} replaced", {self._sites.sites[layer].write: function})
            self._compare(batch, "alone", own, alone, layer)

    def _own(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        reconstruction, recons = Reconstruction(self._transcoder, batch.masked), []

        def read(layer: int) -> Callable[[Tensor], None]:
            def encode(x: Tensor) -> None:
                active = reconstruction.read(x, layer) != 0
                by_prompt = active.sum(1)
                self.active[layer].index_add_(0, batch.group, by_prompt)
                self._put(batch, "active", by_prompt.sum(1), layer)

            return encode

        def write(layer: int) -> Callable[[Tensor], None]:
            def measure(wrote: Tensor) -> None:
                y, written = wrote.double(), reconstruction.of(layer)
                self._put(batch, "error", batch.over_tokens((y - written).square()), layer)
                self._put(batch, "square", batch.over_tokens(y.square()), layer)
                for scope, means in self._means.items():
                    deviation = y - means[batch.group, layer][:, None]
                    self._put(batch, f"variance {scope}", batch.over_tokens(deviation.square()), layer)
                if self._each_layer:
                    recons.append(written)

            return measure

        functions: Functions = {site.read: read(site.layer) for site in self._sites.sites}
        functions |= {site.write: write(site.layer) for site in self._sites.sites}
        return self._run(batch, "itself", functions), recons

    def _replaced(self, batch: Batch) -> Functions:
        reconstruction = Reconstruction(self._transcoder, batch.masked)

        def read(layer: int) -> Callable[[Tensor], None]:
            def encode(x: Tensor) -> None:
                reconstruction.read(x, layer)

            return encode

        def write(layer: int) -> Callable[[Tensor], Tensor]:
            return lambda wrote: self._held(batch, reconstruction.of(layer))(wrote)

        functions: Functions = {site.read: read(site.layer) for site in self._sites.sites}
        return functions | {site.write: write(site.layer) for site in self._sites.sites}

    def _held(self, batch: Batch, written: Tensor) -> Callable[[Tensor], Tensor]:
        """Puts this in the place of what an MLP writes, but at masked tokens. One vector for each prompt will do."""
        written = written if written.ndim == 3 else written[:, None]
        return lambda wrote: torch.where(batch.masked[..., None], wrote, written.to(wrote))

    def _run(
        self, batch: Batch, how: str, functions: Mapping[Tap, Callable[[Tensor], Tensor | None]]
    ) -> Float[Tensor, "prompt pos d_vocab"]:
        with installed(self._model, functions):
            logits: Tensor = self._model(batch.tokens)
        finite = logits.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            name, dtype = batch.names[int((~finite).nonzero()[0])], logits.dtype
            next_step = "Its weights may be damaged, or float16 overflows: load it again, in float32."
            if how != "itself":
                next_step = "Its own are: load it in float32, and check that the transcoder was trained on it."
            raise FitError(f"{name}: the logits of the model {how} are not finite in {dtype}. {next_step}")
        return logits

    def _compare(self, batch: Batch, way: str, own: Tensor, other: Tensor, layer: int | None = None) -> None:
        following = batch.tokens.roll(-1, dims=1).flatten()
        parts = []
        size = max(1, BATCH_NUMBERS // own.shape[-1])
        for p, q, token in zip(
            own.flatten(0, 1).split(size), other.flatten(0, 1).split(size), following.split(size), strict=True
        ):
            agree = p.argmax(-1) == q.argmax(-1)
            p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
            kl = (p.exp() * (p - q)).sum(-1)
            surprise = [-logs.gather(-1, token[:, None]).squeeze(-1) for logs in (p, q)]
            parts.append(torch.stack([kl, agree.double(), *surprise]))
        kl, agree, own_ce, ce = torch.cat(parts, 1).unflatten(1, batch.tokens.shape)
        self._put(batch, f"{way} kl", batch.over_tokens(kl), layer)
        self._put(batch, f"{way} agreement", batch.over_tokens(agree), layer)
        if layer is None:
            self._put(batch, f"{way} last kl", kl[:, -1])
            self._put(batch, f"{way} last agreement", agree[:, -1])
            # What follows the last token is not known.
            for name, surprise in (("own ce", own_ce), (f"{way} ce", ce)):
                surprise[:, -1] = 0
                self._put(batch, name, batch.over_tokens(surprise))

    def _put(self, batch: Batch, name: str, values: Tensor, layer: int | None = None) -> None:
        shape = (self._n_prompts,) if layer is None else (self._n_prompts, self._transcoder.n_layers)
        column = self.sums.setdefault(name, torch.zeros(shape, dtype=torch.float64))
        (column if layer is None else column[:, layer])[batch.rows.cpu()] = values.double().cpu()


def _refuse_damaged_rows(transcoder: CrossLayerTranscoder, layer: int) -> None:
    for source in transcoder.sources(layer):
        everything = torch.arange(transcoder.n_features[source], device=transcoder.W_dec[source].device)
        for index in everything.split(4096):
            transcoder.decoder_rows(source, index)
    raise FitError(
        f"What the transcoder writes at layer {layer} is not finite, though its weights are: what it reads is too "
        "large for it. Was it trained on another model, or at another read point?"
    )
