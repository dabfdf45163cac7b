"""The tables of `docs/benchmarks.md` on training recipes, from result files: `report.newest` has them."""

import textwrap
from collections.abc import Sequence
from typing import Any

CHAINS = {
    "plain": "each has an answer",
    "amplified": "each has an answer, and is written again",
    "apart": "half have answers, half are written again",
}


def chains(results: Sequence[dict[str, Any]]) -> str:
    """What every recipe makes of compiled chains, lowest to highest seed."""
    results = [result for result in results if result["script"] == "hop_collapse"]
    head = (
        "| states | relations | recipe | λ | answers written by layer 0 | states written again by layer 0 "
        "| FVU, layers 0, 1 | active, layers 0, 1 |"
    )
    rows = [
        _chain_row(CHAINS[result["case"]["chain"]], name, of)
        for result in sorted(results, key=lambda result: list(CHAINS).index(result["case"]["chain"]))
        for name, of in result["measured"].items()
    ]
    return _rows(head, rows)


def _chain_row(states: str, name: str, of: Sequence[dict[str, Any]]) -> str:
    relations, preset, weight = name.split(", ")
    cells = (
        states,
        relations.split()[0],
        f"`{preset}`",
        weight.removeprefix("λ "),
        _seeds(of, "answers written by layer 0"),
        _seeds(of, "states written again by layer 0"),
        _by_layer(of, "FVU", ".3f"),
        _by_layer(of, "L0", ".1f"),
    )
    return f"| {' | '.join(cells)} |"


def _seeds(rows: Sequence[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return ""
    low, high = (f"{abs(value) if abs(value) < 0.005 else value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _by_layer(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    return ", ".join(f"{sum(layer) / len(layer):{form}}" for layer in zip(*(row[key] for row in rows), strict=True))


PRESET_COLUMNS = {
    "L0": ("active", ".1f"),
    "FVU": ("FVU", ".3f"),
    "agreement, two-hop": ("two-hop", ".1%"),
    "agreement, addition": ("sums", ".1%"),
    "swap": ("swap", ".1%"),
    "swap, random features": ("at random", ".1%"),
    "written across into layer 1": ("across into 1", ".2f"),
    "written across into layer 2": ("across into 2", ".2f"),
    "mediated, graph": ("mediated, graph", ".2f"),
    "mediated, model": ("model", ".2f"),
    "mediated collapse": ("collapse", ".2f"),
    "path length": ("path length", ".2f"),
    "replacement score": ("replacement score", ".2f"),
}


WIDTH_COLUMNS = {
    **{key: PRESET_COLUMNS[key] for key in ("L0", "FVU", "agreement, two-hop", "agreement, addition", "swap")},
    "dead": ("dead", ".0%"),
    "mean threshold": ("mean threshold", ".2f"),
}


def bandwidths(results: Sequence[dict[str, Any]]) -> str:
    """What every width of the band that thresholds learn in makes of the demo: means over seeds, and conditions."""
    result = next((result for result in results if result["script"] == "training_bandwidth"), None)
    if result is None:
        return "Not measured yet.\n"
    told, machine = result["settings"], result["machine"]
    rows = [
        f"| {width} | " + " | ".join(f"{found[key]:{form}}" for key, (_, form) in WIDTH_COLUMNS.items()) + " |"
        for width, found in result["figures"].items()
    ]
    conditions = (
        f"`paper`, means over {len(next(iter(result['measured'].values())))} seeds, {told['features']} features a "
        f"layer, {told['steps']} steps of {told['batch_tokens']:,} tokens and {told['finetune_steps']} of fine-tuning, "
        f"λ steered towards {told['l0']} features active per token and layer. One thread of {machine['cpu']}, "
        f"{result['when'][:10]}."
    )
    head = f"| bandwidth | {' | '.join(title for title, _ in WIDTH_COLUMNS.values())} |"
    return _rows(head, rows) + "\n" + textwrap.fill(conditions, 118, break_long_words=False) + "\n"


def crossovers(results: Sequence[dict[str, Any]]) -> str:
    """What sparse and dense steps cost as more is on, and conditions."""
    result = next((result for result in results if result["script"] == "training_crossover"), None)
    if result is None:
        return "Not measured yet.\n"
    case, told, machine = result["case"], result["settings"], result["machine"]
    rows = [
        f"| {of['on']:.1%} | {of['density']:.1%} | {of['sparse']:.2f} | {of['dense']:.2f} | "
        f"{of['dense over sparse']:.2f} |"
        for of in result["figures"].values()
    ]
    conditions = (
        f"{case['n_layers']} layers, {case['d_model']} wide, {case['features']:,} features a layer, {told['tokens']} "
        f"tokens a step, random data, a bandwidth of {told['bandwidth']:g}; processor seconds for 1,000 tokens, one "
        f"thread of {machine['cpu']}, load {machine['load']:.1f}, {result['when'][:10]}."
    )
    head = "| on | density | sparse step | dense step | dense / sparse |"
    return _rows(head, rows) + "\n" + textwrap.fill(conditions, 118, break_long_words=False) + "\n"


def presets(results: Sequence[dict[str, Any]]) -> str:
    """What every preset makes of the demo at one sparsity: a table of means over seeds, and its conditions."""
    result = next((result for result in results if result["script"] == "training_presets"), None)
    if result is None:
        return "Not measured yet.\n"
    told, machine = result["settings"], result["machine"]
    seeds = sorted({len(rows) for rows in result["measured"].values()})
    rows = [
        f"| {name if ',' in name else f'`{name}`'} | "
        + " | ".join(f"{found[key]:{form}}" if key in found else "" for key, (_, form) in PRESET_COLUMNS.items())
        + " |"
        for name, found in result["figures"].items()
    ]
    conditions = (
        f"Means over {' or '.join(map(str, seeds))} seed{'s' if max(seeds) > 1 else ''}, {told['features']} features a "
        f"layer, {told['steps']} steps of {told['batch_tokens']:,} tokens and {told['finetune_steps']} of fine-tuning, "
        "a fraction of the shipped transcoder's, the same learning rate for all: compare rows, not with figures from "
        f"elsewhere. λ is steered towards {told['l0']} features active per token and layer, and `k` is "
        f"{told['k'] or told['l0']}. What is empty was not measured. One thread of {machine['cpu']}, "
        f"{result['when'][:10]}."
    )
    head = f"| recipe | {' | '.join(title for title, _ in PRESET_COLUMNS.values())} |"
    return _rows(head, rows) + "\n" + textwrap.fill(conditions, 118, break_long_words=False) + "\n"


def _rows(head: str, rows: Sequence[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|---" * columns + "|", *rows]) + "\n"
