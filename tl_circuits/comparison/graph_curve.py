"""How much of a behaviour the n most influential edges of attribution graphs carry, and what the pruned graphs score.

Edge patching in the local replacement model of a prompt, attention and norms held at its values: what a feature or the
difference of the answers reads along the kept edges is what the pass itself computes, and along all others it is what
the sources were in the corrupted run. Edges from features and tokens are counted; they are those that a graph explains
by. What the graph's features do not write of the MLPs, features included that are active in the corrupted run alone, is
error: of the corrupted run (primary), or kept.

    h_t = h_t(corrupted) + Σ over kept edges s → t of (A_ts · a_s / a_s(clean) − A_ts(corrupted))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from tl_circuits.attribution import Targets, attribute
from tl_circuits.comparison.curve import CircuitCurve, told_apart, whole_numbers
from tl_circuits.comparison.passes import passing
from tl_circuits.comparison.task import Task, check_task
from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.influence import (
    Shares,
    counted_sources,
    cumulative,
    edge_influence,
    node_influence,
    target_shares,
)
from tl_circuits.hooks import Model
from tl_circuits.nodes import Kind
from tl_circuits.progress import stage
from tl_circuits.replacement import LocalReplacementModel, localize
from tl_circuits.replacement.localize import decoded, replay
from tl_circuits.transcoder import BatchTopK, CrossLayerTranscoder, JumpReLU, TopK

GraphErrors = Literal["corrupted", "kept"]


@dataclass(frozen=True, eq=False)
class _Prompt:
    """One prompt's graph as a matrix, and what its sources were in the corrupted run.

    - `weights`, `corrupted` (target, source): what each source gives each target, in either run; sources are the
      graph's features, then its tokens, targets the features and the difference of the answers last.
    - `start` (target,): what targets read where every source is the corrupted run's.
    - `rank` (edge,): the edges that there are, as places in `weights` laid flat, the most influential first.
    """

    weights: Float64[Tensor, "target source"]
    corrupted: Float64[Tensor, "target source"]
    start: Float64[Tensor, " target"]
    clean: Float64[Tensor, " feature"]
    least: Float64[Tensor, " feature"]
    layers: Tensor
    rank: Tensor
    whole: float

    def measure(self, kept: Bool[Tensor, "target source"]) -> float:
        """The difference of the answers' logits where only these edges carry what the pass computes."""
        n_features = len(self.clean)
        share = torch.ones(self.weights.shape[1], dtype=torch.float64)
        read = self.start.clone()
        for layer in [*range(int(self.layers.max()) + 1), -1] if n_features else [-1]:
            rows = (self.layers == layer).nonzero()[:, 0] if layer >= 0 else torch.tensor([n_features])
            moved = self.weights[rows] * share - self.corrupted[rows]
            read[rows] += (moved * kept[rows]).sum(1)
            if layer >= 0:
                on = torch.where(read[rows] >= self.least[rows], read[rows], 0.0)
                share[rows] = on / self.clean[rows]
        return float(read[-1])


def graph_curve(
    model: Model,
    transcoder: CrossLayerTranscoder,
    task: Task,
    *,
    errors: GraphErrors = "corrupted",
    sizes: Sequence[int] | None = None,
    random: int | None = None,
    progress: bool | None = None,
) -> CircuitCurve:
    """The curve of the n edges of each prompt's graph that carry the most influence, Â_ts · (I_t + p_t).

    Every prompt's target is the difference of its answers' logits, whatever its measure is. A size beyond a prompt's
    edges takes all of them; the last size is all. `random` is the seed of an order drawn at random instead: the
    control. The answer that a circuit gives is not known, since only one difference is computed: `answered` says
    whether that is above 0. Of TopK, the features that the clean prompt chose stay chosen. Raises `SettingError` for
    errors and sizes that are none, and where the model does no better on the prompts than the graphs without edges.
    """
    if errors not in ("corrupted", "kept"):
        raise SettingError(f"errors={errors!r} is none: give one of corrupted, kept.")
    wanted = None if sizes is None else whole_numbers(sizes)
    check_task(model, task)
    prompts = []
    with stage("tracing prompts", len(task), show=progress) as bar:
        for number in range(len(task)):
            prompts.append(_prompt(model, transcoder, task.part([number]), errors))
            bar.update(1)
    if random is not None:
        draw = torch.Generator().manual_seed(random)
        orders = [one.rank[torch.randperm(len(one.rank), generator=draw)] for one in prompts]
    else:
        orders = [one.rank for one in prompts]
    most = max(len(order) for order in orders)
    chosen = sorted({0, most, *([2**power for power in range(most.bit_length())] if wanted is None else wanted)})
    chosen = [size for size in chosen if size <= most]
    measured = [
        [[_measured(one, order, size, of) for one, order in zip(prompts, orders, strict=True)] for size in chosen]
        for of in (True, False)
    ]
    faithful, complete = (torch.tensor(rows, dtype=torch.float64) for rows in measured)
    curve = CircuitCurve(
        basis=f"edges of {'PLT' if transcoder.is_per_layer else 'CLT'} graphs",
        task=task.name,
        scorer="influence" if random is None else "random",
        errors=errors,
        sizes=tuple(chosen),
        faithful=faithful,
        complete=complete,
        answered=faithful > 0,
        empty=faithful[0],
        whole=torch.tensor([one.whole for one in prompts], dtype=torch.float64),
    )
    return told_apart(curve)


