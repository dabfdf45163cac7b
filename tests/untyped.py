"""Bad inputs to every door of the package, tried as users try them: `python -m tests.untyped graph`, no type checks.

Prints one JSON line per input: what was tried, what a refusal has to say, whether it may and whether it has to work,
and the exception that came (its type, whether it is ours, its message), or null.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

import tl_circuits as tlc
from tests.graphs import random_graph
from tl_circuits.comparison import Basis, Task, circuit_curve, recovery, scores
from tl_circuits.graph.circuit_tracer import convert_graph
from tl_circuits.intervention import collapse
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


def works_or_says(what: str, says: str, call: Callable[[], object]) -> Try:
    return Try(what, call, says, may_work=True)


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
    for alike in ("a", None, True, 2, 0, float("nan")):
        yield refused(f"alike={alike!r}", f"alike={alike!r}", lambda alike=alike: graph.suggest_supernodes(alike=alike))
    for given in (5, "L0/1@1", feature, [1.5]):
        yield refused(
            f"suggest({given!r})",
            "1.5" if given == [1.5] else f"features={given!r}",
            lambda given=given: graph.suggest_supernodes(given),
        )
    yield works("suggest of int64", lambda: graph.suggest_supernodes([numpy.int64(0), 1]))
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
    convert: Any = convert_graph
    for source in (None, "", 3, "a\0b"):
        yield refused(f"convert_graph({source!r})", f"{source!r}", lambda source=source: convert(source))
    yield refused("convert_graph(file=3)", "3", lambda: convert("a.pt", 3))
    yield refused("convert_graph(overwrite=)", "'no'", lambda: convert("a.pt", folder / "a.graph", overwrite="no"))
    yield refused("convert_graph(decode=)", "'utf-8'", lambda: convert("a.pt", decode="utf-8"))
    for labels in ({"L0/1": "a"}, {(0, 1): 5}, {(0, 1): None}, {("0", 1): "a"}, {0: "a"}, {feature: "a"}):
        key, label = next(iter(labels.items()))
        for says in (f"{key!r}", f"{label!r}"):
            yield refused(f"with_labels({labels})", says, lambda labels=labels: graph.with_labels(labels))
    for labels in (None, 5, [((0, 1), "a")]):
        yield refused(f"with_labels({labels})", f"{labels!r}", lambda labels=labels: graph.with_labels(labels))
    named = {(numpy.int64(0), numpy.int64(1)): "a"}
    yield works("labels of int64, saved", lambda: graph.with_labels(named).save(folder / "named.graph"))


def tiny() -> tuple[Any, Any]:
    """A model of 2 layers that is 8 wide, and a transcoder that fits."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=8, n_heads=1, d_head=8, d_mlp=8, d_vocab=97, n_ctx=8, act_fn="gelu", device="cpu", seed=0
    )
    return HookedTransformer(config).eval(), transcoder()


def transcoder(**parts: Any) -> Any:
    """The transcoder with some of its arguments replaced."""
    rng = torch.Generator().manual_seed(0)
    plain = {
        "W_enc": torch.randn(2, 6, 8, generator=rng),
        "b_enc": torch.zeros(2, 6),
        "W_dec": [torch.randn(6, 2, 8, generator=rng), torch.randn(6, 1, 8, generator=rng)],
        "b_dec": torch.zeros(2, 8),
    }
    return tl.CrossLayerTranscoder(**plain | parts)


