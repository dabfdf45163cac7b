"""Which units give the smaller and the truer circuit: features of a CLT, of per-layer transcoders, of SAEs, or neurons?

    python -m benchmarks.circuits.dictionaries
    python -m benchmarks.circuits --tier cpu

Every basis runs through the same code (`tlc.circuit_curve`): for each prompt its own k units of the largest score (at
first integrated gradients over inputs, for all alike), all others and all errors from the counterfactual's run. F is
the share of the difference of answers' logits that is kept, C what is left without the circuit; `cpr` and `cmd` are
means of F and |1 − F| over log2(1 + k). Intervals are bootstraps over dictionary seeds and prompts at once, 95 %;
differences between bases are paired by seed and prompt. Readings are kept beside the dictionaries, and a run that was
broken off goes on from them.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tl_circuits as tlc
from benchmarks.circuits import measure, public, summary, tables
from benchmarks.circuits.dictionaries import CACHE, cost_of, load, train_all
from benchmarks.circuits.measure import Ledger, Reading
from benchmarks.circuits.suites import Suite
from benchmarks.circuits.tiers import TIERS, Tier
from benchmarks.record import Machine, Record, add_options, say, settings
from tl_circuits.comparison import Basis, Task
from tl_circuits.comparison.graph_curve import GraphErrors
from tl_circuits.comparison.scorers import Scorer

QUESTION = "Which units give the smaller and the truer circuit?"
ERRORS = ("corrupted", "kept", "zero")
SCORERS: tuple[Scorer, ...] = ("attribution-patching", "relp", "ig-inputs", "ig-activations", "influence", "random")
OF_ERRORS = ("CLT", "PLT", "skip PLT", "SAE")
OF_SCORERS = ("CLT", "PLT", "SAE", "neurons")
OF_GRADIENTS = (("CLT", "neurons"), SCORERS[:4])
"""On the model of sentences, which has nine tasks: these units by these scorers."""
OF_PLANTED: tuple[Scorer, ...] = ("attribution-patching", "relp", "ig-inputs", "ig-activations", "ablation")
"""On compiled models, few of whose units differ between two runs, exact ablation too."""
OF_GRAPHS = ("CLT", "PLT", "skip PLT")
OF_EDGES: tuple[tuple[str, GraphErrors], ...] = (("graph edges", "corrupted"), ("graph edges kept", "kept"))
FEW = 12
"""Prompts on which scorers are compared, since influence takes a graph for each."""
PUSHED = 8
"""Prompts whose features are pushed and ablated one by one, to see whether their graphs foretell it."""


def measured(tier: Tier, folder: Path, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """All readings by suite."""
    found = {}
    for suite in tier.made(folder):
        ledger = Ledger(folder / suite.name.replace(" ", "-") / "readings")
        found[suite.name] = {"accuracy": dict(suite.accuracy), "costs": _costs(tier, suite, folder, seeds)}
        for key, reading in _readings(tier, suite, folder, ledger, seeds):
            found[suite.name][key] = reading
        say(f"{suite.name}: {len(found[suite.name])} readings")
    return found


def _costs(tier: Tier, suite: Suite, folder: Path, seeds: list[int]) -> dict[str, Any]:
    tolds = [told for told in tier.dictionaries(suite) if told.seed in seeds]
    return {f"{told.name} | {told.seed}": dict(cost_of(folder, suite.name, told)) for told in tolds}


def _readings(
    tier: Tier, suite: Suite, folder: Path, ledger: Ledger, seeds: list[int]
) -> Iterator[tuple[str, Reading]]:
    fixed = [Basis.neurons(suite.model), Basis.blocks(suite.model), *_shipped(suite)]
    for name, task in suite.tasks.items():
        for basis in fixed:
            yield from _of_basis(tier, suite, ledger, basis, name, task, 0)
        if suite.planted is None:
            yield f"edges | {name}", ledger.of(f"edges {name}", lambda task=task: measure.edges(suite, task))
    if suite.planted is not None:
        yield "planted | neurons | 0", ledger.of("planted neurons", lambda: measure.planted(suite, fixed[0]))
    for seed in seeds:
        control = Basis.features(suite.model, measure.untrained(suite, seed), "untrained CLT")
        bases = [load(suite, folder, told) for told in tier.dictionaries(suite) if told.seed == seed]
        for basis in (*bases, control):
            for name, task in suite.tasks.items():
                yield from _of_basis(tier, suite, ledger, basis, name, task, seed)
            if suite.planted is not None:
                key = f"planted {basis.name} seed {seed}"
                yield f"planted | {basis.name} | {seed}", ledger.of(key, lambda b=basis: measure.planted(suite, b))


def _of_basis(
    tier: Tier, suite: Suite, ledger: Ledger, basis: Basis, name: str, task: Task, seed: int
) -> Iterator[tuple[str, Reading]]:
    """All readings of one basis, task and seed."""

    def reading(what: str, compute: Any) -> tuple[str, Reading]:
        return f"{what} | {name} | {basis.name} | {seed}", ledger.of(f"{what} {name} {basis.name} seed {seed}", compute)

    errors = ERRORS if basis.name in OF_ERRORS and _is_thorough(suite) else ERRORS[:1]
    yield reading("curves", lambda: measure.curves(suite, basis, task, "ig-inputs", errors))
    if basis.name not in ("neurons", "heads and MLPs"):
        yield reading("fidelity", lambda: measure.fidelity(suite, basis, task))
    if basis.name in OF_SCORERS and suite.planted is None:
        yield reading("frozen", lambda: measure.with_attention_frozen(suite, basis, task))
        if len(task) > 1:
            yield reading("one circuit", lambda: measure.of_one_circuit(suite, basis, task))
    for scorer in _scorers(suite, basis):
        how = (suite, basis, task.part(slice(0, FEW)), scorer, ("corrupted",), seed)
        yield reading(f"scorer {scorer}", lambda how=how: measure.curves(*how))
    if basis.name in OF_GRAPHS and basis.transcoder is not None:
        clt, graphs = basis.transcoder, task.part(slice(0, tier.n_graphs))
        yield reading("graphs", lambda: measure.of_graphs(suite, clt, graphs, _steps_of(suite)))
        if basis.name != "skip PLT":
            for key, errors in OF_EDGES:
                yield reading(key, partial(_graph_edges, suite, clt, graphs, errors, seed))
        if suite.name == "demo" and basis.name != "skip PLT":
            yield reading("faithful", lambda: measure.faithful(suite, clt, task.part(slice(0, PUSHED))))


def _scorers(suite: Suite, basis: Basis) -> tuple[Scorer, ...]:
    """The scorers that are compared by the circuits that they find."""
    if basis.name not in OF_SCORERS:
        return ()
    if suite.planted is not None:
        return OF_PLANTED
    if not _is_thorough(suite):
        return OF_GRADIENTS[1] if basis.name in OF_GRADIENTS[0] else ()
    return SCORERS if basis.transcoder is not None else tuple(s for s in SCORERS if s != "influence")


def _graph_edges(suite: Suite, clt: tlc.CrossLayerTranscoder, task: Task, errors: GraphErrors, seed: int) -> Reading:
    """Curves of graphs' edges; none, which is said, where with attention held the model tells no answers apart."""
    try:
        return measure.graph_edges(suite, clt, task, errors, control=not seed)
    except tlc.SettingError as error:
        say(f"{suite.name}, {task.name}: no curves of edges. {error}")
        return {}


