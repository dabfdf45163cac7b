"""The laws of every graph, on random tiny models of six families, in both classes, with each kind of transcoder."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import models
from tl_circuits.attribution import Targets, attribute
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind
from tl_circuits.replacement import LocalReplacementModel, localize
from tl_circuits.replacement.localize import replay
from tl_circuits.sites import _HookPoints

EXAMPLES = settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])

# What rounding leaves, relative to a row's Σ|edges|. A bridge computes RMS norms in float32 whatever the model's dtype.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
SINGLE_PRECISION_NORMS = 1e-5
# Differences of float32 passes lose digits of the whole residual stream, which is larger than one row of edges.
PROBED = 30
RMS = ("llama", "gemma-2", "gemma-3", "qwen3")

KINDS = {
    "CLT": {"span": 3},
    "PLT": {"span": 1},
    "CLT with skip": {"span": 3, "skip": True},
    "CLT with shift": {"span": 3, "shift": True},
}

every_family = pytest.mark.parametrize("family", models.FAMILIES)
every_class = pytest.mark.parametrize("model_class", models.CLASSES)
every_kind = pytest.mark.parametrize("kind", KINDS)
prompts = st.lists(st.integers(0, models.D_VOCAB - 1), min_size=1, max_size=models.N_CTX)


def tolerance(family: str, model_class: str, dtype: torch.dtype) -> float:
    return SINGLE_PRECISION_NORMS if model_class == "bridge" and family in RMS else TOLERANCE[dtype]


def draw_local(
    data: Any, family: str, model_class: str, kind: str, dtype: torch.dtype = torch.float64
) -> LocalReplacementModel:
    read = data.draw(st.sampled_from(models.reads(family)))
    write = data.draw(st.sampled_from(["hook_mlp_out", "mlp.hook_out"]))
    activation = data.draw(st.sampled_from(["relu", "jumprelu", "topk", "batchtopk"]))
    transcoder = models.transcoder(**KINDS[kind], activation=activation, read=read, write=write)
    prompt = torch.tensor(data.draw(prompts))
    masked = (0,) if len(prompt) > 1 and data.draw(st.booleans()) else ()
    return localize(models.model_of(family, model_class, dtype), transcoder, prompt, masked_positions=masked)


@pytest.mark.slow
@every_family
@every_class
@every_kind
@EXAMPLES
@given(data=st.data())
def test_every_graph_obeys_the_laws(family: str, model_class: str, kind: str, data: Any) -> None:
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    local = draw_local(data, family, model_class, kind, dtype)
    graph, rounding = attribute(local), tolerance(family, model_class, dtype)
    conserves(local, graph, rounding)
    is_causal(graph)
    agrees_with_brute_force(local, graph, data, rounding if dtype == torch.float64 else PROBED * rounding)
    is_frozen(local, model_class, dtype, data.draw(st.integers(0, 99)))
    has_the_models_own_logits(local, 1e-5 if dtype == torch.float32 or rounding > 1e-9 else 1e-12)


def conserves(local: LocalReplacementModel, graph: AttributionGraph, rounding: float) -> None:
    gap = (graph.edges.sums() - graph.totals)[graph.expanded].abs()
    scale = graph.edges.sums(magnitude=True)[graph.expanded]
    assert graph.conservation_error == pytest.approx(float((gap / scale).max()))
    if local.activations.dtype == torch.float32:
        # What a target reads is itself a sum over d_model, whose terms may cancel before they are any source's edge.
        scale = scale + terms_of_targets(local, graph)[graph.expanded]
    assert float((gap / scale).max()) <= rounding
    # The totals are the law's, not the engine's: pre-activation less b_enc for features, centred logits for targets.
    dtype = local.activations.dtype
    b_enc = [local.transcoder.b_enc[layer][index].to(dtype) for layer, _, index in local.features.tolist()]
    expected = local.preactivations - torch.stack(b_enc) if b_enc else local.preactivations
    torch.testing.assert_close(graph.totals[graph.nodes.span(Kind.FEATURE)], expected)
    x = local.pieces.reads[local.n_layers].detach()[0, -1]
    W_U, b_U = local.model.W_U.detach(), getattr(local.model, "b_U", None)
    centred = x @ (W_U - W_U.mean(-1, keepdim=True)) + (0 if b_U is None else (b_U - b_U.mean()).detach())
    targets = graph.nodes.span(Kind.TARGET)
    torch.testing.assert_close(graph.totals[targets], centred[graph.nodes.index[targets]])


def terms_of_targets(local: LocalReplacementModel, graph: AttributionGraph) -> Tensor:
    """Σ over d_model of |vector| |read|, for each node that has inputs."""
    reads, terms = local.pieces.reads, torch.zeros(len(graph.nodes), dtype=torch.float64)
    for row, (layer, pos, index) in enumerate(local.features.tolist()):
        terms[row] = (local.transcoder.W_enc[layer][index] * reads[layer].detach()[0, pos]).abs().sum()
    terms[graph.nodes.span(Kind.TARGET)] = float(reads[-1].detach()[0, -1].abs().max())
    return terms


def is_causal(graph: AttributionGraph) -> None:
    nodes, source, target = graph.nodes, graph.edges.source.long(), graph.edges.target
    assert bool((nodes.pos[source] <= nodes.pos[target]).all())
    written_at_a_layer = torch.isin(
        nodes.kind[source], torch.tensor([Kind.FEATURE, Kind.ERROR, Kind.MASKED, Kind.B_DEC])
    )
    assert bool((nodes.layer[source] < nodes.layer[target])[written_at_a_layer].all())


def agrees_with_brute_force(local: LocalReplacementModel, graph: AttributionGraph, data: Any, rounding: float) -> None:
    candidates = graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.MASKED, Kind.B_DEC).nonzero()[:, 0]
    source = int(data.draw(st.sampled_from(candidates.tolist())))
    change = reads_of_targets(local, graph, *vectors_of(local, graph, source)) - reads_of_targets(
        local, graph, *nothing(local)
    )
    edges = graph.adjacency()[graph.expanded, source]
    scale = graph.edges.sums(magnitude=True)[graph.expanded]
    assert float(((change - edges).abs() / scale).max()) <= rounding


def is_frozen(local: LocalReplacementModel, model_class: str, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    writes = torch.randn(local.errors.shape, generator=generator).to(dtype)
    tokens = torch.randn(local.token_vectors.shape, generator=generator).to(dtype)
    at = [torch.cat(replay(local, step * writes, step * tokens)) for step in (0.0, 1.0, 2.0)]
    scale, exact = float(at[2].abs().max()), dtype == torch.float64 and model_class == "hooked"
    assert float((at[2] - 2 * at[1] + at[0]).abs().max()) <= (1e-12 if exact else 1e-5) * scale
    assert float((at[1] - at[0]).abs().max()) > 1e-2 * scale


def has_the_models_own_logits(local: LocalReplacementModel, rounding: float) -> None:
    torch.testing.assert_close(
        local.logits, local.model(local.prompt.tokens[None])[0].detach(), atol=rounding, rtol=rounding
    )


_find = _HookPoints.find


def _without_gathered(points: _HookPoints, name: str) -> str | None:
    return None if name.endswith("hook_z") else _find(points, name)


@pytest.mark.slow
@every_family
@every_class
def test_the_engine_changes_nothing_batches_prefixes_and_order(
    family: str, model_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = localize(
        models.model_of(family, model_class), models.transcoder(skip=True), torch.arange(12), masked_positions=(0,)
    )
    monkeypatch.setattr("tl_circuits.replacement.prefixes.cheapest_lengths", lambda *_: [2, 5, 9])
    whole = attribute(local).adjacency()
    monkeypatch.setattr("tl_circuits.replacement.prefixes.cheapest_lengths", lambda *_: [])
    monkeypatch.setattr("tl_circuits.replacement.sweep.MEMORY_BUDGET", 1)
    monkeypatch.setattr("tl_circuits.replacement.pieces.COTANGENTS", {"cpu": 1})
    monkeypatch.setattr("tl_circuits.replacement.written.BLOCK_ROWS", 7)
    monkeypatch.setattr("tl_circuits.sites._HookPoints.find", lambda points, name: _without_gathered(points, name))
    local = localize(local.model, local.transcoder, torch.arange(12), masked_positions=(0,))
    other = attribute(local).adjacency()
    # Bridges compute RMS norms in float32, so patterns of a prefix differ from the whole prompt's by its rounding.
    torch.testing.assert_close(other, whole, atol=2e-5 if model_class == "bridge" and family in RMS else 1e-12, rtol=0)


@pytest.mark.slow
@every_family
@every_class
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_a_partial_graph_has_the_rows_of_the_full_one_and_the_coverage_it_claims(
    family: str, model_class: str, coverage: float
) -> None:
    local = localize(models.model_of(family, model_class), models.transcoder(), torch.arange(12), masked_positions=(0,))
    full, partial = attribute(local), attribute(local, coverage=coverage)
    assert coverage <= partial.coverage < 1
    assert int(partial.expanded.sum()) < int(full.expanded.sum())
    atol = 2e-5 if model_class == "bridge" and family in RMS else 1e-12
    torch.testing.assert_close(
        partial.adjacency()[partial.expanded], full.adjacency()[partial.expanded], atol=atol, rtol=0
    )
    assert bool((partial.adjacency()[~partial.expanded] == 0).all())
    # Explained influence by the dense formula of the paper, unexpanded features absorbing.
    dense = partial.adjacency().abs()
    dense[:, ~graph_sources(partial)] = 0
    dense = dense / dense.sum(1, keepdim=True).clamp(min=1e-300)
    influence = torch.linalg.inv(torch.eye(len(dense), dtype=dense.dtype) - dense) - torch.eye(
        len(dense), dtype=dense.dtype
    )
    weights = torch.zeros(len(dense), dtype=dense.dtype)
    weights[partial.nodes.span(Kind.TARGET)] = partial.target_weights / partial.target_weights.sum()
    ends = weights @ influence
    unexpanded = partial.nodes.rows(Kind.FEATURE) & ~partial.expanded
    assert partial.coverage == pytest.approx(1 - float(ends[unexpanded].sum()), abs=1e-9)


@pytest.mark.slow
@every_class
def test_a_per_layer_transcoder_is_the_cross_layer_one_whose_other_decoders_are_zero(model_class: str) -> None:
    model, narrow = models.model_of("gpt2", model_class), models.transcoder(span=1)
    wide = models.transcoder(span=1)
    decoders = [
        torch.cat([rows, torch.zeros(len(rows), models.N_LAYERS - layer - 1, models.D_MODEL)], 1)
        for layer, rows in enumerate(narrow.W_dec)
    ]
    wide = type(narrow)(
        list(narrow.W_enc),
        list(narrow.b_enc),
        decoders,
        narrow.b_dec.data,
        activation=narrow.activation,
        read=narrow.read,
        write=narrow.write,
    )
    assert narrow.is_per_layer
    assert not wide.is_per_layer
    torch.testing.assert_close(
        *(attribute(localize(model, t, torch.arange(9))).adjacency() for t in (narrow, wide)), atol=1e-12, rtol=0
    )


@pytest.mark.slow
@every_class
def test_a_limited_span_is_the_full_one_whose_far_decoders_are_zero(model_class: str) -> None:
    model, narrow = models.model_of("gpt2", model_class), models.transcoder(span=2)
    # Layer 1 of the second transcoder writes one layer only: what writes a layer need not be a run of layers.
    decoders = [narrow.W_dec[0].data, narrow.W_dec[1].data[:, :1], narrow.W_dec[2].data]
    wide = [
        torch.cat([decoders[0], torch.zeros(models.N_FEATURES, 1, models.D_MODEL)], 1),
        torch.cat([decoders[1], torch.zeros_like(decoders[1])], 1),
        decoders[2],
    ]

    def graph(W_dec: list[Tensor]) -> Tensor:
        transcoder = type(narrow)(
            list(narrow.W_enc),
            list(narrow.b_enc),
            W_dec,
            narrow.b_dec.data,
            activation=narrow.activation,
            read=narrow.read,
        )
        return attribute(localize(model, transcoder, torch.arange(9))).adjacency()

    torch.testing.assert_close(graph(decoders), graph(wide), atol=1e-12, rtol=0)


@pytest.mark.slow
@every_class
def test_every_graph_says_how_exact_it_is(model_class: str) -> None:
    graph = attribute(
        localize(models.model_of("gpt2", model_class, torch.float32), models.transcoder(), torch.arange(9))
    )
    assert 0 < graph.conservation_error < 1e-5
    assert 0 < graph.probe_error < 1e-5


@pytest.mark.slow
@every_class
def test_direction_and_feature_targets_read_inner_layers(model_class: str) -> None:
    local = localize(models.model_of("gpt2", model_class), models.transcoder(), torch.arange(9))
    full, feature = attribute(local), local.active()[-1]
    graph = attribute(local, Targets.features([feature]))
    torch.testing.assert_close(
        graph.edges.dense(len(graph.nodes))[-1, :-1], full.adjacency()[len(local.features) - 1, : len(graph.nodes) - 1]
    )
    encoder = local.transcoder.W_enc[feature.layer][feature.index]
    direction = attribute(local, Targets.direction(encoder, pos=feature.pos, layer=feature.layer))
    torch.testing.assert_close(direction.edges.weight, graph.edges.weight)


def graph_sources(graph: AttributionGraph) -> Tensor:
    return graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN)


def nothing(local: LocalReplacementModel) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(local.errors), torch.zeros_like(local.token_vectors)


def vectors_of(local: LocalReplacementModel, graph: AttributionGraph, source: int) -> tuple[Tensor, Tensor]:
    """What a source writes at each layer and position, and to the token embeddings."""
    writes, tokens = nothing(local)
    node = graph.nodes[source]
    match node.kind:
        case Kind.FEATURE:
            layer, pos, index = local.features[source].tolist()
            shifts = local.transcoder.shift
            for step, decoder in enumerate(local.transcoder.W_dec[layer][index].to(writes)):
                shift = 0 if shifts is None else shifts[layer][index, step].to(writes)
                writes[layer + step, pos] = (local.activations[source] + shift) * decoder
        case Kind.ERROR:
            writes[node.layer, node.pos] = local.errors[node.layer, node.pos]
        case Kind.MASKED:
            writes[node.layer, node.pos] = local.masked_writes[node.layer, node.pos]
        case Kind.B_DEC:
            writes[node.layer] = local.transcoder.b_dec[node.layer].to(writes)
        case _:
            tokens[node.pos] = local.token_vectors[node.pos]
    return writes, tokens


def reads_of_targets(local: LocalReplacementModel, graph: AttributionGraph, writes: Tensor, tokens: Tensor) -> Tensor:
    """What every expanded node reads in a real pass of the frozen model with these vectors added."""
    reads = replay(local, writes, tokens)
    values = [
        reads[layer][pos] @ local.transcoder.W_enc[layer][index].to(reads[0])
        for layer, pos, index in local.features.tolist()
    ]
    W_U = local.model.W_U.detach()
    for row in range(graph.nodes.span(Kind.TARGET).start, len(graph.nodes)):
        values.append(reads[-1][-1] @ (W_U[:, graph.nodes.index[row]] - W_U.mean(-1)))
    return torch.stack(values)
