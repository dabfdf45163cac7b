"""Compiled models whose variables and edges are known: chains of two lookups, parallel paths, Boolean gates.

Words stand at positions of their own; heads bring them to the question mark at the end. There each neuron of layer 0 is
a conjunction of words and writes a variable, and each of layer 1 a conjunction of such variables and words, and writes
an answer, which is read off. All values are 0 or 1, and there are no norms.
"""

import itertools
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from tl_circuits.comparison import Task

SHARP = 40.0
"""So large that softmax leaves every other position nothing."""
N_LAYERS = 2


@dataclass(frozen=True)
class Neuron:
    """On where all that it reads is there: max(Σ reads − n + 1, 0). Writes these directions."""

    reads: tuple[str, ...]
    writes: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Planted:
    """The model, all its prompts with their answers, and what each layer's MLP writes at the question mark.

    - `variables[layer]` (prompt, variable): which of `names[layer]` the MLP writes on each prompt.
    - `edges` (variable, variable): whether a neuron of layer 1 that writes the second reads the first.
    - `opposed[prompt]`: prompts that differ from this one where the answer is decided, and have another answer.
    """

    name: str
    model: HookedTransformer
    tokens: Int64[Tensor, "prompt pos"]
    answers: Int64[Tensor, " prompt"]
    names: tuple[tuple[str, ...], ...]
    variables: tuple[Bool[Tensor, "prompt _"], ...]
    edges: Bool[Tensor, "early late"]
    opposed: Callable[[int, random.Random], int]

    def task(self, n_prompts: int, seed: int) -> Task:
        """Prompts with counterfactuals."""
        draw = random.Random(seed)
        rows = [draw.randrange(len(self.tokens)) for _ in range(n_prompts)]
        others = [self.opposed(row, draw) for row in rows]
        return Task(self.name, self.tokens[rows], self.tokens[others], self.answers[rows], self.answers[others])


def chain(relations: int = 4, names: int = 6, states: int = 6, seed: int = 0) -> Planted:
    """relation, first name, second name → state → answer. With one relation, the state alone gives the answer."""
    draw, pairs = random.Random(seed), list(itertools.product(range(names), range(names)))
    state_of = {pair: number % states for number, pair in enumerate(draw.sample(pairs, len(pairs)))}
    words = [[f"r{r}" for r in range(relations)], *([f"{side}{i}" for i in range(names)] for side in "fs")]
    first = [Neuron((f"f{i}", f"s{j}"), {f"state {state}": 1.0}) for (i, j), state in state_of.items()]
    second = [
        Neuron((f"state {s}", *([f"r{r}"] if relations > 1 else [])), {f"answer {s} {r}": 1.0})
        for s in range(states)
        for r in range(relations)
    ]
    return _compiled("two-hop chain" if relations > 1 else "pure chain", words, (first, second), change=(1, 2))


def parallel(states: int = 6, answers: int = 3, seed: int = 0) -> Planted:
    """Two words, of one answer each time: two paths through both layers, and a third straight from layer 0."""
    draw = random.Random(seed)
    words = [[f"{side}{i}" for i in range(2 * states)] for side in "fs"]
    lookup = {side: dict(enumerate(draw.sample(2 * list(range(states)), 2 * states))) for side in "fs"}
    first = [
        Neuron((f"f{i}",), {f"left {state}": 1.0, f"answer {state % answers}": 0.5}) for i, state in lookup["f"].items()
    ] + [Neuron((f"s{i}",), {f"right {state}": 1.0}) for i, state in lookup["s"].items()]
    second = [
        Neuron((f"{side} {s}",), {f"answer {s % answers}": 1.0}) for side in ("left", "right") for s in range(states)
    ]
    return _compiled("parallel paths", words, (first, second), change=(0, 1))


def gates() -> Planted:
    """Two pairs of bits: whether both pairs differ, (a XOR b) AND (c XOR d), from words for each bit."""
    words = [[f"{bit}0", f"{bit}1"] for bit in "abcd"]
    first = [
        Neuron((f"{one}{i}", f"{other}{j}"), {f"{one}{other} {'differ' if i != j else 'agree'}": 1.0})
        for one, other in ("ab", "cd")
        for i in range(2)
        for j in range(2)
    ]
    second = [
        Neuron((f"ab {x}", f"cd {y}"), {"answer yes" if x == y == "differ" else "answer no": 1.0})
        for x in ("differ", "agree")
        for y in ("differ", "agree")
    ]
    return _compiled("Boolean gates", words, (first, second), change=(0, 1, 2, 3))