def _shipped(suite: Suite) -> list[Basis]:
    """The transcoders that ship with the demo, which were trained for longer."""
    if suite.name != "demo":
        return []
    return [
        Basis.features(suite.model, tlc.demo(transcoder=kind)[1], f"shipped {kind.upper()}") for kind in ("clt", "plt")
    ]


def _is_thorough(suite: Suite) -> bool:
    """Whether all ways with errors and all scorers are compared: on the demo and on compiled models."""
    return suite.name != "sentences"


def _steps_of(suite: Suite) -> tlc.CrossLayerTranscoder | None:
    """The per-layer transcoder that a step through layer 1 is measured with."""
    if suite.planted is not None:
        return measure.exact_transcoder(suite)
    return tlc.demo(transcoder="plt")[1] if suite.name == "demo" else None


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.circuits", description=__doc__)
    parser.add_argument("--tier", default="smoke", choices=[*TIERS, "hub"], help="how much (%(default)s)")
    parser.add_argument("--folder", type=Path, default=CACHE, help="of dictionaries and readings (%(default)s)")
    parser.add_argument("--n-seeds", type=int, help="fewer than the tier has")
    parser.add_argument("--suites", help="some of the tier's, with ; between them")
    parser.add_argument("--cases", default=",".join(public.CASES), help="models of the hub tier (%(default)s)")
    parser.add_argument("--tasks", default=";".join(public.TASKS), help="of the hub tier, with ; between (%(default)s)")
    parser.add_argument("--n-prompts", type=int, default=8, help="a task of the hub tier (%(default)s)")
    parser.add_argument(
        "--transcoder",
        action="append",
        default=[],
        help="NAME=SOURCE or NAME=SOURCE:VARIANT, one more of the hub tier's",
    )
    add_options(parser, runs=1)
    given = parser.parse_args()
    if given.tier == "hub":
        _hub(given)
        return
    torch.set_num_threads(1)
    tier, folder = TIERS[given.tier], given.folder / given.tier
    if given.suites is not None:
        tier = replace(tier, suites=list(_chosen(dict.fromkeys(tier.suites), given.suites.split(";"))))
    seeds = list(tier.seeds)[: given.n_seeds]
    if tier.name == "smoke":
        for suite in tier.made(folder):
            train_all(suite, folder, tier.dictionaries(suite))
    found = measured(tier, folder, seeds)
    figures, readings = summary.of(found)
    case = {"tier": tier.name, "seeds": seeds, "prompts": tier.n_prompts, "graphs": tier.n_graphs}
    case |= {"trained": vars(tier.trained), "compiled": vars(tier.compiled), "model of sentences": vars(tier.recipe)}
    record = Record(QUESTION, "circuits", case, settings(given, "folder"), figures, readings, seed=0)
    record.write(given.out, f"circuits-{tier.name}")
    say(f"\nThe mean of faithfulness over log2(1 + units), to 512:\n\n{tables.areas(asdict(record))}")


def _hub(given: argparse.Namespace) -> None:
    more = [_named(text) for text in given.transcoder]
    cases, tasks = _chosen(public.CASES, given.cases.split(",")), _chosen(public.TASKS, given.tasks.split(";"))
    found = {name: public.run_case(case, given.n_prompts, more, tasks) for name, case in cases.items()}
    case = {"tier": "hub", "prompts": given.n_prompts, "models": {name: of["model"] for name, of in found.items()}}
    readings = {name: of["curves"] for name, of in found.items()}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    here = Machine.here(threads=torch.get_num_threads(), gpu=gpu)
    figures, options = summary.of_public(found), settings(given, "folder")
    record = Record(QUESTION, "circuits", case, options, figures, readings, seed=0, machine=here)
    record.write(given.out, "circuits-hub")


def _chosen(known: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"There is no {unknown[0]!r}: give some of {', '.join(map(repr, known))}.")
    return {name: known[name] for name in names}


def _named(text: str) -> tuple[str, str, str | None]:
    name, _, rest = text.partition("=")
    source, _, variant = rest.partition(":")
    return name, source, variant or None


if __name__ == "__main__":
    main()
