"""The attribution graph: a value with verbs that take it to a graph, to numbers or to a file format."""

from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from tl_circuits.errors import GraphError
from tl_circuits.graph.influence import node_influence, target_shares
from tl_circuits.graph.losses import with_losses_as_errors
from tl_circuits.graph.prune import prune
from tl_circuits.graph.record import GraphRecord
from tl_circuits.graph.scores import GraphScores, score


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
        """I = pᵀB, the share of the targets' weight that passes through each node (`tl_circuits.graph.influence`).

        Inputs are normalised over features, errors and tokens, with `constants` over all sources. In a pruned graph
        what was pruned counts as error at its layer and position.
        """
        shares, _ = with_losses_as_errors(self, constants=constants)
        p = target_shares(self.nodes, self.target_weights)
        return node_influence(shares, self.nodes, p)[: len(self.nodes)]

    def prune(
        self, nodes: float = 0.8, edges: float = 0.98, *, errors: bool = False, constants: bool = False
    ) -> "AttributionGraph":
        """The part of the graph that carries most of its influence (Ameisen et al. 2025, appendix "Graph Pruning").

        Keeps the smallest set of nodes with a share `nodes` of all influence, the node that crosses it included, then
        among them the smallest set of edges with a share `edges` of all edge influence Â_ts · (I_t + p_t). Tokens,
        errors, constants and targets stay. `errors=True` prunes errors too and then drops features and errors that hang
        loose, which is circuit-tracer's rule. What is cut off is remembered, and counts as error in `scores`.

        Raises `SettingError` where a share lies outside (0, 1].
        """
        return prune(self, nodes, edges, errors=errors, constants=constants)

    def scores(self, *, constants: bool = False) -> GraphScores:
        """Replacement and completeness of this graph, as `GraphScores` defines them."""
        return score(self, constants=constants)
