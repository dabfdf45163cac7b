"""Compiled models whose MLPs take the two steps of a chain at one token, one in each layer.

`[BOS, REL, PRE, SUF]` → attention of layer 0 gathers PRE and REL at SUF → the MLP of layer 0 looks a state up by PRE
and SUF → the MLP of layer 1 looks the answer up by state and REL. A layer-0 feature that writes answers has swallowed a
step. With `amplified`, the MLP of layer 1 also writes the state once more, along the same direction: one feature that
writes states into both layers is then the short way of saying what the model does. `apart`, half of the states have
answers, and the other half is amplified: no layer-1 feature that is there anyway can amplify them.
"""

import random
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

# Large enough that softmax leaves every other position nothing.
SHARP = 40.0


@dataclass(frozen=True, eq=False)
class Chain:
    """The model, all its prompts, and the token that the chain is at."""

    model: HookedTransformer
    tokens: Int64[Tensor, "prompt pos"]
    last: Bool[Tensor, "prompt pos"]
    states: slice
    answers: slice


@dataclass(frozen=True)
class _Axes:
    relations: int
    names: int
    states: int

    def __post_init__(self) -> None:
        assert min(self.relations, self.names, self.states) > 0

    def of(self, what: str) -> int:
        """Where the directions of a kind begin."""
        sizes = {
            "relation": self.relations,
            "pre": self.names,
            "suf": self.names,
            "gathered pre": self.names,
            "gathered relation": self.relations,
            "state": self.states,
            "answer": self.states * self.relations,
            "position": 4,
            "end": 0,
        }
        begin = 0
        for name, size in sizes.items():
            if name == what:
                return begin
            begin += size
        raise KeyError(what)


def chain(
    relations: int, *, names: int = 8, states: int = 8, amplified: bool = False, apart: bool = False, seed: int = 0
) -> Chain:
    """A chain of two lookups with random tables. With one relation, the second step depends on the state alone."""
    rng, axes = random.Random(seed), _Axes(relations, names, states)
    pairs = [(i, j) for i in range(names) for j in range(names)]
    state_of = {pair: rng.randrange(states) for pair in pairs}
    model = _empty(axes, len(pairs))
    with torch.no_grad():
        _embed(model, axes)
        _attend(model, axes)
        _look_up(model, axes, state_of)
        half = states // 2
        _answer(model, axes, range(half if amplified and apart else states))
        if amplified:
            _amplify(model, axes, range(half if apart else 0, states))
    rows = [(r, i, j) for r in range(relations) for i, j in pairs]
    tokens = torch.tensor([[0, 1 + r, 1 + relations + i, 1 + relations + names + j] for r, i, j in rows])
    last = torch.zeros_like(tokens, dtype=torch.bool)
    last[:, -1] = True
    begin, middle, end = axes.of("state"), axes.of("answer"), axes.of("position")
    return Chain(model, tokens, last, slice(begin, middle), slice(middle, end))


def _empty(axes: _Axes, n_pairs: int) -> HookedTransformer:
    n_second = axes.states * (axes.relations + 1)
    settings: dict[str, Any] = {
        "n_layers": 2, "d_model": axes.of("end"), "n_heads": 2, "d_head": max(axes.names, axes.relations, 4),
        "d_mlp": max(n_pairs, n_second), "d_vocab": 1 + axes.relations + 2 * axes.names, "n_ctx": 4, "act_fn": "relu",
        "normalization_type": None, "attention_dir": "causal", "seed": 0, "device": "cpu",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def _embed(model: HookedTransformer, axes: _Axes) -> None:
    for r in range(axes.relations):
        model.W_E[1 + r, axes.of("relation") + r] = 1
    for i in range(axes.names):
        model.W_E[1 + axes.relations + i, axes.of("pre") + i] = 1
        model.W_E[1 + axes.relations + axes.names + i, axes.of("suf") + i] = 1
    for position in range(4):
        model.W_pos[position, axes.of("position") + position] = 1


def _attend(model: HookedTransformer, axes: _Axes) -> None:
    attention: Any = model.blocks[0].attn
    sources = ((2, "pre", "gathered pre", axes.names), (1, "relation", "gathered relation", axes.relations))
    for head, (position, source, target, size) in enumerate(sources):
        attention.W_Q[head, axes.of("position") + 3, 0] = SHARP
        attention.W_K[head, axes.of("position") + position, 0] = SHARP
        for i in range(size):
            attention.W_V[head, axes.of(source) + i, i] = 1
            attention.W_O[head, i, axes.of(target) + i] = 1


def _look_up(model: HookedTransformer, axes: _Axes, state_of: dict[tuple[int, int], int]) -> None:
    mlp: Any = model.blocks[0].mlp
    for neuron, ((i, j), state) in enumerate(state_of.items()):
        mlp.W_in[axes.of("gathered pre") + i, neuron] = 1
        mlp.W_in[axes.of("suf") + j, neuron] = 1
        mlp.b_in[neuron] = -1
        mlp.W_out[neuron, axes.of("state") + state] = 1


def _answer(model: HookedTransformer, axes: _Axes, states: range) -> None:
    mlp: Any = model.blocks[1].mlp
    for state in states:
        for r in range(axes.relations):
            neuron = state * axes.relations + r
            mlp.W_in[axes.of("state") + state, neuron] = 1
            mlp.W_in[axes.of("gathered relation") + r, neuron] = 1
            mlp.b_in[neuron] = -1
            mlp.W_out[neuron, axes.of("answer") + neuron] = 1


def _amplify(model: HookedTransformer, axes: _Axes, states: range) -> None:
    mlp: Any = model.blocks[1].mlp
    for state in states:
        neuron = axes.states * axes.relations + state
        mlp.W_in[axes.of("state") + state, neuron] = 1
        mlp.W_out[neuron, axes.of("state") + state] = 1
