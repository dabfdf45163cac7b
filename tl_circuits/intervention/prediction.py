"""What a graph says that ablating a feature does: its influence, its direct effects, and its effects through others."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import Shares, counted_sources
from tl_circuits.nodes import Kind


@dataclass(frozen=True, eq=False)
class Prediction:
    """A graph's features as matrices, row = what is affected, column = the feature that is ablated.

    - `influence`: of features on the targets, I = pᵀB. `on_features`: B among features, the influence of each on each.
    - `direct`, `total`, `knock_on`: the signed change, −A, the sum over all paths, and over those through other
      features, of the pre-activations of features; `direct_on_targets`, `total_on_targets`, `knock_on_on_targets`: of
      the targets' values. Along a path a feature passes on what it reads in proportion to its activation: true while
      it keeps to the linear side of its activation function. Where there is no path there is exactly 0.
    """

    influence: Float64[Tensor, " feature"]
    on_features: Float64[Tensor, "feature feature"]
    direct: Float64[Tensor, "feature feature"]
    total: Float64[Tensor, "feature feature"]
    knock_on: Float64[Tensor, "feature feature"]
    direct_on_targets: Float64[Tensor, "target feature"]
    total_on_targets: Float64[Tensor, "target feature"]
    knock_on_on_targets: Float64[Tensor, "target feature"]

    @classmethod
    def of(cls, graph: AttributionGraph) -> "Prediction":
        """What a whole graph predicts. Raises `GraphError` where its matrix would be too large."""
        features, targets = graph.nodes.span(Kind.FEATURE), graph.nodes.span(Kind.TARGET)
        weights = graph.adjacency().to(torch.float64)[:, features]
        shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False)).denominator
        normalised = weights[features].abs() / torch.where(shares > 0, shares, 1.0)[features, None]
        edges, into_targets = weights[features], weights[targets]
        activations = graph.activations[features].to(torch.float64)
        unit = torch.eye(len(edges), dtype=torch.float64)
        # (I − E)⁻¹, with E the effect per unit of activation: features are sorted by layer, and feed higher ones only.
        total = (unit - _all_paths(edges / activations)) * activations
        # Not total less direct: that leaves rounding where there is no path, which a logarithm takes for an effect.
        knock_on, knock_on_on_targets = (edges / activations) @ total, (into_targets / activations) @ total
        return cls(
            influence=graph.influence()[features],
            on_features=_all_paths(normalised) - unit,
            direct=-edges,
            total=total,
            knock_on=knock_on,
            direct_on_targets=-into_targets,
            total_on_targets=knock_on_on_targets - into_targets,
            knock_on_on_targets=knock_on_on_targets,
        )

    def of_difference(self, row: Float64[Tensor, " feature"], graph: AttributionGraph) -> Float64[Tensor, " feature"]:
        """The total effect on a further target, of which only its own edges are known."""
        activations = graph.activations[graph.nodes.span(Kind.FEATURE)].to(torch.float64)
        # What reaches a feature through others, which total says, is passed on with its edge per unit of activation.
        return -row + (row / activations) @ self.total


def shuffled(graph: AttributionGraph, generator: torch.Generator) -> AttributionGraph:
    """The graph with the weights of each row's edges dealt anew to that row's sources, at random."""
    edges = graph.edges
    drawn = torch.rand(len(edges), generator=generator, dtype=torch.float64)
    by_chance = torch.argsort(drawn)
    order = by_chance[torch.argsort(edges.target[by_chance], stable=True)]
    return replace(graph, edges=replace(edges, weight=edges.weight[order]))


def _all_paths(edges: Float64[Tensor, "feature feature"]) -> Float64[Tensor, "feature feature"]:
    unit = torch.eye(len(edges), dtype=torch.float64)
    return torch.linalg.solve_triangular(unit - edges, unit, upper=False, unitriangular=True)
