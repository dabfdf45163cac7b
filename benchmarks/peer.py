"""Runs circuit-tracer on a case from files and writes what it computed, in its own Python, without our package."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig


class Tokenizer:
    """The least that circuit-tracer asks of a tokenizer: it cannot run a model that has none."""

    all_special_ids, bos_token_id, pad_token_id, eos_token_id, padding_side = [0], 0, 0, 0, "right"

    def __init__(self, d_vocab: int) -> None:
        self.vocab_size = d_vocab

    def decode(self, ids: object) -> str:
        """Any text will do."""
        return str(ids)


def main(folder: Path, batch_sizes: list[int], out: Path, runs: int) -> None:
    """Times `attribute` at each batch size and stores the graph of the first run."""
    torch.set_num_threads(1)
    about = json.loads((folder / "case.json").read_text())
    weights = load_file(folder / "model.safetensors")
    tokens = weights.pop("tokens")
    model = TransformerLensReplacementModel(HookedTransformerConfig(**about["model"]))
    model.load_state_dict(weights, strict=False)
    model._configure_replacement_model(_transcoder(folder / "transcoder", about["case"]))
    model.tokenizer = Tokenizer(about["case"]["d_vocab"])
    timings = []
    for _ in range(runs):
        for batch_size in batch_sizes:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start, cpu = time.perf_counter(), time.process_time()
            graph = attribute(tokens, model, batch_size=batch_size)
            timing = {
                "batch_size": batch_size,
                "wall_s": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu,
            }
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            timings.append(timing | {"peak_mib": peak / 1024, "peak_before_mib": before / 1024})
            print(json.dumps(timings[-1]), file=sys.stderr, flush=True)
    save_file(
        {"adjacency": graph.adjacency_matrix.float(), "features": graph.active_features.contiguous()},
        out.with_suffix(".safetensors"),
    )
    out.write_text(json.dumps({"timings": timings, "features": len(graph.active_features), "torch": torch.__version__}))


def _transcoder(folder: Path, case: dict) -> object:
    if case["kind"] == "clt":
        return load_clt(str(folder), lazy_decoder=False, dtype=torch.float32)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(case["n_layers"])}
    return load_transcoder_set(
        paths,
        scan="case",
        feature_input_hook="hook_resid_mid",
        feature_output_hook="hook_mlp_out",
        dtype=torch.float32,
        lazy_decoder=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2].split(",")], Path(sys.argv[3]), int(sys.argv[4]))
