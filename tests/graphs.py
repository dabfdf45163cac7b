"""Small layered graphs, random ones and circuit-tracer's, for the tests of everything that reads a graph."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from tl_circuits.graph import AttributionGraph, Edges, Provenance, conservation_error
from tl_circuits.nodes import Kind, Nodes, lay_out

GOLDEN = tuple(sorted((Path(__file__).parent / "golden").glob("*.safetensors")))


def random_graph(
    seed: int,
    *,
    n_layers: int = 3,
    n_pos: int = 3,
    n_features: int = 8,
    n_targets: int = 2,
    density: float = 0.6,
    dtype: torch.dtype = torch.float64,
    unexpanded: float = 0.0,
    negative_weights: bool = False,
) -> AttributionGraph:
    """A graph with random edges wherever the laws allow one, so that its totals are the sums of its rows."""
    rng = torch.Generator().manual_seed(seed)
    possible = torch.cartesian_prod(torch.arange(n_layers), torch.arange(n_pos), torch.arange(4))
    chosen = torch.randperm(len(possible), generator=rng)[:n_features].sort().values
    targets = torch.stack(
        [torch.full((n_targets,), n_layers), torch.full((n_targets,), n_pos - 1), torch.arange(n_targets)], dim=1
    )
    nodes = lay_out(
        possible[chosen],
        n_layers,
        torch.arange(n_pos) + 7,
        learned_positions=True,
        masked_positions=(0,),
        targets=targets,
    )
    expanded = nodes.rows(Kind.FEATURE, Kind.TARGET)
    expanded[nodes.span(Kind.FEATURE)] &= torch.rand(len(chosen), generator=rng) >= unexpanded
    allowed = expanded[:, None] & may_feed(nodes) & (torch.rand(len(nodes), len(nodes), generator=rng) < density)
    matrix = torch.where(allowed, torch.randn(len(nodes), len(nodes), generator=rng, dtype=torch.float64), 0.0).to(
        dtype
    )
    weights = torch.rand(n_targets, generator=rng) + 0.05
    if negative_weights:
        weights[-1] *= -1
    return graph_of(nodes, Edges.from_dense(matrix), expanded, weights, n_layers=n_layers)


def may_feed(nodes: Nodes) -> Tensor:
    """Where the laws allow an edge (row = target, column = source)."""
    reads = nodes.rows(Kind.FEATURE, Kind.TARGET)
    is_feature = nodes.rows(Kind.FEATURE)
    upward = nodes.layer[:, None] > nodes.layer[None]
    inner = is_feature[:, None] & is_feature[None]
    return reads[:, None] & ~nodes.rows(Kind.TARGET)[None] & (upward | ~inner)


def graph_of(nodes: Nodes, edges: Edges, expanded: Tensor, weights: Tensor, *, n_layers: int) -> AttributionGraph:
    """The graph whose totals are what its edges sum to."""
    sums = edges.sums()
    reads = nodes.rows(Kind.FEATURE, Kind.TARGET)
    totals = torch.where(expanded, sums, torch.nan)
    n_targets = nodes.count(Kind.TARGET)
    n_pos = nodes.count(Kind.TOKEN)
    return AttributionGraph(
        nodes=nodes,
        edges=edges,
        activations=torch.where(reads, sums.abs() + 1, torch.nan),
        totals=totals,
        expanded=expanded,
        target_weights=weights,
        target_labels=tuple(f" word{number}" for number in range(n_targets)),
        target_probabilities=weights.abs() / (weights.abs().sum() + 1),
        tokens=tuple(["<bos>", " Dallas", " is"][pos % 3] for pos in range(n_pos)),
        conservation_error=conservation_error(edges, totals, expanded),
        probe_error=0.0,
        provenance=Provenance(
            prompt=" Dallas is", model="toy", transcoder="toy-clt", n_layers=n_layers, settings={"coverage": 1.0}
        ),
    )


def names(graph: AttributionGraph) -> set[str]:
    return set(names_in_order(graph))


def names_in_order(graph: AttributionGraph) -> list[str]:
    return [str(graph.nodes[row]) for row in range(len(graph.nodes))]


def pairs(graph: AttributionGraph) -> set[tuple[str, str]]:
    targets, sources = graph.edges.target.tolist(), graph.edges.source.tolist()
    return {(str(graph.nodes[t]), str(graph.nodes[s])) for t, s in zip(targets, sources, strict=True)}


def chain(*, error: float = 1.0) -> AttributionGraph:
    """token → feature L0 → feature L1 → target, with one error into each feature, so that shares are easy to read."""
    nodes = lay_out(
        torch.tensor([[0, 0, 5], [1, 0, 6]]),
        2,
        torch.tensor([11]),
        learned_positions=False,
        masked_positions=(),
        targets=torch.tensor([[2, 0, 42]]),
    )
    row = {str(nodes[number]): number for number in range(len(nodes))}
    weights = {
        ("L0/5@0", "token@0"): 3.0,
        ("L1/6@0", "L0/5@0"): -3.0,
        ("L1/6@0", "error L0@0"): error,
        ("target 42@0", "L1/6@0"): 3.0,
        ("target 42@0", "error L1@0"): error,
        ("target 42@0", "bias L2"): 100.0,
    }
    ends = torch.tensor([[row[target], row[source]] for target, source in weights])
    edges = Edges.from_pairs(
        len(nodes), ends[:, 0], ends[:, 1], torch.tensor(list(weights.values()), dtype=torch.float64)
    )
    return graph_of(nodes, edges, nodes.rows(Kind.FEATURE, Kind.TARGET), torch.tensor([0.5]), n_layers=2)


HOSTILE = ('<img src=x onerror="alert(1)">', "</script><script>", '" (p=', "\u2028\n\r\t", "\ud800", "'", "&amp;", "")


def hostile_graph() -> AttributionGraph:
    graph = random_graph(11, n_layers=3, n_pos=3, n_features=9, n_targets=2)
    labels = {
        (feature.layer, feature.index): HOSTILE[number % len(HOSTILE)]
        for number, feature in enumerate(graph.nodes.features())
    }
    provenance = dataclasses.replace(graph.provenance, prompt="<b>" + HOSTILE[0], model="</table>" + HOSTILE[1])
    return dataclasses.replace(
        graph, tokens=HOSTILE[:3], target_labels=HOSTILE[2:4], labels=labels, provenance=provenance
    )


Recipe = Callable[[], AttributionGraph]

# A recipe and not a graph: beartype draws random numbers where it checks, which Hypothesis forbids inside a strategy.
recipes = st.builds(
    partial,
    st.just(random_graph),
    st.integers(0, 10_000),
    n_layers=st.integers(1, 4),
    n_pos=st.integers(1, 4),
    n_features=st.integers(0, 24),
    n_targets=st.integers(1, 3),
    density=st.sampled_from([0.1, 0.5, 1.0]),
    negative_weights=st.booleans(),
)


@dataclass(frozen=True)
class Golden:
    """One of circuit-tracer's graphs, and a graph of ours with the same edges."""

    graph: AttributionGraph
    paper: Tensor
    expected: dict[str, Tensor]
    scores: tuple[float, float]


