"""Graphs that circuit-tracer computed, recomputed through the public names: adjacency, order, pruning, scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc
from tests import models
from tests.graphs import GOLDEN
from tl_circuits.nodes import Kind

# The peer's rotary tables were built in float32 and cast, so float64 models agree only to this unless they do the same.
ROTARY_IN_FLOAT32 = 1e-6

every_file = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


@pytest.mark.slow
@every_file
@pytest.mark.parametrize(
    ("dtype", "same_rotary", "tolerance"),
    [(torch.float64, True, 1e-9), (torch.float64, False, ROTARY_IN_FLOAT32), (torch.float32, False, 3e-5)],
    ids=["float64", "float64 with its own rotary tables", "float32"],
)
def test_the_graph_is_circuit_tracers(path: Path, dtype: torch.dtype, same_rotary: bool, tolerance: float) -> None:
    tensors, about = read(path)
    local = tlc.localize(
        model_of(tensors, about, dtype, same_rotary), transcoder_of(tensors, about), tensors["tokens"], (0,)
    )
    graph = tlc.attribute(local)
    paper = graph.nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)
    adjacency = graph.adjacency()[paper][:, paper].to(torch.float64)
    torch.testing.assert_close(adjacency, tensors["expected.adjacency_matrix"], atol=tolerance, rtol=0)
    assert torch.equal(local.features, tensors["expected.active_features"])
    assert torch.equal(graph.nodes.index[graph.nodes.span(Kind.TARGET)], tensors["expected.logit_target_ids"])
    torch.testing.assert_close(graph.target_weights, tensors["expected.logit_probabilities"], atol=tolerance, rtol=0)
    torch.testing.assert_close(
        local.errors.double(), tensors["expected.error_vectors"] * keep_first(local, 0), atol=30 * tolerance, rtol=0
    )


@pytest.mark.slow
@every_file
def test_pruned_in_circuit_tracers_way_it_keeps_the_same_nodes_and_edges(path: Path) -> None:
    tensors, about = read(path)
    local = tlc.localize(
        model_of(tensors, about, torch.float64, True), transcoder_of(tensors, about), tensors["tokens"], (0,)
    )
    graph = tlc.attribute(local)
    pruned = graph.prune(nodes=0.8, edges=0.98, errors=True)
    kept = {str(node) for node in (pruned.nodes[row] for row in range(len(pruned.nodes))) if node.kind in PAPER}
    paper = [graph.nodes[row] for row in range(len(graph.nodes)) if graph.nodes[row].kind in PAPER]
    mask = tensors["expected.prune_node_mask"]
    assert kept == {str(node) for node, keep in zip(paper, mask.tolist(), strict=True) if keep}
    rows = pruned.nodes.rows(*PAPER)
    edges = pruned.adjacency()[rows][:, rows] != 0
    assert torch.equal(edges, tensors["expected.prune_edge_mask"][mask][:, mask])


@pytest.mark.slow
@every_file
def test_its_scores_are_circuit_tracers(path: Path) -> None:
    tensors, about = read(path)
    local = tlc.localize(
        model_of(tensors, about, torch.float64, True), transcoder_of(tensors, about), tensors["tokens"], (0,)
    )
    scores = tlc.attribute(local).scores()
    replacement, completeness = about["graph_scores"]
    assert scores.replacement == pytest.approx(replacement, abs=1e-6)
    assert scores.completeness_circuit_tracer == pytest.approx(completeness, abs=1e-6)


PAPER = (Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)


def keep_first(local: Any, position: int) -> Tensor:
    keep = torch.ones(1, local.n_pos, 1, dtype=torch.float64)
    keep[:, position] = 0
    return keep


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        return {key: file.get_tensor(key) for key in file.keys()}, about


def model_of(
    tensors: dict[str, Tensor], about: dict[str, Any], dtype: torch.dtype, same_rotary: bool
) -> HookedTransformer:
    with models.quiet():
        model = HookedTransformer(HookedTransformerConfig(**about["model_cfg_kwargs"], dtype=dtype))
        single = HookedTransformer(HookedTransformerConfig(**about["model_cfg_kwargs"], dtype=torch.float32))
    weights = {
        key.removeprefix("model."): value.to(dtype) for key, value in tensors.items() if key.startswith("model.")
    }
    model.load_state_dict(weights, strict=False)
    if same_rotary:
        tables = dict(single.named_buffers())
        for name, table in model.named_buffers():
            if "rotary" in name:
                table.copy_(tables[name])
    return model


def transcoder_of(tensors: dict[str, Tensor], about: dict[str, Any]) -> tlc.CrossLayerTranscoder:
    mine = {key.removeprefix("transcoder."): value for key, value in tensors.items() if key.startswith("transcoder.")}
    n_layers, meta = about["model_cfg_kwargs"]["n_layers"], about["meta"]
    where = {"read": meta["feature_input_hook"], "write": meta["feature_output_hook"]}
    if meta["kind"] == "plt":
        stacked = {
            name: torch.stack([mine[f"transcoders.{layer}.{name}"] for layer in range(n_layers)])
            for name in ("W_enc", "b_enc", "W_dec", "b_dec", "activation_function.threshold")
        }
        threshold = stacked.pop("activation_function.threshold")
        return tlc.CrossLayerTranscoder(**stacked, activation=tlc.JumpReLU(threshold), **where)
    threshold = mine.get("activation_function.threshold")
    return tlc.CrossLayerTranscoder(
        mine["W_enc"],
        mine["b_enc"],
        [mine[f"W_dec.{layer}"] for layer in range(n_layers)],
        mine["b_dec"],
        activation=tlc.ReLU() if threshold is None else tlc.JumpReLU(threshold),
        W_skip=mine.get("W_skip"),
        **where,
    )
