"""The tables of `docs/which-units.md`, from the newest result of the `cpu` tier. Needs nothing but result files."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

UNITS = ("CLT", "PLT", "skip PLT", "SAE", "neurons")
OTHERS = ("PLT", "PLT, parameters", "PLT, writes", "SAE", "SAE, parameters", "SAE, writes", "neurons")
Result = Mapping[str, Any]


def newest(results: Sequence[Result], tier: str = "cpu") -> Result | None:
    """The result of a tier among those that `report.newest` gives."""
    return next((r for r in results if r["script"] == "circuits" and r["case"]["tier"] == tier), None)


def conditions(result: Result) -> str:
    """What was run, on what, in a paragraph."""
    case, machine = result["case"], result["machine"]
    trained, compiled = case["trained"], case["compiled"]
    costs = [cost for figures in result["figures"].values() for cost in figures["costs"].values()]
    minutes = sum(cost["processor_s"] for cost in costs) / 60
    n_dictionaries = sum(cost["dictionaries"] for cost in costs)
    return _paragraph(
        f"{len(case['seeds'])} seeds of every dictionary, up to {case['prompts']} prompts a task; intervals of 95 % by "
        "bootstrap over seeds and prompts. Dictionaries of the trained models: TopK, "
        f"{trained['features']} features a layer with {trained['k']} active, {trained['steps']} steps of "
        f"{trained['batch_tokens']} tokens; of compiled ones {compiled['features']} features and {compiled['steps']} "
        f"steps. {n_dictionaries} dictionaries took {minutes:.0f} minutes of processor to train, the readings "
        f"{sum(f['readings_s'] for f in result['figures'].values()) / 60:.0f}, one thread of {machine['cpu']}, "
        f"{result['when'][:10]}."
    )


def tasks(result: Result) -> str:
    """The share of prompts that each model answers right, with their counterfactuals, and on how many it is asked."""
    rows = [
        (task, suite, f"{100 * figures.get('accuracy', {}).get(task, 1):.0f} %", str(n))
        for suite, figures in result["figures"].items()
        for task, n in figures["prompts"].items()
    ]
    return _table(("task", "model", "answered right", "prompts"), rows)


def areas(result: Result) -> str:
    """The mean of F over log2(1 + k), by task and unit, dictionaries matched by L0."""
    return _by_task(result, UNITS, lambda of: _interval(of["cpr"]))


def sizes(result: Result) -> str:
    """The least size with F of at least .8, by task and unit."""
    return _by_task(result, UNITS, lambda of: "none" if of["k80"] is None else f"{of['k80']:,}")


def without(result: Result) -> str:
    """The least size without which no more than .2 is left, by task and unit."""
    return _by_task(result, UNITS, lambda of: "none" if of["kc20"] is None else f"{of['kc20']:,}")


def answers(result: Result) -> str:
    """How often the circuit of 32 units alone gives the model's answer, and by all units, by task and unit."""
    return _by_task(
        result, UNITS, lambda of: f"{of['same answer'][of['sizes'].index(32)]:.2f} / {of['same answer'][-1]:.2f}"
    )


def ends(result: Result) -> str:
    """F of all units, by task and unit."""
    return _by_task(result, UNITS, lambda of: f"{of['F(all)']['value']:.2f}")


def matched(result: Result) -> str:
    """What a CLT's area is above another unit's, by how they are matched."""
    rows = []
    for figures in result["figures"].values():
        for task, found in figures["differences"].items():
            cells = [found.get(f"CLT − {other}") for other in OTHERS]
            rows.append((task, *("" if cell is None else _interval(cell["cpr"], signed=True) for cell in cells)))
    return _table(("task", *OTHERS), rows)


def errors(result: Result) -> str:
    """Areas and ends with errors corrupted, kept and left out."""
    rows = []
    for figures in result["figures"].values():
        for task, of in figures["errors"].items():
            for basis in UNITS:
                named = {how: of.get(f"{basis}, {how}") for how in ("kept", "zero")}
                if any(named.values()):
                    corrupted = figures["curves"][task][basis]
                    cells = [_interval(corrupted["cpr"]), f"{corrupted['F(all)']['value']:.2f}"]
                    for how in ("kept", "zero"):
                        cells += ["", ""] if named[how] is None else _area_and_end(named[how])
                    rows.append((task, basis, *cells))
    return _table(("task", "units", "corrupted", "all", "kept", "all", "zero", "all"), rows)