def pruned_to(graph: AttributionGraph, *, features: int | None = None, edges: int | None = None) -> AttributionGraph:
    """The graph cut to its `features` most influential features, and to the `edges` that carry most among what is left.

    As `graph.prune` cuts, whose shares this finds; ties at the cut stay, and so do edges from biases, which explain
    nothing and are not counted. What is cut counts as error in its scores.
    Raises `SettingError` for a number below 1.
    """
    for name, number in (("features", features), ("edges", edges)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise SettingError(f"pruned_to({name}={number}): keep at least 1, and a whole number.")
    if features is not None:
        influence = graph.influence()
        running = cumulative(influence)
        of_features = running[graph.nodes.span(Kind.FEATURE)].sort().values
        if features < len(of_features):
            graph = graph.prune(nodes=_share(of_features[features - 1]), edges=1.0)
    if edges is not None:
        shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
        p = target_shares(graph.nodes, graph.target_weights)
        carried = edge_influence(shares, node_influence(shares, graph.nodes, p), p).sort(descending=True).values
        if edges < int((carried > 0).sum()):
            running = carried.cumsum(0)
            graph = graph.prune(nodes=1.0, edges=_share(running[edges - 1] / running[-1]))
    return graph


def _share(value: Float64[Tensor, ""]) -> float:
    return min(1.0, max(float(value), 1e-12))


def _measured(one: _Prompt, order: Tensor, size: int, of_circuit: bool) -> float:
    kept = torch.full((one.weights.numel(),), not of_circuit)
    kept[order[:size]] = of_circuit
    return one.measure(kept.view_as(one.weights))


def _prompt(model: Model, transcoder: CrossLayerTranscoder, task: Task, errors: GraphErrors) -> _Prompt:
    local = localize(model, transcoder, task.clean[0], masked_positions=())
    graph = attribute(local, Targets.difference(int(task.answer), int(task.corrupted_answer)), progress=False)
    features, tokens = graph.nodes.span(Kind.FEATURE), graph.nodes.span(Kind.TOKEN)
    sources = [*range(features.start, features.stop), *range(tokens.start, tokens.stop)]
    targets = [*range(features.start, features.stop), graph.nodes.span(Kind.TARGET).start]
    weights = graph.edges.dense(len(graph.nodes)).to(torch.float64)[targets][:, sources]
    there, clean = _There.of(local, task), local.activations.to(torch.float64).cpu()
    still, moved = torch.zeros_like(local.errors), there.tokens - local.token_vectors
    at_rest = _reads(local, task, still, torch.zeros_like(moved))
    corrupted = weights * torch.cat([there.activations(local) / clean, torch.ones(local.n_pos, dtype=torch.float64)])
    for pos in moved.any(-1).nonzero()[:, 0].tolist():
        alone = torch.zeros_like(moved)
        alone[pos] = moved[pos]
        corrupted[:, len(clean) + pos] += _reads(local, task, still, alone) - at_rest
    carried = _carried(graph)[targets][:, sources].flatten()
    return _Prompt(
        weights=weights,
        corrupted=corrupted,
        start=_reads(local, task, there.writes(local, errors), moved),
        clean=clean,
        least=_least(local),
        layers=local.features[:, 0].cpu(),
        rank=torch.argsort(carried, descending=True, stable=True)[: int((carried > 0).sum())],
        whole=float(at_rest[-1]),
    )


@dataclass(frozen=True, eq=False)
class _There:
    """The corrupted run: features of every layer, what each MLP wrote beside the skip, and what tokens entered as."""

    units: tuple[Tensor, ...]
    constants: Float[Tensor, "layer pos d_model"]
    tokens: Float[Tensor, "pos d_model"]

    @classmethod
    def of(cls, local: LocalReplacementModel, task: Task) -> "_There":
        transcoder, sites = local.transcoder, local.sites.sites
        taps = (local.sites.embed, *(tap for site in sites for tap in (site.read, site.write)))
        seen = {tap: value[0] for tap, value in passing(local.model, task.corrupted, taps).items()}
        with torch.no_grad():
            skips = [transcoder.skip(seen[site.read], site.layer) for site in sites]
            wrote = [
                seen[site.write] if skip is None else seen[site.write] - skip
                for site, skip in zip(sites, skips, strict=True)
            ]
            units = tuple(transcoder.encode(seen[site.read], site.layer) for site in sites)
        return cls(units, torch.stack(wrote), seen[local.sites.embed])

    def activations(self, local: LocalReplacementModel) -> Float64[Tensor, " feature"]:
        """Of the features that are active on the clean prompt."""
        rows = [self.units[layer][pos, index] for layer, pos, index in local.features.tolist()]
        return torch.stack(rows).to(torch.float64).cpu() if rows else torch.zeros(0, dtype=torch.float64)

    def writes(self, local: LocalReplacementModel, errors: GraphErrors) -> Float[Tensor, "layer pos d_model"]:
        """How far what the MLPs write is from the clean run: all of it, or what the graph's features write of it."""
        if errors == "corrupted":
            return self.constants - torch.stack([wrote[0].detach() for wrote in local.pieces.writes])
        change = self.activations(local).to(local.activations) - local.activations
        return decoded(local.transcoder, local.features, change, local.n_pos)


def _reads(
    local: LocalReplacementModel,
    task: Task,
    writes: Float[Tensor, "layer pos d_model"],
    tokens: Float[Tensor, "pos d_model"],
) -> Float64[Tensor, " target"]:
    """What features and the difference read, where MLPs and tokens write so much more than on the clean prompt."""
    reads = replay(local, writes, tokens)
    transcoder, found = local.transcoder, []
    for layer in range(local.n_layers):
        _, pos, index = local.features[local.features[:, 0] == layer].unbind(1)
        W_enc, b_enc = (part[layer][index].to(torch.float64) for part in (transcoder.W_enc, transcoder.b_enc))
        found.append((reads[layer][pos].to(torch.float64) * W_enc).sum(1) + b_enc)
    pair, model = [int(task.answer), int(task.corrupted_answer)], local.model
    logits = reads[-1][-1].to(torch.float64) @ model.W_U[:, pair].to(torch.float64)
    bias = getattr(model, "b_U", None)
    logits = logits if bias is None else logits + bias[pair]
    return torch.cat([*found, (logits[0] - logits[1])[None]]).detach().cpu()


def _carried(graph: AttributionGraph) -> Float64[Tensor, "target source"]:
    shares = Shares(graph.edges, counted_sources(graph.nodes, constants=False))
    p = target_shares(graph.nodes, graph.target_weights)
    found = torch.zeros(len(graph.nodes), len(graph.nodes), dtype=torch.float64)
    found[graph.edges.target, graph.edges.source.long()] = edge_influence(
        shares, node_influence(shares, graph.nodes, p), p
    )
    return found


def _least(local: LocalReplacementModel) -> Float64[Tensor, " feature"]:
    """From which pre-activation on each feature is active. Those that TopK has chosen stay chosen."""
    layer, _, index = local.features.unbind(1)
    match local.transcoder.activation:
        case JumpReLU(threshold=threshold):
            full = threshold.expand(local.n_layers, -1)
            least = full[layer, index if full.shape[1] > 1 else torch.zeros_like(index)]
        case BatchTopK(threshold=threshold):
            least = threshold[layer].clamp(min=0)
        case TopK(relu=False):
            # It lets negative values through.
            least = torch.full_like(local.preactivations, -torch.inf)
        case _:
            least = torch.zeros_like(local.preactivations)
    return least.detach().to(torch.float64).cpu()