PLANTED: Mapping[str, Callable[[], Planted]] = {
    "pure chain": lambda: chain(relations=1),
    "two-hop chain": chain,
    "parallel paths": parallel,
    "Boolean gates": gates,
}


def _compiled(
    name: str, words: Sequence[Sequence[str]], neurons: tuple[Sequence[Neuron], Sequence[Neuron]], change: Sequence[int]
) -> Planted:
    """The model of these neurons; a counterfactual has other words at the positions in `change`."""
    ask = 1 + sum(map(len, words))
    answers = sorted({to for layer in neurons for neuron in layer for to in neuron.writes if to.startswith("answer")})
    number = {word: row for row, word in enumerate(itertools.chain(*words), start=1)}
    said = [row for row in itertools.product(*words) if len(_answers(row, neurons)) == 1]
    directions = list(dict.fromkeys([*number, *(to for layer in neurons for unit in layer for to in unit.writes)])) + [
        f"position {pos}" for pos in range(len(words) + 2)
    ]
    model = _weights(words, neurons, number, {name: axis for axis, name in enumerate(directions)}, answers)
    tokens = torch.tensor([[0, *(number[word] for word in row), ask] for row in said])
    right = [_answers(row, neurons)[0] for row in said]
    named = tuple(tuple(sorted({to for unit in layer for to in unit.writes})) for layer in neurons)
    written = [_written(row, neurons) for row in said]
    variables = tuple(
        torch.tensor([[variable in on[layer] for variable in named[layer]] for on in written])
        for layer in range(N_LAYERS)
    )
    edges = torch.tensor(
        [[any(a in unit.reads and b in unit.writes for unit in neurons[1]) for b in named[1]] for a in named[0]]
    )

    def opposed(row: int, draw: random.Random) -> int:
        others = [
            other
            for other, words_of in enumerate(said)
            if right[other] != right[row]
            and all(a == b for at, (a, b) in enumerate(zip(words_of, said[row], strict=True)) if at not in change)
        ]
        return draw.choice(others)

    ids = torch.tensor([ask + 1 + answers.index(answer) for answer in right])
    return Planted(name, model, tokens, ids, named, variables, edges, opposed)


def _written(words: Sequence[str], neurons: Sequence[Sequence[Neuron]]) -> list[set[str]]:
    there, found = set(words), []
    for layer in neurons:
        found.append({to for unit in layer if set(unit.reads) <= there for to in unit.writes})
        there |= found[-1]
    return found


def _answers(words: Sequence[str], neurons: Sequence[Sequence[Neuron]]) -> list[str]:
    return sorted({name for on in _written(words, neurons) for name in on if name.startswith("answer")})


def _weights(
    words: Sequence[Sequence[str]],
    neurons: Sequence[Sequence[Neuron]],
    number: Mapping[str, int],
    axis: Mapping[str, int],
    answers: Sequence[str],
) -> HookedTransformer:
    n_pos = len(words) + 2
    # Words are brought along directions of their own: what stands at the question mark says nothing itself.
    settings: dict[str, Any] = {
        "n_layers": N_LAYERS, "d_model": len(axis) + len(number), "n_heads": len(words),
        "d_head": max(2, *map(len, words)), "d_mlp": max(map(len, neurons)), "n_ctx": n_pos,
        "d_vocab": len(number) + 2 + len(answers), "act_fn": "relu", "normalization_type": None,
        "attention_dir": "causal", "seed": 0, "device": "cpu",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**settings)).eval()
    blocks: Any = model.blocks
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for token in number.values():
            model.W_E[token, len(axis) + token - 1] = 1
        for pos in range(n_pos):
            model.W_pos[pos, axis[f"position {pos}"]] = 1
        for head, here in enumerate(words):
            attention = blocks[0].attn
            attention.W_Q[head, axis[f"position {n_pos - 1}"], 0] = SHARP
            attention.W_K[head, axis[f"position {head + 1}"], 0] = SHARP
            for slot, word in enumerate(here):
                attention.W_V[head, len(axis) + number[word] - 1, slot] = 1
                attention.W_O[head, slot, axis[word]] = 1
        for layer, units in enumerate(neurons):
            for row, unit in enumerate(units):
                for read in unit.reads:
                    blocks[layer].mlp.W_in[axis[read], row] = 1
                blocks[layer].mlp.b_in[row] = 1 - len(unit.reads)
                for to, size in unit.writes.items():
                    blocks[layer].mlp.W_out[row, axis[to]] = size
        for place, answer in enumerate(answers):
            model.W_U[axis[answer], len(number) + 2 + place] = 1
    return model.requires_grad_(False)
