"""A local replacement model → its attribution graph.

Ameisen et al. 2025, "Attribution Graphs", with constants as sources and a stopping rule that certifies its coverage.
"""

import math
import operator
from collections.abc import Sequence
from importlib.metadata import version

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.attribution.checks import Rows, errors
from tl_circuits.attribution.expansion import Expansion
from tl_circuits.attribution.limits import Limits
from tl_circuits.attribution.made_by import fingerprint
from tl_circuits.attribution.planner import SWEEPS, Pace, Plan, check_batch, check_memory, reckoned, timed
from tl_circuits.attribution.targets import Target, Targets, Token, readouts, resolve, values
from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph, Provenance
from tl_circuits.hooks import Model
from tl_circuits.nodes import Feature, Kind, lay_out
from tl_circuits.progress import stage
from tl_circuits.replacement import LocalReplacementModel, localize
from tl_circuits.replacement.localize import check_unhooked_since
from tl_circuits.replacement.prompt import Prompt
from tl_circuits.replacement.sweep import Sweep
from tl_circuits.transcoder import CrossLayerTranscoder

TargetsLike = Targets | Sequence[Token | Feature] | Token | Feature | Tensor | None


def attribute(
    local: LocalReplacementModel,
    targets: TargetsLike = None,
    *,
    coverage: float = 1.0,
    max_features: int | None = None,
    time_budget: float | int | None = None,
    memory_budget: int | None = None,
    max_targets: int = 10,
    target_probability: float = 0.95,
    progress: bool | None = None,
) -> AttributionGraph:
    """The attribution graph of the targets on this prompt.

    Every edge is the exact direct effect of its source on its target in the frozen model; the in-edges of a node sum to
    what it reads (`conservation_error` says how nearly), and a random probe of real forward passes checks all edges at
    once (`probe_error`). `targets` are, by default, the most likely next tokens, up to `target_probability` together
    and `max_targets` in number; or tokens, `Feature`s, or `Targets`.

    With `coverage` below 1, features are expanded best-first until that share of the targets' influence is traced to
    tokens and errors; `max_features`, `time_budget` in seconds, and `memory_budget` in bytes (default: half of what the
    machine has to spare) stop earlier. Features that were not expanded stay as leaves; the graph says what coverage it
    reached, and `provenance.settings["stopped_by"]` what stopped it.

    Raises `TargetError` and `SettingError` for targets and settings that do not exist, and for a full graph that does
    not fit the memory budget. Warns where a full graph will take minutes, and where conservation or the probe is worse
    than rounding explains.
    """
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"attribute takes a local replacement model, not {type(local).__name__}: call tlc.localize first."
        )
    check_unhooked_since(local)
    limits = Limits.of(coverage, max_features, time_budget, memory_budget)
    with torch.inference_mode(False), torch.no_grad():
        found = resolve(Targets.parse(targets, max_targets, target_probability), local)
        expansion = _begin(local, found, limits)
        if limits.everything:
            stopped_by = _expand_all(expansion, limits.memory_budget, progress)
        else:
            stopped_by = _expand_best_first(expansion, limits, progress)
        settings = {
            "coverage": limits.coverage,
            "max_features": limits.max_features,
            "time_budget": limits.time_budget,
            "max_targets": operator.index(max_targets),
            "target_probability": float(target_probability),
            "stopped_by": stopped_by,
            "transcoder_weights": fingerprint(local.transcoder),
        }
        return _assemble(local, found, expansion, settings)


def plan(local: LocalReplacementModel, *, memory_budget: int | None = None) -> Plan:
    """What `attribute` would take for the full graph, in memory and time, without tracing all of it.

    Memory is reckoned from shapes, the time from rows in the middle of the prompt, which are traced for a second or one
    batch. `memory_budget` in bytes as there. Raises `SettingError` where it holds not even one target; of a full graph
    that does not fit the plan tells (`fits`).
    """
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"plan takes a local replacement model, not {type(local).__name__}: call tlc.localize first. What training "
            "takes is told by plan(model, settings, n_tokens) of tl_circuits.training.plan."
        )
    check_unhooked_since(local)
    memory = Limits.of(1.0, None, None, memory_budget).memory_budget
    with torch.inference_mode(False), torch.no_grad():
        sweep = _sweep(local, len(local.features), memory)
        return timed(reckoned(local, sweep, memory), sweep)


def trace(
    model: Model,
    transcoder: CrossLayerTranscoder,
    prompt: Prompt,
    targets: TargetsLike = None,
    *,
    masked_positions: Sequence[int] | None = None,
    coverage: float = 1.0,
    max_features: int | None = None,
    time_budget: float | int | None = None,
    memory_budget: int | None = None,
    max_targets: int = 10,
    target_probability: float = 0.95,
    progress: bool | None = None,
) -> AttributionGraph:
    """`attribute(localize(model, transcoder, prompt))`: from a prompt to its attribution graph in one call."""
    local = localize(model, transcoder, prompt, masked_positions)
    return attribute(
        local,
        targets,
        coverage=coverage,
        max_features=max_features,
        time_budget=time_budget,
        memory_budget=memory_budget,
        max_targets=max_targets,
        target_probability=target_probability,
        progress=progress,
    )