@cache
def golden(path: Path) -> Golden:
    """Reads a golden file; `paper` marks the nodes that circuit-tracer has, in its order."""
    with safe_open(path, "pt") as file:
        expected = {
            name.removeprefix("expected."): file.get_tensor(name)
            for name in file.keys()
            if name.startswith("expected.")
        }
        tokens = file.get_tensor("tokens")
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
    n_layers = metadata["model_cfg_kwargs"]["n_layers"]
    last = torch.full((len(expected["logit_target_ids"]),), len(tokens) - 1)
    targets = torch.stack([torch.full_like(last, n_layers), last, expected["logit_target_ids"]], dim=1)
    features = expected["active_features"][expected["selected_features"]]
    nodes = lay_out(features, n_layers, tokens, learned_positions=True, masked_positions=(0,), targets=targets)
    paper = nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET)
    matrix = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    rows = paper.nonzero().squeeze(1)
    matrix[rows[:, None], rows[None]] = expected["adjacency_matrix"]
    expanded = nodes.rows(Kind.FEATURE, Kind.TARGET)
    weights = expected["logit_probabilities"]
    graph = graph_of(nodes, Edges.from_dense(matrix), expanded, weights, n_layers=n_layers)
    replacement, completeness = metadata["graph_scores"]
    return Golden(graph, paper, expected, (replacement, completeness))
