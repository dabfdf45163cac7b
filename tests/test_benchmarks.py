"""Benchmarks: every script runs on a tiny case, and what they count, compare and search for is right.

No time is tested. Set TL_CIRCUITS_PEER to a Python that has circuit-tracer to run the comparisons with it too.
"""

import json
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_circuits as tlc
from benchmarks import pruning, report, scaling
from benchmarks.attribution_vs_circuit_tracer import compare, figures
from benchmarks.case import Case, gemma2, read_case, write
from benchmarks.gemm_share import MatrixProducts, needed_flops, shares
from benchmarks.likeness import Kept, Likeness, capped, expanded_only, least_count, least_coverage, peers_order
from benchmarks.measure import measured
from benchmarks.memory import NAMED
from tests.warm import python
from tl_circuits.nodes import Kind

ROOT = Path(__file__).parents[1]
PEER = os.environ.get("TL_CIRCUITS_PEER")
TINY = Case(n_tokens=6, n_features=64, l0=4, n_layers=3, d_model=32, n_heads=4, d_vocab=50)
SHAPE = ["--n-features", "64", "--l0", "4", "--n-layers", "3", "--d-model", "32", "--n-heads", "4", "--d-vocab", "50"]

needs_peer = pytest.mark.skipif(PEER is None, reason="TL_CIRCUITS_PEER names no Python with circuit-tracer")


