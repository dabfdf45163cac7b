"""How a prompt is cut into prefixes, and what their passes share."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import models
from tl_circuits import localize
from tl_circuits.replacement import prefixes
from tl_circuits.replacement.layouts import LaidOutOnce
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
