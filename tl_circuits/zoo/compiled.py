"""Hand-built two-layer models and transcoders whose circuits are known on paper: the ground truth that tests go by.

Nothing here is trained. There are no norms, attention looks at exactly one position, and transcoders reproduce the MLPs
without error. Every edge of the attribution graph is then a product of the few numbers written below, and every edge
that is not written down is zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from tl_circuits.nodes import Kind, NodeId
from tl_circuits.transcoder import CrossLayerTranscoder, ReLU

N_LAYERS = 2
# Large enough that softmax gives every other position exactly zero, in single precision too.
SHARP = 40.0

Number = int | float
Vector = Mapping[str, Number]


@dataclass(frozen=True)
class PlantedEdge:
    """One edge of a circuit: the direct effect of the source on the target."""

    source: NodeId
    target: NodeId
    weight: float


@dataclass(frozen=True, eq=False)
class PlantedPrompt:
    """A prompt, what the model answers at its last token, and every edge between tokens, features and that logit."""

    tokens: Int64[Tensor, "1 pos"]
    answer: int
    edges: tuple[PlantedEdge, ...]


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model, a transcoder that reproduces its MLPs exactly, and prompts whose graphs are known."""

    model: TransformerBridge
    transcoder: CrossLayerTranscoder
    prompts: tuple[PlantedPrompt, ...]


# The vocabulary of every compiled model. BOS, the words and the question mark say nothing unless a plan embeds them.
BOS, A, B, ASK, YES, NO = range(6)
VOCABULARY = ("<bos>", "a", "b", "?", "yes", "no")


def chain_across_positions() -> Compiled:
    """Word → feature at the word → (attention) → feature at the question → answer. "a" is answered yes, "b" no.

    The word's own layer-0 feature writes what a layer-1 head carries to the question mark for a layer-1 feature.
    """
    neurons = (
        (_Unit({"a": 2}, {"from a": 3}), _Unit({"b": 1}, {"from b": 4})),
        (_Unit({"at ask: a": 1}, {"answer": 1.5}, bias=-1), _Unit({"at ask: b": 2}, {"answer": -1}, bias=-1)),
    )
    plan = _Plan(
        embeds={A: {"a": 1}, B: {"b": 1}},
        heads=((), (_Head(2, 1, {"from a": ("at ask: a", 0.5), "from b": ("at ask: b", 0.5)}),)),
        neurons=neurons,
        features=_as_features(neurons),
        unembeds={YES: {"answer": 2}, NO: {"answer": -2}},
    )
    word_a = (
        _edge(_token(1, A), _feature(0, 1, 0), 2),
        _edge(_feature(0, 1, 0), _feature(1, 2, 0), 2 * 3 * 0.5),
        _edge(_feature(1, 2, 0), _logit(2, YES), (3 - 1) * 1.5 * 2),
    )
    word_b = (
        _edge(_token(1, B), _feature(0, 1, 1), 1),
        _edge(_feature(0, 1, 1), _feature(1, 2, 1), 1 * 4 * 0.5 * 2),
        _edge(_feature(1, 2, 1), _logit(2, NO), (4 - 1) * -1 * -2),
    )
    return plan.compile(_prompt([BOS, A, ASK], YES, word_a), _prompt([BOS, B, ASK], NO, word_b))


