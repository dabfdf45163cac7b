"""How much of what a graph explains ends in errors, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float64
from torch import Tensor, zeros

from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import node_influence, target_shares
from tl_circuits.graph.losses import with_losses_as_errors
from tl_circuits.nodes import Kind
from tl_circuits.pictures.canvas import INK, LINE, NEGATIVE, SOFT, drawn, graph_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def error_shares(graph: AttributionGraph) -> tuple[Float64[Tensor, " layer"], float]:
    """Of all influence that ends in tokens or errors, the share that ends in the errors of each layer, and elsewhere.

    What was pruned counts as error at its layer and position; elsewhere is what was lost where the graph keeps no error
    node. Together they are 1 − replacement, up to features that were not expanded.
    """
    shares, is_error = with_losses_as_errors(graph_of(graph), constants=False)
    influence = node_influence(shares, graph.nodes, target_shares(graph.nodes, graph.target_weights))
    ours = is_error[: len(graph.nodes)] & graph.nodes.rows(Kind.ERROR)
    by_layer = zeros(graph.provenance.n_layers, dtype=influence.dtype)
    by_layer.index_add_(0, graph.nodes.layer[ours], influence[: len(graph.nodes)][ours])
    beyond = influence[len(graph.nodes) :].sum()
    whole = float(by_layer.sum() + beyond + influence[graph.nodes.span(Kind.TOKEN)].sum())
    return (by_layer / whole, float(beyond) / whole) if whole > 0 else (by_layer, 0.0)


def plot_error_share(graph: AttributionGraph, ax: "Axes | None" = None, path: str | Path | None = None) -> "Axes":
    """Plot what share of the influence ends in each layer's errors: where the transcoder misses what matters.

    What was pruned counts as error. Drawn, written and returned as by `plot`, and raises what `plot` raises.
    """
    by_layer, beyond = error_shares(graph)
    names = [f"L{layer}" for layer in range(len(by_layer))] + (["other"] if beyond > 0 else [])
    values = by_layer.tolist() + ([beyond] if beyond > 0 else [])

    def draw(axes: "Axes") -> None:
        bars = axes.bar(
            range(len(values)), values, color=NEGATIVE, width=0.7, hatch="///", edgecolor="white", linewidth=0
        )
        axes.bar_label(bars, labels=[f"{value:.1%}" for value in values], fontsize=8, padding=2, color=INK)
        axes.set_xticks(range(len(values)), names, fontsize=9)
        axes.set_ylim(0, max([*values, 0.01]) * 1.18)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_ylabel("share of influence that ends in errors", fontsize=9, color=INK)
        axes.set_title(f"{sum(values):.1%} in all; the rest ends in tokens", fontsize=9, color=SOFT, loc="left")
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK, labelsize=8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)

    return drawn(draw, ax, path, (1.8 + 0.55 * len(values), 3.2))
