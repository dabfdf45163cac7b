"""The laws of interventions: circuit-tracer's numbers, the graph's edges, and what each mode holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

import tl_circuits as tlc
from tests import models
from tests.graphs import GOLDEN
from tests.test_golden import model_of, read, transcoder_of
from tests.test_laws import EXAMPLES, KINDS, PROBED, draw_local, every_class, every_family, every_kind, tolerance
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.passes import Attention, Mode, Way, run
from tl_circuits.nodes import Feature, Kind
from tl_circuits.replacement import LocalReplacementModel

# circuit-tracer's modes, as tl_circuits.intervention.passes maps them.
MAPPED: dict[str, tuple[Mode, Attention]] = {
    "direct_all_layers": ("direct", "frozen"),
    "freeze_attention": ("added", "frozen"),
    "free": ("added", "free"),
}

every_mode = pytest.mark.parametrize("mode", ["direct", "constrained", "iterative", "added"])


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("theirs", MAPPED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_interventions_are_circuit_tracers(path: Path, theirs: str, dtype: torch.dtype) -> None:
    tensors, about = read(path)
    exact = dtype == torch.float64
    local = tlc.localize(model_of(tensors, about, dtype, exact), transcoder_of(tensors, about), tensors["tokens"], (0,))
    rows = [row for row, asked in enumerate(about["interventions"]) if asked["mode"] == theirs]
    asked = [about["interventions"][row] for row in rows]
    cases = [[tlc.Intervention(Feature(i["layer"], i["pos"], i["feature"]), value=i["value"])] for i in asked]
    assert len(cases) == 18
    logits = tensors["expected.interventions.last_logits"][rows]
    preactivations = tensors["expected.interventions.preacts_at_active"][rows]
    scale, (mode, attention) = float(logits.abs().max()), MAPPED[theirs]
    found = tlc.intervene(local, cases, mode=mode, attention=attention)
    # An intervention moves logits by this much: the golden numbers are not those of the prompt itself.
    assert float((torch.stack([result.logits[-1] for result in found]) - local.logits[-1]).abs().max()) > 0.01 * scale
    rounding = (1e-9 if exact else 1e-5) * scale
    for result, expected, read_by in zip(found, logits, preactivations, strict=True):
        torch.testing.assert_close(result.logits[-1].double(), expected, atol=rounding, rtol=0)
        active = result.changes.before != 0
        after = result.changes.preactivations_after[active].double()
        torch.testing.assert_close(after, read_by, atol=10 * rounding, rtol=0)


@pytest.mark.slow
@every_family
@every_class
@every_kind
@EXAMPLES
@given(data=st.data())
def test_direct_effects_are_the_graphs_edges(family: str, model_class: str, kind: str, data: Any) -> None:
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    local = draw_local(data, family, model_class, kind, dtype)
    if not len(local.features):
        return
    graph, active = tlc.attribute(local), local.active()
    rows = data.draw(st.lists(st.integers(0, len(active) - 1), min_size=1, max_size=4, unique=True))
    # A shift is written by what is active, whatever its activation: an edge, shift and all, goes only with the feature.
    scales = st.just(0.0) if local.transcoder.shift is not None else st.sampled_from([0.0, -1.0, 2.5])
    factors = [data.draw(scales) for _ in rows]
    done = [tlc.Intervention(active[row], scale=factor) for row, factor in zip(rows, factors, strict=True)]
    model: Any = local.model
    unembedded: list[Tensor] = []
    # Soft caps saturate, so logits are compared by what the unembedding reads. A hook of the model's would be refused.
    seen = register_module_forward_pre_hook(
        lambda part, args: unembedded.append(args[0]) if part is model.unembed else None
    )
    with seen:
        result = tlc.intervene(local, done, mode="direct")
    last = unembedded[0][0, -1].detach()
    edges = graph.adjacency().to(torch.float64)
    expected = edges[:, rows] @ (torch.tensor(factors, dtype=torch.float64) - 1)
    before = result.changes.before != 0
    moved = (result.changes.preactivations_after - result.changes.preactivations_before)[before]
    targets, features = graph.nodes.span(Kind.TARGET), graph.nodes.span(Kind.FEATURE)
    W_U = local.model.W_U.detach().double()
    vectors = (W_U - W_U.mean(-1, keepdim=True))[:, graph.nodes.index[targets]]
    was = local.pieces.reads[-1][0, -1].detach()
    change = torch.cat([moved.double(), (last - was).double() @ vectors])
    expected = torch.cat([expected[features], expected[targets]])
    # The numbers whose difference is compared round too.
    read = torch.cat([local.preactivations.double().abs(), was.double().abs() @ vectors.abs()])
    scale = graph.edges.sums(magnitude=True)[graph.nodes.rows(Kind.FEATURE, Kind.TARGET)] + read
    rounding = tolerance(family, model_class, dtype) * (1 if dtype == torch.float64 else PROBED)
    assert float(((change - expected).abs() / scale).max()) <= rounding * sum(abs(f - 1) + 1 for f in factors)


# Each mode against the same thing done by hand, with TransformerLens's own hooks.


@pytest.mark.slow
@every_class
@every_kind
@pytest.mark.parametrize(("attention", "first", "last"), [("frozen", 0, 1), ("frozen", 1, 1), ("free", 1, 2)])
@pytest.mark.parametrize("mode", ["constrained", "iterative", "added"])
def test_a_mode_does_what_it_says(
    model_class: str, kind: str, attention: Attention, first: int, last: int, mode: Mode
) -> None:
    local = a_local(model_class, kind)
    chosen = [feature for feature in local.active() if feature.layer == first][::3]
    scales = [(-1.0, 0.0, 2.0)[number % 3] for number in range(len(chosen))]
    done = [tlc.Intervention(feature, scale=scale) for feature, scale in zip(chosen, scales, strict=True)]
    result = tlc.intervene(local, done, (first, last), attention, mode)
    expected = by_hand(local, dict(zip(chosen, scales, strict=True)), range(first, last + 1), attention, mode)
    torch.testing.assert_close(result.logits, expected, atol=1e-9, rtol=1e-9)
    assert float((expected - local.logits).abs().max()) > 1e-3
    assert result.layers == (first, last)


def by_hand(
    local: LocalReplacementModel, scales: dict[Feature, float], layers: range, attention: str, mode: str
) -> Tensor:
    """The logits, by dense sums over all features and the model's own hooks."""
    model, clt, tokens = local.model, local.transcoder, local.prompt.tokens[None]
    n_layers, now = local.n_layers, {}
    names = [f"blocks.{layer}.{point}" for layer in range(n_layers) for point in (clt.read, clt.write)]
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=[*names, *patterns])  # pyright: ignore
    was = {layer: clt.encode(cache[f"blocks.{layer}.{clt.read}"], layer) for layer in range(n_layers)}

    def edited(activations: Tensor, layer: int) -> Tensor:
        out = activations.clone()
        for feature, scale in scales.items():
            if feature.layer == layer:
                out[0, feature.pos, feature.index] *= scale
        return out

    def written(by: dict[int, Tensor], layer: int) -> Tensor:
        return clt.decode([by[s] if s in layers else was[s] for s in range(layer + 1)], layer)

    def read_at(layer: int) -> Any:
        def see(x: Tensor, **_: Any) -> None:
            here = clt.encode(x, layer)
            now[layer] = (x, here, edited(was[layer] if mode == "constrained" else here, layer))

        return see

    def write_at(layer: int) -> Any:
        def put(value: Tensor, **_: Any) -> Tensor:
            new = written({s: now[s][2] for s in range(layer + 1)}, layer)
            if mode == "added":
                return value + new - written({s: now[s][1] for s in range(layer + 1)}, layer)
            out = cache[f"blocks.{layer}.{clt.write}"] + new - written(was, layer)
            then, skip = cache[f"blocks.{layer}.{clt.read}"], clt.skip(now[layer][0], layer)
            return out if skip is None else out + skip - clt.skip(then, layer)

        return put

    hooks: list[Any] = [(f"blocks.{layer}.{clt.read}", read_at(layer)) for layer in range(n_layers)]
    hooks += [(f"blocks.{layer}.{clt.write}", write_at(layer)) for layer in layers]
    if attention == "frozen":
        hooks += [(name, lambda *_, name=name, **__: cache[name]) for name in patterns]
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)[0]  # pyright: ignore


