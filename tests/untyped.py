"""Bad inputs to every door of the package, tried as users try them: `python -m tests.untyped graph`, no type checks.

Prints one JSON line per input: what was tried, what a refusal has to say, whether it may and whether it has to work,
and the exception that came (its type, whether it is ours, its message), or null.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

import tl_circuits as tlc
from tests.graphs import random_graph
from tl_circuits.nodes import Kind, NodeId

tl: Any = tlc


class Try(NamedTuple):
    what: str
    call: Callable[[], object]
    says: str | None
    may_work: bool = False


def refused(what: str, says: str, call: Callable[[], object]) -> Try:
    return Try(what, call, says)


def works(what: str, call: Callable[[], object]) -> Try:
    return Try(what, call, None, may_work=True)


def graph_doors(folder: Path) -> Iterator[Try]:
    graph: Any = random_graph(11, n_features=9)
    cut: Any = graph.prune(0.6, 0.9)
    feature = graph.nodes.features()[0]
    for node in (None, 1.5, True, [3], b"L0/1@-1", (0, 1, 2, 3), 2**70, "L" + "9" * 5000 + "/1@0", Kind.TOKEN):
        yield refused(f"node({node!r:.20})", f"{node!r:.20}", lambda node=node: graph.node(node))
    yield refused("node(Feature)", "None", lambda: graph.node(tlc.Feature(None, 0, 1)))  # type: ignore
    yield refused("node(Feature)", "'a'", lambda: graph.node(tlc.Feature(0, "a", 1)))  # type: ignore
    yield refused("node(NodeId)", "'token'", lambda: graph.node(NodeId("token", -1, 0, 7)))  # type: ignore
    yield refused("node(NodeId)", "1.5", lambda: graph.node(NodeId(Kind.TOKEN, -1, 1.5, 7)))  # type: ignore
    yield works("node(int64)", lambda: graph.node(numpy.int64(3)))
    yield works("node(Feature of int64)", lambda: graph.node(tl.Feature(*map(numpy.int64, feature))))
    for what in (None, 1.5, True, [7], b"Dallas", "", Kind.TOKEN):
        yield refused(f"find({what!r})", f"{what!r}", lambda what=what: graph.find(what))
    yield refused("find(Feature)", "'a'", lambda: graph.find(tlc.Feature("a", 0, 1)))  # type: ignore
    yield works("find(tensor)", lambda: graph.find(torch.tensor(8)))
    yield works("find of many digits", lambda: graph.find("L" + "9" * 5000 + "/1@0"))
    for share in ("a", None, True, 2, [0.5], float("nan")):
        yield refused(f"prune({share!r})", f"{share!r}", lambda share=share: graph.prune(share))
        yield refused(f"prune(edges={share!r})", f"edges={share!r}", lambda share=share: graph.prune(edges=share))
    yield refused("prune(errors='no')", "errors='no'", lambda: graph.prune(errors="no"))
    yield works("prune(1), saved and loaded", lambda: tl.load_graph(graph.prune(1, 1).save(folder / "cut.graph")))
    for verb in ("influence", "scores", "path_lengths", "paths", "prune"):
        for held in (graph, cut):
            yield refused(
                f"{verb}(constants='no')", "'no'", lambda held=held, verb=verb: getattr(held, verb)(constants="no")
            )
    for k in (-1, 0, "a", None, 1.5, True):
        yield refused(f"paths({k!r})", f"{k!r}", lambda k=k: graph.paths(k))
    for k in (-1, 0, "a", 1.5, True):
        yield refused(f"inputs({k!r})", f"inputs(k={k!r})", lambda k=k: graph.node(0).inputs(k))
        yield refused(f"outputs({k!r})", f"outputs(k={k!r})", lambda k=k: graph.node(0).outputs(k))
    yield works("inputs(2**70)", lambda: graph.node(0).inputs(2**70))
    yield refused("paths(source=1.5)", "1.5", lambda: graph.paths(source=1.5))
    yield refused("paths(target=[1])", "[1]", lambda: graph.paths(target=[1]))
    yield refused("paths(target=Kind)", "Kind.TARGET", lambda: graph.paths(target=Kind.TARGET))
    for size in ("x", None, 1.5, -1):
        yield refused(f"adjacency({size!r})", f"{size!r}", lambda size=size: graph.adjacency(max_nodes=size))
    for wrong in ("x", None, ["x"]):
        yield refused(f"to_json(preset={wrong!r})", f"{wrong!r}", lambda wrong=wrong: graph.to_json(preset=wrong))
    for name in ("slug", "scan", "source_set", "pinned", "supernodes", "node_threshold"):
        yield refused(f"to_json({name}=5)", f"{name}=5", lambda name=name: graph.to_json(**{name: 5}))
    yield refused("to_json(node_threshold='x')", "'x'", lambda: graph.to_json(node_threshold="x"))
    yield refused("to_json(constants='no')", "'no'", lambda: graph.to_json(constants="no"))
    yield refused("to_json(pinned='token@0')", "'token@0'", lambda: graph.to_json(pinned="token@0"))
    yield refused("to_json(pinned=[1.5])", "1.5", lambda: graph.to_json(pinned=[1.5]))
    yield refused("to_json(supernodes=[1])", "[1]", lambda: graph.to_json(supernodes=[1]))
    yield refused("to_json(supernodes of one)", "'token@0'", lambda: graph.to_json(supernodes={"a": "token@0"}))
    for path in (5, b"x", "", ".", "/", "a\0b", "~nobody-of-this-name/x", folder, folder / "no" / "x"):
        says = repr(str(path) if isinstance(path, Path) else path)
        for verb in (graph.save, graph.to_json, tl.load_graph):
            yield refused(f"{verb.__name__}({path!r})", says, lambda path=path, verb=verb: verb(path))
    yield refused("save(None)", "None", lambda: graph.save(None))
    for labels in ({"L0/1": "a"}, {(0, 1): 5}, {(0, 1): None}, {("0", 1): "a"}, {0: "a"}, {feature: "a"}):
        key, label = next(iter(labels.items()))
        for says in (f"{key!r}", f"{label!r}"):
            yield refused(f"with_labels({labels})", says, lambda labels=labels: graph.with_labels(labels))
    for labels in (None, 5, [((0, 1), "a")]):
        yield refused(f"with_labels({labels})", f"{labels!r}", lambda labels=labels: graph.with_labels(labels))
    named = {(numpy.int64(0), numpy.int64(1)): "a"}
    yield works("labels of int64, saved", lambda: graph.with_labels(named).save(folder / "named.graph"))


DOORS = {"graph": graph_doors}


def told(error: Exception | None) -> list[Any] | None:
    return error and [type(error).__name__, isinstance(error, tlc.TLCircuitsError), str(error)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for row in DOORS[sys.argv[1]](Path(name)):
            caught = None
            try:
                row.call()
            except Exception as error:
                caught = error
            print(json.dumps([row.what, row.says, row.may_work, told(caught)]))  # noqa: T201
