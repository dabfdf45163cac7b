"""The attribution graph: a value with verbs that take it to a graph, to numbers or to a file format."""

from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from tl_circuits.errors import GraphError
from tl_circuits.graph.influence import Shares, counted_sources, node_influence, target_shares
from tl_circuits.graph.record import GraphRecord


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(GraphRecord):
    """The attribution graph of one prompt (see `GraphRecord` for what it holds and which laws it keeps)."""

    def adjacency(self, *, max_nodes: int = 10_000) -> Float[Tensor, "node node"]:
        """All edges as a matrix: row = target, column = source, in the order of `graph.nodes`.

        Raises `GraphError` for a graph of more than `max_nodes` nodes, whose matrix would mostly hold zeros.
        """
        n_nodes = len(self.nodes)
        if n_nodes > max_nodes:
            size = n_nodes**2 * self.edges.weight.element_size() / 2**30
            raise GraphError(
                f"The matrix of {n_nodes} × {n_nodes} nodes would take {size:.1f} GiB for {len(self.edges)} edges. "
                f"Prune the graph first, read graph.edges, or ask for adjacency(max_nodes={n_nodes})."
            )
        return self.edges.dense(n_nodes)

    def influence(self, *, constants: bool = False) -> Float64[Tensor, " node"]:
        """The share of the targets' weight that passes through each node (`tl_circuits.graph.influence`)."""
        shares = Shares(self.edges, counted_sources(self.nodes, constants=constants))
        return node_influence(shares, self.nodes, target_shares(self.nodes, self.target_weights))
