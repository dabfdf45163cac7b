"""From readings to figures: what every basis comes to on every task, over seeds and prompts."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.circuits.intervals import RESAMPLES, Drawn, Readings, estimate, of_seeds

SIZES = (8, 32, 128)
EDGES = 8192
"""Up to where the areas of graphs' edges go: the largest size that is measured."""
PAIRS = (
    ("CLT", "PLT"), ("CLT", "PLT, parameters"), ("CLT", "PLT, writes"), ("CLT", "SAE"), ("CLT", "SAE, parameters"),
    ("CLT", "SAE, writes"), ("CLT", "neurons"), ("PLT", "SAE"), ("PLT", "neurons"), ("PLT", "skip PLT"),
)  # fmt: skip
Found = Mapping[str, Mapping[str, Any]]


def of(found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a reader wants, and each seed's own readings, by suite."""
    figures, readings = {}, {}
    for suite, rows in found.items():
        curves = _grouped(rows, "curves")
        figures[suite] = {
            "accuracy": {name: round(share, 4) for name, share in rows["accuracy"].items()},
            "prompts": {name: len(bases["neurons"][0]["corrupted"]["empty"]) for name, bases in curves.items()},
            "costs": _costs(rows["costs"]),
            "curves": {
                name: {basis: _curve(of, "corrupted") for basis, of in bases.items()} for name, bases in curves.items()
            },
            "differences": {name: dict(_differences(bases)) for name, bases in curves.items()},
            "errors": {name: dict(_errors(bases)) for name, bases in curves.items()},
            "scorers": dict(_scorers(rows)),
            "otherwise": {what: dict(_otherwise(rows, what)) for what in ("frozen", "one circuit")},
            "edges": {
                name: {s: _curve([of[0]], s) for s in ("eap", "eap-ig", "random")}
                for (name,), of in _keyed(rows, "edges")
            },
            "graph edges": dict(_graph_edges(rows)),
            "graphs": dict(_means(rows, "graphs")),
            "faithful": dict(_means(rows, "faithful")),
            "fidelity": dict(_means(_with_active(rows), "fidelity")),
            "planted": dict(_planted(rows)),
            "readings_s": round(sum(row.get("processor_s", 0) for row in rows.values() if isinstance(row, dict)), 1),
        }
        figures[suite] = {name: value for name, value in figures[suite].items() if value not in ({}, None)}
        readings[suite] = {name: {basis: _by_seed(of) for basis, of in bases.items()} for name, bases in curves.items()}
    return figures, readings


def of_public(found: Mapping[str, Any]) -> dict[str, Any]:
    """The hub tier's: curves with errors corrupted and kept, and what each dictionary is on the task's prompts."""
    figures = {}
    for name, rows in found.items():
        figures[name] = {key: rows[key] for key in ("model", "accuracy", "left out", "failed", "wall_s")}
        figures[name]["curves"] = {
            task: {
                basis: _curve([of], "corrupted")
                | ({"kept": _curve([of], "kept")} if "kept" in of else {})
                | {"fidelity": of["fidelity"]}
                for basis, of in bases.items()
            }
            for task, bases in rows["curves"].items()
        }
    return figures


def _keyed(rows: Mapping[str, Any], what: str) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Readings of a kind by what they are of, seeds together."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for key, row in rows.items():
        kind, *of = key.split(" | ")
        if kind == what:
            found.setdefault(tuple(of[:-1]) if what != "edges" else tuple(of), []).append(row)
    yield from found.items()


def _grouped(rows: Mapping[str, Any], what: str) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = {}
    for (task, basis), of in _keyed(rows, what):
        found.setdefault(task, {})[basis] = of
    return found


def _drawn(of: Sequence[Any], errors: str, n_seeds: int | None = None) -> Drawn:
    of = list(of) if n_seeds is None or len(of) == n_seeds else list(of) * n_seeds
    return Readings.of([row[errors] for row in of]).drawn(RESAMPLES, 0)


def _curve(of: Sequence[Any], errors: str) -> dict[str, Any]:
    drawn = _drawn(of, errors)
    areas = ("cpr", "cmd", "left", "cpr_linear", "cmd_linear", *(() if drawn.recovered is None else ("kl",)))
    found: dict[str, Any] = {name: estimate(getattr(drawn, name)) for name in areas}
    found |= {f"F({size})": estimate(drawn.at(size)) for size in SIZES} | {
        "F(all)": estimate(drawn.faithfulness[:, -1])
    }
    found |= {"k80": drawn.k80(), "kc20": drawn.kc20(), "units": of[0].get("units", drawn.sizes[-1])}
    found |= {"sizes": list(drawn.sizes), "F": _rounded(drawn.faithfulness[0]), "C": _rounded(drawn.completeness[0])}
    return found | {"same answer": _rounded(drawn.accuracy[0]), "seeds": len(of)}


def _differences(bases: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    """Of cpr, cmd and F(32), first less second basis, drawn with the same seeds and prompts."""
    for one, other in PAIRS:
        if one in bases and other in bases:
            n_seeds = max(len(bases[one]), len(bases[other]))
            here, there = (_drawn(bases[basis], "corrupted", n_seeds) for basis in (one, other))
            yield (
                f"{one} − {other}",
                {
                    "cpr": estimate(here.cpr - there.cpr),
                    "cmd": estimate(here.cmd - there.cmd),
                    "F(32)": estimate(here.at(32) - there.at(32)),
                },
            )


def _errors(bases: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    for basis, of in bases.items():
        for errors in ("kept", "zero"):
            if all(errors in row for row in of):
                drawn = _drawn(of, errors)
                yield f"{basis}, {errors}", {"cpr": estimate(drawn.cpr), "F(all)": estimate(drawn.faithfulness[:, -1])}


def _scorers(rows: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    kinds = dict.fromkeys(key.split(" | ")[0] for key in rows if key.startswith("scorer "))
    for kind in kinds:
        for (task, basis), of in _keyed(rows, kind):
            drawn = _drawn(of, "corrupted")
            said = {"cpr": estimate(drawn.cpr), "cmd": estimate(drawn.cmd), "left": estimate(drawn.left)}
            yield f"{task} | {basis} | {kind.removeprefix('scorer ')}", said


def _otherwise(rows: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    for (task, basis), of in _keyed(rows, what):
        drawn = _drawn(of, "corrupted")
        said = {"cpr": estimate(drawn.cpr), "cmd": estimate(drawn.cmd), "F(all)": estimate(drawn.faithfulness[:, -1])}
        yield f"{task} | {basis}", said


def _graph_edges(rows: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for errors, kind in (("corrupted", "graph edges"), ("kept", "graph edges kept")):
        for (task, basis), of in _keyed(rows, kind):
            yield from _graph_orders(f"{task} | {basis} | {errors}", of)


def _graph_orders(named: str, of: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for order in ("influence", "random"):
        # Each dictionary's graphs have their own number of edges, and so their own last size.
        areas = [Readings.of([row[order]]).drawn(0, 0, EDGES) for row in of if order in row]
        if not areas:
            continue
        found = {"cpr": of_seeds([float(one.cpr[0]) for one in areas])}
        for size in (64, 256, 1024):
            found[f"F({size})"] = of_seeds([float(one.at(size)[0]) for one in areas])
        found["F(all)"] = of_seeds([float(one.faithfulness[0, -1]) for one in areas])
        found["edges"] = of_seeds([one.sizes[-1] for one in areas])
        yield f"{named} | {order}", found


def _means(rows: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    """Each figure's mean over prompts of a seed, with the interval over seeds."""
    for (task, basis), of in _keyed(rows, what):
        found = {}
        for name in of[0]:
            if name == "processor_s":
                continue
            values = [_one(row[name]) for row in of if name in row]
            found[name] = of_seeds([value for value in values if value is not None])
        yield f"{task} | {basis}", found


def _with_active(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows, of fidelity with the number of active features a token over all layers."""
    return {
        key: row | {"active": sum(row["L0"])} if key.startswith("fidelity | ") else row for key, row in rows.items()
    }


def _one(value: Any) -> float | None:
    if not isinstance(value, list):
        return value
    values = [v for v in value if v is not None and v == v]
    return statistics.mean(values) if values else None


def _planted(rows: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for (basis,), of in _keyed(rows, "planted"):
        names = [name for name in of[0] if name != "processor_s"]
        yield basis, {name: of_seeds([row[name] for row in of if name in row]) for name in names}


def _costs(costs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for key, cost in costs.items():
        name = key.split(" | ")[0]
        of = found.setdefault(name, {"parameters": cost["parameters"], "processor_s": 0.0, "dictionaries": 0})
        of["processor_s"] = round(of["processor_s"] + cost["processor_s"], 1)
        of["dictionaries"] += 1
        of |= {name: cost["told"][name] for name in ("features", "k", "steps", "batch_tokens")}
    return found


def _by_seed(of: Sequence[Any]) -> dict[str, Any]:
    each = [_drawn([row], "corrupted") for row in of]
    found: dict[str, Any] = {name: [round(float(getattr(one, name)[0]), 4) for one in each] for name in ("cpr", "cmd")}
    return found | {"k80": [one.k80() for one in each]}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
