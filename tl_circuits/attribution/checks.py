"""Two checks that every graph goes through: conservation, and one probe of real forward passes.

Conservation is nearly true by construction where constants come from the same pass; the probe is not: it adds all
sources, with random signs, to a real pass of the frozen model, and compares what every target reads with what the edges
say.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.attribution.targets import Target
from tl_circuits.errors import TLCircuitsWarning
from tl_circuits.graph import Edges
from tl_circuits.graph.edges import conservation_error
from tl_circuits.nodes import Kind, Nodes
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import decoded, replay
from tl_circuits.replacement.pieces import working

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 1e-1}
"""How large the errors, relative to what a row sums up, may be before a graph says so: ten times what is usual."""
SINGLE_PRECISION_NORMS = 1e-4
"""A bridge computes RMS norms in float32 whatever the model's dtype, so float64 is no better than this there."""
PROBE_ROUNDING = 100
"""The probe may round this much more: it moves the whole residual stream, which is larger than the edges of one node,
while what it looks for, a norm or pattern that is not frozen, is off by percents."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The part of a graph that is checked: who adds how much to whom, what that should sum to, where it is known."""

    nodes: Nodes
    edges: Edges
    totals: Float[Tensor, " node"]
    expanded: Bool[Tensor, " node"]


def errors(local: LocalReplacementModel, targets: Sequence[Target], graph: Rows) -> tuple[float, float]:
    """The conservation error and the probe error of a graph. Warns where one exceeds what rounding explains."""
    conserved = conservation_error(graph.edges, graph.totals, graph.expanded)
    summed_up = _summed_up(local, targets, graph)
    probed = probe(local, targets, graph, summed_up)
    dtype = local.pieces.block_in[0].dtype
    allowed = ROUNDING.get(dtype, 1e-5)
    if hasattr(local.model, "original_model"):
        allowed = max(allowed, SINGLE_PRECISION_NORMS)
    checks = (
        ("conservation", _unconserved(graph, summed_up), allowed),
        ("finite-difference probe", probed, PROBE_ROUNDING * allowed),
    )
    for name, value, limit in checks:
        if not value <= limit:
            warnings.warn(
                f"This graph fails its {name} check: its worst node is off by {value:.1e} of its inputs, and {dtype} "
                f"allows {limit:.0e}. Something in the model is not frozen or not linear (a hook of your own, an "
                "unusual block, a bridge from boot_native, which ignores what is put at attn.hook_pattern); do not "
                "trust its edges.",
                TLCircuitsWarning,
                stacklevel=4,
            )
    return conserved, probed


def _unconserved(graph: Rows, summed_up: Tensor) -> float:
    rows = graph.nodes.rows(Kind.FEATURE, Kind.TARGET)
    gap = (graph.edges.sums() - graph.totals)[rows].abs()
    return float((gap / summed_up)[graph.expanded[rows]].max())


def _summed_up(local: LocalReplacementModel, targets: Sequence[Target], graph: Rows) -> Tensor:
    # What a node reads is a sum over d_model whose terms may all but cancel: a row with one input can have next to no
    # Σ|edges| to compare its rounding with. Those terms round too, so they count here beside the edges.
    rows = graph.nodes.rows(Kind.FEATURE, Kind.TARGET)
    terms = _projections(local, targets, [working(read)[0] for read in local.pieces.reads], magnitude=True)
    return (graph.edges.sums(magnitude=True)[rows] + terms).clamp(min=torch.finfo(torch.float64).tiny)


def probe(local: LocalReplacementModel, targets: Sequence[Target], graph: Rows, summed_up: Tensor) -> float:
    """The largest difference, over expanded nodes, between a real pass and the edges, relative to what it sums up.

    Features, errors and tokens are all doubled or removed, by random signs (the same ones for the same graph), at the
    same time: a wrong edge shows at its target.
    """
    nodes, like = graph.nodes, local.activations
    generator = torch.Generator().manual_seed(len(nodes))
    signs = torch.randint(0, 2, (len(nodes),), generator=generator).to(torch.float64) * 2 - 1
    signs[nodes.rows(Kind.POSITION, Kind.MASKED, Kind.B_DEC, Kind.BIAS)] = 0
    feature_signs, error_signs, token_signs = (
        signs[nodes.span(kind)].to(like) for kind in (Kind.FEATURE, Kind.ERROR, Kind.TOKEN)
    )
    extra_writes = decoded(local.transcoder, local.features, local.activations, local.n_pos, times=feature_signs)
    extra_writes += local.errors * error_signs.view(local.n_layers, local.n_pos, 1)
    moved = replay(local, extra_writes, local.token_vectors * token_signs[:, None])
    change = [after - working(before)[0] for after, before in zip(moved, local.pieces.reads, strict=True)]
    measured = _projections(local, targets, change)

    rows = nodes.rows(Kind.FEATURE, Kind.TARGET)
    known = graph.expanded[rows]
    said = graph.edges.sums(signs)[rows]
    relative = (measured - said).abs() / summed_up
    return float(relative[known].max())


def _projections(
    local: LocalReplacementModel, targets: Sequence[Target], reads: Sequence[Tensor], *, magnitude: bool = False
) -> Tensor:
    """⟨vector, read⟩ of every feature and target, in the order of nodes; the sum of its terms' |·| with `magnitude`."""

    def dot(one: Tensor, other: Tensor) -> Tensor:
        terms = one * other
        return (terms.abs() if magnitude else terms).sum(-1)

    parts = []
    for layer in range(local.n_layers):
        _, pos, index = local.features[local.features[:, 0] == layer].unbind(1)
        encoder = local.transcoder.W_enc[layer]
        parts.append(dot(reads[layer][pos], encoder[index.to(encoder.device)].to(local.activations)))
    parts += [dot(reads[target.layer][target.pos], target.vector)[None] for target in targets]
    return torch.cat(parts).cpu().to(torch.float64)
