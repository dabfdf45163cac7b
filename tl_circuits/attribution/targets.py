"""What a graph explains: logits, differences of logits, directions at a position, or features.

Ameisen et al. 2025, "Attribution Graphs": a logit target reads its unembedding column less the vocabulary's mean, at
the final residual before any soft cap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import SettingError, TargetError
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
    """What to explain, before a prompt is known. Made by `top`, `tokens`, `difference`, `direction` or `features`.

    Weights say how much each target counts in influence and scores: by default a token's probability, else 1. They may
    be negative; influence counts their magnitude.
    """

    kind: str
    pos: int
    wanted: tuple[Token | Feature, ...] = ()
    weights: tuple[float, ...] | None = None
    vector: Float[Tensor, " d_model"] | None = None
    layer: int | None = None
    label: str = "direction"
    max_targets: int = 10
    target_probability: float = 0.95

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.wanted):
            raise TargetError(
                f"{len(self.weights)} weights were given for {len(self.wanted)} targets: give one for each."
            )
        if not all(math.isfinite(weight) for weight in self.weights):
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
        if max_targets < 1:
            raise SettingError(f"max_targets={max_targets} leaves nothing to explain: give at least 1.")
        if not 0 < target_probability <= 1:
            raise SettingError(f"target_probability={target_probability} is outside (0, 1]: 0.95 is the paper's.")
        return cls("top", pos, max_targets=max_targets, target_probability=target_probability)

    @classmethod
    def tokens(cls, tokens: Sequence[Token], weights: Sequence[float] | None = None, *, pos: int = -1) -> "Targets":
        """The logits of these tokens at a position."""
        if len(tokens) == 0:
            raise TargetError(
                "No target tokens were given: name at least one, or leave targets out for the most likely ones."
            )
        return cls("tokens", pos, tuple(tokens), None if weights is None else tuple(weights))

    @classmethod
    def difference(cls, token: Token, other: Token, *, pos: int = -1) -> "Targets":
        """One target: the logit of `token` less the logit of `other`."""
        return cls("difference", pos, (token, other))

    @classmethod
    def direction(
        cls, vector: Float[Tensor, " d_model"], *, pos: int = -1, layer: int | None = None, label: str = "direction"
    ) -> "Targets":
        """One target: a direction in what the unembedding reads or, with a layer, what the transcoder reads there."""
        return cls("direction", pos, vector=vector, layer=layer, label=label)

    @classmethod
    def features(cls, features: Sequence[Feature | str], weights: Sequence[float] | None = None) -> "Targets":
        """The pre-activations of these features, active or not; `"L3/120@-1"` names one too."""
        if len(features) == 0:
            raise TargetError("No target features were given: name at least one, such as 'L3/120@-1'.")
        parsed = tuple(Feature.parse(feature) if isinstance(feature, str) else feature for feature in features)
        return cls("features", -1, parsed, None if weights is None else tuple(weights))

    @classmethod
    def parse(
        cls, given: "Targets | Sequence[Token | Feature] | str | None", max_targets: int, target_probability: float
    ) -> "Targets":
        """What `attribute` takes as targets: None (the most likely tokens), tokens, features or `Targets`."""
        if isinstance(given, Targets):
            return given
        if given is None:
            return cls.top(max_targets, target_probability)
        wanted = [given] if isinstance(given, str) else list(given)
        features = [item for item in wanted if isinstance(item, Feature)]
        if features and len(features) == len(wanted):
            return cls.features(features)
        if features:
            raise TargetError("Targets mix tokens and features: trace them apart, or pass tlc.Targets of one kind.")
        return cls.tokens([item for item in wanted if not isinstance(item, Feature)])


def resolve(targets: Targets, local: LocalReplacementModel) -> tuple[Target, ...]:
    """The targets on this prompt. Raises `TargetError` for what vocabulary, prompt or transcoder do not hold."""
    if targets.kind == "features":
        found = tuple(_feature(local, item) for item in targets.wanted if isinstance(item, Feature))
    else:
        pos = _position(local, targets.pos)
        match targets.kind:
            case "top":
                found = _most_likely(local, pos, targets.max_targets, targets.target_probability)
            case "tokens":
                ids = [_token_id(local, item) for item in targets.wanted if not isinstance(item, Feature)]
                found = _logits(local, pos, torch.tensor(ids))
            case "difference":
                ids = [_token_id(local, item) for item in targets.wanted if not isinstance(item, Feature)]
                found = (_difference(*_logits(local, pos, torch.tensor(ids))),)
            case _:
                found = (_direction(local, targets, pos),)
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


def _direction(local: LocalReplacementModel, targets: Targets, pos: int) -> Target:
    layer = local.n_layers if targets.layer is None else targets.layer
    vector, d_model = targets.vector, local.transcoder.d_model
    if not 0 <= layer <= local.n_layers:
        raise TargetError(
            f"layer={layer} lies outside the model's 0 to {local.n_layers - 1}; leave it out for the unembedding's "
            "input."
        )
    if vector is None or tuple(vector.shape) != (d_model,):
        raise TargetError(
            f"A direction has shape ({d_model},); {None if vector is None else tuple(vector.shape)} was given."
        )
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise TargetError("The direction is zero or holds NaN or infinity: give a vector of real numbers.")
    return Target(layer, pos, -1, vector.detach().to(local.activations), targets.label, 1.0)


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
    if not -local.n_pos <= pos < local.n_pos:
        raise TargetError(
            f"Position {pos} lies outside the prompt of {local.n_pos} tokens: use 0 to {local.n_pos - 1}, or negative "
            "ones."
        )
    return pos % local.n_pos


def _token_id(local: LocalReplacementModel, token: Token) -> int:
    d_vocab, tokenizer = local.logits.shape[-1], local.model.tokenizer
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
