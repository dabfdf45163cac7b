"""Sums over the edges of each row, block by block, as many edges at a time as are asked for."""

import pytest
import torch

from tests.graphs import random_graph
from tl_circuits.graph import Edges


@pytest.mark.parametrize("block", [1, 2, 3, 7, 50, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_sums_by_blocks_are_those_of_the_matrix(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_circuits.graph.edges.BLOCK_EDGES", block)
    graph = random_graph(seed, n_layers=4, n_features=16, density=(0.1, 0.9)[seed % 2], unexpanded=0.3)
    matrix, n_nodes = graph.adjacency(), len(graph.nodes)
    times = torch.randn(n_nodes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for weights in (None, times, times > 0):
        by = matrix if weights is None else matrix * weights
        torch.testing.assert_close(graph.edges.sums(weights), by.sum(1))
        expected = matrix.abs() if weights is None else matrix.abs() * weights
        torch.testing.assert_close(graph.edges.sums(weights, magnitude=True), expected.sum(1))


def test_no_edges_sum_to_nothing() -> None:
    none = torch.empty(0, dtype=torch.int64)
    for n_rows in (1, 3):
        edges = Edges.from_pairs(n_rows, none, none, torch.empty(0))
        assert edges.sums().tolist() == [0.0] * n_rows
