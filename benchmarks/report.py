"""The README's section on benchmarks, from the result files: the newest of each case. Needs nothing but them."""

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SCRIPTS = (
    "attribution_vs_circuit_tracer",
    "gemm_share",
    "coverage",
    "memory",
    "scaling",
    "pruning",
    "trace_many",
    "gpu",
    "fidelity",
    "faithfulness",
    "state_swap",
    "training_step",
    "training_quality",
    "training_presets",
    "training_bandwidth",
    "training_crossover",
    "hop_collapse",
    "circuits",
)


def newest(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The last result of each script and case, by the order of `SCRIPTS`; files of other shapes are passed over."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("script") not in SCRIPTS:
            continue
        key = (result["script"], path.stem.rsplit("-", 3)[0])
        if key not in found or found[key]["when"] < result["when"]:
            found[key] = result
    return sorted(found.values(), key=lambda result: SCRIPTS.index(result["script"]))


def section(results: Sequence[dict[str, Any]]) -> str:
    """A table of attribution against circuit-tracer, and a sentence for each other result."""
    table = [result for result in results if result["script"] == "attribution_vs_circuit_tracer"]
    others = [result for result in results if result["script"] in SENTENCES]
    parts = [_table(table)] if table else []
    parts += ["".join(_item(_sentence(result)) for result in others)] if others else []
    return "\n".join(parts)


def _table(results: Sequence[dict[str, Any]]) -> str:
    peers = {f"`{result['peer']['name']}`, {result['peer']['is']}" for result in results if result["peer"]}
    machines = {f"one thread of {result['machine']['cpu']}" for result in results}
    l0s = sorted({result["case"]["l0"] for result in results})
    return (
        _paragraph(
            "A full attribution graph here and in circuit-tracer, of the same model, transcoder and prompt, all "
            f"of them random, in GPT-2-small's shape. The peer is {'; '.join(sorted(peers)) or 'not run'}. CPU seconds "
            f"on {'; '.join(sorted(machines))}; smaller is better."
        )
        + "\n| case | features | here | peer | ratio | GiB here | peer | edges differ by | runs | load |\n"
        + "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        + "".join(row(result) for result in results)
        + "\n"
        + _paragraph(
            f"On average {_listed(l0s)} features are active per layer and token. The peer's time is that of the best "
            "batch size of those tried, in brackets; *est.*: measured on batches of features at even strides and "
            "scaled to all. Load is the machine's load average at the end: above 1, other programs ran beside. Memory "
            "is the peak above the weights. Edges differ at most by as much, of a largest edge of the size that "
            "follows. Runs are ours and the peer's. Versions, batch sizes and all timings stand in "
            "`benchmarks/results`, the scripts beside them. Each process traces once before it is timed (the peer one "
            "batch), because memory that the system first hands out takes time; what our first trace took is in the "
            f"files. Measured on {', '.join(sorted({result['when'][:10] for result in results}))}."
        )
    )


def row(result: dict[str, Any]) -> str:
    """One measurement against the peer."""
    case, found = result["case"], result["figures"]
    agreement = found.get("agreement")
    estimated = " est." if found.get("peer_estimated") else ""
    tried = "/".join(map(str, found.get("peer_batch_sizes_tried", [])))
    cells = (
        f"{case['kind'].upper()}, {case['n_tokens']} tokens",
        f"{found['features']:,}",
        f"{found['ours_cpu_s']:.1f} s",
        f"{found['peer_cpu_s']:,.1f} s{estimated} ({tried})" if "peer_cpu_s" in found else "not run",
        f"{found['ratio']:.1f}" if "ratio" in found else "",
        _gib(found.get("ours_above_weights_mib")),
        _gib(found.get("peer_above_weights_mib")),
        f"{agreement['max_abs_difference']:.0e} of {agreement['max_abs_edge']:.0f}" if agreement else "",
        f"{found['ours_runs']} + {found.get('peer_runs', 0)}",
        f"{result['machine'].get('load', float('nan')):.1f}",
    )
    return f"| {' | '.join(cells)} |\n"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / 1024:.2f}"