def a_local(model_class: str, kind: str = "CLT", dtype: torch.dtype = torch.float64) -> LocalReplacementModel:
    transcoder = models.transcoder(**KINDS[kind], read="ln2.hook_normalized", write="hook_mlp_out")
    return tlc.localize(models.model_of("gpt2", model_class, dtype), transcoder, torch.arange(9), ())


# What changes nothing


@pytest.mark.slow
@every_class
@every_mode
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_pass_without_edits_is_the_models_own_bit_for_bit(model_class: str, mode: Mode, dtype: torch.dtype) -> None:
    local = a_local(model_class, dtype=dtype)
    layers = range(local.n_layers)
    outcome = run(local, Edits.of(local, [[]], layers), Way(mode, layers, "frozen"))
    assert torch.equal(outcome.logits[0], local.logits)
    assert torch.equal(outcome.logits[0], local.model(local.prompt.tokens[None])[0])
    assert torch.equal(outcome.before, outcome.after)
    assert torch.equal(outcome.rows[:, 1:], local.features)
    assert torch.equal(outcome.after, local.activations)


@pytest.mark.slow
@every_class
@every_kind
@every_mode
def test_what_changes_nothing_gives_the_models_own_logits_bit_for_bit(model_class: str, kind: str, mode: Mode) -> None:
    local = a_local(model_class, kind)
    feature, active = local.active()[4], {feature[:2] + feature[2:] for feature in local.active()}
    silent = next(f for i in range(models.N_FEATURES) if (f := Feature(1, 3, i)) not in active)
    cases: list[list[tlc.Intervention]] = [
        [],
        [tlc.Intervention(feature, scale=1)],
        [tlc.Intervention(feature, value=float(local.activations[4]))],
        [tlc.Intervention(feature, add=0)],
        [tlc.Intervention(silent, scale=-5)],
        [tlc.Intervention(feature, scale=0)],
    ]
    *same, other = tlc.intervene(local, cases, mode=mode)
    for result in same:
        assert torch.equal(result.logits, local.logits)
        assert not result.changes.change.any()
    assert not torch.equal(other.logits, local.logits)
    assert torch.equal(tlc.intervene(local, [], mode=mode).logits, local.logits)


