"""How far a graph can be trusted: what it says of the model, against what the model does when features are ablated."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_circuits.attribution import Targets, attribute
from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import number
from tl_circuits.intervention.ablation import Ablating, Held, Readout
from tl_circuits.intervention.correlation import as_seed
from tl_circuits.intervention.edge_effects import difference_figures, edge_figures
from tl_circuits.intervention.faithfulness_report import FaithfulnessReport
from tl_circuits.intervention.graph_of import check_same
from tl_circuits.intervention.jacobian import jacobian_cosines
from tl_circuits.intervention.perturbation import agreements, draw_pushes
from tl_circuits.intervention.prediction import Prediction, shuffled
from tl_circuits.intervention.rankings import Case, mean, node_figures, pair_figures
from tl_circuits.intervention.write_shares import write_shares
from tl_circuits.nodes import Kind
from tl_circuits.progress import stage
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import check_unhooked_since, refuse_replaced

JACOBIAN_PROBES = 16


def faithfulness(
    local: LocalReplacementModel | Sequence[LocalReplacementModel],
    graph: AttributionGraph | Sequence[AttributionGraph] | None = None,
    *,
    max_features: int | None = None,
    n_pushes: int = 8,
    n_controls: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> FaithfulnessReport:
    """What the graph of a prompt, or of each of several, says, against the model itself (`FaithfulnessReport`).

    Every active feature is ablated, one at a time (`max_features`: so many drawn at random), by constrained patching
    with attention patterns held. For rankings the layers [i, i + 2] of a feature of layer i are held, as in the paper
    (Ameisen et al. 2025), but on shallow models never the last one too, so that something runs on; the effect is
    KL(model ‖ ablated) of the next token, the paper's, and the change of the targets' logits beside it. `n_pushes` are
    drawn for each layer and kind, controls are repeated `n_controls` times. Without a graph the prompt is attributed.
    Nothing depends on how much runs side by side, but for rounding.

    Raises `GraphError` for a graph of another prompt, model or transcoder, a pruned or a partial one; `TargetError` for
    targets that are no tokens; `SettingError` for settings that cannot be, for an empty list, and for a prompt without
    active features.
    """
    locals_, graphs = _paired(local, graph)
    settings = _settings(max_features, n_pushes, n_controls, seed)
    found, shares, counts = [], [], []
    with stage("testing graphs", len(locals_), show=progress if len(locals_) > 1 else False) as bar:
        for one, its in zip(locals_, graphs, strict=True):
            its = attribute(one, progress=progress) if its is None else its
            check_same(its, one, whole_graph=True)
            measured, ablated = _measured(one, its, settings, progress if len(locals_) == 1 else False)
            found.append(measured)
            counts.append(ablated)
            shares.append(write_shares(one))
            bar.update(1)
    names = dict.fromkeys(name for figures in found for name in figures)
    values = {name: tuple(figures.get(name, math.nan) for figures in found) for name in names}
    prompts = tuple("".join(one.prompt.strings) for one in locals_)
    return FaithfulnessReport(prompts, tuple(counts), values, tuple(shares), settings)


def _paired(local: Any, graph: Any) -> tuple[Sequence[LocalReplacementModel], Sequence[AttributionGraph | None]]:
    several = isinstance(local, list | tuple)
    locals_ = list(local) if several else [local]
    if not locals_ or not all(isinstance(one, LocalReplacementModel) for one in locals_):
        said = "an empty list" if not locals_ else type(local[0] if several else local).__name__
        raise SettingError(f"{said} is no local replacement model: give tlc.localize(model, clt, prompt), or several.")
    graphs = [None] * len(locals_) if graph is None else list(graph) if isinstance(graph, list | tuple) else [graph]
    if len(graphs) != len(locals_):
        raise SettingError(
            f"{len(graphs)} graphs were given for {len(locals_)} prompts: give one for each, in their order, or none."
        )
    for one in locals_:
        check_unhooked_since(one)
        refuse_replaced(one.model)
        if not len(one.features):
            raise SettingError(
                f"No feature is active on {''.join(one.prompt.strings)!r:.80}, so there is nothing to ablate: give "
                "another prompt."
            )
    return locals_, graphs


def _settings(max_features: Any, n_pushes: Any, n_controls: Any, seed: Any) -> dict[str, int | None]:
    return {
        "max_features": None if max_features is None else number("faithfulness", "max_features", max_features),
        "n_pushes": number("faithfulness", "n_pushes", n_pushes),
        "n_controls": number("faithfulness", "n_controls", n_controls),
        "seed": as_seed(seed),
    }


def _measured(
    local: LocalReplacementModel, graph: AttributionGraph, settings: Mapping[str, Any], progress: bool | None
) -> tuple[dict[str, float], int]:
    # A generator of its own for each part, so that one does not depend on how many numbers another draws.
    dealing, pushing, probing = (torch.Generator().manual_seed(settings["seed"] + part) for part in range(3))
    with torch.inference_mode(False), torch.no_grad():
        case = _case(graph, settings, dealing)
        active = local.active()
        features = [active[row] for row in case.rows.tolist()]
        ablating = Ablating(local, Readout.of(local, graph))
        with stage("ablating features", ablating.passes(features, *Held), show=progress) as bar:
            for held in Held:
                for done in ablating.effects(features, held):
                    bar.update(done)
        paper, held, own = (ablating.of(features, way) for way in Held)
        figures = dict(node_figures(case, paper)) | dict(pair_figures(case, paper))
        figures |= dict(edge_figures(case, held, own))
        figures |= dict(difference_figures(own, *_of_difference(local, case, ablating.readout)))
        figures |= dict(_push_figures(local, settings["n_pushes"], pushing))
    figures |= dict(_jacobian_figures(local, probing))
    across = enumerate(write_shares(local).across)
    return figures | {f"writes.layer_{layer}.across": share for layer, share in across}, len(features)


def _case(graph: AttributionGraph, settings: Mapping[str, Any], generator: torch.Generator) -> Case:
    layers = graph.nodes.layer[graph.nodes.span(Kind.FEATURE)]
    rows = torch.randperm(len(layers), generator=generator)[: settings["max_features"]].sort().values
    repeats = range(settings["n_controls"])
    controls = [Prediction.of(shuffled(graph, generator)) for _ in repeats]
    return Case(graph, rows, Prediction.of(graph), controls, [_dealt(layers[rows], generator) for _ in repeats])


def _dealt(layers: Tensor, generator: torch.Generator) -> Tensor:
    """A random order that keeps every place's layer; layers rise."""
    by_chance = torch.randperm(len(layers), generator=generator)
    return by_chance[torch.argsort(layers[by_chance], stable=True)]