def _gemm_share(result: dict[str, Any]) -> str:
    found, case = result["figures"], result["case"]
    return (
        f"Share of matrix-product speed, {case['kind'].upper()}, {case['n_tokens']} tokens: the feature phase runs at "
        f"{found['executed_share']:.0%} of the machine's {found['gemm_gflops']:.0f} GFLOP/s; counting only what is "
        f"needed, {found['needed_share']:.0%}."
    )


def _coverage(result: dict[str, Any]) -> str:
    found, case = result["figures"], result["case"]
    what = (
        f"the demo, {case['prompts']} prompts" if case.get("model") == "demo" else f"random, {case['n_tokens']} tokens"
    )
    level = min(found["levels"], key=lambda level: abs(level["coverage"] - 0.95))
    text = (
        f"Coverage, {case['kind'].upper()} ({what}): {level['coverage']:.0%} of the influence takes "
        f"{level['rows_share']:.0%} of the rows and is {level['times_faster_than_full']:.1f} times as fast as the full "
        f"graph; the pruned graph's Jaccard index with the full one's is {level['jaccard_nodes']:.2f} for features and "
        f"{level['jaccard_edges']:.2f} for edges."
    )
    alike = found.get("like_the_full_graph", {})
    if "ratio" in alike:
        estimated = " (the peer's time estimated from batches at even strides)" if alike.get("peer_estimated") else ""
        text += (
            f" Each stopped where both indices reach {alike['jaccard']:.2f}, circuit-tracer takes {alike['ratio']:.1f} "
            f"times as long{estimated}."
        )
    return text


def _memory(result: dict[str, Any]) -> str:
    rows = [row for row in result["figures"]["rows"] if "failed" not in row]
    largest = max(rows, key=lambda row: (row["n_tokens"], row["above_weights_gb"]), default=None)
    if largest is None:
        return f"Memory, {result['figures']['case']}: no run ended well."
    return (
        f"Memory, {result['figures']['case']} ({largest['n_layers']} layers, {largest['d_model']} wide, "
        f"{largest['n_features']:,} features a layer, {largest['n_tokens']:,} tokens, {largest['way']}): "
        f"{largest['above_weights_gb']:.1f} GB above the weights, {largest['peak_gb']:.1f} GB in all; "
        f"{largest['expanded']:,} of {largest['features']:,} features in {largest['cpu_s']:,.0f} s, coverage "
        f"{largest['coverage']:.2f}."
    )


def _scaling(result: dict[str, Any]) -> str:
    fitted = {name: axis for name, axis in result["figures"].items() if axis["time_exponent"] is not None}
    parts = [f"{name} {axis['time_exponent']:.1f} (rows {axis['rows_exponent']:.1f})" for name, axis in fitted.items()]
    return (
        f"Scaling, {result['case']['kind'].upper()}: the full graph's time goes as a power of " + ", ".join(parts) + "."
    )


def _pruning(result: dict[str, Any]) -> str:
    found = result["figures"]
    exponent = math.floor(math.log10(found["influence_edges_per_s"]))
    return (
        f"Pruning: {found['nodes']:,} nodes and {found['edges']:,} edges are pruned and scored in "
        f"{found['prune_and_scores_s']:.2f} s; influence passes "
        f"{found['influence_edges_per_s'] / 10**exponent:.1f}·10^{exponent} edges a second."
    )


def _trace_many(result: dict[str, Any]) -> str:
    found = result["figures"]
    same = "the same graphs" if found["graphs_equal"] else "graphs that differ"
    of = " of the demo" if result["case"].get("model") == "demo" else f" of {result['case']['n_tokens']} tokens"
    return (
        f"Many prompts{of}: {found['processes']} processes on {result['machine']['cores']} cores trace "
        f"{found['prompts']} prompts {found['ratio']:.2f} times as fast as one, and give {same}."
    )