def chain_at_one_token() -> Compiled:
    """Word → (attention) → feature → feature → answer, both features at the question mark.

    The chain that a sparsity penalty on whole features likes to collapse: one layer-0 feature could write both steps.
    """
    neurons = (
        (_Unit({"at ask: a": 2}, {"state a": 3}), _Unit({"at ask: b": 1}, {"state b": 4})),
        (_Unit({"state a": 0.5}, {"answer": 1.5}, bias=-1), _Unit({"state b": 1}, {"answer": -1}, bias=-1)),
    )
    plan = _Plan(
        embeds={A: {"a": 1}, B: {"b": 1}},
        heads=((_Head(2, 1, {"a": ("at ask: a", 1), "b": ("at ask: b", 1)}),), ()),
        neurons=neurons,
        features=_as_features(neurons),
        unembeds={YES: {"answer": 2}, NO: {"answer": -2}},
    )
    word_a = (
        _edge(_token(1, A), _feature(0, 2, 0), 2),
        _edge(_feature(0, 2, 0), _feature(1, 2, 0), 2 * 3 * 0.5),
        _edge(_feature(1, 2, 0), _logit(2, YES), (3 - 1) * 1.5 * 2),
    )
    word_b = (
        _edge(_token(1, B), _feature(0, 2, 1), 1),
        _edge(_feature(0, 2, 1), _feature(1, 2, 1), 1 * 4 * 1),
        _edge(_feature(1, 2, 1), _logit(2, NO), (4 - 1) * -1 * -2),
    )
    return plan.compile(_prompt([BOS, A, ASK], YES, word_a), _prompt([BOS, B, ASK], NO, word_b))


def parallel_paths() -> Compiled:
    """One word, two layer-0 features, and five paths to the answer.

    Three lead through two layer-1 features, one of which inhibits; one is straight from layer 0; and one is a layer-0
    feature's decoder into layer 1, which stands for a neuron of its own there.
    """
    plan = _Plan(
        embeds={A: {"a": 1}},
        heads=((_Head(2, 1, {"a": ("at ask: a", 1)}),), ()),
        neurons=(
            (_Unit({"at ask: a": 2}, {"left": 1, "answer": 0.5}), _Unit({"at ask: a": 3}, {"right": 1}, bias=-2)),
            (
                _Unit({"left": 1.5}, {"answer": 1}),
                _Unit({"left": 1, "right": 2}, {"answer": -0.25}),
                _Unit({"at ask: a": 3}, {"answer": 2}, bias=-2),
            ),
        ),
        # The second layer-0 feature computes what the last neuron of layer 1 does: its decoder there takes its place.
        features=(
            (
                _Unit({"at ask: a": 2}, {"left": 1, "answer": 0.5}),
                _Unit({"at ask: a": 3}, {"right": 1}, bias=-2, writes_next={"answer": 2}),
            ),
            (_Unit({"left": 1.5}, {"answer": 1}), _Unit({"left": 1, "right": 2}, {"answer": -0.25})),
        ),
        unembeds={YES: {"answer": 1}, NO: {"answer": -1}},
    )
    edges = (
        _edge(_token(1, A), _feature(0, 2, 0), 2),
        _edge(_token(1, A), _feature(0, 2, 1), 3),
        _edge(_feature(0, 2, 0), _feature(1, 2, 0), 2 * 1 * 1.5),
        _edge(_feature(0, 2, 0), _feature(1, 2, 1), 2 * 1 * 1),
        _edge(_feature(0, 2, 1), _feature(1, 2, 1), (3 - 2) * 1 * 2),
        _edge(_feature(0, 2, 0), _logit(2, YES), 2 * 0.5),
        _edge(_feature(0, 2, 1), _logit(2, YES), (3 - 2) * 2),
        _edge(_feature(1, 2, 0), _logit(2, YES), 3 * 1),
        _edge(_feature(1, 2, 1), _logit(2, YES), (2 + 2) * -0.25),
    )
    return plan.compile(_prompt([BOS, A, ASK], YES, edges))


