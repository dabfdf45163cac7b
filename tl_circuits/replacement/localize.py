"""A model, a transcoder and a prompt → the local replacement model: the same logits, linear between features.

Ameisen et al. 2025, "From Cross-Layer Transcoder to Replacement Model" and "The Local Replacement Model".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import FitError, warn_once
from tl_circuits.hooks import Model, Tap, has_user_hooks, run_to
from tl_circuits.nodes import Feature
from tl_circuits.replacement.pieces import Pieces, cut, idle, working
from tl_circuits.replacement.prompt import Prompt, TokenizedPrompt, tokenize
from tl_circuits.sites import Sites, check_read_point, warn_of_low_precision
from tl_circuits.transcoder import CrossLayerTranscoder


@dataclass(frozen=True, eq=False)
class LocalReplacementModel:
    """A prompt's own linear model: MLPs replaced by transcoder features plus errors, attention and norms frozen.

    - `features` (layer, position, index) of every active feature, sorted; `activations`, `preactivations` beside it.
    - `errors` (layer, pos, d_model): what the MLP wrote less what the transcoder explains of it; zero where masked.
    - `masked_writes`: the same at masked positions, zero elsewhere.
    - `token_vectors`, `position_vectors` (None where positions are not learned): what enters the first block.
    - `logits` (pos, d_vocab): the user's model's own. Bit for bit, but on a bridge whose attention or norms compute
      otherwise where they are hooked (rotary embeddings, RMS norms): there they may differ by a few units of float32.
    - `hooked`: whether the user's hooks were on it.

    The model is borrowed: no hook stays on it, and none of its flags is changed.
    """

    model: Model
    transcoder: CrossLayerTranscoder
    sites: Sites
    prompt: TokenizedPrompt
    pieces: Pieces
    features: Int64[Tensor, "feature 3"]
    activations: Float[Tensor, " feature"]
    preactivations: Float[Tensor, " feature"]
    errors: Float[Tensor, "layer pos d_model"]
    masked_writes: Float[Tensor, "layer pos d_model"]
    token_vectors: Float[Tensor, "pos d_model"]
    position_vectors: Float[Tensor, "pos d_model"] | None
    logits: Float[Tensor, "pos d_vocab"]
    hooked: bool

    @property
    def n_layers(self) -> int:
        """The number of layers of the model."""
        return self.sites.n_layers

    @property
    def n_pos(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.prompt.tokens)

    def __repr__(self) -> str:
        return (
            f"LocalReplacementModel({self.n_pos} tokens, {len(self.features)} active features in {self.n_layers} "
            f"layers, {self.transcoder.read} -> {self.transcoder.write}, masked positions {list(self.prompt.masked)})"
        )

    def active(self) -> list[Feature]:
        """The active features, by layer, position and index."""
        return [Feature(*row) for row in self.features.tolist()]


def localize(
    model: Model, transcoder: CrossLayerTranscoder, prompt: Prompt, masked_positions: Sequence[int] | None = None
) -> LocalReplacementModel:
    """The local replacement model of one prompt.

    `prompt` is text, token ids or chat messages. Features and errors at `masked_positions` are left out and become
    masked sources of their own (default: the beginning-of-sequence tokens at the start; `()` masks none). Raises
    `FitError` where model and transcoder do not fit or the model cannot be frozen, `PromptError` for prompts that it
    cannot run. Warns once of 16-bit models, and of a transcoder that was trained on another model.
    """
    check_fit(model, transcoder)
    refuse_replaced(model)
    with torch.inference_mode(False), torch.no_grad():
        sites = Sites.of(model, transcoder.read, transcoder.write)
        warn_of_doubts(model, transcoder)
        tokenized = tokenize(model, prompt, masked_positions)
        pieces = cut(model, sites, transcoder, tokenized.tokens)
        features, activations, preactivations = _active_features(transcoder, pieces, tokenized.masked)
        errors, masked_writes = _unexplained(transcoder, pieces, tokenized.masked, features, activations)
        assert pieces.logits is not None
        return LocalReplacementModel(
            model=model,
            transcoder=transcoder,
            sites=sites,
            prompt=tokenized,
            pieces=pieces,
            features=features,
            activations=activations,
            preactivations=preactivations,
            errors=errors,
            masked_writes=masked_writes,
            token_vectors=pieces.embed[0],
            position_vectors=None if pieces.pos_embed is None else pieces.pos_embed[0],
            logits=pieces.logits,
            hooked=has_user_hooks(model),
        )


def check_fit(model: Model, transcoder: CrossLayerTranscoder) -> None:
    """Raises `FitError` where width, layers or read point are not the model's."""
    if not hasattr(model, "hook_dict") or not isinstance(transcoder, CrossLayerTranscoder):
        raise FitError(
            f"A model and a transcoder are needed, in this order; {type(model).__name__} and "
            f"{type(transcoder).__name__} were given. A model is a HookedTransformer or a TransformerBridge, a "
            "transcoder a CrossLayerTranscoder: of a release's name, a folder or a list of SAEs, "
            "tlc.load_transcoder(...) makes one, so call that first."
        )
    n_layers, d_model, name = model.cfg.n_layers, model.cfg.d_model, model.cfg.model_name
    if transcoder.n_layers != n_layers:
        raise FitError(
            f"This transcoder has {transcoder.n_layers} layers, but {name} has {n_layers}: it was trained on another "
            "model, or layers are missing from it. Every layer needs its transcoder."
        )
    if transcoder.d_model != d_model:
        raise FitError(
            f"This transcoder is {transcoder.d_model} wide, but {name} has d_model {d_model}: was it trained on "
            "another model?"
        )
    check_read_point(model, transcoder.read, processed_weights=transcoder.processed_weights)