@pytest.mark.slow
@every_family
@every_class
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_an_empty_list_gives_the_clean_run(family: str, model_class: str, dtype: torch.dtype) -> None:
    model = models.model_of(family, model_class, dtype)
    local = tlc.localize(model, models.transcoder(read=models.reads(family)[0]), torch.arange(9))
    with torch.no_grad():
        own = model(torch.arange(9)[None])[0]
    assert torch.equal(tlc.intervene(local, []).logits, local.logits)
    if model_class == "hooked" or family == "gpt2":
        assert torch.equal(local.logits, own)
    # Others round otherwise where they are hooked, and their norms are in float32 whatever the dtype.
    rounding = 8 * torch.finfo(torch.float32).eps * float(own.abs().max())
    torch.testing.assert_close(local.logits, own, atol=rounding, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("gpt2", "direct"),
        ("gpt2", "iterative"),
        ("gpt2", "added"),
        *((name, "constrained") for name in models.FAMILIES),
    ],
)
@every_class
def test_a_batch_is_its_cases_one_by_one(
    family: str, model_class: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tlc.localize(models.model_of(family, model_class), models.transcoder(), torch.arange(9), (0,))
    features = local.active()[::5]
    cases = [[tlc.Intervention(feature, scale=0)] for feature in features]
    cases += [[tlc.Intervention(features, scale=-1)]]
    rounding = 1e-5 if model_class == "bridge" else 1e-9
    together = tlc.intervene(local, cases, mode=mode)
    monkeypatch.setattr("tl_circuits.intervention.passes.BATCH_NUMBERS", 1)
    in_parts = tlc.intervene(local, cases, mode=mode)
    for case, batched, part in zip(cases, together, in_parts, strict=True):
        alone = tlc.intervene(local, case, mode=mode)
        assert torch.equal(part.logits, alone.logits)
        assert torch.equal(batched.changes.features, alone.changes.features)
        torch.testing.assert_close(batched.logits, alone.logits, atol=rounding, rtol=rounding)
        torch.testing.assert_close(batched.changes.after, alone.changes.after, atol=rounding, rtol=rounding)