def conjunction() -> Compiled:
    """A Boolean AND: "a b ?" is answered yes. With either word missing, the gate is shut, and the answer is no.

    Two heads bring the words to the question mark; the gate max(a + b − 1, 0) is one layer-0 feature, which a layer-1
    feature turns into "yes". What says "no" is the question mark's own embedding.
    """
    neurons = (
        (_Unit({"a here": 1, "b here": 1}, {"both": 4}, bias=-1),),
        (_Unit({"both": 1}, {"answer": 3}),),
    )
    plan = _Plan(
        embeds={A: {"a": 1}, B: {"b": 1}, ASK: {"answer": -5}},
        heads=((_Head(3, 1, {"a": ("a here", 1)}), _Head(3, 2, {"b": ("b here", 1)})), ()),
        neurons=neurons,
        features=_as_features(neurons),
        unembeds={YES: {"answer": 1}, NO: {"answer": -1}},
    )
    gate, reader = _feature(0, 3, 0), _feature(1, 3, 0)
    opened = (
        _edge(_token(1, A), gate, 1),
        _edge(_token(2, B), gate, 1),
        _edge(gate, reader, (1 + 1 - 1) * 4 * 1),
        _edge(reader, _logit(3, YES), 4 * 3 * 1),
        _edge(_token(3, ASK), _logit(3, YES), -5),
    )
    shut = (_edge(_token(3, ASK), _logit(3, NO), 5),)
    return plan.compile(
        _prompt([BOS, A, B, ASK], YES, opened),
        _prompt([BOS, A, A, ASK], NO, shut),
        _prompt([BOS, B, B, ASK], NO, shut),
    )


CIRCUITS = (chain_across_positions, chain_at_one_token, parallel_paths, conjunction)


@dataclass(frozen=True)
class _Unit:
    """A neuron or a feature: max(⟨reads, x⟩ + bias, 0), and what each unit of that writes, here and a layer on."""

    reads: Vector
    writes: Vector
    bias: Number = 0
    writes_next: Vector | None = None


@dataclass(frozen=True)
class _Head:
    """Attention from one position to another, carrying directions over; elsewhere it looks at BOS, which is empty."""

    query: int
    key: int
    carries: Mapping[str, tuple[str, Number]]