def _of_difference(local: LocalReplacementModel, case: Case, readout: Readout) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What is predicted of the likeliest token's logit less the second's: in all, by edges alone, and by controls."""
    first, second = readout.rivals
    targets = Targets.difference(first, second, pos=readout.first_pos)
    # One feature's row is as few as can be asked for; only the target's own is used.
    graph = attribute(local, targets, max_features=1, progress=False)
    edges = graph.edges.keep(graph.edges.target == graph.nodes.span(Kind.TARGET).start).dense(len(graph.nodes))
    row = edges[graph.nodes.span(Kind.TARGET)][0, graph.nodes.span(Kind.FEATURE)].to(torch.float64)
    controls = [control.of_difference(row, case.graph)[case.rows] for control in case.controls]
    return case.prediction.of_difference(row, case.graph)[case.rows], -row[case.rows], controls


def _push_figures(
    local: LocalReplacementModel, n_pushes: int, generator: torch.Generator
) -> Iterator[tuple[str, float]]:
    found: dict[str, list[float]] = {}
    for one in agreements(local, draw_pushes(local, n_pushes, generator)):
        name = f"push.{one.kind}.hop_{one.hop}.{one.model}"
        for measure in ("residual_cosine", "residual_nmse", "mlp_cosine", "mlp_nmse"):
            found.setdefault(f"{name}.{measure}", []).append(getattr(one, measure))
    for name, values in found.items():
        yield name, mean(iter(values))


def _jacobian_figures(local: LocalReplacementModel, generator: torch.Generator) -> Iterator[tuple[str, float]]:
    for model, by_layer in jacobian_cosines(local, JACOBIAN_PROBES, generator).items():
        for layer, value in by_layer.items():
            yield f"jacobian.{model}.layer_{layer}", value
        yield f"jacobian.{model}.cosine", mean(iter(by_layer.values()))