def scorers(result: Result) -> str:
    """Areas by scorer."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for figures in result["figures"].values():
        for key, of in figures.get("scorers", {}).items():
            task, basis, scorer = key.split(" | ")
            found.setdefault((task, basis), {})[scorer] = _interval(of["cpr"])
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    return _table(("task", "units", *names), [(*key, *(of.get(n, "") for n in names)) for key, of in found.items()])


def otherwise(result: Result) -> str:
    """The areas when the same is asked in other ways: by KL, with attention frozen, of one circuit for all prompts."""
    rows = []
    for figures in result["figures"].values():
        for key, frozen in figures.get("otherwise", {}).get("frozen", {}).items():
            task, basis = key.split(" | ")
            of = figures["curves"][task][basis]
            one = figures["otherwise"]["one circuit"].get(key, {})
            cells = [of["cpr"], of.get("kl", {}), frozen["cpr"], one.get("cpr", {})]
            rows.append((task, basis, *map(_interval, cells)))
    return _table(("task", "units", "as above", "by KL", "attention frozen", "one circuit, other prompts"), rows)


def edges(result: Result) -> str:
    """Edges of heads and MLPs: areas over the share of edges, as MIB has them."""
    rows = []
    for figures in result["figures"].values():
        for task, of in figures.get("edges", {}).items():
            cells = [
                _interval(of[scorer][name])
                for scorer in ("eap", "eap-ig", "random")
                for name in ("cpr_linear", "cmd_linear")
            ]
            rows.append((task, f"{of['eap']['units']:,}", *cells))
    return _table(("task", "edges", "EAP, CPR", "CMD", "EAP-IG, CPR", "CMD", "random, CPR", "CMD"), rows)


def shipped(result: Result) -> str:
    """The demo's own transcoders beside those of the benchmark, and neurons."""
    figures, rows = result["figures"]["demo"], []
    for task, of in figures["curves"].items():
        for basis in ("shipped CLT", "CLT", "shipped PLT", "PLT", "neurons"):
            active = figures["fidelity"].get(f"{task} | {basis}", {}).get("active", {})
            size = "none" if of[basis]["k80"] is None else f"{of[basis]['k80']:,}"
            cells = (_interval(active), _interval(of[basis]["cpr"]), f"{of[basis]['F(all)']['value']:.2f}", size)
            rows.append((task, basis, *cells))
    return _table(("task", "units", "active, all layers", "area", "all", "size for .8"), rows)


GRAPH = {
    "path length": "path length",
    "replacement": "replacement score",
    "completeness": "completeness",
    "completeness, as circuit-tracer has it": "as circuit-tracer has it",
    "seconds": "seconds",
    "replacement of 32 features": "replacement, 32 features",
    "replacement of 256 edges": "replacement, 256 edges",
    "written across into layer 1": "across into layer 1",
    "mediated, graph": "mediated, graph",
    "mediated, model": "mediated, model",
    "mediated collapse": "collapse",
}


def graphs(result: Result) -> str:
    """What attribution graphs of CLTs and per-layer transcoders say."""
    rows = []
    for figures in result["figures"].values():
        for key, of in figures.get("graphs", {}).items():
            rows.append((*key.split(" | "), *(_interval(of.get(name, {})) for name in GRAPH)))
    return _table(("task", "units", *GRAPH.values()), rows)


SMALLEST = 64
"""Edges of the graphs whose curves are shown, more than the smallest size in the table."""


def graph_edges(result: Result) -> str:
    """Curves of the graphs' edges, by influence, and the area of an order drawn at random."""
    rows = []
    named = ("cpr", "F(64)", "F(256)", "F(1024)", "F(all)")
    for figures in result["figures"].values():
        found = figures.get("graph edges", {})
        for key, of in found.items():
            task, basis, how, order = key.split(" | ")
            if order != "influence" or of["edges"]["value"] <= SMALLEST:
                continue
            cells = [_interval(of[name]) for name in named]
            at_random = _interval(found.get(f"{task} | {basis} | {how} | random", {}).get("cpr", {}))
            rows.append((task, basis, how, f"{of['edges']['value']:,.0f}", cells[0], at_random, *cells[1:]))
    titles = ("task", "units", "errors", "edges", "area", "at random", "F(64)", "F(256)", "F(1024)", "F(all)")
    return _table(titles, rows)