@dataclass(frozen=True)
class _Plan:
    """A model and a transcoder in terms of named directions of the residual stream, which are orthonormal."""

    embeds: Mapping[int, Vector]
    heads: tuple[Sequence[_Head], Sequence[_Head]]
    neurons: tuple[Sequence[_Unit], Sequence[_Unit]]
    features: tuple[Sequence[_Unit], Sequence[_Unit]]
    unembeds: Mapping[int, Vector]

    def compile(self, *prompts: PlantedPrompt) -> Compiled:
        """The circuit with weights in place."""
        n_ctx = max(prompt.tokens.shape[1] for prompt in prompts)
        axes = self._axes(n_ctx)
        model = self._model(axes, n_ctx)
        return Compiled(model, self._transcoder(axes), prompts)

    def _axes(self, n_ctx: int) -> dict[str, int]:
        vectors = [*self.embeds.values(), *self.unembeds.values()]
        for layer in range(N_LAYERS):
            vectors += [unit.reads for unit in self.neurons[layer]] + [unit.writes for unit in self.neurons[layer]]
        names = [f"position {pos}" for pos in range(n_ctx)] + [name for vector in vectors for name in vector]
        # The model wants its width to be a multiple of its number of heads.
        named = list(dict.fromkeys(names))
        return {
            name: axis for axis, name in enumerate(named + [f"unused {i}" for i in range(-len(named) % self._n_heads)])
        }

    @property
    def _n_heads(self) -> int:
        return max(1, *(len(heads) for heads in self.heads))

    def _model(self, axes: dict[str, int], n_ctx: int) -> TransformerBridge:
        d_head = 2 + max(len(head.carries) for heads in self.heads for head in heads)
        width = max(len(units) for units in self.neurons)
        config: dict[str, Any] = {
            "n_layers": N_LAYERS,
            "n_ctx": n_ctx,
            "n_heads": self._n_heads,
            "d_head": d_head,
            "d_mlp": width,
        }
        config |= {
            "d_model": len(axes),
            "d_vocab": len(VOCABULARY),
            "act_fn": "relu",
            "normalization_type": None,
            "seed": 0,
        }
        model = TransformerBridge.boot_native(
            TransformerBridgeConfig(**config), device="cpu", model_name="compiled"
        ).eval()
        weights = {name.replace("._original_component", ""): parameter for name, parameter in model.named_parameters()}
        with torch.no_grad():
            for parameter in weights.values():
                parameter.zero_()
            for pos in range(n_ctx):
                weights["pos.weight"][pos, axes[f"position {pos}"]] = 1
            for token, vector in self.embeds.items():
                _write(weights["tok_embed.weight"][token], vector, axes)
            for token, vector in self.unembeds.items():
                _write(weights["head.weight"][token], vector, axes)
            for layer in range(N_LAYERS):
                self._fill_layer(layer, weights, axes, n_ctx, d_head)
        return model

    def _fill_layer(
        self, layer: int, weights: Mapping[str, Tensor], axes: dict[str, int], n_ctx: int, d_head: int
    ) -> None:
        q, k, v, o = (weights[f"layers.{layer}.attn.{name}.weight"] for name in "qkvo")
        for number, head in enumerate(self.heads[layer]):
            at = number * d_head
            for pos in range(n_ctx):
                q[at + (pos == head.query), axes[f"position {pos}"]] = SHARP
            k[at, axes["position 0"]] = SHARP
            k[at + 1, axes[f"position {head.key}"]] = SHARP
            for slot, (source, (target, gain)) in enumerate(head.carries.items(), start=at + 2):
                v[slot, axes[source]] = 1
                o[axes[target], slot] = gain
        W_in, b_in, W_out = (
            weights[f"layers.{layer}.mlp.{name}"] for name in ("fc_in.weight", "fc_in.bias", "fc_out.weight")
        )
        for number, unit in enumerate(self.neurons[layer]):
            _write(W_in[number], unit.reads, axes)
            b_in[number] = unit.bias
            _write(W_out[:, number], unit.writes, axes)

    def _transcoder(self, axes: dict[str, int]) -> CrossLayerTranscoder:
        d_model = len(axes)
        W_enc = [torch.zeros(len(units), d_model) for units in self.features]
        b_enc = [torch.tensor([float(unit.bias) for unit in units]) for units in self.features]
        W_dec = [torch.zeros(len(units), N_LAYERS - layer, d_model) for layer, units in enumerate(self.features)]
        for layer, units in enumerate(self.features):
            for number, unit in enumerate(units):
                _write(W_enc[layer][number], unit.reads, axes)
                _write(W_dec[layer][number, 0], unit.writes, axes)
                if unit.writes_next is not None:
                    _write(W_dec[layer][number, 1], unit.writes_next, axes)
        return CrossLayerTranscoder(
            W_enc, b_enc, W_dec, torch.zeros(N_LAYERS, d_model), activation=ReLU(), model_name="compiled"
        )


def _write(row: Tensor, vector: Vector, axes: Mapping[str, int]) -> None:
    for name, value in vector.items():
        row[axes[name]] = value


def _as_features(neurons: tuple[Sequence[_Unit], Sequence[_Unit]]) -> tuple[Sequence[_Unit], Sequence[_Unit]]:
    """One feature per neuron: the transcoder that says about the MLPs exactly what they are."""
    return neurons


def _prompt(tokens: Sequence[int], answer: int, edges: tuple[PlantedEdge, ...]) -> PlantedPrompt:
    return PlantedPrompt(torch.tensor([tokens]), answer, edges)


def _edge(source: NodeId, target: NodeId, weight: Number) -> PlantedEdge:
    return PlantedEdge(source, target, float(weight))


def _token(pos: int, token: int) -> NodeId:
    return NodeId(Kind.TOKEN, -1, pos, token)


def _feature(layer: int, pos: int, index: int) -> NodeId:
    return NodeId(Kind.FEATURE, layer, pos, index)


def _logit(pos: int, token: int) -> NodeId:
    return NodeId(Kind.TARGET, N_LAYERS, pos, token)
