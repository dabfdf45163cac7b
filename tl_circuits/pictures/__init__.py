"""Pictures of graphs, of what was done with them, and of circuits, for papers and notebooks. None is shown unasked."""

from tl_circuits.pictures.attention import plot_attention
from tl_circuits.pictures.curves import plot_curves
from tl_circuits.pictures.errors import plot_error_share
from tl_circuits.pictures.graph import plot
from tl_circuits.pictures.intervention import plot_intervention
from tl_circuits.pictures.svg import subgraph_svg

__all__ = ["plot", "plot_attention", "plot_curves", "plot_error_share", "plot_intervention", "subgraph_svg"]
