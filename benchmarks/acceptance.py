"""Do public models and their public transcoders load, trace and add up on this machine?

    python benchmarks/acceptance.py                         # everything; mind what it fetches
    python benchmarks/acceptance.py --cases gpt2 --device cpu

For a machine with a network and, if there is one, a GPU. Each case loads a model by its name through TransformerBridge
and its transcoder by name, traces a prompt whose answer is known, and says whether the graph conserves, whether the
probe agrees, how well the transcoder explains the MLPs, how long it took and how much memory. It runs in a process of
its own, so one that fails, or that the system ends for want of memory, is an error in the figures and stops no other.

The figures are written to benchmarks/results/acceptance-DATE.json after each case: that file is what to send back.
Models of Google and Meta need a login (`hf auth login`) that has accepted their terms.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """A public model, a public transcoder and a prompt. `answer` is what the model is known to say next."""

    name: str
    model: str
    transcoder: str
    prompt: Any
    answer: str
    about: str
    variant: str | None = None
    pickled: tuple[str, ...] = ()
    """Files to be converted first; they were trained on a model whose weights are processed."""


CASES = (
    Case(
        "gpt2",
        "gpt2",
        "pchlenski/gpt2-transcoders",
        "When Mary and John went to the store, John gave a drink to",
        "Mary",
        "per-layer transcoders of Dunefsky et al., converted from pickles; 2 GB",
        pickled=tuple(
            f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.ln2.hook_normalized_24576.pt" for layer in range(12)
        ),
    ),
    Case(
        "gemma-3-1b",
        "google/gemma-3-1b-it",
        "google/gemma-scope-2-1b-it/clt",
        [{"role": "user", "content": "What is the capital of France? Answer with one word."}],
        "Paris",
        "Gemma Scope 2's cross-layer transcoder with affine skips; about 30 GB",
        variant="width_262k_l0_medium_affine",
    ),
    Case(
        "gemma-2-2b-426k",
        "google/gemma-2-2b",
        "mntss/clt-gemma-2-2b-426k",
        "Fact: the capital of the state containing Dallas is",
        "Austin",
        "cross-layer transcoder of 16,384 features a layer, which SAELens does not list; about 30 GB",
    ),
    Case(
        "gemma-2-2b",
        "google/gemma-2-2b",
        "mntss-gemma-2-2b-2.5m-clt-as-per-layer",
        "Fact: the capital of the state containing Dallas is",
        "Austin",
        "the same of 98,304 features a layer, by SAELens's name for it; about 170 GB",
    ),
    # Named in EleutherAI's own scripts; whether it is public, and in this form, was not seen.
    Case(
        "gpt2-clt",
        "gpt2",
        "EleutherAI/gpt2-clt-noskip-ef128-k16",
        "When Mary and John went to the store, John gave a drink to",
        "Mary",
        "clt-training's cross-layer transcoder; about 25 GB, and may not be there",
    ),
)
DEFAULT = tuple(case.name for case in CASES if case.name != "gpt2-clt")


def main() -> int:
    """Runs the cases and writes what they gave; the exit code is 1 where one did not pass."""
    arguments = _arguments()
    if arguments.one is not None:
        return _in_this_process(arguments)
    chosen = [case for case in CASES if case.name in arguments.cases]
    result: dict[str, Any] = {
        "question": (__doc__ or "").splitlines()[0],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "settings": {name: getattr(arguments, name) for name in ("device", "dtype", "coverage", "max_features")},
        "cases": [],
    }
    print(HEADER)
    for case in chosen:
        figures = _in_a_process(case, arguments)
        result["cases"].append(asdict(case) | figures)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(row(case, figures), flush=True)
    print(f"written to {arguments.out}: please send it back")
    return 0 if all(case["passed"] for case in result["cases"]) else 1


def _arguments() -> argparse.Namespace:
    known = "\n".join(f"  {case.name:<16} {case.model}, {case.about}" for case in CASES)
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"cases:\n{known}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=DEFAULT, metavar="CASE", help="see below")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; by default a GPU where there is one")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="the model's")
    parser.add_argument("--coverage", type=float, default=0.95, help="share of influence to trace; 1 is all of it")
    parser.add_argument("--max-features", type=int, default=2000, help="trace at most so many features")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"acceptance-{date.today()}.json")
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "figures.json")
        options = ["--one", case.name, "--out", out, "--dtype", arguments.dtype]
        options += ["--coverage", str(arguments.coverage), "--max-features", str(arguments.max_features)]
        options += [] if arguments.device is None else ["--device", arguments.device]
        done = subprocess.run([sys.executable, __file__, *options], stdout=sys.stderr)
        if out.exists():
            return json.loads(out.read_text(encoding="utf-8"))
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"passed": False, "error": {"type": "ProcessEnded", "message": f"It ended with {ended}: out of memory?"}}


def _in_this_process(arguments: argparse.Namespace) -> int:
    (case,) = (case for case in CASES if case.name == arguments.one)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            figures = run(case, arguments)
        # Whatever happens is a finding: libraries of five projects and a network stand between a name and a graph.
        except Exception as error:
            figures = {
                "passed": False,
                "error": {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()},
            }
    said = dict.fromkeys(f"{warning.category.__name__}: {warning.message}" for warning in told)
    figures["warnings"] = [text for text in said if "Deprecat" not in text]
    arguments.out.write_text(json.dumps(figures), encoding="utf-8")
    return 0


def run(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one case."""
    import torch

    import tl_circuits as tlc

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        # The transcoder goes first: what is wrong with it is known before a model is fetched.
        transcoder = _timed(seconds, "transcoder", lambda: _transcoder(case, Path(scratch)))
        model = _timed(seconds, "model", lambda: _model(case, device, arguments.dtype))
        before = _peak_memory()
        local = _timed(seconds, "localize", lambda: tlc.localize(model, transcoder, case.prompt))
        traced = {"coverage": arguments.coverage, "max_features": arguments.max_features}
        graph = _timed(seconds, "attribute", lambda: tlc.attribute(local, **traced))
        outputs = _outputs(local)
        found = {
            "device": str(next(model.parameters()).device),
            "transcoder": _about(transcoder),
            "graph": _of_graph(graph),
            "masked": {"positions": list(graph.provenance.masked_positions), "why": graph.provenance.masked_why},
            "l0": _l0(local),
            "unexplained": _unexplained(model, local),
            "outputs": outputs,
            "seconds": seconds,
            "memory_gb": {
                "peak": _peak_memory(),
                "peak_before_tracing": before,
                "gpu_peak": torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else None,
            },
        }
    checks = _checks(case, arguments.dtype, found)
    return {"passed": all(checks.values()), "checks": checks, **found}