def warn_of_doubts(model: Model, transcoder: CrossLayerTranscoder) -> None:
    """Warns once of a model in 16 bits, and of a transcoder that was trained on another model."""
    warn_of_low_precision(
        model,
        "edges are computed in it and sum to their totals only to about 3e-3, and the graph records its conservation "
        "error",
    )
    warn_of_another_model(model, transcoder, stacklevel=4)


def warn_of_another_model(model: Model, transcoder: CrossLayerTranscoder, *, stacklevel: int = 3) -> None:
    """Warns once of a transcoder that was trained on another model."""
    name = model.cfg.model_name
    if transcoder.model_name is not None and _plain(transcoder.model_name) != _plain(str(name)):
        warn_once(
            f"This transcoder says it was trained on {transcoder.model_name!r}, but the model is {name!r}: its "
            "features may mean nothing here. The sizes agree, so tracing goes on.",
            stacklevel=stacklevel,
        )


_REPLACED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


@contextmanager
def replaced(model: Model, *, exact: bool) -> Iterator[None]:
    """Marks a model whose MLPs are replaced meanwhile, unless error terms make its outputs exact."""
    if exact:
        yield
        return
    _REPLACED[model] = _REPLACED.get(model, 0) + 1
    try:
        yield
    finally:
        _REPLACED[model] -= 1


def refuse_replaced(model: Model) -> None:
    """Raises `FitError` where the MLPs of the model are replaced at the moment, without error terms."""
    if _REPLACED.get(model, 0):
        raise FitError(
            "The model's MLPs are replaced at the moment (tlc.replace_mlps), so every transcoder would seem perfect "
            "on it: leave that block before tracing, or open it with error_terms=True."
        )


def check_unhooked_since(local: LocalReplacementModel) -> None:
    """Raises `FitError` where the user's hooks were put on or taken off the model after it was localized."""
    if has_user_hooks(local.model) != local.hooked:
        was, now = ("on", "off") if local.hooked else ("off", "on")
        raise FitError(
            f"When the model was localized its hooks of your own were {was}, now they are {now}: it is another model. "
            "Localize and attribute inside the same model.hooks(...)."
        )


def replay(
    local: LocalReplacementModel,
    extra_writes: Float[Tensor, "layer pos d_model"],
    extra_tokens: Float[Tensor, "pos d_model"],
) -> tuple[Float[Tensor, "pos d_model"], ...]:
    """Every read of a real forward pass of the frozen model, after adding to what the MLPs write and to the embeddings.

    Attention patterns, norm denominators and MLP writes are put back to the prompt's values, and nothing re-encodes:
    what changes is the sum of the edges of the added sources, which makes this the check of all edges.
    """
    pieces, reads, functions = local.pieces, dict[int, Tensor](), put_back(local, local.sites.frozen)

    def read(layer: int) -> Callable[[Tensor], None]:
        return lambda value: reads.__setitem__(layer, value)

    def write(layer: int) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            constant = pieces.writes[layer].detach() + extra_writes[layer].to(value)
            skip = local.transcoder.skip(reads[layer], layer)
            return constant if skip is None else constant + skip.to(value)

        return put

    for site in local.sites.sites:
        functions |= {site.read: read(site.layer), site.write: write(site.layer)}
    # What the MLPs compute is not used; hooks of the user's own may need all of it.
    for tap in () if local.hooked else (site.mlp_in for site in local.sites.sites):
        functions[tap] = idle(functions.get(tap))
    functions[local.sites.unembed_in] = read(local.n_layers)
    functions[local.sites.embed] = lambda value: value + extra_tokens.to(value)
    with torch.inference_mode(False), torch.no_grad():
        run_to(local.model, local.prompt.tokens[None], functions, local.sites.unembed_in)
    return tuple(working(reads[layer])[0] for layer in range(local.n_layers + 1))


