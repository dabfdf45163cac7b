"""The `hub` tier: public models and their public dictionaries, loaded by name. For a machine with a network.

    python -m benchmarks.circuits --tier hub --cases gpt2 --out circuits-hub.json

Prompts are sentences of English in the model's own tokens: pairs whose lengths differ, whose answers are not one token,
or that the model gets wrong, are left out, and how many is said. Dictionaries are as they were published, matched by
nothing: their L0 and width stand beside each curve.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tl_circuits as tlc
from benchmarks.circuits import measure
from benchmarks.circuits.suites import Suite, Width, answered
from benchmarks.record import say
from tl_circuits.comparison import Basis, Task

Text = tuple[str, str, str, str]
"""A prompt, its counterfactual, and the answer to each."""
NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Kate", "Mark", "Jane", "Peter", "Sarah", "David", "Laura")
PLACES = ("store", "park", "school", "station")
THINGS = ("drink", "book", "ring", "letter")
NOUNS = (("boy", "boys"), ("girl", "girls"), ("doctor", "doctors"), ("author", "authors"), ("teacher", "teachers"))
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Germany": "Berlin", "Egypt": "Cairo"}


@dataclass(frozen=True)
class Case:
    """A public model, its transcoders as (name, source, variant), and its SAEs as (name, release, ids)."""

    name: str
    model: str
    transcoders: Sequence[tuple[str, str, str | None]]
    saes: Sequence[tuple[str, str, Sequence[str]]] = ()
    about: str = ""
    processed: bool = False
    """Whether its dictionaries were trained on processed weights: norms folded, writing weights centred."""


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "gpt2",
            "gpt2",
            [("CLT", "EleutherAI/gpt2-clt-noskip-ef128-k16", None)],
            [("SAEs, residual stream", "gpt2-small-res-jb", [f"blocks.{layer}.hook_resid_pre" for layer in range(12)])],
            "the transcoders of Dunefsky et al. are pickles: convert them first, and give --transcoder PLT=FOLDER",
            processed=True,
        ),
        Case(
            "pythia-70m",
            "EleutherAI/pythia-70m-deduped",
            [],
            [
                (
                    "sparse feature circuit",
                    f"pythia-70m-deduped-{site}-sm",
                    [f"blocks.{layer}.hook_{point}" for layer in range(6)],
                )
                for site, point in (("res", "resid_post"), ("att", "attn_out"), ("mlp", "mlp_out"))
            ],
            "the dictionaries of Marks et al., all three sites together",
        ),
        Case(
            "gemma-2-2b",
            "google/gemma-2-2b",
            [("CLT", "mntss/clt-gemma-2-2b-426k", None), ("PLT", "gemma-scope-2b-pt-transcoders", None)],
        ),
        Case(
            "gemma-3-1b",
            "google/gemma-3-1b-pt",
            [
                ("CLT", "google/gemma-scope-2-1b-pt/clt", "width_262k_l0_medium_affine"),
                ("PLT", "gemma-scope-2-1b-pt-transcoders-all", "width_16k_l0_small_affine"),
            ],
        ),
    )
}


def indirect_object(draw: random.Random) -> Text:
    """Who was given something."""
    one, two = draw.sample(NAMES, 2)
    place, thing = draw.choice(PLACES), draw.choice(THINGS)
    said = [f"When {one} and {two} went to the {place}, {giver} gave a {thing} to" for giver in (two, one)]
    return said[0], said[1], f" {one}", f" {two}"


def agreement(draw: random.Random) -> Text:
    """The number of a verb whose subject stands before a phrase."""
    (one, several), (_, other) = draw.sample(NOUNS, 2)
    return f"The {one} near the {other}", f"The {several} near the {other}", " is", " are"


def capital(draw: random.Random) -> Text:
    """The capital of a country."""
    one, other = draw.sample(list(CAPITALS), 2)
    said = [f"Fact: the capital of {country} is" for country in (one, other)]
    return said[0], said[1], f" {CAPITALS[one]}", f" {CAPITALS[other]}"


TASKS: Mapping[str, Callable[[random.Random], Text]] = {
    "indirect object": indirect_object,
    "agreement, across phrase": agreement,
    "capitals": capital,
}


def texts(name: str, drawn_by: Callable[[random.Random], Text], n: int, seed: int) -> list[Text]:
    """Different pairs of a task, as many as there are up to n."""
    draw = random.Random(f"{name} {seed}")
    drawn: Iterator[Text] = (drawn_by(draw) for _ in itertools.count())
    return list(dict.fromkeys(itertools.islice(drawn, 20 * n)))[:n]


def task_of(
    model: Any, name: str, drawn_by: Callable[[random.Random], Text], n_prompts: int, seed: int = 0
) -> tuple[Task | None, dict[str, int]]:
    """The pairs of one length whose answers are single tokens, and how many were left out for what."""
    pairs, left_out = [], {"answers of several tokens": 0, "another length": 0}
    for text in texts(name, drawn_by, 4 * n_prompts, seed):
        ids = [model.tokenizer(answer, add_special_tokens=False).input_ids for answer in text[2:]]
        if any(len(tokens) != 1 for tokens in ids):
            left_out["answers of several tokens"] += 1
            continue
        pairs.append(text)
    lengths = [tuple(len(model.tokenizer(part).input_ids) for part in pair[:2]) for pair in pairs]
    wanted = max(set(lengths), key=lengths.count) if lengths else (0, 1)
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length == wanted and len(set(length)) == 1]
    left_out["another length"] = len(pairs) - len(fitting)
    return (Task.of(model, fitting, name) if fitting else None), left_out


def run_case(
    case: Case,
    n_prompts: int,
    transcoders: Sequence[tuple[str, str, str | None]] = (),
    tasks: Mapping[str, Callable[[random.Random], Text]] = TASKS,
) -> dict[str, Any]:
    """Curves of every dictionary and of neurons on every task, of one model. What fails is said, and stops nothing."""
    from transformer_lens.model_bridge import TransformerBridge

    began = time.perf_counter()
    model: Any = TransformerBridge.boot_transformers(case.model, dtype=torch.float32).eval()
    if case.processed:
        model.enable_compatibility_mode()
    drawn = {name: task_of(model, name, drawn_by, n_prompts) for name, drawn_by in tasks.items()}
    fit, accuracy = answered(model, {name: task for name, (task, _) in drawn.items() if task is not None}, n_prompts)
    suite = Suite(case.name, model, "", _none(), _none().bool(), Width(0, 0, 0, 0), fit, accuracy=accuracy)
    found: dict[str, Any] = {
        "model": case.model,
        "left out": {name: left for name, (_, left) in drawn.items()},
        "accuracy": accuracy,
        "curves": {},
        "failed": {},
    }
    for name, make in _bases(case, model, transcoders):
        try:
            basis = make()
            for task_name, task in fit.items():
                reading = measure.curves(suite, basis, task, "ig-inputs", ("corrupted", "kept"))
                found["curves"].setdefault(task_name, {})[name] = reading | measure.fidelity(suite, basis, task)
        except (tlc.TLCircuitsError, OSError, ValueError, RuntimeError) as error:
            found["failed"][name] = f"{type(error).__name__}: {error}"
        say(f"{case.name}: {name}: {found['failed'].get(name, 'done')}")
    return found | {"wall_s": round(time.perf_counter() - began, 1)}


def _bases(
    case: Case, model: Any, transcoders: Sequence[tuple[str, str, str | None]]
) -> Iterator[tuple[str, Callable[[], Basis]]]:
    yield "neurons", lambda: Basis.neurons(model)
    yield "heads and MLPs", lambda: Basis.blocks(model)
    for name, source, variant in (*case.transcoders, *transcoders):
        yield (
            name,
            lambda s=source, v=variant, n=name: Basis.features(model, tlc.load_transcoder(s, variant=v), n),
        )
    together: dict[str, list[tuple[str, str]]] = {}
    for name, release, ids in case.saes:
        together.setdefault(name, []).extend((release, each) for each in ids)
    for name, wanted in together.items():
        yield name, lambda w=wanted, n=name: Basis.saes(model, [_public_sae(*each) for each in w], n)


def _public_sae(release: str, sae_id: str) -> Any:
    import sae_lens

    return sae_lens.SAE.from_pretrained(release, sae_id)


def _none() -> Tensor:
    return torch.zeros(0, 1, dtype=torch.int64)
