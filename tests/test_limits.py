"""Where an attribution stops, what it is reckoned to take, and what it refuses to begin."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import models
from tl_circuits.attribution import attribute, plan
from tl_circuits.attribution.expansion import SMALLEST_ROUND, Expansion
from tl_circuits.attribution.limits import Limits
from tl_circuits.attribution.made_by import fingerprint
from tl_circuits.attribution.planner import SWEEPS, reckoned
from tl_circuits.errors import SettingError, TLCircuitsWarning
from tl_circuits.replacement import LocalReplacementModel, localize
from tl_circuits.replacement.sweep import Sweep

ALL = {"everything", "nothing left that has influence"}


def local(family: str = "gpt2") -> LocalReplacementModel:
    return localize(models.model_of(family, "hooked"), models.transcoder(), torch.arange(12), masked_positions=(0,))


@pytest.mark.slow
@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_plan_counts_at_least_the_edges_that_come(family: str) -> None:
    here = local(family)
    planned = reckoned(here, Sweep.of(here), 10**9)
    graph = attribute(here)
    rows = graph.edges.indptr.diff()[: planned.n_features]
    assert planned.n_features == len(here.features)
    # The bound is what causality allows, so it is near. Where a block runs attention and MLP in parallel, features of
    # neighbouring layers meet at their own position only.
    assert (0.4 if family == "pythia" else 0.8) * planned.edges < int(rows.sum()) <= planned.edges


@pytest.mark.slow
def test_each_stop_is_said_in_the_graph() -> None:
    here = local()
    assert attribute(here).provenance.settings["stopped_by"] == "everything"
    assert attribute(here).provenance.settings["transcoder_weights"] == fingerprint(here.transcoder)
    assert attribute(here, coverage=0.5).provenance.settings["stopped_by"] == "coverage"
    few = attribute(here, max_features=3)
    assert few.provenance.settings["stopped_by"] == "max_features"
    assert int(few.expanded.sum()) == 3 + len(few.target_labels)
    assert "traced to its end; max_features stopped it" in repr(few)
    assert "stopped it" not in repr(attribute(here, coverage=0.5))
    assert attribute(here, time_budget=1e-9).provenance.settings["stopped_by"] == "time_budget"
    assert attribute(here, time_budget=3600).provenance.settings["stopped_by"] in (
        "everything",
        "nothing left that has influence",
    )


@pytest.mark.slow
def test_a_time_budget_leaves_a_graph_that_is_whole_as_far_as_it_goes() -> None:
    here = local()
    graph = attribute(here, time_budget=1e-9)
    assert 0 <= graph.coverage < 1
    assert int(graph.expanded.sum()) == len(graph.target_labels)
    assert graph.conservation_error < 1e-9


@pytest.mark.slow
def test_memory_that_runs_out_on_the_way_stops_a_partial_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_circuits.attribution.expansion.LARGEST_ROUND", 8)
    here = local()
    whole = attribute(here)
    # Twice what the targets' rows take, and not enough for all.
    budget = len(whole.edges) * 12
    graph = attribute(here, coverage=1 - 1e-12, memory_budget=budget)
    assert graph.provenance.settings["stopped_by"] == "memory_budget"
    assert len(graph.edges) < len(whole.edges)


@pytest.mark.slow
def test_a_full_graph_that_does_not_fit_is_refused_with_the_numbers() -> None:
    here, refused = local(), 0
    for budget in (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7):
        planned = reckoned(here, Sweep.of(here, memory_budget=budget // SWEEPS), budget)
        if planned.bytes <= budget:
            assert attribute(here, memory_budget=budget).coverage == 1
            continue
        refused += 1
        says = rf"{planned.n_features:,} features has up to {planned.edges:,} edges.* (MB|bytes).*coverage=0.95"
        with pytest.raises(SettingError, match=says):
            attribute(here, memory_budget=budget)
    assert 0 < refused < 5


@pytest.mark.slow
def test_a_plan_says_what_the_full_graph_takes_and_whether_it_fits() -> None:
    here = local()
    planned = plan(here, memory_budget=10**7)
    assert (planned.n_features, planned.fits) == (len(here.features), True)
    assert planned.seconds > 0
    assert "and may take 10.0 MB. coverage=0.95 takes" in str(planned)
    # Rows, three times over, are 36 bytes for each edge.
    narrow = plan(here, memory_budget=planned.edges * 30)
    assert not narrow.fits
    assert f"at most {narrow.max_features:,} features fit" in str(narrow)
    assert 1 <= narrow.max_features < planned.max_features == planned.n_features
    with pytest.raises(SettingError, match=f"max_features={narrow.max_features} or fewer"):
        attribute(here, memory_budget=narrow.memory_budget)


@pytest.mark.slow
def test_a_budget_that_holds_no_target_is_refused_with_the_least_that_does() -> None:
    with pytest.raises(SettingError, match=r"memory_budget=1000 is too little .* needs \d+ bytes at least") as caught:
        attribute(local(), coverage=0.5, memory_budget=1000)
    least = int(str(caught.value).split(" bytes at least")[0].rsplit(" ", 1)[1])
    assert attribute(local(), max_features=1, memory_budget=least).coverage < 1
    with pytest.raises(SettingError, match=f"needs {least} bytes"):
        attribute(local(), max_features=1, memory_budget=least - 1)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("time_budget", 0, "time_budget=0 is no time: give seconds"),
        ("time_budget", -1.0, "time_budget=-1.0 is no time"),
        ("time_budget", float("nan"), "time_budget=nan is no time"),
        (
            "time_budget",
            float("inf"),
            "time_budget=inf is no time: give seconds, a number above 0, or None",
        ),
        ("time_budget", 10**400, "time_budget=10+ is no time"),
        ("memory_budget", 0, "memory_budget=0 is no memory: give a whole number of bytes"),
        ("memory_budget", -5, "memory_budget=-5 is no memory"),
    ],
)
def test_a_budget_that_is_none_is_refused(setting: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        attribute(local(), **{setting: value})


@pytest.mark.slow
def test_more_features_than_there_are_are_no_limit() -> None:
    graph = attribute(local(), max_features=10**30)
    assert graph.coverage == 1
    assert graph.provenance.settings["stopped_by"] in ALL


@pytest.mark.parametrize("seed", range(5))
def test_a_graph_that_explains_nothing_yet_has_a_coverage_of_zero(seed: int) -> None:
    # Shares that sum to one only up to rounding: all of them stand before features that were not expanded.
    shares = torch.rand(7 + seed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares *= (1 + 1e-15 * seed) / shares.sum()
    here = local()
    sweep = Sweep.of(here)
    expansion = Expansion.start(sweep, torch.zeros(1, len(sweep.sources), dtype=torch.float64), torch.ones(1))
    expansion._known_influence = torch.zeros(len(expansion.nodes), dtype=torch.float64)
    expansion._known_influence[: len(shares)] = shares
    assert 0 <= expansion.coverage() < 1e-14


@pytest.mark.slow
def test_prefixes_are_cut_for_no_more_rows_than_there_are_features(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, of = [], Sweep.of

    def counted(local: LocalReplacementModel, *, n_rows: int, memory_budget: int) -> Sweep:
        seen.append(n_rows)
        return of(local, n_rows=n_rows, memory_budget=memory_budget)

    monkeypatch.setattr(Sweep, "of", counted)
    here = local()
    for at_most in (None, 5, 10**6):
        attribute(here, time_budget=1e-9, max_features=at_most)
    assert seen == [len(here.features), 5, len(here.features)]


@pytest.mark.slow
def test_a_graph_that_takes_long_is_announced_with_what_less_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in ("LONG", "CLEAR"):
        monkeypatch.setattr(f"tl_circuits.attribution.planner.{seconds}", 0.0)
    with pytest.warns(TLCircuitsWarning, match=r"The full graph of \d+ features will take about .*coverage=0.95"):
        attribute(local())


def test_a_round_is_no_larger_than_the_time_that_is_left_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Expansion.__new__(Expansion)
    monkeypatch.setattr(Expansion, "n_rows", 10)
    monkeypatch.setattr(Expansion, "n_features", 10**6)
    since = time.monotonic() - 10.0
    for budget, rows in ((110.0, 100), (10.5, SMALLEST_ROUND), (5.0, SMALLEST_ROUND)):
        limits = replace(Limits.of(1.0, None, budget, None), since=since)
        assert limits.affordable(known) == pytest.approx(rows, abs=5)
    assert Limits.of(1.0, None, None, None).affordable(known) == 10**6
