"""Runs circuit-tracer on a case from files, in its own Python, without our package: `python -m benchmarks.peer ...`.

A job is a JSON object: `batch_size` (0: the peer's default), `max_feature_nodes`, `device`, `memory_gib`, `warm`
(whether to compute one batch before what is measured, as is always done on other devices), `out` (a file for the rows
it computed), `stride` and `rows`.

With a `stride`, only every n-th batch of features is timed, at least eight in all. The others cost nothing, and what
the timed ones took is scaled to all of them: an estimate, in which everything else is measured. Where the peer
chooses its next features by the rows it has (`max_feature_nodes`), those of batches that are left out are put in from a
file, `rows`, so that its choices are those it would make.
"""

import inspect
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute  # pyright: ignore[reportMissingImports]
from circuit_tracer.attribution.context_transformerlens import (  # pyright: ignore[reportMissingImports]
    AttributionContext,
)
from circuit_tracer.replacement_model.replacement_model_transformerlens import (  # pyright: ignore[reportMissingImports]
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # pyright: ignore[reportMissingImports]
from circuit_tracer.transcoder.single_layer_transcoder import (  # pyright: ignore[reportMissingImports]
    load_transcoder_set,
)
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig

from benchmarks.measure import limit_memory, measured

LEAST_COMPUTED = 8


class Tokenizer:
    """The least that circuit-tracer asks of a tokenizer: it cannot run a model that has none."""

    padding_side = "right"

    def __init__(self, d_vocab: int, bos: int) -> None:
        self.vocab_size, self.all_special_ids = d_vocab, [bos]
        self.bos_token_id = self.pad_token_id = self.eos_token_id = bos

    def decode(self, ids: object) -> str:
        """Any text will do."""
        return str(ids)


class Batches:
    """Stands in for the computation of a batch: computes every n-th batch of features, and keeps the time.

    `clock` is the time that counts. `computed_s` is what batches of features took that were computed, `aside_s` what
    was spent here and not by the peer. Of each batch that is timed the one before is computed too, and not timed: alone
    it would find memory and caches as the peer never does, and take longer.
    """

    def __init__(self, compute: Any, job: dict[str, Any], batch_size: int, clock: Any) -> None:
        self._compute, self._clock, self._batch_size = compute, clock, batch_size
        self._most, self._stride = job.get("max_feature_nodes"), job.get("stride", 1)
        self._rows = Rows(job["rows"]) if job.get("rows") else None
        self._timed: frozenset[int] = frozenset()
        self._asked: list[tuple[Any, Any, Any, Any]] = []
        self.n_batches = self.n_computed = 0
        self.computed_s = self.aside_s = 0.0

    def __call__(
        self, context: Any, layers: Any, positions: Any, inject_values: Any, retain_graph: bool = True
    ) -> torch.Tensor:
        """The peer's own method, or rows that are given."""
        if int(layers[0]) == context.n_layers:
            return self._compute(context, layers, positions, inject_values, retain_graph)
        if self.n_batches == 0:
            self._timed = self._chosen(context)
        number, self.n_batches = self.n_batches, self.n_batches + 1
        start = self._clock()
        if number in self._timed or number + 1 in self._timed:
            rows = self._compute(context, layers, positions, inject_values, retain_graph)
            self._asked.append((context, layers, positions, inject_values))
        elif self._rows is None:
            rows = inject_values.new_zeros(len(layers), context._row_size)
        else:
            features = _which(context, layers, positions, inject_values)
            rows = self._rows.dense(features, context._row_size).to(inject_values)
        if number in self._timed:
            self.n_computed, self.computed_s = self.n_computed + 1, self.computed_s + self._clock() - start
        else:
            self.aside_s += self._clock() - start
        return rows

    def features(self) -> torch.Tensor:
        """Those whose rows were computed, by number."""
        return torch.cat([_which(*asked) for asked in self._asked])

    def _chosen(self, context: Any) -> frozenset[int]:
        """Batches in the middles of equal runs, because what they take grows steadily from layer to layer."""
        n_features = context.activation_matrix._nnz()
        n_batches = math.ceil(min(self._most or n_features, n_features) / self._batch_size)
        n_timed = min(n_batches, max(LEAST_COMPUTED, math.ceil(n_batches / self._stride)))
        return frozenset(int((number + 0.5) * n_batches / n_timed) for number in range(n_timed))


class Rows:
    """The rows of all features, from a file: `indptr`, `source`, `weight`, columns in the peer's order."""

    def __init__(self, path: str) -> None:
        found = load_file(path)
        self._indptr, self._source, self._weight = found["indptr"], found["source"].long(), found["weight"]

    def dense(self, features: torch.Tensor, width: int) -> torch.Tensor:
        """These rows as a matrix."""
        matrix = torch.zeros(len(features), width)
        for row, feature in enumerate(features.tolist()):
            run = slice(int(self._indptr[feature]), int(self._indptr[feature + 1]))
            matrix[row, self._source[run]] = self._weight[run]
        return matrix


def _which(context: Any, layers: Any, positions: Any, vectors: Any) -> torch.Tensor:
    """The features of a batch, by number: those of that layer and position whose encoder it is."""
    active_layer, active_pos, _ = context.activation_matrix.indices()
    found = []
    for layer, pos, vector in zip(layers, positions, vectors, strict=True):
        candidates = ((active_layer == layer) & (active_pos == pos)).nonzero()[:, 0]
        same = (context.encoder_vecs[candidates] == vector).all(1)
        found.append(int(candidates[same][0]))
    return torch.tensor(found)


def main(folder: Path, job: dict[str, Any], out: Path) -> None:
    """Times `attribute` and writes what it took; keeps the rows that it computed."""
    torch.set_num_threads(1)
    if job.get("memory_gib"):
        limit_memory(job["memory_gib"])
    device = torch.device(job.get("device", "cpu"))
    about = json.loads((folder / "case.json").read_text())
    weights = load_file(folder / "model.safetensors")
    tokens = weights.pop("tokens")
    config = HookedTransformerConfig(**(about["model"] | {"device": str(device)}))
    model = TransformerLensReplacementModel(config)
    model.load_state_dict(weights, strict=False)
    model.to(device)
    model._configure_replacement_model(_transcoder(folder / "transcoder", about, device))
    model.tokenizer = Tokenizer(config.d_vocab, int(tokens[0]))
    del weights
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    batch_size = job.get("batch_size") or inspect.signature(attribute).parameters["batch_size"].default
    options = {"batch_size": batch_size, "max_feature_nodes": job.get("max_feature_nodes")}
    warm = device.type != "cpu" or bool(job.get("warm"))
    before = []
    if warm:
        one_batch = options | {"max_feature_nodes": batch_size}
        before.append(measured(lambda: attribute(tokens.to(device), model, **one_batch))[1])
    batches = Batches(AttributionContext.compute_batch, job, batch_size, clock)
    if job.get("stride", 1) > 1:
        AttributionContext.compute_batch = lambda *given, **named: batches(*given, **named)
    graph, reading = measured(lambda: attribute(tokens.to(device), model, **options), warm=warm)
    total = reading.cpu_s if device.type == "cpu" else reading.wall_s
    # Memory counts from before the first batch: what it left behind was taken for this work too.
    above = max(one.peak_mib for one in (*before, reading)) - (*before, reading)[0].start_mib
    found = (
        asdict(reading)
        | {"above_mib": above}
        | {"batch_size": batch_size, "torch": torch.__version__, "seconds": total}
    )
    found |= {"features": len(graph.active_features), "batches": batches.n_batches, "computed": batches.n_computed}
    if batches.n_batches:
        rest = total - batches.aside_s - batches.computed_s
        found["seconds"] = rest + batches.computed_s * batches.n_batches / max(1, batches.n_computed)
    found["estimated"] = batches.n_computed < batches.n_batches
    if job.get("out"):
        _keep(graph, batches.features() if batches.n_batches else graph.selected_features.cpu(), job["out"])
    out.write_text(json.dumps(found))


def _keep(graph: Any, computed: torch.Tensor, path: str) -> None:
    """The rows that were computed and those of the targets, with the numbers of the features among rows and columns."""
    selected = graph.selected_features.cpu()
    place = torch.searchsorted(selected, computed.sort().values)
    matrix = graph.adjacency_matrix.float().cpu()
    n_targets = len(graph.logit_probabilities)
    kept = {
        "active": graph.active_features.cpu().contiguous(),
        "selected": selected.contiguous(),
        "computed": computed.sort().values.contiguous(),
        "rows": matrix[place].contiguous(),
        "target_rows": matrix[len(matrix) - n_targets :].contiguous(),
    }
    save_file(kept, path)


def _transcoder(folder: Path, about: dict[str, Any], device: torch.device) -> object:
    hooks = {"feature_input_hook": about["read"], "feature_output_hook": about["write"]}
    options: dict[str, Any] = {"dtype": torch.float32, "lazy_decoder": False, "device": device, **hooks}
    if about["case"]["kind"] == "clt":
        return load_clt(str(folder), **options)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(about["case"]["n_layers"])}
    return load_transcoder_set(paths, scan="case", lazy_encoder=False, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
