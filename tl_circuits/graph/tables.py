"""Graphs as tables and as networkx graphs, for everything that reads those."""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float64
from torch import Tensor

from tl_circuits.graph.influence import Shares, counted_sources
from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.views import label_of

if TYPE_CHECKING:
    import networkx
    import pandas


class GraphTables(NamedTuple):
    """Two frames: one row per node, in the graph's order, and one row per edge, by target and then source."""

    nodes: "pandas.DataFrame"
    edges: "pandas.DataFrame"


def unique_names(graph: GraphRecord) -> list[str]:
    """How each node is written, with `#2` and so on where two targets stand at one place."""
    seen: Counter[str] = Counter()
    names = []
    for row in range(len(graph.nodes)):
        name = str(graph.nodes[row])
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def to_pandas(graph: GraphRecord, influence: Float64[Tensor, " node"]) -> GraphTables:
    """The frames that `AttributionGraph.to_pandas` promises."""
    import pandas

    names, nodes = unique_names(graph), graph.nodes
    node_table = pandas.DataFrame(
        {
            "node": names,
            "kind": [nodes[row].kind.name.lower() for row in range(len(nodes))],
            "layer": nodes.layer.tolist(),
            "pos": nodes.pos.tolist(),
            "index": nodes.index.tolist(),
            "label": [label_of(graph, row) for row in range(len(nodes))],
            "token": [graph.tokens[pos] if pos >= 0 else "" for pos in nodes.pos.tolist()],
            "activation": graph.activations.tolist(),
            "influence": influence.tolist(),
            "total": graph.totals.tolist(),
            "expanded": graph.expanded.tolist(),
        }
    )
    edge_table = pandas.DataFrame(
        {
            "source": [names[row] for row in graph.edges.source.tolist()],
            "target": [names[row] for row in graph.edges.target.tolist()],
            "weight": graph.edges.weight.tolist(),
            "share": Shares(graph.edges, counted_sources(nodes, constants=False)).all().tolist(),
        }
    )
    return GraphTables(node_table, edge_table)


def to_networkx(graph: GraphRecord, influence: Float64[Tensor, " node"]) -> "networkx.DiGraph[str]":
    """The graph that `AttributionGraph.to_networkx` promises."""
    import networkx

    nodes, edges = to_pandas(graph, influence)
    found: networkx.DiGraph[str] = networkx.DiGraph(
        prompt=graph.provenance.prompt, tokens=list(graph.tokens), provenance=graph.provenance.to_dict()
    )
    for record in nodes.to_dict("records"):
        found.add_node(record.pop("node"), **{str(name): value for name, value in record.items()})
    for record in edges.to_dict("records"):
        found.add_edge(record["source"], record["target"], weight=record["weight"], share=record["share"])
    return found
