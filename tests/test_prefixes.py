"""How a prompt is cut into prefixes, and what their passes share."""

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import models
from tl_circuits import localize, trace
from tl_circuits.replacement import prefixes
from tl_circuits.replacement.layouts import LaidOutOnce
from tl_circuits.replacement.localize import replay
from tl_circuits.replacement.pieces import cut
from tl_circuits.replacement.prefixes import cheapest_lengths
from tl_circuits.replacement.sweep import Sweep

WIDE = 10**6


def cost(work: list[float], lengths: tuple[int, ...], d_model: int) -> float:
    ends = [*lengths, len(work)]
    walked = sum(rows * min(end for end in ends if end > pos) for pos, rows in enumerate(work))
    return walked + sum(prefixes.PASS / d_model**2 + prefixes.PASS_POSITION * length for length in lengths)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=7))
def test_the_lengths_cost_least_of_all(work: list[float]) -> None:
    found = tuple(cheapest_lengths(torch.tensor(work, dtype=torch.float64), 4000, WIDE))
    every = [lengths for size in range(len(work)) for lengths in combinations(range(1, len(work)), size)]
    assert cost(work, found, 4000) == pytest.approx(min(cost(work, lengths, 4000) for lengths in every))


@pytest.mark.slow
def test_no_more_passes_than_leave_room() -> None:
    work = torch.full((2000,), 1000.0, dtype=torch.float64)
    assert len(cheapest_lengths(work, 4096, WIDE)) <= prefixes.MOST
    assert sum(cheapest_lengths(work, 4096, 3000)) <= 3000
    assert cheapest_lengths(work, 4096, 0) == []


def test_a_shorter_pass_shares_its_patterns_with_the_longer_one() -> None:
    local = localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(9), masked_positions=(0,))
    shorter = cut(local.model, local.sites, local.transcoder, local.prompt.tokens[:5], longer=local.pieces)
    tap = local.sites.patterns[0]
    one, other = (pieces.frozen[tap][0].untyped_storage() for pieces in (shorter, local.pieces))
    assert one.data_ptr() == other.data_ptr()


@pytest.mark.parametrize("model_class", ["hooked", "bridge"])
def test_weights_are_laid_out_once_and_the_model_says_the_same(model_class: str) -> None:
    model, tokens = models.model_of("gpt2", model_class), torch.arange(9)[None]
    said = model(tokens)
    with LaidOutOnce() as once:
        assert torch.equal(model(tokens), said)
        made = dict(once._made)
        assert torch.equal(model(tokens), said)
    assert once._made == made
    assert len(made) >= (4 * model.cfg.n_layers if model_class == "hooked" else 0)


def test_only_prefixes_that_a_target_asks_for_are_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_circuits.replacement.prefixes.cheapest_lengths", lambda *_: [2, 5, 9])
    local = localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(12), masked_positions=(0,))
    sweep, pos = Sweep.of(local), local.features[:, 1]
    early, late = ((pos == at).nonzero()[:1, 0] for at in (3, 11))
    assert torch.equal(
        sweep.prefix_lengths(torch.tensor([0, 1, 2, 4, 5, 8, 9, 11])), torch.tensor([2, 2, 5, 5, 9, 9, 12, 12])
    )
    sweep.rows(sweep.feature_readouts(torch.cat([early, late])))
    assert set(sweep.prefixes._cut) == {5, 12}


def test_rows_count_by_the_layers_that_they_walk_through() -> None:
    local = localize(models.hooked("gpt2"), models.transcoder(), torch.arange(9), masked_positions=(0,))
    walked = [
        sum(layer + 1 for layer, pos, _ in local.features.tolist() if pos == here) / models.N_LAYERS
        for here in range(9)
    ]
    for n_rows in (1, 500):
        expected = torch.tensor(walked, dtype=torch.float64) * n_rows / len(local.features)
        torch.testing.assert_close(prefixes._work(local, n_rows), expected)


def test_mlps_rest_while_a_prefix_is_passed_through_and_while_edges_are_probed() -> None:
    model, seen = models.hooked("gpt2"), []
    local = localize(model, models.transcoder(), torch.arange(9), masked_positions=(0,))

    def see(_module: Any, _given: Any, out: Tensor) -> None:
        seen.append(out.shape[1])

    points: list[Any] = [model.hook_dict[f"blocks.{layer}.mlp.hook_pre"] for layer in range(model.cfg.n_layers)]
    listening = [point.register_forward_hook(see) for point in points]
    try:
        cut(model, local.sites, local.transcoder, local.prompt.tokens[:5], longer=local.pieces)
        replay(local, torch.zeros_like(local.errors), torch.zeros_like(local.token_vectors))
    finally:
        for handle in listening:
            handle.remove()
    assert seen == [0] * 2 * models.N_LAYERS


def mixing(value: Tensor, **_: Any) -> Tensor:
    """A hook of a user's that lets earlier positions read later ones."""
    return value + 0.1 * value.mean(1, keepdim=True)


@pytest.mark.slow
def test_where_a_prefix_does_not_stand_alone_the_whole_prompt_is_walked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefixes, "cheapest_lengths", lambda *_: [2, 5])
    tokens, both_ways = torch.arange(9), models.hooked("gpt2", attention_dir="bidirectional")
    plain = models.hooked("gpt2")
    with plain.hooks(fwd_hooks=[("blocks.1.hook_attn_out", mixing)]):
        graphs = [trace(model, models.transcoder(), tokens) for model in (plain, both_ways)]
    for graph in graphs:
        assert graph.conservation_error < 1e-9
        assert graph.probe_error < 1e-9
        nodes, source = graph.nodes, graph.edges.source.long()
        assert bool((nodes.pos[source] > nodes.pos[graph.edges.target]).any())