def put_back(local: LocalReplacementModel, taps: Iterable[Tap]) -> dict[Tap, Callable[[Tensor], Tensor | None]]:
    """Functions that hold these of the frozen taps, in one pass of any batch size, at the prompt's values."""

    def hold(values: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            # An MLP that is idle has no positions, and the norms after it none to scale.
            held = next(values, value)[:, : value.shape[1]]
            return held if len(held) == len(value) else held.expand(len(value), *held.shape[1:])

        return put

    return {tap: hold(iter(local.pieces.frozen[tap])) for tap in taps}


def decoded(
    transcoder: CrossLayerTranscoder,
    features: Int64[Tensor, "feature 3"],
    activations: Float[Tensor, " feature"],
    n_pos: int,
    times: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, "layer pos d_model"]:
    """What these features write at every layer and position, without b_dec; each so many `times` where given."""
    written = activations.new_zeros(transcoder.n_layers, n_pos, transcoder.d_model)
    for source in range(transcoder.n_layers):
        here = (features[:, 0] == source).nonzero()[:, 0]
        # In the order in which decoders lie, since a transcoder may be a file that is larger than memory.
        here = here[torch.argsort(features[here, 2], stable=True)]
        _, pos, index = features[here].unbind(1)
        add_decoded(
            written, transcoder, source, pos, index, activations[here], times=None if times is None else times[here]
        )
    return written


def add_decoded(
    written: Float[Tensor, "layer pos d_model"],
    transcoder: CrossLayerTranscoder,
    source: int,
    pos: Int64[Tensor, " feature"],
    index: Int64[Tensor, " feature"],
    activations: Float[Tensor, " feature"],
    times: Float[Tensor, " feature"] | None = None,
) -> None:
    """Adds what these features of one layer write, there and above, to what is `written` already."""
    decoder = transcoder.W_dec[source]
    # In small slices, so that the gathered rows stay in the cache until they are added.
    for at in range(0, len(index), 512):
        part = slice(at, at + 512)
        for step in range(decoder.shape[1]):
            outgoing = transcoder.outgoing(activations[part], source, source + step, index[part])
            outgoing = outgoing if times is None else outgoing * times[part]
            rows = decoder[index[part].to(decoder.device), step].to(outgoing)
            written[source + step].index_add_(0, pos[part], rows.mul_(outgoing[:, None]))


def _active_features(
    transcoder: CrossLayerTranscoder, pieces: Pieces, masked: tuple[int, ...]
) -> tuple[Int64[Tensor, "feature 3"], Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    features, activations, preactivations = [], [], []
    for layer in range(transcoder.n_layers):
        before = transcoder.preactivations(working(pieces.reads[layer])[0], layer)
        after = transcoder.activation(before, layer)
        after[list(masked)] = 0
        pos, index = after.nonzero(as_tuple=True)
        features.append(torch.stack([torch.full_like(pos, layer), pos, index], dim=1))
        activations.append(after[pos, index])
        preactivations.append(before[pos, index])
    return torch.cat(features), torch.cat(activations), torch.cat(preactivations)


def _unexplained(
    transcoder: CrossLayerTranscoder,
    pieces: Pieces,
    masked: tuple[int, ...],
    features: Int64[Tensor, "feature 3"],
    activations: Float[Tensor, " feature"],
) -> tuple[Float[Tensor, "layer pos d_model"], Float[Tensor, "layer pos d_model"]]:
    wrote = torch.stack([working(write)[0] for write in pieces.writes])
    explained = decoded(transcoder, features, activations, wrote.shape[1])
    if not bool(explained.isfinite().all()):
        _refuse_damaged_rows(transcoder, features)
    unexplained = wrote - explained - transcoder.b_dec.to(wrote)[:, None]
    errors, masked_writes = unexplained, torch.zeros_like(unexplained)
    masked_writes[:, list(masked)] = unexplained[:, list(masked)]
    errors[:, list(masked)] = 0
    return errors, masked_writes


def _refuse_damaged_rows(transcoder: CrossLayerTranscoder, features: Int64[Tensor, "feature 3"]) -> None:
    for source in range(transcoder.n_layers):
        for index in features[features[:, 0] == source, 2].unique().split(4096):
            transcoder.decoder_rows(source, index)


def _plain(name: str) -> str:
    """A model's name without its organisation; of several names that TransformerLens knows it by, the hub's."""
    # Here, since a graph is looked at without the library.
    from transformer_lens.loading_from_pretrained import get_official_model_name

    plain = name.rsplit("/", 1)[-1].lower()
    for known in (name, plain):
        with suppress(ValueError):
            return get_official_model_name(known).rsplit("/", 1)[-1].lower()
    return plain
