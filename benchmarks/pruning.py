"""How long do pruning and scores take, and how fast does influence flow over edges?

A random graph of 12 layers with 10⁴ nodes and 10⁶ edges: features read features of lower layers, errors and tokens, as
in graphs that are traced. CPU seconds of one thread, the median of runs; every run is of a new graph, whose own
bookkeeping is not done yet.
"""

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.measure import measured
from benchmarks.record import Record, add_options, median, settings
from tl_circuits.graph import Edges, Provenance
from tl_circuits.nodes import Kind, lay_out

QUESTION = (__doc__ or "").splitlines()[0]


@dataclass(frozen=True)
class Shape:
    """A random graph of so many nodes and edges."""

    n_nodes: int = 10_000
    n_edges: int = 1_000_000
    n_layers: int = 12
    n_tokens: int = 64
    n_targets: int = 10
    seed: int = 0


def main(argv: list[str] | None = None) -> None:
    """Measures and stores."""
    parser = argparse.ArgumentParser(description=QUESTION)
    for name, default in asdict(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(%(default)s)")
    add_options(parser, runs=5)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = Shape(**{name: getattr(arguments, name) for name in asdict(Shape())})
    runs = [_run(shape) for _ in range(arguments.runs)]
    edges = runs[0]["edges"]
    medians = {name: median(run[name]["cpu_s"] for run in runs) for name in ("prune", "scores", "influence")}
    record = Record(
        question=QUESTION,
        script="pruning",
        case=asdict(shape),
        settings=settings(arguments, *asdict(shape)),
        figures={
            "nodes": runs[0]["nodes"],
            "edges": edges,
            "prune_and_scores_s": median(run["prune"]["cpu_s"] + run["scores"]["cpu_s"] for run in runs),
            "prune_s": medians["prune"],
            "scores_s": medians["scores"],
            "influence_s": medians["influence"],
            "influence_edges_per_s": edges / medians["influence"],
            "nodes_kept": runs[0]["nodes_kept"],
            "runs": len(runs),
        },
        measured={"runs": runs},
        seed=shape.seed,
    )
    record.write(arguments.out, "pruning")


def _run(shape: Shape) -> dict[str, Any]:
    graph = random_graph(shape)
    small, prune = measured(lambda: graph.prune(0.8, 0.98))
    _, scores = measured(graph.scores)
    graph = random_graph(shape)
    _, influence = measured(graph.influence)
    found = {"prune": asdict(prune), "scores": asdict(scores), "influence": asdict(influence)}
    return found | {"nodes": len(graph.nodes), "edges": len(graph.edges), "nodes_kept": len(small.nodes)}


def random_graph(shape: Shape) -> tlc.AttributionGraph:
    """A lawful graph whose edges are drawn at random from all that causality allows."""
    generator = torch.Generator().manual_seed(shape.seed)
    others = shape.n_layers * shape.n_tokens + 2 * shape.n_tokens + 2 * shape.n_layers + 1 + shape.n_targets
    n_features = shape.n_nodes - others
    if n_features < shape.n_layers:
        raise SystemExit(f"{shape.n_nodes} nodes leave none for features: {others} are of other kinds. Give more.")
    layer = torch.arange(n_features) * shape.n_layers // n_features
    pos = torch.randint(0, shape.n_tokens, (n_features,), generator=generator)
    order = torch.argsort(layer * shape.n_tokens + pos, stable=True)
    features = torch.stack([layer, pos, torch.arange(n_features)], dim=1)[order]
    targets = torch.tensor([[shape.n_layers, shape.n_tokens - 1, index] for index in range(shape.n_targets)])
    nodes = lay_out(
        features,
        shape.n_layers,
        torch.arange(shape.n_tokens),
        learned_positions=True,
        masked_positions=(),
        targets=targets,
    )
    edges = _random_edges(shape, nodes, generator)
    is_target = nodes.rows(Kind.TARGET)
    expanded = nodes.rows(Kind.FEATURE) | is_target
    return tlc.AttributionGraph(
        nodes=nodes,
        edges=edges,
        activations=torch.where(expanded, 1.0, torch.nan),
        totals=torch.where(expanded, edges.sums().float(), torch.nan),
        expanded=expanded,
        target_weights=torch.full((shape.n_targets,), 1 / shape.n_targets),
        target_labels=tuple(map(str, range(shape.n_targets))),
        target_probabilities=torch.full((shape.n_targets,), 1 / shape.n_targets),
        tokens=tuple(map(str, range(shape.n_tokens))),
        provenance=Provenance(n_layers=shape.n_layers),
    )


def _random_edges(shape: Shape, nodes: Any, generator: torch.Generator) -> Edges:
    n_nodes = len(nodes)
    readers = nodes.rows(Kind.FEATURE, Kind.TARGET).nonzero()[:, 0]
    stop = nodes.span(Kind.TARGET).start
    # Many that are drawn go upwards or forwards, or twice the same way: enough are drawn for those that are left.
    target = readers[torch.randint(0, len(readers), (8 * shape.n_edges,), generator=generator)]
    source = torch.randint(0, stop, (8 * shape.n_edges,), generator=generator)
    lawful = (nodes.layer[source] < nodes.layer[target]) & (nodes.pos[source] <= nodes.pos[target])
    pairs = torch.unique(torch.stack([target, source], dim=1)[lawful], dim=0)
    pairs = pairs[torch.randperm(len(pairs), generator=generator)[: shape.n_edges]]
    if len(pairs) < shape.n_edges:
        raise SystemExit(f"{n_nodes} nodes do not have {shape.n_edges} edges that causality allows. Give more nodes.")
    return Edges.from_pairs(n_nodes, pairs[:, 0], pairs[:, 1], torch.randn(len(pairs), generator=generator))


if __name__ == "__main__":
    main()
