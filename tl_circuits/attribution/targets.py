"""What a graph explains: logits, differences of logits, directions at a position, or features.

Ameisen et al. 2025, "Attribution Graphs": a logit target reads its unembedding column less the vocabulary's mean, at
the final residual before any soft cap.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import SettingError, TargetError
from tl_circuits.graph.asked import share, whole
from tl_circuits.nodes import Feature
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.pieces import working
from tl_circuits.replacement.sweep import Readouts

Token: TypeAlias = str | int
"""A token by id, or by a text that is one token of the vocabulary."""


@dataclass(frozen=True, eq=False)
class Target:
    """One target on one prompt: ⟨vector, what `layer` reads at `pos`⟩ + `constant`.

    `layer` is `n_layers` for what the unembedding reads. `index` is the token id or the feature, -1 for plain
    directions. `probability` is the model's own for a token, NaN for anything else.
    """

    layer: int
    pos: int
    index: int
    vector: Float[Tensor, " d_model"]
    label: str
    weight: float
    probability: float = math.nan
    constant: float = 0.0


@dataclass(frozen=True, eq=False)
class Targets:
    """What to explain, before a prompt is known.

    Made by `top`, `tokens`, `difference`, `direction`, `directions` or `features`.

    Weights say how much each target counts in influence and scores: by default a token's probability, else 1. They may
    be negative; influence counts their magnitude.
    """

    kind: str
    pos: int
    wanted: tuple[Any, ...] = ()
    weights: tuple[float, ...] | None = None
    layer: int | None = None
    labels: tuple[str, ...] = ()
    max_targets: int = 10
    target_probability: float = 0.95

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.wanted):
            raise TargetError(
                f"{len(self.weights)} weights were given for {len(self.wanted)} targets: give one for each."
            )
        if not all(_is_number(weight) and math.isfinite(weight) for weight in self.weights):
            raise TargetError(
                f"The target weights {list(self.weights)} are not all finite numbers: give real weights, or none."
            )
        if not any(self.weights):
            raise TargetError(
                f"The target weights {list(self.weights)} are all zero, so nothing would be explained: give one that "
                "is not."
            )

    @classmethod
    def top(cls, max_targets: int = 10, target_probability: float = 0.95, *, pos: int = -1) -> "Targets":
        """The most likely tokens, as few as reach `target_probability`, at most `max_targets` (the paper's rule)."""
        if whole(max_targets) is None or max_targets < 1:
            raise SettingError(f"max_targets={max_targets!r} leaves nothing to explain: give a whole number from 1.")
        enough = share(target_probability)
        if enough is None:
            raise SettingError(f"target_probability={target_probability!r} is outside (0, 1]: 0.95 is the paper's.")
        return cls("top", pos, max_targets=operator.index(max_targets), target_probability=enough)

    @classmethod
    def tokens(cls, tokens: Sequence[Token], weights: Sequence[float] | None = None, *, pos: int = -1) -> "Targets":
        """The logits of these tokens, each an id or a text that is one token, at a position."""
        wanted = _items(tokens, "tokens", "name at least one, or leave targets out for the most likely ones")
        for token in wanted:
            if not isinstance(token, str) and whole(token) is None:
                raise TargetError(f"{token!r} is no token: give texts such as ' Austin', or token ids.")
        return cls("tokens", pos, wanted, _plain(weights))

    @classmethod
    def difference(cls, token: Token, other: Token, *, pos: int = -1) -> "Targets":
        """One target: the logit of `token` less the logit of `other`."""
        wanted = cls.tokens([token, other]).wanted
        if token == other:
            raise TargetError(
                f"The difference of {token!r} and itself is zero, so nothing would be explained: name two tokens."
            )
        return cls("difference", pos, wanted)

    @classmethod
    def direction(
        cls, vector: Float[Tensor, " d_model"], *, pos: int = -1, layer: int | None = None, label: str = "direction"
    ) -> "Targets":
        """One target: a direction in what the unembedding reads or, with a layer, what the transcoder reads there."""
        return cls.directions([vector], pos=pos, layer=layer, labels=[label])

    @classmethod
    def directions(
        cls,
        vectors: Sequence[Tensor] | Float[Tensor, "target d_model"],
        weights: Sequence[float] | None = None,
        *,
        pos: int = -1,
        layer: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> "Targets":
        """Several directions in what is read at one position, each with a weight (default 1) and a label."""
        wanted = _items(vectors, "directions", "give at least one vector of d_model numbers")
        names = tuple(labels) if labels is not None else tuple(f"direction {number}" for number in range(len(wanted)))
        if len(names) != len(wanted) or not all(isinstance(name, str) for name in names):
            raise TargetError(
                f"The labels {list(names)!r:.80} were given for {len(wanted)} directions: give a text for each."
            )
        if layer is not None and whole(layer) is None:
            raise TargetError(
                f"layer={layer!r} is no layer: give a whole number, or leave it out for the unembedding's input."
            )
        return cls("direction", pos, wanted, _plain(weights), layer=layer, labels=names)

    @classmethod
    def features(cls, features: Sequence[Feature | str], weights: Sequence[float] | None = None) -> "Targets":
        """The pre-activations of these features, active or not; `"L3/120@-1"` names one too."""
        wanted = [features] if isinstance(features, Feature) else features
        parsed = []
        for feature in _items(wanted, "features", "name at least one, such as 'L3/120@-1'"):
            if not isinstance(feature, str | Feature):
                raise TargetError(
                    f"{feature!r} is no feature: write 'L3/120@-1', or tlc.Feature(layer=3, pos=-1, index=120)."
                )
            parsed.append(Feature.parse(feature) if isinstance(feature, str) else feature)
        return cls("features", -1, tuple(parsed), _plain(weights))

    @classmethod
    def parse(cls, given: Any, max_targets: int, target_probability: float) -> "Targets":
        """What `attribute` takes: None (the most likely tokens), one or more tokens or features, or `Targets`."""
        likely = cls.top(max_targets, target_probability)
        if given is None or isinstance(given, Targets):
            return likely if given is None else given
        if isinstance(given, str | Feature) or whole(given) is not None:
            given = [given]
        wanted = _items(given, "targets", "name at least one, or leave them out for the likeliest tokens")
        # No token reads like the name of a feature.
        wanted = tuple(
            Feature.parse(item) if isinstance(item, str) and Feature.names(item) else item for item in wanted
        )
        features = [item for item in wanted if isinstance(item, Feature)]
        if features and len(features) == len(wanted):
            return cls.features(features)
        if features:
            raise TargetError("Targets mix tokens and features: trace them apart, or pass tlc.Targets of one kind.")
        return cls.tokens([item for item in wanted if not isinstance(item, Feature)])


def resolve(targets: Targets, local: LocalReplacementModel) -> tuple[Target, ...]:
    """The targets on this prompt. Raises `TargetError` for what vocabulary, prompt or transcoder do not hold."""
    if targets.kind == "features":
        found = tuple(_feature(local, item) for item in targets.wanted)
    else:
        pos = _position(local, targets.pos)
        match targets.kind:
            case "top":
                found = _most_likely(local, pos, targets.max_targets, targets.target_probability)
            case "tokens":
                found = _logits(local, pos, torch.tensor([_token_id(local, item) for item in targets.wanted]))
            case "difference":
                pair = _logits(local, pos, torch.tensor([_token_id(local, item) for item in targets.wanted]))
                found = (_difference(*pair),)
            case _:
                named = zip(targets.wanted, targets.labels, strict=True)
                found = tuple(_direction(local, targets.layer, pos, vector, label) for vector, label in named)
    if targets.weights is not None:
        found = tuple(replace(target, weight=weight) for target, weight in zip(found, targets.weights, strict=True))
    return found


def readouts(found: Sequence[Target]) -> Readouts:
    """The targets as the sweep takes them."""
    return Readouts(
        torch.tensor([target.layer for target in found]),
        torch.tensor([target.pos for target in found]),
        torch.stack([target.vector for target in found]),
    )


def values(local: LocalReplacementModel, found: Sequence[Target]) -> Float[Tensor, " target"]:
    """What each target reads on the prompt, with its constant: a centred logit, a projection, a feature's h − b_enc."""
    read = [(working(local.pieces.reads[t.layer])[0, t.pos] * t.vector).sum() + t.constant for t in found]
    return torch.stack(read).to(local.activations)


def _most_likely(local: LocalReplacementModel, pos: int, at_most: int, enough: float) -> tuple[Target, ...]:
    top = local.logits[pos].to(local.activations).softmax(-1).topk(min(at_most, local.logits.shape[-1]))
    needed = int((top.values.cumsum(0) < enough).sum()) + 1
    return _logits(local, pos, top.indices[:needed])


def _logits(local: LocalReplacementModel, pos: int, ids: Int64[Tensor, " target"]) -> tuple[Target, ...]:
    W_U = working(local.model.W_U)
    ids = ids.to(W_U.device)
    vectors = (W_U[:, ids] - W_U.mean(-1, keepdim=True)).T.contiguous()
    b_U = getattr(local.model, "b_U", None)
    constants = [0.0] * len(ids) if b_U is None else (b_U[ids] - b_U.mean()).tolist()
    probabilities = local.logits[pos].to(local.activations).softmax(-1)[ids].tolist()
    return tuple(
        Target(local.n_layers, pos, token, vector, _token_string(local, token), probability, probability, constant)
        for token, vector, probability, constant in zip(ids.tolist(), vectors, probabilities, constants, strict=True)
    )


def _difference(token: Target, other: Target) -> Target:
    return replace(
        token,
        index=-1,
        vector=token.vector - other.vector,
        label=f"{token.label.strip()} - {other.label.strip()}",
        weight=1.0,
        probability=math.nan,
        constant=token.constant - other.constant,
    )


def _direction(local: LocalReplacementModel, given_layer: int | None, pos: int, vector: Any, label: str) -> Target:
    layer = local.n_layers if given_layer is None else given_layer
    d_model = local.transcoder.d_model
    if not 0 <= layer <= local.n_layers:
        raise TargetError(
            f"layer={layer} lies outside the model's 0 to {local.n_layers - 1}; leave it out for the "
            "unembedding's input."
        )
    if not isinstance(vector, Tensor) or tuple(vector.shape) != (d_model,):
        given = tuple(vector.shape) if isinstance(vector, Tensor) else repr(vector)[:60]
        raise TargetError(f"A direction is a tensor of shape ({d_model},); {given} was given.")
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise TargetError("The direction is zero or holds NaN or infinity: give a vector of real numbers.")
    return Target(layer, pos, -1, vector.detach().to(local.activations), label, 1.0)


def _feature(local: LocalReplacementModel, feature: Feature) -> Target:
    transcoder = local.transcoder
    if not 0 <= feature.layer < transcoder.n_layers:
        raise TargetError(
            f"{feature} is of layer {feature.layer}, but the transcoder has layers 0 to {transcoder.n_layers - 1}."
        )
    if not 0 <= feature.index < transcoder.n_features[feature.layer]:
        raise TargetError(
            f"{feature} is not in the transcoder: layer {feature.layer} has {transcoder.n_features[feature.layer]} "
            "features."
        )
    pos = _position(local, feature.pos)
    vector = transcoder.W_enc[feature.layer][feature.index].detach().to(local.activations)
    return Target(feature.layer, pos, feature.index, vector, str(feature._replace(pos=pos)), 1.0)


def _position(local: LocalReplacementModel, pos: int) -> int:
    if whole(pos) is None:
        raise TargetError(f"Position {pos!r} is no position: give a whole number, negative ones count from the end.")
    if not -local.n_pos <= pos < local.n_pos:
        raise TargetError(
            f"Position {pos} lies outside the prompt of {local.n_pos} tokens: use 0 to {local.n_pos - 1}, or negative "
            "ones."
        )
    return pos % local.n_pos


def _token_id(local: LocalReplacementModel, token: Token) -> int:
    return token_id(local.model.tokenizer, local.logits.shape[-1], token)


def token_id(tokenizer: Any, d_vocab: int, token: Token) -> int:
    """The id of one token. Raises `TargetError` where it is none, or a text is several."""
    if isinstance(token, int):
        if not 0 <= token < d_vocab:
            raise TargetError(f"Token id {token} is outside the vocabulary of {d_vocab} tokens (0 to {d_vocab - 1}).")
        return token
    if tokenizer is None:
        raise TargetError(f"This model has no tokenizer, so the target {token!r} means nothing to it: give token ids.")
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        spaced = tokenizer(f" {token}", add_special_tokens=False)["input_ids"]
        hint = (
            f"{' ' + token!r} is one"
            if len(spaced) == 1 and spaced[0] != tokenizer.unk_token_id
            else "name one token, or give its id"
        )
        pieces = [tokenizer.decode([piece]) for piece in ids]
        there = (
            "not in this vocabulary" if len(ids) == 1 else f"not one token of this vocabulary but {len(ids)}: {pieces}"
        )
        raise TargetError(f"The target {token!r} is {there}; {hint}.")
    return ids[0]


def _token_string(local: LocalReplacementModel, token: int) -> str:
    return str(token) if local.model.tokenizer is None else local.model.tokenizer.decode([token])


def _items(given: Any, what: str, advice: str) -> tuple[Any, ...]:
    """What a sequence holds, tensors and arrays as plain numbers; a text or a dictionary is no sequence of targets."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TargetError(f"{given!r:.80} is no list of {what}: put it in brackets; {advice}.")
    values = (
        given.tolist() if isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point() else given
    )
    numbers = [(item, whole(item)) for item in values]
    items = tuple(item if number is None else number for item, number in numbers)
    if not items:
        raise TargetError(f"No {what} were given: {advice}.")
    return items


def _plain(weights: Any) -> tuple[Any, ...] | None:
    """Weights as plain numbers, by which they are known again. Raises `TargetError` for what is no sequence."""
    if weights is None:
        return None
    if isinstance(weights, str | Mapping) or not isinstance(weights, Iterable):
        raise TargetError(f"weights={weights!r:.80} are no list of weights: give a number for each target, or none.")
    values = weights.tolist() if isinstance(weights, Tensor) and weights.ndim == 1 else weights
    return tuple(float(weight) if _is_number(weight) else weight for weight in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