def _gpu(result: dict[str, Any]) -> str:
    found, case = result["figures"], result["case"]
    against = f"; circuit-tracer takes {found['ratio']:.1f} times as long there" if "ratio" in found else ""
    return (
        f"GPU, {case['kind'].upper()}, {case['n_tokens']} tokens: {found['gpu_s']:.2f} s on "
        f"{result['machine']['gpu']}, {found['gpu_times_faster_than_cpu']:.0f} times as fast as one thread of the "
        f"CPU{against}; edges differ from the CPU's by {found['agreement']['max_abs_difference']:.0e} of "
        f"{found['agreement']['max_abs_edge']:.0f}."
    )


def _fidelity(result: dict[str, Any]) -> str:
    of_kinds = [
        f"{kind.upper()} FVU {_between(found['overall']['fvu'])}, same answer "
        f"{_between(found['overall']['last_agreement'])}, KL there {_between(found['overall']['last_kl'])} nats "
        f"(with mean-ablated MLPs {found['overall']['last_kl']['floor']:.1f}), {found['overall']['l0']:.1f} features "
        f"active per token and layer, {found['seconds']:.1f} s"
        for kind, found in result["figures"].items()
    ]
    case = result["case"]
    held_out = ", held out of training" if case["held_out"] else ""
    return f"Fidelity, the demo, a toy, {case['prompts']:,} prompts{held_out}: {'; '.join(of_kinds)}."


def _faithfulness(result: dict[str, Any]) -> str:
    case, figures = result["case"], result["figures"]
    of_kinds = [
        _faithful(kind.upper(), targets, figures["summary"][kind], figures["verdicts"][kind])
        for kind, targets in figures["targets"].items()
    ]
    return (
        f"Faithfulness, the demo, a toy, {case['two_hop'] + case['sums']} prompts held out of training: "
        f"{'. '.join(of_kinds)}."
    )


def _faithful(kind: str, targets: Sequence[dict[str, Any]], means: dict[str, Any], verdicts: dict[str, int]) -> str:
    every, reaching, *pushes = targets
    cosines = ", ".join(f"{push['reached']['mean']:.2f}" for push in pushes)
    still = ", ".join(_mean(means[push["figure"].replace("replacement", "no_mlps")]) for push in pushes)
    return (
        f"{kind}: Spearman of influence and ablation {_reached(every)} ({_aimed([every])}; by direct edge "
        f"{_mean(means['nodes.kl.direct_edge.spearman'])}, shuffled graph "
        f"{_mean(means['nodes.kl.shuffled_graph.spearman'])}), among features that reach the output "
        f"{_reached(reaching)} ({_aimed([reaching])}); cosine one block after pushes along encoders, decoders and at "
        f"random {cosines} ({_aimed(pushes)}; where no MLP responds {still}); of {sum(verdicts.values())} strong paths "
        f"{verdicts['confirmed']} confirmed, {verdicts['wrong sign']} of the wrong sign"
    )


def _state_swap(result: dict[str, Any]) -> str:
    of_kinds = [
        f"{kind.upper()} {found['turned']:.1%} [{found['turned, 95 % interval'][0]:.1%}, "
        f"{found['turned, 95 % interval'][1]:.1%}], the change times {found['chosen']['multiplier']:g} and attention "
        f"{found['chosen']['attention']} (as many random features {found['random features']:.1%}, the MLPs' own writes "
        f"{found[CEILING]:.1%})"
        for kind, found in result["figures"].items()
    ]
    return (
        "State swap, the demo, a toy: swapping the features that graphs name for a state turns so many of "
        f"{result['settings']['trials']} questions to exactly the other state's answer: {'; '.join(of_kinds)}."
    )


