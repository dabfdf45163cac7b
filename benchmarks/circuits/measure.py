"""What is measured of one dictionary of one suite. Every reading is written down, so that a run is taken up again."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tl_circuits as tlc
from benchmarks.circuits.suites import Suite
from benchmarks.mediation import mean_path_length, mediation, through_layer_1
from tl_circuits import comparison
from tl_circuits.comparison import Basis, CircuitCurve, Task, edge_curve, edge_scores, graph_curve, pruned_to
from tl_circuits.comparison.curve import divergence
from tl_circuits.comparison.graph_curve import GraphErrors
from tl_circuits.comparison.passes import last_logits, passing, recorded, through
from tl_circuits.comparison.recovery import average_precision, best_f1, description_length, variable_recovery
from tl_circuits.comparison.scorers import scores
from tl_circuits.harvest import collect
from tl_circuits.hooks import installed
from tl_circuits.nodes import Kind
from tl_circuits.transcoder import CrossLayerTranscoder, ReLU, TopK

STEPS = 4
"""Of integrated gradients."""
MEAN_OF = 128
"""Prompts of a suite's data over which the floor of fidelity takes means."""
LARGEST = 9
"""Curves have the sizes 0, the powers of 2 up to 2 to this, and all units."""
Reading = dict[str, Any]


@cache
def code() -> str:
    """What the code that readings are taken with hashes to: a reading of other code is another reading."""
    files = [Path(__file__), *sorted(Path(comparison.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


@dataclass(frozen=True)
class Ledger:
    """A folder of readings by name. What is there, and was taken by the same code, is not measured again."""

    folder: Path

    def of(self, name: str, measure: Callable[[], Reading]) -> Reading:
        """The reading of that name, with the processor seconds it took."""
        place = self.folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if place.is_file():
            kept = json.loads(place.read_text(encoding="utf-8"))
            if kept.get("code") == code():
                return kept["reading"]
        began = time.process_time()
        reading = {**measure(), "processor_s": 0.0}
        reading["processor_s"] = round(time.process_time() - began, 3)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"code": code(), "reading": reading}), encoding="utf-8")
        return json.loads(place.read_text(encoding="utf-8"))["reading"]


def written(curve: CircuitCurve) -> Reading:
    """A curve as JSON values, prompt by prompt."""
    rows = {name: getattr(curve, name) for name in ("faithful", "complete", "empty", "whole", "divergence")}
    rows = {name: value for name, value in rows.items() if value is not None}
    rounded = {
        name: [[round(v, 5) for v in row] for row in value.tolist()] for name, value in rows.items() if value.ndim == 2
    }
    rounded |= {name: [round(v, 5) for v in value.tolist()] for name, value in rows.items() if value.ndim == 1}
    return {"sizes": list(curve.sizes), "answered": curve.answered.int().tolist(), **rounded}


def curves(
    suite: Suite, basis: Basis, task: Task, scorer: Any, errors: Sequence[Any] = ("corrupted",), seed: int = 0
) -> Reading:
    """The curves of one basis and task, one for each way with errors, from one scoring."""
    found = scores(suite.model, basis, task, scorer, steps=STEPS, seed=seed)
    n_units = sum(part[0].numel() for part in found)
    sizes = _sizes(n_units)
    kept: Reading = {"units": n_units}
    for how in errors:
        try:
            curve = tlc.circuit_curve(suite.model, basis, task, found, errors=how, sizes=sizes, progress=False)
        except tlc.SettingError:
            # With errors kept or left out ∅ is the basis's own: where its units say nothing there is nothing to share.
            if how == "corrupted":
                raise
            continue
        kept[how] = written(curve)
    return kept


def with_attention_frozen(suite: Suite, basis: Basis, task: Task) -> Reading:
    """The curve where attention is held at each prompt's patterns, as attribution graphs hold it."""
    return _otherwise(suite, basis, task, attention="frozen")