def planted(result: Result) -> str:
    """Planted variables and edges of compiled models found again."""
    names = ("AUPRC, layer 0", "F1, layer 0", "AUPRC, layer 1", "F1, layer 1", "AUPRC of edges", "F1 of edges")
    rows = []
    for suite, figures in result["figures"].items():
        for basis, of in figures.get("planted", {}).items():
            rows.append((suite, basis, *(_interval(of.get(name, {})) for name in names)))
    return _table(("model", "units", *names), rows)


FIT = ("FVU", "KL", "CE recovered", "same answer")


def fidelity(result: Result) -> str:
    """Per-layer transcoders against SAEs of MLP outputs by L0: every unit on, no errors; and MLPs at their means."""
    k = result["case"]["trained"]["k"]
    rows = []
    found = result["figures"]["demo"]["fidelity"]
    for task in dict.fromkeys(key.split(" | ")[0] for key in found):
        for l0 in (0, *sorted({k, 2 * k, *(int(key.rsplit("k ", 1)[1]) for key in found if ", k " in key)})):
            match = {0: "", k: "", 2 * k: ", writes"}.get(l0, f", k {l0}")
            names = FIT if l0 else [f"{name}, at means" for name in FIT]
            of = [found.get(f"{task} | {kind}{match}", {}) for kind in ("PLT", "SAE")]
            cells = [_interval(each.get(name, {})) for each in of for name in names]
            rows.append((task, str(l0) if l0 else "0, means", *cells))
    return _table(
        ("task", "L0", *(f"{kind}, {FIT[0]}" if n == FIT[0] else n for kind in ("PLT", "SAE") for n in FIT)), rows
    )


def curve(result: Result, suite: str, task: str, bases: Sequence[str] = UNITS) -> str:
    """F by size, of one task."""
    of = result["figures"][suite]["curves"][task]
    at = of["neurons"]["sizes"][:-1]
    rows = [
        (basis, *(f"{f:.2f}" for f in of[basis]["F"][: len(at)]), f"{of[basis]['F(all)']['value']:.2f}")
        for basis in bases
    ]
    return _table(("units", *map(str, at), "all"), rows)


def controls(result: Result) -> str:
    """A random dictionary beside trained ones, and sparse feature circuits and heads, on scales of their own."""
    named = ("CLT", "untrained CLT", "SFC", "heads and MLPs")
    return _by_task(result, named, lambda of: _interval(of["cpr"]))


CLT_FITS = ("fidelity", "CLT")
PUBLISHED = (
    # What, of which basis, as published, where and of what; and our figure by its section and name.
    (
        "top-1 of the replacement model, CLT",
        ".50",
        "Ameisen et al. 2025, 18 layers, 10M features",
        (*CLT_FITS, "same answer"),
    ),
    ("NMSE, CLT", ".115", "the same", (*CLT_FITS, "FVU")),
    ("active features a token, all layers, CLT", "88", "the same", (*CLT_FITS, "active")),
    ("path length, CLT", "2.3", "the same", ("graphs", "CLT", "path length")),
    ("path length, PLT", "3.7", "the same", ("graphs", "PLT", "path length")),
    ("replacement score, CLT", ".61", "the same, an example's table", ("graphs", "CLT", "replacement")),
    ("replacement score, PLT", ".37", "the same", ("graphs", "PLT", "replacement")),
    ("completeness, CLT", ".80", "the same", ("graphs", "CLT", "completeness")),
    ("completeness, PLT", ".78", "the same", ("graphs", "PLT", "completeness")),
    ("NMSE, CLT", ".217", "the same, Claude 3.5 Haiku", (*CLT_FITS, "FVU")),
    ("active features a token, all layers, CLT", "235", "the same", (*CLT_FITS, "active")),
    ("replacement score, CLT", "about .8", "CLT-Forge, on GPT-2, as quoted", ("graphs", "CLT", "replacement")),
    ("completeness, CLT", "about .95", "the same", ("graphs", "CLT", "completeness")),
    ("NMSE, CLT", "about .2", "the same, 1 less its explained variance", (*CLT_FITS, "FVU")),
    *(
        (
            f"completeness at {share} of influence, CLT",
            said,
            "Ameisen et al. 2025",
            ("graphs", "CLT", f"completeness at {share}"),
        )
        for share, said in ((0.95, ".87"), (0.9, ".83"), (0.8, ".70"), (0.7, ".58"))
    ),
    *(
        (f"nodes at {share} of influence, CLT", said, "the same", ("graphs", "CLT", f"features at {share}"))
        for share, said in ((0.95, "236"), (0.9, "137"), (0.8, "55"), (0.7, "27"))
    ),
    (
        "Spearman of influence and ablation, CLT",
        ".72",
        "the same",
        ("faithful", "CLT", "nodes.kl.influence.spearman"),
    ),
    (
        "cosine one layer after a push, CLT",
        "about .8",
        "the same",
        ("faithful", "CLT", "push.encoder.hop_1.replacement.residual_cosine"),
    ),
    (
        "the same where MLPs do not answer at all",
        "",
        "ours alone",
        ("faithful", "CLT", "push.encoder.hop_1.no_mlps.residual_cosine"),
    ),
    (
        "NMSE one layer after a push, CLT",
        "about .4",
        "the same",
        ("faithful", "CLT", "push.encoder.hop_1.replacement.residual_nmse"),
    ),
)


