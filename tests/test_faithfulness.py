"""Faithfulness: what a graph says against ablation, on circuits that are known on paper and on random models."""

import json
import math
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_circuits as tlc
from tests import ladders, models
from tests.test_benchmarks import script
from tests.test_refusals import refusal
from tl_circuits.hooks import has_user_hooks, installed
from tl_circuits.intervention import HopCollapse, hop_collapse, write_shares
from tl_circuits.intervention.ablation import Ablating, Held, Readout
from tl_circuits.intervention.correlation import Interval, cosine, log_pearson, nmse, pearson, sign_agreement, spearman
from tl_circuits.intervention.jacobian import _linear, _pulled_back, jacobian_cosines
from tl_circuits.intervention.perturbation import Push, _changes, _replaced, agreements, draw_pushes
from tl_circuits.intervention.prediction import Prediction, shuffled
from tl_circuits.nodes import Feature, Kind
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import put_back
from tl_circuits.zoo import compiled

N_POS = 5

both = pytest.mark.parametrize("model_class", models.CLASSES)


@pytest.fixture(scope="module")
def local() -> LocalReplacementModel:
    return tlc.localize(models.model_of("gpt2", "hooked"), models.transcoder(), torch.arange(N_POS), (0,))


@pytest.fixture(scope="module")
def graph(local: LocalReplacementModel) -> tlc.AttributionGraph:
    return tlc.attribute(local, [3, 5])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# A circuit that is known on paper


@pytest.fixture(scope="module")
def on_paper() -> tlc.FaithfulnessReport:
    return tlc.faithfulness(ladders.local(), ladders.graph())


def test_influence_ranks_the_features_of_a_known_circuit_as_ablation_does(on_paper: tlc.FaithfulnessReport) -> None:
    assert on_paper["nodes.kl.influence.spearman"].mean == pytest.approx(1)
    assert on_paper["nodes.target.influence.log_pearson"].mean == pytest.approx(1)
    assert on_paper["nodes.target.influence.top_5"].mean == pytest.approx(1)
    # Three of five features feed the answer through others, or are no louder for it.
    for baseline in ("activation", "direct_edge"):
        mean = on_paper[f"nodes.kl.{baseline}.spearman"].mean
        assert mean is not None
        assert mean < 0.8


@pytest.mark.slow
def test_knock_on_effects_of_a_known_circuit_are_those_that_were_compiled() -> None:
    local, graph = ladders.local(), ladders.graph()
    ablating, rows = Ablating(local, Readout.of(local, graph)), ladders.feature_rows(graph)
    held, own = (ablating.of(local.active(), way) for way in (Held.ALL, Held.OWN))
    says = Prediction.of(graph)
    for feature, effect in ladders.TO_ANSWER.items():
        row = rows[feature]
        at_once = 0.0 if feature in ((0, 0), (0, 1)) else -effect
        assert float(held.targets[0, row]) == pytest.approx(at_once)
        assert float(own.targets[0, row]) == pytest.approx(-effect)
        assert float(says.direct_on_targets[0, row]) == pytest.approx(at_once)
        assert float(says.total_on_targets[0, row]) == pytest.approx(-effect)
    assert float(own.activations[rows[1, 1], rows[0, 1]]) == pytest.approx(-2)
    # The answer is told from its opposite by twice as much.
    assert own.difference.tolist() == pytest.approx([-effect for effect in _in_order(rows)], abs=1e-6)


def _in_order(rows: dict[tuple[int, int], int]) -> list[float]:
    # Of six logits YES is the answer, NO less the answer, the others 0: the second likeliest is one of these.
    return [effect for _, effect in sorted((rows[feature], effect) for feature, effect in ladders.TO_ANSWER.items())]


@pytest.mark.slow
def test_an_exact_transcoder_agrees_with_the_model_in_every_push_and_derivative() -> None:
    for circuit in (ladders.ladder(), compiled.chain_at_one_token(), compiled.chain_across_positions()):
        local = ladders.local(circuit)
        for one in agreements(local, draw_pushes(local, 4, seeded())):
            if one.model == "replacement":
                assert one.residual_cosine == pytest.approx(1, abs=1e-5)
                assert one.residual_nmse == pytest.approx(0, abs=1e-5)
                assert math.isnan(one.mlp_cosine) or one.mlp_cosine == pytest.approx(1, abs=1e-5)
        cosines = jacobian_cosines(local, 8, seeded())
        assert cosines["replacement"] == pytest.approx({0: 1, 1: 1}, abs=1e-5)
        assert cosines["no_mlps"][0] < 0.99