def _begin(local: LocalReplacementModel, found: Sequence[Target], limits: Limits) -> Expansion:
    n_rows = len(local.features) if limits.max_features is None else min(limits.max_features, len(local.features))
    sweep = _sweep(local, n_rows, limits.memory_budget)
    if limits.everything:
        check_memory(reckoned(local, sweep, limits.memory_budget))
    return Expansion.start(sweep, _target_rows(sweep, found), _weights(found))


def _sweep(local: LocalReplacementModel, n_rows: int, memory_budget: int) -> Sweep:
    sweep = Sweep.of(local, n_rows=n_rows, memory_budget=memory_budget // SWEEPS)
    check_batch(sweep, memory_budget)
    return sweep


def _target_rows(sweep: Sweep, found: Sequence[Target]) -> Float[Tensor, "target source"]:
    rows = sweep.rows(readouts(found))
    constants = torch.tensor([target.constant for target in found], dtype=torch.float64).to(rows)
    # The unembedding's bias is a constant of the last step, like the last norm's.
    last_bias = sweep.sources.span(Kind.BIAS).stop - 1
    rows[:, last_bias] += constants
    return rows


def _weights(found: Sequence[Target]) -> Float[Tensor, " target"]:
    return torch.tensor([target.weight for target in found], dtype=torch.float64)


def _expand_all(expansion: Expansion, memory_budget: int, progress: bool | None) -> str:
    pace = Pace.of(reckoned(expansion.sweep.local, expansion.sweep, memory_budget), expansion.sweep)
    with stage("attributing features", expansion.n_features, show=progress) as bar:
        for batch in expansion.sweep.batches(expansion.pending()):
            expansion.add(batch)
            pace.announce_if_long(batch)
            bar.update(len(batch))
    return "everything"


def _expand_best_first(expansion: Expansion, limits: Limits, progress: bool | None) -> str:
    limit = expansion.n_features if limits.max_features is None else min(limits.max_features, expansion.n_features)
    with stage(f"attributing to {limits.coverage:.0%} coverage", limit, show=progress) as bar:
        while (stopped_by := limits.reached(expansion)) is None:
            best = expansion.most_influential(min(limit - expansion.n_expanded, limits.affordable(expansion)))
            if len(best) == 0:
                return "nothing left that has influence"
            for batch in expansion.sweep.batches(best):
                expansion.add(batch)
                bar.update(len(batch))
    return stopped_by


def _assemble(
    local: LocalReplacementModel,
    found: Sequence[Target],
    expansion: Expansion,
    settings: dict[str, float | int | str | None],
) -> AttributionGraph:
    nodes = lay_out(
        local.features.cpu(),
        local.n_layers,
        local.prompt.tokens.cpu(),
        learned_positions=local.position_vectors is not None,
        masked_positions=local.prompt.masked,
        targets=torch.tensor([[target.layer, target.pos, target.index] for target in found]),
    )
    is_target = nodes.rows(Kind.TARGET)
    target_values = values(local, found).cpu()
    activations = torch.full((len(nodes),), math.nan, dtype=target_values.dtype)
    totals = activations.clone()
    activations[nodes.span(Kind.FEATURE)] = local.activations.cpu()
    activations[is_target] = totals[is_target] = target_values
    expanded = is_target.clone()
    expanded[nodes.span(Kind.FEATURE)] = expansion.expanded
    totals[expanded & ~is_target] = _less_bias(local, expansion.expanded)
    edges = expansion.edges()
    conserved, probed = errors(local, found, Rows(nodes, edges, totals, expanded))
    return AttributionGraph(
        nodes=nodes,
        edges=edges,
        activations=activations,
        totals=totals,
        expanded=expanded,
        target_weights=_weights(found),
        target_labels=tuple(target.label for target in found),
        target_probabilities=torch.tensor([target.probability for target in found], dtype=torch.float64),
        tokens=local.prompt.strings,
        conservation_error=conserved,
        probe_error=probed,
        coverage=expansion.coverage(),
        provenance=_provenance(local, settings),
    )


def _less_bias(local: LocalReplacementModel, expanded: Tensor) -> Float[Tensor, " expanded"]:
    rows: Int64[Tensor, " expanded"] = expanded.nonzero()[:, 0]
    features, less_bias = local.features[rows], local.preactivations[rows].clone()
    for layer in features[:, 0].unique().tolist():
        here = features[:, 0] == layer
        b_enc = local.transcoder.b_enc[layer]
        less_bias[here] -= b_enc[features[here, 2].to(b_enc.device)].to(less_bias)
    return less_bias.cpu()


def _provenance(local: LocalReplacementModel, settings: dict[str, float | int | str | None]) -> Provenance:
    transcoder = local.transcoder
    return Provenance(
        prompt=("" if local.model.tokenizer else " ").join(local.prompt.strings),
        model=str(local.model.cfg.model_name),
        transcoder=transcoder.source or transcoder.model_name or "",
        transcoder_kind="PLT" if transcoder.is_per_layer else "CLT",
        n_layers=local.n_layers,
        read=transcoder.read,
        write=transcoder.write,
        dtype=str(local.pieces.block_in[0].dtype).removeprefix("torch."),
        versions={name: version(name) for name in ("tl-circuits", "transformer-lens", "torch")},
        settings=settings,
        masked_positions=local.prompt.masked,
        masked_why=local.prompt.masked_why,
    )