def published(result: Result) -> str:
    """Published figures, each with ours beside it, of two tasks of the demo."""
    found = result["figures"]["demo"]
    rows = []
    for what, said, where, (section, basis, name) in PUBLISHED:
        ours = [_interval(found[section].get(f"{task} | {basis}", {}).get(name, {})) for task in found["curves"]]
        rows.append((what, said, where, *ours))
    mib = "MIB, IOI on GPT-2, as entries to it quote it"
    for scorer, cpr, cmd in (("random", ".25", ".75"), ("eap", "1.20", ".03"), ("eap-ig", "1.85", ".03")):
        for name, said in (("cpr_linear", cpr), ("cmd_linear", cmd)):
            ours = [_interval(found["edges"][task][scorer][name]) for task in found["curves"]]
            who = scorer if scorer == "random" else scorer.upper()
            rows.append((f"{who}, {name[:3].upper()} over the share of edges", said, mib, *ours))
    return _table(("figure", "published", "of what", *(f"ours, {task}" for task in found["curves"])), rows)


def agreement(result: Result) -> str:
    """The least size with F of at least .8 on agreement, sparse feature circuits beside the rest."""
    found = result["figures"]["sentences"]["curves"]
    rows = [
        (task, *("none" if of[name]["k80"] is None else f"{of[name]['k80']:,}" for name in ("SFC", *UNITS)))
        for task, of in found.items()
        if task.startswith("agreement")
    ]
    return _table(("task", "SFC", *UNITS), rows)


def costs(result: Result) -> str:
    """What dictionaries of the demo took."""
    rows = [
        (
            name,
            str(of["features"]),
            str(of["k"]),
            f"{of['parameters']:,}",
            f"{of['processor_s'] / of['dictionaries']:.0f} s",
        )
        for name, of in result["figures"]["demo"]["costs"].items()
    ]
    return _table(("dictionary", "features", "active", "parameters", "processor time"), rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "conditions": conditions,
    "tasks": tasks,
    "areas": areas,
    "sizes": sizes,
    "ends": ends,
    "without": without,
    "answers": answers,
    "matched": matched,
    "errors": errors,
    "scorers": scorers,
    "otherwise": otherwise,
    "shipped": shipped,
    "edges": edges,
    "published": published,
    "agreement": agreement,
    "graphs": graphs,
    "graph-edges": graph_edges,
    "planted": planted,
    "fidelity": fidelity,
    "greater-than": lambda result: curve(result, "sentences", "greater-than"),
    "controls": controls,
    "costs": costs,
}


def _by_task(result: Result, bases: Sequence[str], cell: Callable[[Mapping[str, Any]], str]) -> str:
    rows = [
        (task, *(cell(of[basis]) if basis in of else "" for basis in bases))
        for figures in result["figures"].values()
        for task, of in figures["curves"].items()
    ]
    return _table(("task", *bases), rows)


def _area_and_end(of: Mapping[str, Any]) -> list[str]:
    return [_interval(of["cpr"]), f"{of['F(all)']['value']:.2f}"]


def _interval(of: Mapping[str, float], *, signed: bool = False) -> str:
    if not of:
        return ""
    form = "+.2f" if signed else ".2f"
    value = f"{of['value']:{form}}"
    return f"{value} [{of['low']:{form}}, {of['high']:{form}}]" if "low" in of else value


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"