def _checks(case: Case, dtype: str, found: dict[str, Any]) -> dict[str, bool]:
    import torch

    from tl_circuits.attribution.checks import PROBE_ROUNDING, ROUNDING, SINGLE_PRECISION_NORMS

    allowed = max(ROUNDING[getattr(torch, dtype)], SINGLE_PRECISION_NORMS)
    graph = found["graph"]
    return {
        "conserves": graph["conservation_error"] <= allowed,
        "probe_agrees": graph["probe_error"] <= PROBE_ROUNDING * allowed,
        "has_features": graph["features"] > 0,
        "answers": found["outputs"][0]["token"].strip() == case.answer,
    }


def _transcoder(case: Case, scratch: Path) -> Any:
    import tl_circuits as tlc

    if not case.pickled:
        return tlc.load_transcoder(case.transcoder, variant=case.variant)
    from huggingface_hub import hf_hub_download

    from tl_circuits.transcoder.files import convert

    pickles = scratch / "pickles"
    pickles.mkdir()
    for name in case.pickled:
        (pickles / name).symlink_to(hf_hub_download(case.transcoder, name))
    return tlc.load_transcoder(convert(pickles, scratch / "converted"))


def _model(case: Case, device: str, dtype: str) -> Any:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(case.model, device=device, dtype=getattr(torch, dtype)).eval()
    if case.pickled:
        model.enable_compatibility_mode()
    return model


def _about(transcoder: Any) -> dict[str, Any]:
    return {
        "kind": "per-layer" if transcoder.is_per_layer else "cross-layer",
        "layers": transcoder.n_layers,
        "features_of_a_layer": max(transcoder.n_features),
        "d_model": transcoder.d_model,
        "activation": transcoder.activation.name,
        "skip": transcoder.W_skip is not None,
        "shift": transcoder.shift is not None,
        "stored_as": str(transcoder.W_dec[0].dtype).removeprefix("torch."),
        "read": transcoder.read,
        "write": transcoder.write,
        "trained_on": transcoder.model_name,
    }