@pytest.mark.slow
def test_write_shares_of_known_circuits() -> None:
    shares = write_shares(ladders.local(compiled.parallel_paths()))
    # Into layer 1 go 3 - 1 by its own features and 2 by a feature of layer 0, all along the answer.
    torch.testing.assert_close(shares.projection, torch.tensor([[1, 0.5], [0, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(shares.norm, torch.tensor([[1, 0.5], [0, 0.5]], dtype=torch.float64))
    assert shares.across == pytest.approx([0, 0.5])
    assert repr(shares) == "WriteShares(across layers 0.00, 0.50)"
    chain = compiled.chain_at_one_token()
    assert write_shares(ladders.local(chain)).across == pytest.approx([0, 0])
    lies = tlc.localize(chain.model, ladders.collapsed(chain), chain.prompts[0].tokens)
    assert write_shares(lies).across == pytest.approx([0, 1])


@pytest.mark.slow
def test_hop_collapse_of_a_chain_is_0_and_of_a_transcoder_that_writes_both_steps_at_once_1() -> None:
    chain = compiled.chain_at_one_token()
    local = ladders.local(chain)
    true = hop_collapse(ladders.graph(chain), local, "L0/0@2", "L1/0@-1")
    assert (true.graph, true.model, true.collapse) == pytest.approx((1, 1, 0))
    lies = tlc.localize(chain.model, ladders.collapsed(chain), chain.prompts[0].tokens)
    assert float(lies.errors.abs().max()) == 0
    graph = tlc.attribute(lies, [chain.prompts[0].answer])
    false = hop_collapse(graph, lies, "L0/0@2", "L1/0@2", mediator_of=local)
    assert (false.graph, false.model, false.collapse) == pytest.approx((0, 1, 1))
    # On paper the second feature falls from 2 to 0, and each unit of it adds 1.5 · 2 to the answer.
    assert false.model_effect == pytest.approx(-6)
    assert false.to_dict()["collapse"] == pytest.approx(1)


@pytest.mark.slow
def test_a_mediator_carries_what_its_own_path_does() -> None:
    circuit = compiled.parallel_paths()
    found = hop_collapse(ladders.graph(circuit), ladders.local(circuit), "L0/0@2", ["L1/0@2"])
    assert (found.graph, found.model) == pytest.approx((3 / 3.5, 3 / 3.5))
    both_ = hop_collapse(ladders.graph(circuit), ladders.local(circuit), "L0/0@2", ["L1/0@2", "L1/1@2"])
    assert both_.graph == pytest.approx(2.5 / 3.5)


# Predictions


@pytest.mark.slow
@both
def test_direct_effects_are_those_of_ablation_with_everything_held(model_class: str) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), torch.arange(N_POS), (0,))
    graph, active = tlc.attribute(local, [3, 5]), local.active()
    says, readout = Prediction.of(graph), Readout.of(local, graph)
    results = tlc.intervene(local, [[tlc.Intervention(feature, scale=0)] for feature in active], mode="direct")
    for column, result in enumerate(results):
        changes = result.changes
        moved = (changes.preactivations_after - changes.preactivations_before)[changes.before != 0]
        torch.testing.assert_close(moved.double(), says.direct[:, column], atol=1e-5, rtol=1e-5)
        values = readout.values(result.logits[readout.at]) - readout.values(result.logits_before[readout.at])
        torch.testing.assert_close(values, says.direct_on_targets[:, column], atol=1e-5, rtol=1e-5)


def test_total_effects_are_the_sum_over_all_paths(graph: tlc.AttributionGraph) -> None:
    says, n_features = Prediction.of(graph), graph.nodes.count(Kind.FEATURE)
    a = graph.activations[:n_features].double()
    step = graph.adjacency()[:n_features, :n_features].double() / a
    total, power = torch.zeros_like(step), torch.eye(n_features, dtype=torch.float64)
    for _ in range(models.N_LAYERS):
        power = step @ power
        total += power
    torch.testing.assert_close(says.total, -total * a)
    assert float((says.total - says.direct).abs().max()) > 1e-3


def test_knock_on_effects_are_total_less_direct_and_nothing_at_all_where_no_path_leads(
    graph: tlc.AttributionGraph,
) -> None:
    says, n_features = Prediction.of(graph), graph.nodes.count(Kind.FEATURE)
    torch.testing.assert_close(says.knock_on, says.total - says.direct)
    torch.testing.assert_close(says.knock_on_on_targets, says.total_on_targets - says.direct_on_targets)
    leads = graph.adjacency()[:, :n_features] != 0
    through = (leads.double() @ leads[:n_features].double()) > 0
    for knock_on, rows in (
        (says.knock_on, slice(0, n_features)),
        (says.knock_on_on_targets, graph.nodes.span(Kind.TARGET)),
    ):
        assert torch.equal(knock_on != 0, through[rows])
        assert 0 < int((knock_on == 0).sum()) < knock_on.numel()


def test_influence_on_features_and_on_targets_is_one_and_the_same(graph: tlc.AttributionGraph) -> None:
    says, targets = Prediction.of(graph), graph.nodes.span(Kind.TARGET)
    paper = graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN)
    into = graph.adjacency()[targets].double().abs() * paper
    shares = (into / into.sum(1, keepdim=True))[:, : len(says.influence)]
    p = graph.target_weights.double() / graph.target_weights.double().sum()
    unit = torch.eye(len(says.influence), dtype=torch.float64)
    torch.testing.assert_close(p @ shares @ (unit + says.on_features), says.influence)


def test_a_difference_is_predicted_as_that_of_its_targets(graph: tlc.AttributionGraph) -> None:
    says, targets = Prediction.of(graph), graph.nodes.span(Kind.TARGET)
    rows = graph.adjacency()[targets, : len(says.influence)].double()
    found = says.of_difference(rows[0] - rows[1], graph)
    torch.testing.assert_close(found, says.total_on_targets[0] - says.total_on_targets[1])


def test_shuffling_keeps_what_each_row_sums_up_and_where_it_comes_from(graph: tlc.AttributionGraph) -> None:
    dealt, again, other = (shuffled(graph, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(dealt.edges.weight, again.edges.weight)
    assert not torch.equal(dealt.edges.weight, other.edges.weight)
    assert torch.equal(dealt.edges.source, graph.edges.source)
    for row in range(len(graph.nodes)):
        run = graph.edges.into(row)
        assert torch.equal(dealt.edges.weight[run].sort().values, graph.edges.weight[run].sort().values)


# Ablations


@pytest.mark.slow
@both
def test_batches_do_what_one_ablation_at_a_time_does(model_class: str) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), torch.arange(N_POS), (0,))
    graph, active = tlc.attribute(local, [3, 5]), local.active()
    ablations = {way: Ablating(local, Readout.of(local, graph)).of(active, way) for way in Held}
    log_p = local.logits[-1].double().log_softmax(-1)
    for column in range(0, len(active), 9):
        feature = active[column]
        ranges = {
            Held.PAPER: (feature.layer, max(1, feature.layer)),
            Held.ALL: (0, 2),
            Held.OWN: (feature.layer, feature.layer),
        }
        for way, layers in ranges.items():
            logits = tlc.intervene(local, tlc.Intervention(feature, scale=0), layers).logits.double()
            log_q = logits[-1].log_softmax(-1)
            change = (logits - local.logits.double())[-1]
            found = ablations[way]
            assert float(found.divergence[column]) == pytest.approx(
                float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-6, rel=1e-4
            )
            expected = change[[3, 5]] - change.mean()
            torch.testing.assert_close(found.targets[:, column], expected, atol=1e-5, rtol=1e-5)
            first, second = local.logits[-1].topk(2).indices
            assert float(found.difference[column]) == pytest.approx(float(change[first] - change[second]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The model is in torch.bfloat16")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "model_class"), [("gpt2", "hooked"), ("llama", "bridge")])
def test_what_has_no_effect_has_none_and_rounding_hides_none(family: str, model_class: str, dtype: torch.dtype) -> None:
    """A bridge's norms are in float32 whatever its dtype; in bfloat16 a unit of rounding is 1/128."""
    local = tlc.localize(models.model_of(family, model_class, dtype), models.transcoder(), torch.arange(N_POS), (0,))
    found = Ablating(local, Readout.of(local, tlc.attribute(local, [3, 5]))).of(local.active(), Held.OWN)
    layer, pos, _ = local.features.unbind(1)
    far, here = (layer == 2) & (pos < N_POS - 1), pos == N_POS - 1
    assert bool(far.any())
    assert not found.divergence[far].any()
    assert not found.targets[:, far].any()
    assert not found.preactivations[:, far].any()
    assert bool((found.divergence[here] > 0).all())


@pytest.mark.slow
def test_results_do_not_depend_on_the_size_of_batches(
    local: LocalReplacementModel, graph: tlc.AttributionGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = tlc.faithfulness(local, graph, n_pushes=2)
    monkeypatch.setattr("tl_circuits.intervention.passes.BATCH_NUMBERS", 1500)
    apart = tlc.faithfulness(local, graph, n_pushes=2)
    assert together.values.keys() == apart.values.keys()
    for name, values in together.values.items():
        assert values == pytest.approx(apart.values[name], abs=1e-6, nan_ok=True), name


# Pushes and derivatives


def test_a_push_of_the_model_is_what_its_own_hooks_say(local: LocalReplacementModel) -> None:
    model: Any = local.model
    vector = torch.randn(models.D_MODEL, generator=seeded(), dtype=torch.float64)
    push = Push("random", 1, 2, vector)
    changes = _changes(local, [push], put_back(local, local.sites.patterns))
    tokens = local.prompt.tokens[None]
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(models.N_LAYERS)]
    _, cache = model.run_with_cache(tokens)
    seen: dict[str, torch.Tensor] = {}

    def add(value: Any, **_: Any) -> Any:
        value[:, 2] += vector
        return value

    def keep(value: Any, hook: Any) -> None:
        seen[hook.name] = value.clone()

    hooks: list[Any] = [(name, lambda *_, name=name, **__: cache[name]) for name in patterns]
    hooks += [("blocks.1.hook_resid_pre", add)]
    kept = [f"blocks.{layer}.{point}" for layer in (1, 2) for point in ("hook_resid_post", "hook_mlp_out")]
    hooks += [(name, keep) for name in kept]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    for layer in (1, 2):
        residual, written = changes.at(layer + 1, 0)
        point = f"blocks.{layer}.hook_resid_post"
        torch.testing.assert_close(residual, (seen[point] - cache[point])[0])
        point = f"blocks.{layer}.hook_mlp_out"
        torch.testing.assert_close(written, (seen[point] - cache[point])[0])


@pytest.mark.parametrize("features_respond", [True, False])
def test_a_small_push_moves_the_local_replacement_model_by_its_derivative(
    local: LocalReplacementModel, features_respond: bool
) -> None:
    vector = 1e-6 * torch.randn(models.D_MODEL, generator=seeded(), dtype=torch.float64)
    moved = _changes(local, [Push("random", 1, 2, vector)], _replaced(local, 1, features_respond=features_respond))
    cotangent = torch.randn(1, N_POS, models.D_MODEL, generator=seeded(), dtype=torch.float64)
    features = local.features if features_respond else local.features[:0]
    linear = _pulled_back(local, cotangent, put_back(local, local.sites.frozen) | _linear(local, features))
    expected = float(linear[1][0, 2] @ vector)
    assert float((moved.residual[models.N_LAYERS] * cotangent).sum()) == pytest.approx(expected, rel=1e-6)
    assert not has_user_hooks(local.model)


@pytest.mark.slow
def test_an_encoder_push_raises_its_feature_by_a_tenth_in_the_frozen_model(local: LocalReplacementModel) -> None:
    pushes = [push for push in draw_pushes(local, 100, seeded()) if push.kind == "encoder"]
    upper = [(f, float(a)) for f, a in zip(local.active(), local.activations, strict=True) if f.layer > 0]
    assert len(pushes) == len(upper)
    expected = {f: 0.1 * a for f, a in upper}
    for push in pushes[::7]:
        reads: list[torch.Tensor] = []
        site = local.sites.sites[push.layer]
        functions: Any = put_back(local, local.sites.frozen)
        functions |= {site.block_in: _added(push), site.read: lambda x, reads=reads: reads.append(x.detach())}
        with torch.no_grad(), installed(local.model, functions):
            local.model(local.prompt.tokens[None])
        rises = local.transcoder.preactivations(reads[0] - local.pieces.reads[push.layer].detach(), push.layer)
        rises -= local.transcoder.b_enc[push.layer].to(rises)
        here = [f for f in expected if f[:2] == (push.layer, push.pos)]
        assert any(float(rises[0, f.pos, f.index]) == pytest.approx(expected[f], rel=1e-4) for f in here)
    assert {push.kind for push in draw_pushes(local, 1, seeded())} == {"encoder", "decoder", "random"}


def _added(push: Push) -> Any:
    def add(value: torch.Tensor) -> torch.Tensor:
        pushed = value.clone()
        pushed[:, push.pos] += push.vector
        return pushed

    return add


# Statistics


@pytest.mark.slow
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=30, unique=True), st.randoms())
def test_ranks_correlate_whatever_the_scale(numbers: list[int], dealer: Any) -> None:
    x = torch.tensor(numbers, dtype=torch.float64)
    assert spearman(x, (x / 20).exp()) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    order = list(range(len(numbers)))
    dealer.shuffle(order)
    y = torch.tensor(numbers[::-1], dtype=torch.float64)
    assert spearman(x[order], y[order]) == pytest.approx(spearman(x, y))


def test_statistics_of_known_numbers() -> None:
    x = torch.tensor([1.0, 2, 2, 4])
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(x, torch.tensor([1.0, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert pearson(x, 3 * x + 1) == pytest.approx(1)
    assert log_pearson(torch.tensor([1.0, -10, 100, 0]), torch.tensor([2.0, 4, 8, 5])) == pytest.approx(1)
    assert sign_agreement(torch.tensor([1.0, -1, 0, 2]), torch.tensor([3.0, 1, 1, 4])) == pytest.approx(2 / 3)
    assert nmse(torch.tensor([1.0, 1]), torch.tensor([1.0, 2])) == pytest.approx(0.2)
    for undefined in (
        spearman(x[:2], x[:2]), spearman(x, torch.ones(4)), sign_agreement(x, 0 * x), cosine(x, 0 * x), nmse(x, 0 * x)
    ):  # fmt: skip
        assert math.isnan(undefined)


def test_intervals_are_of_prompts_and_repeat() -> None:
    values = [0.2, 0.4, math.nan, 0.6, 0.9]
    found = Interval.of(values, seed=3)
    assert found == Interval.of(values, seed=3)
    assert found.prompts == 4
    assert found.mean == pytest.approx(0.525)
    assert found.low is not None
    assert found.high is not None
    assert 0.2 < found.low < 0.525 < found.high < 0.9
    assert Interval.of([0.5], 0) == Interval(0.5, None, None, 1)
    assert str(Interval.of([], 0)) == "-"


# What comes back


@pytest.mark.slow
def test_on_the_demo_influence_beats_its_controls_and_a_report_can_be_kept() -> None:
    model, clt = tlc.demo()
    cities = ("Dallas", "Oakland")
    locals_ = [tlc.localize(model, clt, f"the capital of the state containing {city} is") for city in cities]
    report = tlc.faithfulness(locals_)
    # The shuffled graph and other features of the layer know nothing of who reaches the output, or where.
    for by in ("random_in_layer", "shuffled_graph"):
        assert abs(report[f"reaching.kl.{by}.spearman"].mean or 0) < 0.3
    for prefix in ("nodes.kl", "reaching.kl", "features"):
        influence, *controls = (
            report[f"{prefix}.{by}.spearman"].mean for by in ("influence", "random_in_layer", "shuffled_graph")
        )
        assert influence is not None
        assert all(control is not None and influence > control + 0.15 for control in controls)
    alone = tlc.faithfulness(locals_[1], tlc.attribute(locals_[1]))
    for name, (_, second) in report.values.items():
        assert second == pytest.approx(alone.values[name][0], abs=1e-9, nan_ok=True), name
    kept = json.loads(report.to_json())
    assert kept["figures"]["nodes.kl.influence.spearman"]["prompts"] == 2
    assert len(kept["write_shares"]) == 2
    assert kept["settings"]["seed"] == 0
    assert len(repr(report).splitlines()) < 20
    assert f"2 prompts, {sum(report.features)} features ablated" in repr(report)
    with pytest.raises(FrozenInstanceError):
        report.prompts = ()  # pyright: ignore


@pytest.mark.slow
def test_a_sample_of_features_is_drawn_by_the_seed() -> None:
    local, graph = ladders.local(), ladders.graph()
    some, same, other = (tlc.faithfulness(local, graph, max_features=3, n_controls=1, seed=s) for s in (1, 1, 2))
    assert some.features == (3,)
    assert str(some.values) == str(same.values)
    assert str(some.values) != str(other.values)


def test_a_figure_that_does_not_exist_is_refused(on_paper: tlc.FaithfulnessReport) -> None:
    with refusal(tlc.SettingError, "no figure 'nodes.kl.spearman' among", "nodes.kl.influence.spearman"):
        on_paper["nodes.kl.spearman"]


@pytest.mark.slow
def test_the_benchmark_runs_and_says_what_was_aimed_at(tmp_path: Path) -> None:
    options = ["--prompts", "2", "--sums", "1", "--pushes", "1", "--controls", "1", "--paths", "1"]
    found = script("faithfulness", tmp_path / "out.json", *options)
    for kind in ("clt", "plt"):
        aims = {aim["figure"]: aim for aim in found["figures"]["targets"][kind]}
        aim = aims["nodes.kl.influence.spearman"]
        assert aim["aimed"] == 0.85
        assert aim["reached"]["prompts"] == 3
        assert aim["met"] == (aim["reached"]["mean"] >= 0.85)
        assert len(aim["above"]) == 4
        assert sum(found["figures"]["verdicts"][kind].values()) == 3
        assert set(found["figures"]["summary"][kind]["jacobian.no_mlps.cosine"]) == {"all", "questions", "sums"}
    assert len(found["measured"]["prompts"]) == 3


# What is refused


@pytest.mark.slow
def test_graphs_of_something_else_are_refused(local: LocalReplacementModel, graph: tlc.AttributionGraph) -> None:
    model = local.model
    other = tlc.attribute(tlc.localize(model, models.transcoder(), torch.arange(N_POS - 1), (0,)))
    with refusal(tlc.GraphError, "another prompt", "4 tokens", "5 tokens", "Give the graph of this one"):
        tlc.faithfulness(local, other)
    strange = tlc.attribute(tlc.localize(model, models.transcoder(seed=1), torch.arange(N_POS), (0,)))
    with refusal(tlc.GraphError, "another model or transcoder", r"of its \d+ features", "attribute this prompt again"):
        tlc.faithfulness(local, strange)
    with refusal(tlc.GraphError, r"pruned to \d+ of \d+ nodes", "cut from"):
        tlc.faithfulness(local, graph.prune())
    with refusal(tlc.GraphError, r"partial: 3 of \d+ features", "coverage=1"):
        tlc.faithfulness(local, tlc.attribute(local, [3], max_features=3))
    with refusal(tlc.TargetError, "no token's logit", "tokens as targets"):
        tlc.faithfulness(local, tlc.attribute(local, tlc.Targets.difference(3, 5)))


def test_settings_that_cannot_be_are_refused(local: LocalReplacementModel, graph: tlc.AttributionGraph) -> None:
    wrong: Any = tlc.faithfulness
    for name in ("max_features", "n_pushes", "n_controls"):
        with refusal(tlc.SettingError, rf"faithfulness\({name}=0\): ask for at least 1"):
            wrong(local, graph, **{name: 0})
    with refusal(tlc.SettingError, "an empty list is no local replacement model"):
        wrong([])
    with refusal(tlc.SettingError, "2 graphs were given for 1 prompts"):
        wrong([local], [graph, graph])


@pytest.mark.slow
def test_a_prompt_without_active_features_is_refused() -> None:
    gate = compiled.conjunction()
    shut = tlc.localize(gate.model, gate.transcoder, gate.prompts[1].tokens)
    with refusal(tlc.SettingError, "No feature is active on", "another prompt"):
        tlc.faithfulness(shut)


@pytest.mark.slow
def test_a_mediator_that_is_none_is_refused() -> None:
    chain = compiled.chain_at_one_token()
    graph, local = ladders.graph(chain), ladders.local(chain)
    with refusal(tlc.SettingError, "mediator is of layer 0, the source of layer 0", "above the source"):
        hop_collapse(graph, local, "L0/0@2", "L0/0@2")
    with refusal(tlc.SettingError, "mediator=L1/1@2: L1/1@2 is not active", "local.active"):
        hop_collapse(graph, local, "L0/0@2", "L1/1@2")
    with refusal(tlc.SettingError, "they are of several layers"):
        hop_collapse(graph, local, ["L0/0@2", Feature(1, 2, 0)], "L1/0@2")
    with refusal(tlc.SettingError, "token@1 is no target of this graph", "target 4@2"):
        hop_collapse(graph, local, "L0/0@2", "L1/0@2", "token@1")
    other = tlc.localize(chain.model, chain.transcoder, chain.prompts[1].tokens)
    with refusal(tlc.SettingError, "mediator_of is of another prompt"):
        hop_collapse(graph, local, "L0/0@2", "L1/0@2", mediator_of=other)
    another = ladders.local(compiled.chain_at_one_token())
    with refusal(tlc.SettingError, "mediator_of is of another model", "localize this prompt in this model"):
        hop_collapse(graph, local, "L0/0@2", "L1/0@2", mediator_of=another)
    assert HopCollapse(math.nan, 1.0, 0.0, 1.0).to_dict()["graph"] is None