def target_doors(folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    local, T = tlc.localize(model, clt, [1, 2, 3]), tl.Targets
    attribute = tl.attribute
    vector = torch.ones(8)
    yield works("attribute(local, 5)", lambda: attribute(local, 5))
    yield works("attribute(local, tensor)", lambda: attribute(local, torch.tensor([5, 1])))
    yield works("attribute(local, Feature)", lambda: attribute(local, tlc.Feature(1, -1, 3)))
    yield works_or_says("attribute(['L0/3@-1'])", "L0/3@-1", lambda: attribute(local, ["L0/3@-1"]))
    for wrong in (True, 1.5, {"a": 1}, [1.5], [None], [True], [], b"x", torch.tensor([1.5]), object):
        says = "No target" if wrong == [] else f"{wrong!r}".removeprefix("tensor(").strip("[]()")
        yield refused(f"attribute(local, {wrong!r})", says, lambda wrong=wrong: attribute(local, wrong))
    yield refused("attribute(model)", "HookedTransformer", lambda: attribute(model))
    yield refused("attribute(None)", "None", lambda: attribute(None))
    settings = {
        "coverage": ("1", None, True, float("nan")),
        "max_features": (3.7, True, "a", -1),
        "time_budget": ("1", True, -1, float("inf")),
        "memory_budget": (8e9, "1", True, -1),
        "max_targets": (2.5, "a", None, True, 0),
        "target_probability": ("x", None, True, 0),
    }
    numbers = {
        "coverage": numpy.float32(0.5),
        "max_features": numpy.int64(3),
        "time_budget": numpy.int32(600),
        "memory_budget": numpy.int64(10**9),
        "max_targets": numpy.int16(2),
        "target_probability": numpy.float32(0.75),
    }
    yield works(
        "attribute(numbers of numpy), saved", lambda: attribute(local, **numbers).save(folder / "numbers.graph")
    )
    for weights in (numpy.array([1.0, -2.5]), torch.tensor([1.0, -2.5]), [numpy.float16(1), numpy.float64(-2.5)]):
        yield works(f"weights={weights!r}", lambda weights=weights: attribute(local, T.tokens([3, 4], weights)))
    for name, values in settings.items():
        for value in values:
            yield refused(
                f"attribute({name}={value!r})",
                f"{name}={value!r}",
                lambda name=name, value=value: attribute(local, **{name: value}),
            )
    made: dict[str, tuple[str, Callable[[], object]]] = {
        "direction([1.0])": ("[1.0]", lambda: T.direction([1.0])),
        "direction(None)": ("None", lambda: T.direction(None)),
        "direction(layer=1.0)": ("1.0", lambda: T.direction(vector, layer=1.0)),
        "direction(layer='a')": ("'a'", lambda: T.direction(vector, layer="a")),
        "direction(pos='a')": ("'a'", lambda: T.direction(vector, pos="a")),
        "direction(label=5)": ("5", lambda: T.direction(vector, label=5)),
        "tokens(pos=1.5)": ("1.5", lambda: T.tokens([1], pos=1.5)),
        "tokens(pos=None)": ("None", lambda: T.tokens([1], pos=None)),
        "tokens('95')": ("'95'", lambda: T.tokens("95")),
        "tokens(None)": ("None", lambda: T.tokens(None)),
        "tokens([None])": ("None", lambda: T.tokens([None])),
        "tokens(weights=['a'])": ("'a'", lambda: T.tokens([1], weights=["a"])),
        "tokens(weights=[None])": ("None", lambda: T.tokens([1], weights=[None])),
        "tokens(weights=5)": ("5", lambda: T.tokens([1], weights=5)),
        "tokens(weights='a')": ("'a'", lambda: T.tokens([1], weights="a")),
        "features(None)": ("None", lambda: T.features(None)),
        "features([1])": ("1", lambda: T.features([1])),
        "difference(1, None)": ("None", lambda: T.difference(1, None)),
        "top('a')": ("'a'", lambda: T.top("a")),
        "top(pos=None)": ("None", lambda: T.top(pos=None)),
    }
    for what, (says, make) in made.items():
        yield refused(f"Targets.{what}", says, lambda make=make: attribute(local, make()))
    yield works_or_says("features((0, 1, 2))", "(0, 1, 2)", lambda: attribute(local, T.features([(0, 1, 2)])))
    yield works_or_says("tokens(5)", "5", lambda: attribute(local, T.tokens(5)))
    yield works_or_says("features('L0/3@-1')", "L0/3@-1", lambda: attribute(local, T.features("L0/3@-1")))


def prompt_doors(_folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    localize = tl.localize
    yield refused("localize(None, t, p)", "None", lambda: localize(None, clt, [1, 2]))
    yield refused("localize(t, m, p)", "CrossLayerTranscoder", lambda: localize(clt, model, [1, 2]))
    yield refused("localize(m, None, p)", "None", lambda: localize(model, None, [1, 2]))
    for prompt in (None, 5, b"x", {1, 2}, 1.5, [1.5], {"role": "user"}):
        yield refused(f"localize(prompt={prompt!r})", f"{prompt!r}", lambda prompt=prompt: localize(model, clt, prompt))
    yield works_or_says("localize(prompt=iterator)", "iterator", lambda: localize(model, clt, iter([1])))
    for masked in ("0", [None], [0.5], ["0"], 0.5, [True]):
        yield refused(
            f"masked_positions={masked!r}", f"{masked!r}", lambda masked=masked: localize(model, clt, [1, 2], masked)
        )
    yield works_or_says("masked_positions=0", "0", lambda: localize(model, clt, [1, 2], 0))
    yield works("masked_positions=tensor", lambda: localize(model, clt, [1, 2], torch.tensor([0])))
    for swapped in ((None, clt), (model, None), (clt, model)):
        yield refused(
            "replace_mlps", type(swapped[swapped[0] is model]).__name__.removesuffix("Type"),
            lambda swapped=swapped: tl.replace_mlps(*swapped).__enter__(),
        )  # fmt: skip
    for given in ("a-release", [object()]):
        says = f"{type(given).__name__} were given"
        yield refused(f"trace(m, {says}", says, lambda given=given: tl.trace(model, given, [1]))
        says = "tlc.load_transcoder(...) makes one, so call that first"
        yield refused("trace of a name", says, lambda given=given: tl.trace(model, given, [1]))
    yield refused("trace(None, t, p)", "None", lambda: tl.trace(None, clt, [1]))


def transcoder_doors(folder: Path) -> Iterator[Try]:
    nothing: Any = None
    paths: tuple[Any, ...] = (5, None)
    for path in paths:
        yield refused(f"load_transcoder({path!r})", f"{path!r}", lambda path=path: tlc.load_transcoder(path))
        yield refused(
            f"save_transcoder({path!r})", f"{path!r}", lambda path=path: tlc.save_transcoder(transcoder(), path)
        )
    saes = tlc.as_saes(transcoder(W_dec=torch.ones(2, 6, 1, 8).unbind()))
    given: tuple[tuple[Any, str], ...] = (
        (saes[0], "A Transcoder is no name and no list"),
        (saes[0], "give a list with one SAELens transcoder for each layer"),
        (dict(enumerate(saes)), "A dict is no name"), (iter(saes), "A list_iterator is no name"),
    )  # fmt: skip
    for source, says in given:
        yield refused(f"load_transcoder({says})", says, lambda source=source: tl.load_transcoder(source))
    yield refused("save_transcoder(None)", "None", lambda: tlc.save_transcoder(nothing, folder / "clt"))
    for activation in ("relu", tlc.ReLU, 5):
        says = "ReLU" if activation is tlc.ReLU else f"{activation!r}"
        yield refused(
            f"activation={activation!r}", says, lambda activation=activation: transcoder(activation=activation)
        )
    yield refused("1-D b_dec", "b_dec", lambda: transcoder(b_dec=torch.zeros(8)))
    yield works("b_dec as a list of tensors", lambda: transcoder(b_dec=[torch.zeros(8), torch.zeros(8)]))
    yield refused("b_dec as lists", "b_dec", lambda: transcoder(b_dec=[[0.0] * 8] * 2))
    yield refused("no layers", "W_enc", lambda: transcoder(W_enc=[], b_enc=[], W_dec=[], b_dec=torch.zeros(0, 8)))
    yield refused("empty layers", "W_enc", lambda: transcoder(W_enc=torch.zeros(0), b_enc=[], W_dec=[], b_dec=[]))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        for value in (None, 5, "x"):
            yield refused(f"{name}={value!r}", name, lambda name=name, value=value: transcoder(**{name: value}))
    yield works_or_says("numpy W_enc", "W_enc", lambda: transcoder(W_enc=numpy.zeros((2, 6, 8), "float32")))
    yield works_or_says("numpy b_dec", "b_dec", lambda: transcoder(b_dec=numpy.zeros((2, 8), "float32")))
    for name in ("read", "write"):
        yield refused(f"{name}=5", "5", lambda name=name: tlc.localize(tiny()[0], transcoder(**{name: 5}), [1]))
    yield refused("JumpReLU of 5 features", "(5,)", lambda: transcoder(activation=tlc.JumpReLU(torch.zeros(5))))
    yield refused("BatchTopK of 4 layers", "4", lambda: transcoder(activation=tlc.BatchTopK(3, torch.zeros(4))))
    for k in (2.5, "a", None, 0):
        yield refused(f"TopK({k!r})", f"k={k}", lambda k=k: tl.TopK(k))
        yield refused(f"BatchTopK({k!r})", f"k={k}", lambda k=k: tl.BatchTopK(k, torch.zeros(2)))


def many_doors(folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    numbers = count()

    def call(prompts: Any = ([1, 2],), where: Any = None, **settings: Any) -> Any:
        return tl.trace_many(model, clt, prompts, folder / str(next(numbers)) if where is None else where, **settings)

    for prompts in ("a b", b"ab", 5, None, {"a": 1}, {"role": "user"}, [], (), [1, 2], torch.tensor([1, 2]), object):
        says = "0 " if prompts is None else f"{prompts!r}".removeprefix("tensor(").strip("()")
        yield refused(f"trace_many({prompts!r})", says if prompts is not None else "None", lambda p=prompts: call(p))
    for prompt in (None, 1.5, "a", object(), [None], {"a"}, [[1.5]], [[[1]]], float("nan"), [10**30], ""):
        yield works(f"trace_many([{prompt!r:.20}])", lambda prompt=prompt: call([[1, 2], prompt]))
    for where in ("", 5, b"x", "a\0b", object()):
        yield refused(f"trace_many(folder={where!r:.20})", f"{where!r:.20}", lambda where=where: call(where=where))
    settings = {
        "coverage": ("1", None, True, float("nan")),
        "max_features": (3.7, True, "a", -1),
        "time_budget": ("1", True, -1, float("nan")),
        "memory_budget": (1.5, "1", True, -1),
        "max_targets": (2.5, "a", None, True, 0),
        "target_probability": ("0.5", None, True, float("nan")),
        "masked_positions": ("01", 5, [0.5], [True], [None]),
        "targets": (True, 1.5, [None], b"x"),
        "overwrite": (None, 1, "no"),
    }
    for name, values in settings.items():
        for value in values:
            says = f"{value!r}".strip("[]")
            yield refused(f"trace_many({name}={value!r})", says, lambda n=name, v=value: call(**{n: v}))
    yield works("trace_many(numbers of numpy)", lambda: call(max_features=numpy.int64(3), max_targets=numpy.int64(2)))
    yield refused("trace_many(None)", "NoneType", lambda: tl.trace_many(None, clt, [[1, 2]], folder / "none"))
    yield refused("TraceResults.load(5)", "5", lambda: tl.TraceResults.load(5))
    yield refused("graph('0')", "'0'", lambda: call().graph("0"))
    yield refused("graph(None)", "None", lambda: call().graph(None))


def generation_doors(_folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    local = tlc.localize(model, clt, [1, 2, 3])
    feature = tlc.Feature(0, -1, 3)

    def call(done: Any = (), **settings: Any) -> Any:
        return tl.generate(local, done, **{"max_new_tokens": 2, **settings})

    for wrong in (None, model, clt, "L0/3@-1"):
        yield refused(f"generate({type(wrong).__name__})", type(wrong).__name__, lambda wrong=wrong: tl.generate(wrong))
    for done in (None, 5, "L0/3@-1", [feature], {"a": 1}, b"x"):
        yield refused(f"generate(local, {done!r})", "are no interventions", lambda done=done: call(done))
    for done in ([[], []], [[tlc.Intervention(feature, scale=0)]]):
        yield refused("generate of several", "several were given", lambda done=done: call(done))
    node = NodeId(Kind.FEATURE, 0, 2, 3)
    yield works("an intervention on a graph's node", lambda: call(tlc.Intervention([node], scale=0)))
    token = NodeId(Kind.TOKEN, -1, 2, 3)
    yield refused("an intervention on a token", "leave it out", lambda: tl.Intervention([token], scale=0))
    yield refused("an intervention on a number", "str(node.id)", lambda: tl.Intervention([3], scale=0))
    yield works("an intervention on its name", lambda: call(tlc.Intervention([str(node)], scale=0)))
    settings = {
        "max_new_tokens": (2.5, True, "a", None, 0),
        "temperature": ("x", None, True, -1, float("nan")),
        "seed": (1.5, None, True, -1, "a", 2**70),
        "stop_at_eos": (None, 1, "no"),
        "layers": (5, "01", (0, 9), (1, 0), (True, 1), [0]),
        "mode": (None, "free", 1),
        "attention": (None, "direct", 1),
    }
    for name, values in settings.items():
        for value in values:
            yield refused(f"generate({name}={value!r})", f"{name}={value!r}", lambda n=name, v=value: call(**{n: v}))
    for value in (2.5, True, "a", 0):
        yield refused(f"generate(top_k={value!r})", f"top_k={value!r}", lambda v=value: call(top_k=v, temperature=1))
    for positions in (2.5, "1", [None], [1.5], True, slice(0.5, None), slice(0, 2, 0)):
        yield refused(
            f"generate(positions={positions!r})", f"{positions!r}",
            lambda p=positions: call(tl.Intervention(feature, scale=0, positions=p)),
        )  # fmt: skip
    yield works("generate(positions=int64)", lambda: call(tl.Intervention(feature, add=1, positions=numpy.int64(3))))


def fidelity_doors(folder: Path) -> Iterator[Try]:
    model, clt = tiny()

    def call(data: Any = ([1, 2], [3]), **settings: Any) -> Any:
        return tl.evaluate(model, clt, data, **settings)

    for data in ("a b", b"ab", 5, None, [], (), [1, 2], torch.tensor([1, 2]), object, 1.5):
        says = f"{data!r}".removeprefix("tensor(").strip("()")
        yield refused(f"evaluate({data!r})", says, lambda data=data: call(data))
    for data in ({}, {"a": "text"}, {"a": 5}, {"a": None}, {"a": []}, {1: [[1]]}, {"": [[1]]}, {"role": "user"}):
        says = "Set 'a'" if "a" in data else "'role'" if "role" in data else f"{data!r}"
        yield refused(f"evaluate({data!r})", says, lambda data=data: call(data))
    for prompt in (None, 1.5, "a", object(), [None], {"a"}, [[1.5]], [10**30], "", [], [999]):
        yield refused(f"evaluate([{prompt!r:.20}])", "Prompt 1: ", lambda prompt=prompt: call([[1, 2], prompt]))
    settings = {
        "each_layer": (None, 1, "no"),
        "resamples": (2.5, "a", None, True, 0, 39),
        "level": ("1", None, True, 0, 1, float("nan"), 95),
        "seed": (1.5, None, True, -1, "a", 2**70),
        "batch_size": (2.5, "a", True, 0),
    }
    for name, values in settings.items():
        for value in values:
            says = f"{name}={value!r}"
            yield refused(f"evaluate({says})", says, lambda n=name, v=value: call(**{n: v}))
    for wrong in (None, clt, "gpt2"):
        yield refused(
            f"evaluate({wrong!r:.20}, t)", type(wrong).__name__, lambda wrong=wrong: tl.evaluate(wrong, clt, [[1]])
        )
    yield refused(
        "evaluate(m, 'a-release')", "tlc.load_transcoder(...) makes one", lambda: tl.evaluate(model, "a", [[1]])
    )
    yield refused("evaluate(Path)", "no-such.txt", lambda: call(folder / "no-such.txt"))
    yield works("evaluate(numbers of numpy)", lambda: call(resamples=numpy.int64(50), seed=numpy.int64(3)))
    yield works("evaluate(level of numpy)", lambda: call(level=numpy.float64(0.9)))
    yield works("evaluate(iterator)", lambda: call(iter([[1, 2], [3]])))
    yield works("evaluate(tensor of rows)", lambda: call(torch.tensor([[1, 2], [3, 4]])))


def faithfulness_doors(_folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    local = tlc.localize(model, clt, [1, 2, 3])
    graph = tlc.attribute(local)
    for wrong in (None, model, clt, 5, "L0/3@-1", [None], [local, 5]):
        says = type(wrong[0] if isinstance(wrong, list) else wrong).__name__
        yield refused(f"faithfulness({says})", "local replacement model", lambda wrong=wrong: tl.faithfulness(wrong))
    yield refused("faithfulness([])", "an empty list", lambda: tl.faithfulness([]))
    for wrong in (5, "x", clt, local):
        says = type(wrong).__name__
        yield refused(f"faithfulness(graph={says})", says, lambda wrong=wrong: tl.faithfulness(local, wrong))
        yield refused(f"validate({says})", says, lambda wrong=wrong: tl.validate(wrong, local))
    for wrong in (None, graph, model, 5):
        says = type(wrong).__name__
        yield refused(f"validate(graph, {says})", says, lambda wrong=wrong: tl.validate(graph, wrong))
    numbers = {"max_features": (0, 1.5, True, "a"), "n_pushes": (0, None, 1.5, True), "n_controls": (0, None, "a")}
    for name, values in numbers.items():
        for value in values:
            yield refused(
                f"faithfulness({name}={value!r})", f"{value!r}",
                lambda n=name, v=value: tl.faithfulness(local, graph, **{n: v}),
            )  # fmt: skip
    for seed in (None, 1.5, True, "a", -(2**70), 2**70):
        yield refused(f"faithfulness(seed={seed})", f"{seed!r}", lambda s=seed: tl.faithfulness(local, graph, seed=s))
        yield refused(f"validate(seed={seed})", f"{seed!r}", lambda s=seed: tl.validate(graph, local, seed=s))
    for level in (None, 0, -1, 2, True, "a", float("nan")):
        yield refused(f"validate(level={level})", f"{level!r}", lambda v=level: tl.validate(graph, local, level=v))
    for count_ in (None, 0, 1.5, True, "a"):
        for name in ("n_paths", "n_controls"):
            yield refused(
                f"validate({name}={count_!r})", f"{count_!r}",
                lambda n=name, v=count_: tl.validate(graph, local, **{n: v}),
            )  # fmt: skip
    yield works("faithfulness(numbers of numpy)", lambda: tl.faithfulness(local, max_features=numpy.int64(3)))
    report: Any = tl.faithfulness(local, graph, n_pushes=1, n_controls=1)
    for name in (None, 5, "nodes", b"x", []):
        yield refused(f"report[{name!r}]", "There is no figure", lambda n=name: report[n])
    hop_collapse: Any = collapse.hop_collapse
    for wrong in (None, 5, [], "L0"):
        yield refused(f"hop_collapse({wrong!r})", "", lambda wrong=wrong: hop_collapse(graph, local, wrong, wrong))


def training_doors(folder: Path) -> Iterator[Try]:
    model, clt = tiny()
    data = torch.randint(0, 97, (4, 8), generator=torch.Generator().manual_seed(0))
    short = tlc.TrainingSettings(features=4, steps=1, batch_tokens=8, read="hook_resid_mid")

    def call(what: Any = data, settings: Any = short, **more: Any) -> Any:
        return tl.train(model, what, settings, **more)

    yield works("train(matrix)", call)
    yield works("train(lists)", lambda: call(data.tolist()))
    for what in (
        None,
        5,
        "text",
        b"x",
        {"a": 1},
        [],
        [1, 2],
        [[1.5]],
        [None],
        torch.zeros(3),
        torch.ones(2, 3),
        object,
    ):
        says = "" if isinstance(what, list | torch.Tensor) else "no training data"
        yield refused(f"train({what!r:.30})", says, lambda what=what: call(what))
    yield refused("train(another vocabulary)", "97", lambda: call([[1, 97]]))
    for settings in (None, 5, "paper", {"features": 4}):
        yield refused(f"train(settings={settings!r})", f"{settings!r}", lambda s=settings: call(data, s))
    for every in (0, 1.5, None, "a", True):
        yield refused(f"checkpoint_every={every!r}", f"{every!r}", lambda e=every: call(checkpoint_every=e))
    for place in ("", 5, b"x", "a\0b", object()):
        yield refused(f"train(folder={place!r:.20})", f"{place!r:.20}", lambda p=place: call(folder=p))
        yield refused(f"train(cache={place!r:.20})", f"{place!r:.20}", lambda p=place: call(cache=p))
    for loggers in (5, None, "wandb", [5], [[]], ["wanbd"]):
        yield refused(f"train(loggers={loggers!r})", "loggers", lambda g=loggers: call(loggers=g))
    for wrong in (None, clt, "gpt2"):
        yield refused(f"train({wrong!r:.20})", type(wrong).__name__, lambda w=wrong: tl.train(w, data, short))
    for weights in (torch.ones(3), [1, 2], "x", torch.zeros(4), torch.tensor([1.0, -1, 0, 0])):
        yield refused(f"train(weights={weights!r:.30})", "weights", lambda w=weights: call(weights=w))
    yield works("train(weights of whole numbers)", lambda: call(weights=torch.arange(4)))
    for shards in (0, -1, 2.5, "a", True):
        yield refused(f"train(shards={shards!r})", f"shards={shards!r}", lambda n=shards: call(shards=n))
    for scored in (torch.ones(3), torch.ones(4, 8), torch.ones(4, 8, dtype=torch.int64), "x", [True]):
        yield refused(f"train(scored={scored!r:.30})", "scored", lambda s=scored: call(scored=s))
    values = {
        "features": (2.5, None, "a", True, 0, 2**60),
        "threshold": (1e300, 10**400, -1, None),
        "bandwidth": (1e-300, 0, "a"),
        "steps": (1.5, "a", None, -1),
        "k": (None, 0.5, True),
        "span": (0, 1.5, "a", True),
        "lr": ("a", None, True, 0, float("nan"), float("inf"), 10**400),
        "sparsity": ("a", None, -1, float("nan")),
        "ramp": (0, 2, None, "x"),
        "seed": (None, 1.5, -1, 2**40, True),
        "activation": ("gelu", None, 5, []),
        "charge": ("path", None, True),
        "penalty": ("l2", None),
        "tied": ("both", None, numpy.ones(2)),
        "backend": ("gpu", None),
        "skip": ("no", None, 1),
        "cross_layer": ("no", None, 1),
        "low_memory": ("no", None),
        "read": (5, None),
        "write": (5, None),
        "context": (0, "a"),
        "buffer_tokens": (0, 1.5),
    }
    for name, wrongs in values.items():
        for value in wrongs:
            yield refused(
                f"TrainingSettings({name}={value!r:.20})", f"{name}={value!r:.20}",
                lambda n=name, v=value: tl.TrainingSettings(**{"features": 4, n: v}),
            )  # fmt: skip
    numbers = {"features": numpy.int64(4), "steps": numpy.int32(1), "lr": numpy.float32(0.25), "threshold": 0}
    of_numpy = {**numbers, "batch_tokens": 8, "read": "hook_resid_mid"}
    yield works("numbers of numpy", lambda: call(data, tl.TrainingSettings(**of_numpy), folder=folder / "numpy"))
    for given in (None, 5, "x"):
        yield refused(f"TrainingSettings.of({given!r})", f"{given!r}", lambda g=given: tl.TrainingSettings.of(g))
    for name in (None, 5, "papers", []):
        yield refused(f"preset({name!r})", f"{name!r}", lambda n=name: tl.TrainingSettings.preset(n, features=3))
    yield refused("preset without features", "features is missing", lambda: tl.TrainingSettings.preset("paper"))
    yield works("train into a folder", lambda: call(folder=folder / "run"))


def page_doors(folder: Path) -> Iterator[Try]:
    from tl_circuits.page import Card

    card: Any = Card
    place = folder / "x.html"
    for what in (None, "dallas.graph", 5):
        yield refused(f"save_page({what!r})", f"{what!r}", lambda what=what: tl.save_page(what, place))
    values = {
        "title": (3, b"x", []),
        "cards": ([1], {(0, 5): "text"}, {"0/5": card()}, {(0, 5): None}),
        "pinned": ("L0/1@0", 5, tlc.Feature(0, 1, 2), [None], [1.5]),
        "supernodes": (["a"], {3: []}, {"a": "L0/1@0"}, {"a": 5}, {"a": [None]}),
        "nodes": ("0.5", 0, -1, 1.5, True, float("nan")),
        "edges": ("0.5", [], 2),
        "max_edges": (0, "many", 1.5, None),
    }
    for name, wrongs in values.items():
        for value in wrongs:
            says = "None" if value in ([None], {"a": [None]}) else "1.5" if value == [1.5] else ""
            yield refused(
                f"save_page({name}={value!r:.40})", says or (name if name != "pinned" else ""),
                lambda n=name, v=value: tl.save_page(random_graph(1), place, **{n: v}),
            )  # fmt: skip
    for what in (0, "tall", None):
        yield refused(
            f"show(height={what!r})", f"height={what!r}", lambda what=what: tl.show(random_graph(1), height=what)
        )
    for what in (None, 5, ""):
        yield refused(f"save_page(path={what!r})", f"{what!r}", lambda what=what: tl.save_page(random_graph(1), what))
        yield refused(f"load_labels({what!r})", f"{what!r}", lambda what=what: tl.load_labels(what))
    for name, value in (("top_logits", 5), ("top_logits", "abc"), ("bottom_logits", [("a",)]), ("examples", [(5, 5)]),
                        ("examples", None), ("top_logits", [("a", "b")]), ("examples", [(["a"], ["x"])])):  # fmt: skip
        yield refused(f"Card({name}={value!r})", name, lambda n=name, v=value: card(**{n: v}))


def card_doors(folder: Path) -> Iterator[Try]:
    model, clt = tiny()

    def call(data: Any = ([1, 2, 3],), **settings: Any) -> Any:
        return tl.feature_cards(model, clt, data, **settings)

    yield works("feature_cards", call)
    for name in ("top", "intervals", "sample", "before", "after", "tokens", "contexts", "seed"):
        for value in ("a", None, 1.5, True, -1):
            given = f"{name}={value!r}"
            yield refused(f"feature_cards({given})", given, lambda name=name, value=value: call(**{name: value}))
    for value in ("a", 0, True, float("nan")):
        given = f"memory_budget={value!r}"
        yield refused(f"feature_cards({given})", given, lambda value=value: call(memory_budget=value))
    for features in (3, "L0/1", [3], [("a", 1)], [(0, 1.5)], []):
        yield refused(f"feature_cards(features={features!r})", "names no feature" if features == [] else
                      f"{features[0] if isinstance(features, list) else features!r}",
                      lambda features=features: call(features=features))  # fmt: skip
    for operands in (3, [1], True):
        given = f"operands={operands!r}"
        yield refused(f"feature_cards({given})", given, lambda operands=operands: call(operands=operands))
    for data in (None, 3, "a", b"a", {}, [None], [[1.5]], torch.zeros(3)):
        yield refused(f"feature_cards({data!r:.20})", "", lambda data=data: call(data))
    for source in (None, 3, "", b"a", "a\0b", folder / "none"):
        yield refused(f"load_cards({source!r:.20})", "", lambda source=source: tl.load_cards(source))
    cards = call()
    for labels in (5, "x", {1: "a"}, {(0, 1): 5}):
        yield refused(f"with_labels({labels!r})", "", lambda labels=labels: cards.with_labels(labels))
    for feature in (None, 5, "x", (1,), (0, "a")):
        yield refused(f"card({feature!r})", f"{feature!r}", lambda feature=feature: cards.card(feature))
    labelled = cards.with_labels({key: "x" for key in cards})
    for examples in (0, "a", 1.5):
        given = f"examples={examples!r}"
        yield refused(f"score_labels({given})", given, lambda e=examples: tl.score_labels(labelled, list, examples=e))
    yield refused("save(5)", "5", lambda: cards.save(5))
    yield refused("save_page(cards=5)", "cards=5", lambda: tl.save_page(random_graph(3), folder / "x.html", cards=5))


def comparison_doors(_folder: Path) -> Iterator[Try]:
    model, _ = tlc.demo()
    tokens, answers = torch.tensor([[1, 5, 9], [1, 6, 9]]), torch.tensor([3, 4])
    asked, basis = Task("any", tokens, tokens.flip(0), answers, answers.flip(0)), Basis.neurons(model)

    def curve(**given: Any) -> object:
        return circuit_curve(model, basis, asked, **given)

    yield refused("a scorer", "scorer='guess' is none: give one of attribution-patching", lambda: curve(scorer="guess"))
    yield refused("errors", "errors='lost' is none: give one of corrupted", lambda: curve(errors="lost"))
    yield refused(
        "pairs of two lengths", "pairs of one length", lambda: Task("any", tokens, tokens[:, :2], answers, answers + 1)
    )
    for what, given in (("a transcoder", tlc.demo()[1]), ("None", None)):
        yield refused(f"basis={what}", "A basis is needed", lambda given=given: tl.circuit_curve(model, given, asked))
    for given in ([asked], "capitals", None):
        yield refused(
            f"task={given!r:.20}", "A task is needed", lambda given=given: tl.circuit_curve(model, basis, given)
        )
    yield refused("found_on=str", "A task is needed", lambda: curve(found_on="half"))
    by_slot = [part.numpy() for part in scores(model, basis, asked, "random")]
    yield refused("scores of numpy", "Scores of ndarray are none", lambda: curve(scorer=by_slot))
    yield refused("attention", "attention='held' is none", lambda: curve(attention="held"))
    for scorer in (None, 3, 1.5):
        yield refused(f"scorer={scorer}", f"scorer={scorer} is none", lambda scorer=scorer: curve(scorer=scorer))
    for seed in ("a", 1.5, None):
        yield refused(f"seed={seed!r}", f"seed={seed!r} is none", lambda seed=seed: curve(seed=seed))
    yield refused("no units", "has no units", lambda: tl.circuit_curve(model, Basis("x", ()), asked))
    tl_asked: Any = asked
    for rows in ([100], -9, None, [0.9], [], ["a"]):
        yield refused(f"part({rows})", f"part({rows!r}) of 2 prompts", lambda rows=rows: tl_asked.part(rows))
    made: Any = curve(sizes=[1])
    for to in ("512", None, 0.5, float("inf")):
        yield refused(f"area({to!r})", f"An area to {to} units is none", lambda to=to: made.area(to))
        yield refused(f"at({to!r})", f"A circuit of {to} units is none", lambda to=to: made.at(to))
    for given in ((0, 2.5), ("a", 1), (0, None)):
        yield refused(f"circuit{given}", f"circuit({given[0]}, {given[1]})", lambda given=given: made.circuit(*given))
    yield refused("pairs=3", "has no prompts", lambda: tl.Task.of(model, 3))
    for pairs, says in (
        (("a", "b", "c", "d"), "'a' at 0 has none"),
        ([("a", "b", "c")], "at 0 has 3 parts"),
        ([("a", "b", "c", "d"), 5], "5 at 1 has none"),
    ):
        yield refused(f"pairs={pairs!r}", says, lambda pairs=pairs: tl.Task.of(model, pairs))
    yield refused("one SAE", "give a list of SAEs", lambda: tl.Basis.saes(model, object()))
    precision: Any = recovery.average_precision
    for given, truth in (([1.0, 2.0], [True]), ([], [])):
        yield refused(
            "scores without truth",
            f"{len(given)} scores of {len(truth)} items",
            lambda given=given, truth=truth: precision(torch.tensor(given), torch.tensor(truth, dtype=torch.bool)),
        )
    yield refused("too few answers", "answers 1 and 2", lambda: Task("any", tokens, tokens, answers[:1], answers))


DOORS = {
    "comparison": comparison_doors,
    "cards": card_doors,
    "page": page_doors,
    "training": training_doors,
    "faithfulness": faithfulness_doors,
    "fidelity": fidelity_doors,
    "generation": generation_doors,
    "graph": graph_doors,
    "targets": target_doors,
    "prompts": prompt_doors,
    "many": many_doors,
    "transcoders": transcoder_doors,
}


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
