"""Edges between heads and MLPs: scores against brute force, and what their circuits hold by law."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import models
from tests.test_comparison import CLEAN, CORRUPTED, task
from tests.test_refusals import refusal
from tl_circuits.comparison import Task, edge_curve, edge_scores
from tl_circuits.comparison.edges import EdgeScores
from tl_circuits.errors import FitError, SettingError
from tl_circuits.hooks import has_user_hooks

both = pytest.mark.parametrize("model_class", models.CLASSES)


class ByHand:
    """A GPT-2 written out part by part, in which every target reads a residual stream of its own."""

    def __init__(self, model: Any) -> None:
        self.model, self.n_layers, self.n_heads = model, models.N_LAYERS, model.cfg.n_heads

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.W_E[tokens] + self.model.W_pos[: tokens.shape[1]]

    def run(self, start: Tensor, away: dict[tuple[str, str], Tensor] | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """What each source writes, and the last logits; `away[target, source]` is added to what the target reads."""
        written, away = {"embed": start}, away or {}
        constants = torch.zeros_like(start)

        def read(target: str) -> Tensor:
            changes = [change for (to, _), change in away.items() if to == target]
            return torch.stack([*written.values(), constants, *changes]).sum(0)

        for layer in range(self.n_layers):
            block = self.model.blocks[layer]
            heads = {f"L{layer}H{h}": self.head(block, h, read(f"L{layer}H{h}")) for h in range(self.n_heads)}
            written |= heads
            constants = constants + block.attn.b_O
            mlp = block.mlp(self.normed(block.ln2, read(f"MLP{layer}")))
            written[f"MLP{layer}"] = mlp
        final = self.normed(self.model.ln_final, read("logits"))
        return written, (final @ self.model.W_U + self.model.b_U)[:, -1]

    def normed(self, norm: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.w + norm.b

    def head(self, block: Any, number: int, x: Tensor) -> Tensor:
        normed, attention = self.normed(block.ln1, x), block.attn
        parts = [(getattr(attention, f"W_{part}"), getattr(attention, f"b_{part}")) for part in "QKV"]
        q, k, v = (normed @ weight[number] + bias[number] for weight, bias in parts)
        scores = q @ k.transpose(1, 2) / self.model.cfg.d_head**0.5
        mask = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return scores.masked_fill(mask, -torch.inf).softmax(-1) @ v @ attention.W_O[number]


def test_the_model_written_out_is_the_model() -> None:
    model = models.model_of("gpt2", "hooked")
    by_hand = ByHand(model)
    torch.testing.assert_close(by_hand.run(by_hand.embed(CLEAN))[1], model(CLEAN)[:, -1], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("scorer", "steps"), [("eap", 1), ("eap-ig", 4)])
def test_edges_are_scored_as_by_brute_force(scorer: Any, steps: int) -> None:
    model = models.model_of("gpt2", "hooked")
    asked, by_hand = task(model), ByHand(model)
    found = edge_scores(model, asked, scorer, steps=steps)
    ends = [by_hand.embed(tokens).detach() for tokens in (CORRUPTED, CLEAN)]
    (there, _), (here, _) = (by_hand.run(end) for end in ends)
    shares = [1.0] if scorer == "eap" else [(step + 0.5) / steps for step in range(steps)]
    expected = torch.zeros_like(found.values)
    for share in shares:
        pairs = [(t, s) for t in found.targets for s in found.sources if found.exists[row(found, t, s)]]
        away = {pair: torch.zeros_like(ends[0], requires_grad=True) for pair in pairs}
        _, logits = by_hand.run(ends[0] + share * (ends[1] - ends[0]), away)
        gradients = torch.autograd.grad(asked.measure(logits.double()).sum(), list(away.values()))
        for (target, source), gradient in zip(away, gradients, strict=True):
            part = ((here[source] - there[source]) * gradient).sum((1, 2)) / len(shares)
            expected[:, *row(found, target, source)] += part.detach()
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)


def row(found: EdgeScores, target: str, source: str) -> tuple[int, int]:
    return found.targets.index(target), found.sources.index(source)


@pytest.mark.slow
@both
def test_all_edges_are_the_model_and_none_the_corrupted_run(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    asked = task(model)
    curve = edge_curve(model, asked, "eap")
    torch.testing.assert_close(curve.faithful[0], asked.measure(model(CORRUPTED)[:, -1].double()), atol=1e-9, rtol=0)
    torch.testing.assert_close(curve.faithful[-1], asked.measure(model(CLEAN)[:, -1].double()), atol=1e-9, rtol=0)
    torch.testing.assert_close(curve.complete[0], curve.faithful[-1])
    assert not has_user_hooks(model)


@pytest.mark.slow
def test_a_cut_edge_is_what_the_model_written_out_says() -> None:
    model = models.model_of("gpt2", "hooked")
    asked, by_hand = task(model), ByHand(model)
    found = edge_scores(model, asked, "eap")
    (there, _), (here, _) = (by_hand.run(by_hand.embed(tokens)) for tokens in (CORRUPTED, CLEAN))
    for pair in (("L1H0", "MLP0"), ("MLP2", "embed"), ("logits", "L0H1"), ("L2H1", "L0H0")):
        alone = torch.zeros_like(found.values)
        alone[:, *row(found, *pair)] = 1
        # Everything but the one edge: its source is on no other edge, so nothing upstream changes.
        without = edge_curve(model, asked, EdgeScores(found.sources, found.targets, alone, found.exists), sizes=[1])
        _, logits = by_hand.run(by_hand.embed(CLEAN), {pair: there[pair[1]] - here[pair[1]]})
        torch.testing.assert_close(without.complete[1], asked.measure(logits.double()).detach(), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_better_edges_come_first() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    found = edge_scores(model, asked, "eap-ig")
    turned = EdgeScores(found.sources, found.targets, 1 / (found.values.abs() + 1e-3), found.exists)
    best, worst = (edge_curve(model, asked, each) for each in (found, turned))
    assert best.cpr > worst.cpr + 0.1


def test_edges_between_parts_that_cannot_be_told_apart_are_refused() -> None:
    for family, says in (
        ("pythia", "side by side"),
        ("gemma-2", "norms after"),
        ("llama", "1 sets of keys and values"),
    ):
        model = models.model_of(family, "hooked")
        answers = torch.tensor([3, 4, 5])
        with refusal(FitError, says, "compare units, by tlc.circuit_curve"):
            edge_scores(model, Task("x", CLEAN, CORRUPTED, answers, answers + 1))


def test_settings_that_are_none_are_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    with refusal(SettingError, "steps=0 integrates nothing"):
        edge_scores(model, asked, steps=0)
    found = edge_scores(model, asked.part([0]), "eap")
    with refusal(SettingError, r"shape \(1, 10, 10\), but there are 3 prompts, 10 targets and 10 sources"):
        edge_curve(model, asked, found)
    blank = replace(edge_scores(model, asked, "eap"), values=torch.full((3, 10, 10), torch.nan, dtype=torch.float64))
    with refusal(SettingError, "Edge scores hold NaN or infinity"):
        edge_curve(model, asked, blank)