def script(name: str, out: Path, *options: str) -> dict[str, Any]:
    """Runs a benchmark and reads what it wrote."""
    done = python("-m", f"benchmarks.{name}", "--runs", "1", "--out", str(out), *options, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["script"] == name
    assert found["question"].endswith("?")
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["tl-circuits"]
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny case of each kind, as files."""
    place = tmp_path_factory.mktemp("cases")
    cases = {"clt": TINY, "plt": Case(**{**vars(TINY), "kind": "plt"})}
    for kind, case in cases.items():
        write(case, place / kind)
    return {kind: place / kind for kind in cases}


@pytest.fixture(scope="module")
def graph(folders: dict[str, Path]) -> tlc.AttributionGraph:
    """The full graph of the tiny CLT case."""
    return tlc.attribute(local(folders["clt"]))


def local(folder: Path) -> tlc.LocalReplacementModel:
    case = read_case(folder)
    transcoder = tlc.load_transcoder(str(folder / "transcoder"))
    return tlc.localize(case.model, transcoder, case.tokens, masked_positions=case.masked)


# The scripts


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share_runs"), [("clt", 1), ("plt", 0)])
def test_attribution_runs_without_the_peer(tmp_path: Path, kind: str, share_runs: int) -> None:
    options = ["--kind", kind, "--n-tokens", "6", *SHAPE, "--no-peer", "--share-runs", str(share_runs)]
    found = script("attribution_vs_circuit_tracer", tmp_path / "out.json", *options)
    assert found["figures"]["features"] > 0
    assert [phase["needed_gflop"] > 0 for phase in found["measured"]["feature_phase"]] == [True] * share_runs
    assert ("gemm_share_needed" in found["figures"]) == (share_runs > 0)
    assert "ratio" not in found["figures"]
    assert found["peer"] == {}
    assert "not run" in report.section([found])


@needs_peer
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clt", "plt"])
def test_attribution_equals_the_peers_and_is_timed_against_it(tmp_path: Path, kind: str) -> None:
    assert PEER is not None
    options = ["--kind", kind, "--n-tokens", "8", *SHAPE, "--share-runs", "1", "--peer-python", PEER]
    options += ["--batch-sizes", "2,0", "--peer-stride", "3"]
    found = script("attribution_vs_circuit_tracer", tmp_path / "out.json", *options)
    assert found["figures"]["agreement"]["max_abs_difference"] < 1e-5
    assert found["figures"]["peer_batch_sizes_tried"] == [2, 512]
    small, default = found["measured"]["peer"]
    assert small["estimated"]
    assert small["computed"] < small["batches"]
    assert not default["estimated"]


@needs_peer
@pytest.mark.slow
def test_a_peer_that_runs_out_of_memory_is_recorded_as_failed(tmp_path: Path) -> None:
    assert PEER is not None
    options = ["--n-tokens", "8", *SHAPE, "--share-runs", "1", "--peer-python", PEER, "--batch-sizes", "2"]
    found = script("attribution_vs_circuit_tracer", tmp_path / "out.json", *options, "--peer-memory-gib", "0.02")
    assert "failed" in found["measured"]["peer"][0]
    assert "ratio" not in found["figures"]


@pytest.mark.slow
def test_gemm_share_runs(tmp_path: Path) -> None:
    found = script("gemm_share", tmp_path / "out.json", "--n-tokens", "6", *SHAPE)
    # Of so small a case the time, a difference of two, may come out below 0, and with it the shares.
    (run,) = found["measured"]["runs"]
    assert 0 < run["needed_gflop"] <= run["executed_gflop"]
    assert "of the machine's" in report.section([found])


@pytest.mark.slow
def test_scaling_runs(tmp_path: Path) -> None:
    axes = ["--tokens", "4,8", "--features", "", "--active", "", "--layers", "", "--widths", ""]
    found = script("scaling", tmp_path / "out.json", "--n-tokens", "6", *SHAPE, *axes)
    assert found["figures"]["tokens"]["rows_exponent"] > 0.5
    assert found["figures"]["layers"]["time_exponent"] is None
    assert "a power of tokens" in report.section([found])


@pytest.mark.slow
@pytest.mark.parametrize(("of", "levels"), [("random", ".5,.95"), ("demo", ".95")])
def test_coverage_runs(tmp_path: Path, of: str, levels: str) -> None:
    options = ["--of", of, "--n-tokens", "6", *SHAPE, "--no-peer", "--levels", levels, "--prompts", "1"]
    found = script("coverage", tmp_path / "out.json", *options)
    *_, high = found["figures"]["levels"]
    assert all(level["reached"] >= level["coverage"] for level in found["figures"]["levels"])
    assert found["figures"]["levels"][0]["rows_share"] <= high["rows_share"] <= 1
    assert 0 < high["jaccard_edges"] <= 1
    assert "95% of the influence" in report.section([found])


@pytest.mark.slow
def test_fidelity_runs(tmp_path: Path) -> None:
    found = script("fidelity", tmp_path / "out.json", "--prompts", "6")
    for kind in ("clt", "plt"):
        figures = found["figures"][kind]
        assert figures["seconds"] > 0
        assert 0 < figures["overall"]["fvu"]["value"] < 0.1
        assert figures["overall"]["kl"]["value"] < figures["overall"]["kl"]["floor"]
        assert found["measured"][kind]["questions"]["overall"]["n_prompts"] == 6


@needs_peer
@pytest.mark.slow
@pytest.mark.parametrize("of", ["random", "demo"])
def test_coverage_is_compared_with_the_peers_cap(tmp_path: Path, of: str) -> None:
    assert PEER is not None
    options = ["--of", of, "--n-tokens", "8", *SHAPE, "--levels", ".95", "--prompts", "1", "--peer-python", PEER]
    options += ["--batch-sizes", "2", "--peer-stride", "2", "--jaccard", "0.6"]
    found = script("coverage", tmp_path / "out.json", *options)
    alike = found["figures"]["like_the_full_graph"]
    assert alike["ratio"] > 0
    if of == "random":
        assert alike["settings"]["2"]["edges"] >= 0.6
        (run,) = found["measured"]["against"]["runs"]["peer"]
        assert run["agreement"]["max_abs_difference"] < 1e-5


@pytest.mark.slow
def test_memory_runs(tmp_path: Path) -> None:
    options = ["--n-tokens", "6", *SHAPE, "--tokens", "4,8", "--features", ""]
    options += ["--full-up-to", "4", "--coverage-up-to", "4"]
    found = script("memory", tmp_path / "out.json", *options)
    ways = [(row["n_tokens"], row["way"]) for row in found["figures"]["rows"]]
    assert ways == [(4, "full"), (4, "coverage .95"), (4, "256 best"), (8, "256 best")]
    assert all(row["peak_gb"] > row["above_weights_gb"] for row in found["figures"]["rows"])
    assert "GB above the weights" in report.section([found])


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(NAMED))
def test_a_named_case_of_memory_runs(tmp_path: Path, case: str) -> None:
    options = ["--case", case, "--n-tokens", "6", *SHAPE, "--numbered", "32", "--time-budget", "60"]
    found = script("memory", tmp_path / "out.json", *options)
    (row,) = found["figures"]["rows"]
    assert "failed" not in row, row
    assert row["features"] > 0
    assert row["stopped_by"] in {"coverage", "max_features", "everything", "nothing left that has influence"}


@pytest.mark.slow
def test_pruning_runs(tmp_path: Path) -> None:
    found = script("pruning", tmp_path / "out.json", "--n-nodes", "2000", "--n-edges", "20000")
    assert found["figures"]["nodes"] == 2000
    assert found["figures"]["edges"] == 20000
    assert "2,000 nodes and 20,000 edges" in report.section([found])


@pytest.mark.slow
def test_tracing_many_prompts_runs_and_several_processes_give_the_same_graphs(tmp_path: Path) -> None:
    found = script("trace_many", tmp_path / "out.json", "--n-tokens", "6", *SHAPE, "--prompts", "3")
    assert found["figures"]["graphs_equal"]
    assert "2 processes on" in report.section([found])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this is what is said where there is no CUDA")
def test_without_cuda_the_gpu_script_says_so_and_ends_well() -> None:
    done = python("-m", "benchmarks.gpu", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "no CUDA device" in done.stdout


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_gpu_script_runs(tmp_path: Path) -> None:
    found = script("gpu", tmp_path / "out.json", "--n-tokens", "6", *SHAPE, "--no-peer")
    assert found["figures"]["kernels"] > 0
    assert found["machine"]["gpu"]


# What they count


@pytest.mark.parametrize("kind", ["clt", "plt"])
def test_needed_work_is_the_formula_summed_over_features(folders: dict[str, Path], kind: str) -> None:
    here = local(folders[kind])
    d, a = 32, 32
    features = here.features.tolist()
    total = 0
    for layer, pos, _ in features:
        n = pos + 1
        total += 2 * d * a + 2 * n * a + 2 * n * d * a + 4 * n * d
        for block in range(layer):
            writers = [s for s in features if s[1] <= pos and (s[0] <= block if kind == "clt" else s[0] == block)]
            total += 4 * n * d * a + a * n * (n + 1) + 2 * d * (len(writers) + 2 * n)
    assert needed_flops(here) == total


def test_matrix_products_are_counted_also_where_many_cotangents_are_pulled_back() -> None:
    x, w = torch.randn(10, 8, requires_grad=True), torch.randn(8, 5)
    y = x @ w
    with MatrixProducts() as products:
        torch.autograd.grad(y, x, torch.randn(7, 10, 5), is_grads_batched=True)
    assert products.flops == 2 * 7 * 10 * 8 * 5


def test_shares_are_work_over_time_over_the_machines_speed() -> None:
    first = {"seconds": 2.0, "gemm_gflops": 100.0, "needed_gflop": 50.0, "executed_gflop": 80.0}
    found = shares([first, {**first, "seconds": 4.0}, {**first, "seconds": 2.0}])
    assert found["executed_share"] == pytest.approx(0.4)
    assert found["needed_share"] == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted anew on Linux only")
def test_the_peak_of_some_work_is_its_own() -> None:
    mib = 2**18
    before = torch.ones(300 * mib)
    del before
    _, small = measured(lambda: torch.ones(20 * mib).sum())
    _, large = measured(lambda: torch.ones(100 * mib).sum())
    assert small.peak_is_own
    assert 15 < small.above_mib < 40
    assert 95 < large.above_mib < 120


@pytest.mark.slow
@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_an_exponent_is_found_again(power: float, factor: float) -> None:
    values = [2.0, 3.0, 5.0, 8.0]
    assert scaling.exponent(values, [factor * value**power for value in values]) == pytest.approx(power, abs=1e-9)


def test_one_point_has_no_exponent() -> None:
    assert scaling.exponent([4.0], [1.0]) is None
    assert scaling.exponent([], []) is None


# What they compare


def as_the_peers(graph: tlc.AttributionGraph) -> dict[str, torch.Tensor]:
    """The graph as `benchmarks.peer` writes one down."""
    nodes, features, targets = graph.nodes, graph.nodes.span(Kind.FEATURE), graph.nodes.span(Kind.TARGET)
    matrix, last = graph.adjacency(), graph.nodes.span(Kind.TOKEN).stop
    numbers = torch.arange(features.stop)
    return {
        "active": torch.stack([nodes.layer, nodes.pos, nodes.index], dim=1)[features],
        "selected": numbers,
        "computed": numbers[::3],
        "rows": matrix[features][::3, :last].contiguous(),
        "target_rows": matrix[targets][:, :last].contiguous(),
    }


def test_the_same_graph_agrees(graph: tlc.AttributionGraph) -> None:
    found = compare(graph, as_the_peers(graph))
    assert found["max_abs_difference"] == 0
    assert found["rows"] > 10


@pytest.mark.parametrize("where", ["rows", "target_rows"])
def test_an_edge_that_differs_ends_the_comparison(graph: tlc.AttributionGraph, where: str) -> None:
    peers = as_the_peers(graph)
    peers[where][-1, 0] += 0.5
    with pytest.raises(SystemExit, match=r"Edges differ by up to 5\.0e-01"):
        compare(graph, peers)


def test_other_features_end_the_comparison(graph: tlc.AttributionGraph) -> None:
    peers = as_the_peers(graph)
    peers["active"] = peers["active"][1:]
    with pytest.raises(SystemExit, match="The active features differ"):
        compare(graph, peers)


def test_the_peers_best_batch_size_is_compared_and_failures_are_not() -> None:
    once, again = {"cpu_s": 3.0, "above_mib": 100.0}, {"cpu_s": 2.0, "above_mib": 60.0}
    mine = [{"first": once, "reading": again, "graph": {"features": 5}}] * 3
    theirs = [
        {"batch_size": size, "seconds": seconds, "above_mib": 10.0 * size, "estimated": False}
        for size, seconds in ((16, 30.0), (64, 20.0), (16, 10.0), (64, 26.0), (16, 20.0), (64, 28.0))
    ]
    theirs.append({"batch_size": 512, "failed": "no memory"})
    found = figures(mine, theirs, {}, {"executed_share": 0.5, "needed_share": 0.4})
    assert found["peer_batch_size"] == 16
    assert found["peer_cpu_s"] == 20
    assert found["ratio"] == 10
    assert found["peer_runs"] == 3
    assert found["peer_batch_sizes_tried"] == [16, 64, 512]
    assert found["memory_ratio"] == pytest.approx(100 / 160)


def test_a_graph_is_like_itself_and_less_like_a_smaller_one(graph: tlc.AttributionGraph) -> None:
    whole = Kept.of(graph.prune(0.9))
    assert whole.like(Kept.of(graph.prune(0.9))) == Likeness(1, 1)
    small = graph.prune(0.5)
    found = whole.like(Kept.of(small))
    features = {feature for feature in graph.prune(0.9).nodes.features()}
    assert found.nodes == pytest.approx(len(set(small.nodes.features())) / len(features))
    assert found.edges == pytest.approx(
        len(small.edges) / len(torch.unique(torch.cat([whole.edges, Kept.of(small).edges]), dim=0)), abs=0.2
    )


def test_with_all_features_nothing_is_cut_off(graph: tlc.AttributionGraph) -> None:
    everything = torch.arange(graph.nodes.count(Kind.FEATURE))
    for same in (expanded_only(graph, everything), capped(graph, everything)):
        assert torch.equal(same.adjacency(), graph.adjacency())


def test_a_capped_graph_is_a_submatrix(graph: tlc.AttributionGraph) -> None:
    some = torch.arange(0, graph.nodes.count(Kind.FEATURE), 2)
    keep = torch.cat([some, torch.arange(graph.nodes.span(Kind.FEATURE).stop, len(graph.nodes))])
    assert torch.equal(capped(graph, some).adjacency(), graph.adjacency()[keep][:, keep])


@pytest.mark.slow
def test_what_is_expanded_only_is_what_attribute_gives(folders: dict[str, Path], graph: tlc.AttributionGraph) -> None:
    partial = tlc.attribute(local(folders["clt"]), max_features=10)
    expanded = partial.expanded[partial.nodes.span(Kind.FEATURE)].nonzero()[:, 0]
    torch.testing.assert_close(expanded_only(graph, expanded).adjacency(), partial.adjacency())


def test_the_peers_order_visits_every_feature_once_the_most_influential_first(graph: tlc.AttributionGraph) -> None:
    rounds = list(peers_order(graph, batch_size=2))
    assert [len(part) for part in rounds[:-1]] == [8] * (len(rounds) - 1)
    assert torch.equal(torch.cat(rounds).sort().values, torch.arange(graph.nodes.count(Kind.FEATURE)))
    by_targets_alone = expanded_only(graph, torch.zeros(0, dtype=torch.int64)).influence()
    assert torch.equal(
        rounds[0], torch.argsort(by_targets_alone[: graph.nodes.count(Kind.FEATURE)], descending=True)[:8]
    )


def in_rounds(count: int, size: int) -> Iterator[torch.Tensor]:
    yield from torch.arange(count).split(size)


@pytest.mark.slow
@given(st.integers(1, 400), st.integers(1, 50), st.data())
def test_the_least_count_is_found_to_a_hundredth(n_features: int, size: int, data: st.DataObject) -> None:
    least = data.draw(st.integers(1, n_features))

    def alike(features: torch.Tensor) -> Likeness:
        return Likeness(float(len(features) >= least), 1.0)

    found = least_count(in_rounds(n_features, size), n_features, alike, 0.95)
    assert found is not None
    assert least <= found[0] < least + max(1, n_features // 100)
    assert least_count(in_rounds(n_features, size), n_features, lambda _: Likeness(0.9, 1.0), 0.95) is None


@pytest.mark.slow
@given(st.integers(1, 99))
def test_the_least_coverage_is_found_to_a_hundredth(least: int) -> None:
    found = least_coverage(lambda coverage: Likeness(1.0, float(coverage >= least / 100)), 0.95)
    assert found is not None
    assert found[0] == least / 100
    assert least_coverage(lambda _: Likeness(1.0, 0.5), 0.95) is None


# What they trace


@pytest.mark.slow
def test_a_case_has_as_many_active_features_as_it_says(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        assert len(local(folder).features) == TINY.l0 * TINY.n_layers * (TINY.n_tokens - 1)


@pytest.mark.slow
def test_a_case_is_the_same_each_time(folders: dict[str, Path], tmp_path: Path) -> None:
    write(TINY, tmp_path / "again")
    assert torch.equal(local(tmp_path / "again").features, local(folders["clt"]).features)


def test_gemma_2_2bs_shape_is_gemma_2_2bs() -> None:
    config = gemma2(Case(**NAMED["gemma-2-2b"].case))
    assert (config["d_head"], config["n_key_value_heads"], config["d_mlp"]) == (256, 4, 9216)


@pytest.mark.parametrize(
    "wrong", [{"kind": "sae"}, {"shape": "bert"}, {"kind": "plt", "shape": "gemma2"}, {"l0": 2048}]
)
def test_a_case_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=r"case|Cases|active"):
        Case(**wrong)


def test_a_random_graph_has_the_size_it_is_asked_for() -> None:
    graph = pruning.random_graph(pruning.Shape(n_nodes=1500, n_edges=5000, n_tokens=8))
    assert (len(graph.nodes), len(graph.edges)) == (1500, 5000)
    with pytest.raises(SystemExit, match="leave none for features"):
        pruning.random_graph(pruning.Shape(n_nodes=100))
    with pytest.raises(SystemExit, match="do not have 20000 edges"):
        pruning.random_graph(pruning.Shape(n_nodes=250, n_edges=20_000, n_tokens=8))


# The report


def test_of_several_results_of_a_case_the_newest_is_reported(tmp_path: Path) -> None:
    for day in ("2026-01-09", "2026-01-10"):
        result = {"script": "pruning", "when": day, "figures": {}}
        (tmp_path / f"pruning-{day}.json").write_text(json.dumps(result))
    (tmp_path / "acceptance-2026-01-11.json").write_text(json.dumps({"when": "2026-01-11"}))
    assert [result["when"] for result in report.newest(tmp_path)] == ["2026-01-10"]


def test_the_report_needs_nothing_but_the_files() -> None:
    # The README is written by a script that has no package around it.
    fresh = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
    assert fresh["section"](fresh["newest"]())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fidelity", r"1,000 prompts.*CLT FVU 0\.\d{3} \[.*PLT FVU"),
        ("faithfulness", r"CLT: Spearman .* aimed at, (reached|missed); by direct edge .*PLT: Spearman"),
        ("state_swap", r"of 300 questions .*CLT [\d.]+% \[.* random features [\d.]+%.*PLT"),
    ],
)
def test_what_was_measured_of_the_demo_is_reported_and_called_a_toy(name: str, says: str) -> None:
    (result,) = (result for result in report.newest() if result["script"] == name)
    text = " ".join(report.section([result]).split())
    assert "the demo, a toy" in text
    assert re.search(says, text)


def test_a_target_that_was_missed_is_said_to_be() -> None:
    (result,) = (result for result in report.newest() if result["script"] == "faithfulness")
    for met, word in ((True, "reached"), (False, "missed")):
        for target in (target for targets in result["figures"]["targets"].values() for target in targets):
            target["met"] = met
        said = re.findall(r"aimed at, (\w+)", " ".join(report.section([result]).split()))
        assert set(said) == {word}


def test_no_line_of_the_report_is_longer_than_the_readme_allows() -> None:
    result = {
        "script": "attribution_vs_circuit_tracer",
        "case": {"kind": "clt", "n_tokens": 64, "l0": 20},
        "figures": {
            "features": 15120,
            "ours_cpu_s": 112.7,
            "ours_above_weights_mib": 2416.1,
            "ours_runs": 3,
            "peer_cpu_s": 1309.4,
            "peer_above_weights_mib": 12870.2,
            "peer_runs": 3,
            "peer_batch_sizes_tried": [16, 64, 512],
            "peer_estimated": True,
            "ratio": 11.6,
            "agreement": {"max_abs_difference": 2.9e-5, "max_abs_edge": 19.4},
        },
        "peer": {"name": "circuit-tracer", "is": "the peer"},
        "machine": {"cpu": "AMD EPYC"},
        "when": "2026-11-21T12:00:00+00:00",
    }
    text = report.section([result])
    assert re.search(r"1,309\.4 s est\. \([\d/]*\) \| 11\.6 \|", text)
    assert max(map(len, text.splitlines())) <= 120