def of_one_circuit(suite: Suite, basis: Basis, task: Task) -> Reading:
    """The curve on every second prompt of the one circuit that the prompts between them give."""
    found_on, measured_on = task.part(slice(0, None, 2)), task.part(slice(1, None, 2))
    return _otherwise(suite, basis, measured_on, found_on=found_on)


def _otherwise(suite: Suite, basis: Basis, task: Task, **how: Any) -> Reading:
    n_units = sum(units[0].numel() for units in recorded(suite.model, basis, task.clean[:1]).units)
    curve = tlc.circuit_curve(
        suite.model, basis, task, "ig-inputs", steps=STEPS, sizes=_sizes(n_units), progress=False, **how
    )
    return {"units": n_units, "corrupted": written(curve)}


def _sizes(n_units: int) -> list[int]:
    return [2**power for power in range(LARGEST + 1) if 2**power < n_units]


def edges(suite: Suite, task: Task) -> Reading:
    """Curves of edges between heads and MLPs, by EAP, by EAP-IG, and in an order drawn at random."""
    by_eap = edge_scores(suite.model, task, "eap")
    drawn = torch.rand(by_eap.values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orders = {"eap": "eap", "eap-ig": "eap-ig", "random": replace(by_eap, values=drawn * by_eap.exists)}
    return {
        name: written(edge_curve(suite.model, task, order, steps=STEPS, progress=False))
        for name, order in orders.items()
    }


def graph_edges(
    suite: Suite, transcoder: CrossLayerTranscoder, task: Task, errors: GraphErrors, *, control: bool
) -> Reading:
    """Curves of the graphs' edges, and as a control in an order drawn at random."""
    sizes = [2**power for power in range(14)]
    orders = {"influence": None, "random": 0} if control else {"influence": None}
    how: dict[str, Any] = {"errors": errors, "sizes": sizes, "progress": False}
    return {
        name: written(graph_curve(suite.model, transcoder, task, random=random, **how))
        for name, random in orders.items()
    }


GRAPHS = 24
"""The most prompts of a compiled model whose graphs are looked at."""
CUT = (8, 32, 128)
"""Features that graphs are cut to, and edges, eight times as many."""
SHARES = (0.95, 0.9, 0.8, 0.7)
"""Of influence that pruned graphs keep in nodes, as Ameisen et al. 2025 have them in a table."""


def of_graphs(
    suite: Suite, transcoder: CrossLayerTranscoder, task: Task, exact: CrossLayerTranscoder | None
) -> Reading:
    """What each prompt's graph of its answer's logit says: scores, whole and cut, path length, write shares, collapse.

    `exact` is a per-layer transcoder that steps are measured with: where it is None, no collapse is.
    """
    rows: list[dict[str, float]] = []
    passed: list[tlc.HopCollapse | None] = []
    for row in range(len(task)):
        began = time.process_time()
        local = tlc.localize(suite.model, transcoder, task.clean[row], masked_positions=())
        graph = tlc.attribute(local, tlc.Targets.tokens([int(task.answer[row])]), progress=False)
        took = time.process_time() - began
        told, across = graph.scores(), tlc.write_shares(local).across
        said = {
            "replacement": told.replacement,
            "completeness": told.completeness,
            "completeness, as circuit-tracer has it": told.completeness_circuit_tracer,
            "path length": mean_path_length(graph),
            "features": float(len(local.features)),
            "edges": float(len(graph.edges)),
            "seconds": took,
        } | {f"written across into layer {layer}": across[layer] for layer in range(1, local.n_layers)}
        for size in CUT:
            for name, cut in (("features", {"features": size}), ("edges", {"edges": 8 * size})):
                of_cut = pruned_to(graph, **cut).scores()
                said[f"replacement of {8 * size if name == 'edges' else size} {name}"] = of_cut.replacement
                said[f"completeness of {8 * size if name == 'edges' else size} {name}"] = of_cut.completeness
        rows.append(said | _pruned(graph))
        if exact is not None:
            by_layer = tlc.localize(suite.model, exact, task.clean[row], masked_positions=())
            passed.append(through_layer_1(graph, local, by_layer))
    return {name: [row[name] for row in rows] for name in rows[0]} | mediation(passed)


def _pruned(graph: tlc.AttributionGraph) -> dict[str, float]:
    said = {}
    for share in SHARES:
        cut = graph.prune(nodes=share)
        said[f"completeness at {share}"] = cut.scores().completeness
        said[f"features at {share}"] = float(cut.nodes.rows(Kind.FEATURE).sum())
    return said


def fidelity(suite: Suite, basis: Basis, task: Task) -> Reading:
    """With every unit its own and no errors: how often the model's answer comes, KL, FVU by slot.

    Beside it the floor, where all that the slots write is held at its mean over the data of the dictionaries; "CE
    recovered" is the share of the loss on the answer between floor and model that the units make good.
    """
    corrupted, clean = (recorded(suite.model, basis, tokens) for tokens in (task.corrupted, task.clean))
    every = [torch.ones(units.shape[:3], dtype=torch.bool) for units in clean.units]
    logits = through(suite.model, basis, task.clean, corrupted, every, "zero")
    floor = _at_means(suite, basis, task)
    replaced, held, whole = (_loss(of, task) for of in (logits, floor, clean.logits))
    found: Reading = {
        "same answer": _same(logits, clean.logits),
        "same answer, at means": _same(floor, clean.logits),
        "KL": float(divergence(clean.logits, logits).mean()),
        "KL, at means": float(divergence(clean.logits, floor).mean()),
        "CE recovered": (held - replaced) / (held - whole) if held > whole else None,
    }
    unexplained = []
    for number, (slot, error) in enumerate(zip(basis.slots, clean.errors, strict=True)):
        if slot.exact:
            unexplained.append(0.0)
            continue
        with torch.no_grad():
            passing = (slot.decode(clean.units[: number + 1]) + error).flatten(0, 1)
        unexplained.append(float(error.square().sum() / (passing - passing.mean(0)).square().sum()))
    active = [float((units != 0).sum(2).double().mean()) for units in clean.units]
    bits = description_length(32, sum(mask[0].numel() for mask in every))
    return found | {"L0": active, "FVU": unexplained, "bits of 32": bits}


def _at_means(suite: Suite, basis: Basis, task: Task) -> Tensor:
    sample, kept = suite.tokens[:MEAN_OF], suite.kept[:MEAN_OF]
    taps = dict.fromkeys(slot.write for slot in basis.slots)
    means = {tap: value[kept].mean(0) for tap, value in passing(suite.model, sample, taps).items()}
    held = {tap: lambda value, mean=mean: mean.expand_as(value) for tap, mean in means.items()}
    with torch.no_grad(), installed(suite.model, held):
        return last_logits(suite.model, task.clean)


def _same(logits: Tensor, whole: Tensor) -> float:
    return float((logits.argmax(-1) == whole.argmax(-1)).double().mean())


def _loss(logits: Tensor, task: Task) -> float:
    return float(-logits.log_softmax(-1).gather(1, task.answer[:, None]).mean())


def faithful(suite: Suite, transcoder: CrossLayerTranscoder, task: Task) -> Reading:
    """Perturbation agreement, and influence against ablation, over prompts."""
    prompts = [tlc.localize(suite.model, transcoder, row, masked_positions=()) for row in task.clean]
    report = tlc.faithfulness(prompts, max_features=48, n_pushes=4, n_controls=1, progress=False)
    names = [
        "nodes.kl.influence.spearman",
        "push.encoder.hop_1.replacement.residual_cosine",
        "push.encoder.hop_1.replacement.residual_nmse",
        "push.encoder.hop_1.no_mlps.residual_cosine",
    ]
    return {name: [None if v != v else v for v in report.values[name]] for name in names if name in report.values}


# Compiled models


def exact_transcoder(suite: Suite) -> CrossLayerTranscoder:
    """The compiled model's own neurons as a per-layer transcoder, without error."""
    mlps = [block.mlp for block in suite.model.blocks]
    return CrossLayerTranscoder(
        [mlp.W_in.T.detach().clone() for mlp in mlps],
        [mlp.b_in.detach().clone() for mlp in mlps],
        [mlp.W_out.detach().clone().unsqueeze(1) for mlp in mlps],
        torch.stack([mlp.b_out.detach() for mlp in mlps]),
        activation=ReLU(),
        read=suite.read,
    )


def planted(suite: Suite, basis: Basis) -> Reading:
    """How well the best unit of a layer tells each variable that the layer writes, and the edges between such units."""
    made = suite.planted
    assert made is not None
    units = [part[:, -1] for part in recorded(suite.model, basis, made.tokens).units]
    by_layer = [variable_recovery(part, truth) for part, truth in zip(units, made.variables, strict=True)]
    found: Reading = {
        f"{name}, layer {layer}": float(getattr(of, key).mean())
        for layer, of in enumerate(by_layer)
        for name, key in (("AUPRC", "auprc"), ("F1", "f1"))
    }
    if basis.transcoder is not None:
        weights = _edges_between(suite, basis.transcoder, by_layer[0].unit, by_layer[1].unit)
        found["AUPRC of edges"] = average_precision(weights.flatten(), made.edges.flatten())
        found["F1 of edges"] = best_f1(weights.flatten(), made.edges.flatten())
        found["share of edges"] = float(made.edges.double().mean())
    return found


def _edges_between(suite: Suite, transcoder: CrossLayerTranscoder, early: Tensor, late: Tensor) -> Tensor:
    """Σ |edge| over graphs, from the unit of each early variable to that of each late one, at the last token."""
    made = suite.planted
    assert made is not None
    total = torch.zeros(transcoder.n_features[0], transcoder.n_features[1], dtype=torch.float64)
    stride = -(-len(made.tokens) // GRAPHS)
    for tokens, answer in zip(made.tokens[::stride], made.answers[::stride], strict=True):
        local = tlc.localize(suite.model, transcoder, tokens, masked_positions=())
        if not len(local.features):
            continue
        graph = tlc.attribute(local, tlc.Targets.tokens([int(answer)]), progress=False)
        nodes, edges = graph.nodes, graph.edges
        source, target, last = edges.source.long(), edges.target, len(tokens) - 1
        here = nodes.rows(Kind.FEATURE) & (nodes.pos == last)
        among = here[source] & here[target]
        total.index_put_(
            (nodes.index[source[among]], nodes.index[target[among]]),
            edges.weight[among].abs().to(torch.float64),
            accumulate=True,
        )
    return total[early][:, late]


def untrained(suite: Suite, seed: int) -> CrossLayerTranscoder:
    """A CLT of the suite's width with random encoders and decoders: the control.

    What it writes of each layer is scaled to the MLP's by least squares, and b_dec is the MLP's mean.
    """
    draw = torch.Generator().manual_seed(seed)
    n_layers, d_model, width = suite.model.cfg.n_layers, suite.model.cfg.d_model, suite.width
    sample = collect(suite.model, suite.tokens[:512], suite.kept[:512], suite.read, "hook_mlp_out")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / d_model**0.5

    W_enc = [normal(width.features, d_model) for _ in range(n_layers)]
    W_dec = [normal(width.features, n_layers - layer, d_model) for layer in range(n_layers)]
    b_enc, mean = [torch.zeros(width.features) for _ in W_enc], sample.writes.mean(1)
    rule = {"activation": TopK(width.k), "read": suite.read}
    rough = CrossLayerTranscoder(W_enc, b_enc, W_dec, torch.zeros(n_layers, d_model), **rule)
    with torch.no_grad():
        active = [rough.encode(x, layer) for layer, x in enumerate(sample.reads)]
        for layer, wrote in enumerate(sample.writes):
            said = rough.decode(active, layer)
            scale = float((said * (wrote - mean[layer])).sum() / said.square().sum())
            for source in range(layer + 1):
                W_dec[source][:, layer - source] *= scale
    return CrossLayerTranscoder(W_enc, b_enc, W_dec, mean, **rule)