def _of_graph(graph: Any) -> dict[str, Any]:
    from tl_circuits.nodes import Kind

    influence = graph.influence()[graph.nodes.span(Kind.FEATURE)]
    top = influence.topk(min(20, len(influence))).indices.tolist()
    return {
        "tokens": list(graph.tokens),
        "targets": list(graph.target_labels),
        "features": graph.nodes.count(Kind.FEATURE),
        "expanded": int(graph.expanded[graph.nodes.span(Kind.FEATURE)].sum()),
        "edges": len(graph.edges),
        "coverage": graph.coverage,
        "conservation_error": graph.conservation_error,
        "probe_error": graph.probe_error,
        "scores": asdict(graph.scores()),
        "top_features": [{"feature": str(graph.node(row).id), "influence": float(influence[row])} for row in top],
    }


def _outputs(local: Any) -> list[dict[str, Any]]:
    top = local.logits[-1].float().softmax(-1).topk(5)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [{"token": local.model.tokenizer.decode([token]), "probability": p} for token, p in pairs]


def _l0(local: Any) -> list[float]:
    """Features active at a token, on average over the tokens that are not masked, for each layer."""
    tokens = local.n_pos - len(local.prompt.masked)
    return [int((local.features[:, 0] == layer).sum()) / max(tokens, 1) for layer in range(local.n_layers)]


def _unexplained(model: Any, local: Any) -> list[float]:
    """‖error‖ / ‖what the MLP wrote‖ over the tokens that are not masked, for each layer."""
    names = [f"blocks.{layer}.{local.transcoder.write}" for layer in range(local.n_layers)]
    _, cache = model.run_with_cache(local.prompt.tokens[None], names_filter=lambda name: name in names)
    kept = [pos for pos in range(local.n_pos) if pos not in local.prompt.masked]
    return [
        float(errors[kept].float().norm() / cache[name][0, kept].float().norm())
        for errors, name in zip(local.errors, names, strict=True)
    ]


def _timed(seconds: dict[str, float], name: str, does: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = does()
    seconds[name] = round(time.perf_counter() - start, 2)
    return result


def _peak_memory() -> float:
    """The most memory, in GB, that this process has had resident; files that it maps count as far as they were read."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    names = ("tl-circuits", "transformer-lens", "sae-lens", "transformers", "huggingface-hub", "safetensors", "torch")
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "disk_free_gb": shutil.disk_usage(Path.home()).free / 1e9,
        "gpus": gpus,
        "versions": {name: version(name) for name in names},
    }


HEADER = (
    f"{'case':<16} {'passed':<6} {'conserv.':>8} {'probe':>8} {'replac.':>7} {'compl.':>7} {'features':>8} {'L0':>6} "
    f"{'unexpl.':>7} {'load s':>7} {'trace s':>8} {'peak GB':>8}  device, answer"
)


def row(case: Case, figures: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in figures:
        error = figures["error"]
        return f"{case.name:<16} {'no':<6} {error['type']}: {' '.join(error['message'].split())[:300]}"
    graph, seconds, memory = figures["graph"], figures["seconds"], figures["memory_gb"]
    layers = len(figures["l0"])
    peak = memory["gpu_peak"] or memory["peak"]
    failed = "".join(f"; {name}: no" for name, passed in figures["checks"].items() if not passed)
    return (
        f"{case.name:<16} {'yes' if figures['passed'] else 'no':<6} {graph['conservation_error']:>8.1e} "
        f"{graph['probe_error']:>8.1e} {graph['scores']['replacement']:>7.3f} {graph['scores']['completeness']:>7.3f} "
        f"{graph['features']:>8} {sum(figures['l0']) / layers:>6.1f} {sum(figures['unexplained']) / layers:>7.3f} "
        f"{seconds['transcoder'] + seconds['model']:>7.1f} {seconds['localize'] + seconds['attribute']:>8.1f} "
        f"{peak:>8.2f}  {figures['device']}, {figures['outputs'][0]['token']!r}{failed}"
    )


if __name__ == "__main__":
    sys.exit(main())