def _training_step(result: dict[str, Any]) -> str:
    found, case = result["figures"], result["case"]
    own = found["processor seconds per 1k tokens"]["ours, sparse"]
    fastest = {
        name: min(second for turn in turns for second in turn["seconds_per_1k_tokens"])
        for name, turns in result["measured"].items()
    }
    others = [
        f"{name} {found['times the sparse step'][name]:.1f} times as long (by the fastest steps "
        f"{fastest[name] / fastest['ours, sparse']:.1f}), {found['peak GiB'][name]:.1f} GiB"
        for name in ("ours, dense", *result["peer"])
    ]
    return (
        f"Training step, {case['n_layers']} layers, {case['d_model']} wide, {case['features']:,} features a layer, "
        f"{result['settings']['l0']} of them active: {own:.2f} CPU s per 1,000 tokens, at most "
        f"{found['peak GiB']['ours, sparse']:.1f} GiB; {'; '.join(others).replace('ours, dense', 'dense')}. Gradients "
        f"equal the dense ones to {found['largest relative difference of gradients, dense and sparse']:.0e}; load "
        f"{result['machine']['load']:.1f}"
    )


def _training_quality(result: dict[str, Any]) -> str:
    machine, presets = result["machine"], result["figures"].items()
    return (
        f"Training, the demo, a toy, {len(result['settings']['seeds'])} seeds, threads of torch: {machine['threads']}, "
        f"load {machine['load']:.1f}: {'; '.join(f'{preset}: {_quality(found)}' for preset, found in presets)}"
    )


def _quality(found: dict[str, Any]) -> str:
    return (
        f"{_spread(found['wall seconds'], '.0f')} s by the clock, {_spread(found['processor seconds'], '.0f')} CPU s "
        "make a transcoder that keeps "
        f"{_spread(found['agreement, trained on'], '.1%')} of the model's answers to what it was trained on, "
        f"{_spread(found['agreement, two-hop held out'], '.1%')} to two-hop questions and "
        f"{_spread(found['agreement, addition held out'], '.1%')} to sums that nobody was trained on, every MLP "
        f"replaced, with {_spread(found['mean L0'], '.1f')} features active per token and layer and an FVU of "
        f"{_spread(found['mean FVU'], '.3f')}; of two-hop questions {_spread(found['state swap'], '.0%')} go to "
        "another state's answer once its features are swapped in"
    )


def _spread(found: dict[str, float], form: str) -> str:
    if "low" not in found:
        return f"{found['mean']:{form}}"
    low, high = found["low"], min(found["high"], 1.0) if form.endswith("%") else found["high"]
    return f"{found['mean']:{form}} [{low:{form}}, {high:{form}}]"


CEILING = "ceiling: the MLPs' own writes"


def _between(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _mean(of_sets: dict[str, str]) -> str:
    return f"{float(of_sets['all'].split()[0]):.2f}"


def _reached(target: dict[str, Any]) -> str:
    return "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**target["reached"])


def _aimed(targets: Sequence[dict[str, Any]]) -> str:
    return f"{targets[0]['aimed']:g} aimed at, {'reached' if all(target['met'] for target in targets) else 'missed'}"


SENTENCES = {
    "gemm_share": _gemm_share,
    "coverage": _coverage,
    "memory": _memory,
    "scaling": _scaling,
    "pruning": _pruning,
    "trace_many": _trace_many,
    "gpu": _gpu,
    "fidelity": _fidelity,
    "faithfulness": _faithfulness,
    "state_swap": _state_swap,
    "training_step": _training_step,
    "training_quality": _training_quality,
}


def _sentence(result: dict[str, Any]) -> str:
    runs = result["settings"].get("runs")
    times = f"{runs} run{'s' if runs != 1 else ''}, " if runs else ""
    return f"{SENTENCES[result['script']](result)} ({times}{result['when'][:10]})"


def _item(text: str) -> str:
    return textwrap.indent(_paragraph(text, 116), "  ").replace("  ", "- ", 1)


def _paragraph(text: str, width: int = 118) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False) + "\n"
