"""The `hub` tier: public models and their public dictionaries, loaded by name. For a machine with a network.

    python -m benchmarks.circuits --tier hub --cases gpt2 --out circuits-hub.json

Prompts are sentences of English in the model's own tokens: pairs whose lengths differ, whose answers are not one token,
or that the model gets wrong, are left out, and how many is said. Dictionaries are as they were published, matched by
nothing: their L0 and FVU stand beside each curve. Each is run on the weights that it was trained on: first those of the
model as it is published, then those of the model with its norms folded and its writing weights centred.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import tl_circuits as tlc
from benchmarks.circuits import measure
from benchmarks.circuits.measure import Reading
from benchmarks.circuits.suites import Suite, Width, answered
from benchmarks.record import say
from tl_circuits.comparison import Basis, Task
from tl_circuits.comparison.basis import Slot
from tl_circuits.comparison.passes import recorded, through
from tl_circuits.replacement.prompt import tokenize
from tl_circuits.saelens import from_pretrained

Source = tuple[str, str, str | None]
"""What a transcoder is called, and the source and variant that it is loaded by."""
Text = tuple[str, str, str, str]
"""A prompt, its counterfactual, and the answer to each."""
NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Kate", "Mark", "Jane", "Peter", "Sarah", "David", "Laura")
PLACES = ("store", "park", "school", "station")
THINGS = ("drink", "book", "ring", "letter")
NOUNS = (("boy", "boys"), ("girl", "girls"), ("doctor", "doctors"), ("author", "authors"), ("teacher", "teachers"))
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Germany": "Berlin", "Egypt": "Cairo"}


@dataclass(frozen=True)
class Case:
    """A public model, its transcoders, and its SAEs as (name, release, ids); those of one name make one basis."""

    name: str
    model: str
    transcoders: Sequence[Source]
    saes: Sequence[tuple[str, str, Sequence[str]]] = ()
    about: str = ""
    processed_saes: bool = False
    """Whether its SAEs were trained on processed weights: norms folded, writing weights centred. Transcoders say so
    themselves."""


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "gpt2",
            "gpt2",
            [("CLT", "EleutherAI/gpt2-clt-noskip-ef128-k16", None)],
            [("SAEs, residual stream", "gpt2-small-res-jb", [f"blocks.{layer}.hook_resid_pre" for layer in range(12)])],
            "the CLT is named in EleutherAI's scripts, and may not be public; the transcoders of Dunefsky et al. are "
            "pickles: convert them first, and give --transcoder PLT=FOLDER",
            processed_saes=True,
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


NEXT = {
    "GatedRepoError": "accept its terms on its page on the hub, and log in with `hf auth login` or set HF_TOKEN",
    "RepositoryNotFoundError": "look whether it is there under that name, or log in where it is private",
    "LocalEntryNotFoundError": "connect, and run it again: what arrived is kept",
    "SafetensorError": "delete the file from the hub's cache, where it is damaged, and run it again",
    "OutOfMemoryError": "give fewer --n-prompts, or a device with more memory",
}
"""What to do about errors that are not ours, by their class."""

FAILURES = (tlc.TLCircuitsError, OSError, ValueError, RuntimeError)
"""What may go wrong with one dictionary, memory that runs out included."""


def run_case(
    case: Case,
    n_prompts: int,
    transcoders: Sequence[Source] = (),
    tasks: Mapping[str, Callable[[random.Random], Text]] = TASKS,
) -> dict[str, Any]:
    """Curves of every dictionary and of neurons on every task, of one model. What fails is said, and stops nothing."""
    from transformer_lens.model_bridge import TransformerBridge

    began = time.perf_counter()
    found: dict[str, Any] = {"model": case.model, "accuracy": {}, "left out": {}, "curves": {}, "failed": {}}
    try:
        model: Any = TransformerBridge.boot_transformers(case.model, dtype=torch.float32).eval()
    # Whatever others' loaders raise, the other models are still to be run.
    except Exception as error:
        found["failed"]["model"] = f"{case.model} was not loaded. {told(error)}"
        say(f"{case.name}: {found['failed']['model']}")
    else:
        _run(case, model, n_prompts, transcoders, tasks, found)
    return found | {"wall_s": round(time.perf_counter() - began, 1)}


def _run(
    case: Case,
    model: Any,
    n_prompts: int,
    transcoders: Sequence[Source],
    tasks: Mapping[str, Callable[[random.Random], Text]],
    found: dict[str, Any],
) -> None:
    drawn = {name: task_of(model, name, drawn_by, n_prompts) for name, drawn_by in tasks.items()}
    found["left out"] = {name: left for name, (_, left) in drawn.items()}
    fit, found["accuracy"] = answered(
        model, {name: task for name, (task, _) in drawn.items() if task is not None}, n_prompts
    )
    for name in tasks.keys() - fit.keys():
        found["failed"][name] = (
            f"No prompt was answered right (share {found['accuracy'].get(name, 0):.2f}, left out "
            f"{found['left out'][name]}): draw more with --n-prompts."
        )
    suite = Suite(case.name, model, "", _none(), _none().bool(), Width(0, 0, 0, 0), fit)
    waiting = dict(_bases(case, transcoders)) if fit else {}
    for processed in (False, True):
        if processed and waiting:
            model.enable_compatibility_mode()
        waiting = {name: make for name, make in waiting.items() if not _measure(suite, name, make, processed, found)}


Make = Callable[[Any, bool], Basis | None]
"""Of a model, and whether its weights are processed, a basis; None where that is not what its dictionary is for."""


def _bases(case: Case, transcoders: Sequence[Source]) -> Iterator[tuple[str, Make]]:
    yield "neurons", lambda model, _: Basis.neurons(model)
    yield "heads and MLPs", lambda model, _: Basis.blocks(model)
    for source in (*case.transcoders, *transcoders):
        yield source[0], lambda model, processed, source=source: _features(model, processed, *source)
    together: dict[str, list[tuple[str, str]]] = {}
    for name, release, ids in case.saes:
        together.setdefault(name, []).extend((release, each) for each in ids)
    for name, wanted in together.items():
        yield (
            name,
            lambda model, processed, name=name, wanted=wanted: (
                _saes(model, name, wanted) if processed == case.processed_saes else None
            ),
        )


def _features(model: Any, processed: bool, name: str, source: str, variant: str | None) -> Basis | None:
    transcoder = tlc.load_transcoder(source, variant=variant)
    if transcoder.processed_weights != processed:
        return None
    return Basis.features(model, transcoder.to(_device(model)), name)


def _saes(model: Any, name: str, wanted: Sequence[tuple[str, str]]) -> Basis:
    return Basis.saes(model, [from_pretrained(*each).to(_device(model)) for each in wanted], name)


def _device(model: Any) -> str:
    return str(next(model.parameters()).device)


def _measure(suite: Suite, name: str, make: Make, processed: bool, found: dict[str, Any]) -> bool:
    """Whether it was this basis's turn; then its curves, or why there are none, are among what was found."""
    try:
        basis = make(suite.model, processed)
    except FAILURES as error:
        found["failed"][name] = told(error)
        say(f"{suite.name}: {name}: {found['failed'][name]}")
        return True
    if basis is None:
        return False
    basis = lean(basis)
    for task_name, task in suite.tasks.items():
        try:
            reading = measure.curves(suite, basis, task, "ig-inputs", ("corrupted", "kept"))
            reading["fidelity"] = fidelity(suite.model, basis, task)
            found["curves"].setdefault(task_name, {})[name] = reading
        except FAILURES as error:
            found["failed"][f"{name} on {task_name}"] = told(error)
        say(f"{suite.name}: {name} on {task_name}: {found['failed'].get(f'{name} on {task_name}', 'done')}")
    return True


def lean(basis: Basis) -> Basis:
    """The same basis, of which backward passes compute encoders and decoders anew.

    Otherwise they keep every weight that is stored in another dtype or on another device in the model's: of a CLT of
    26 layers that is 351 decoders at once, where one layer's are enough.
    """

    def again(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda given: checkpoint(function, given, use_reentrant=False, preserve_rng_state=False)

    def slot(each: Slot) -> Slot:
        return each if each.exact else replace(each, encode=again(each.encode), decode=again(each.decode))

    return replace(basis, slots=tuple(slot(each) for each in basis.slots))


def fidelity(model: Any, basis: Basis, task: Task) -> Reading:
    """With every unit its own and no errors: how often the model's answer comes, KL, and by slot L0 and FVU.

    Masked positions, as BOS, keep their errors and are left out of L0 and FVU: dictionaries are not trained there, what
    MLPs write there is huge, and all later tokens attend to it.
    """
    masked = tokenize(model, task.clean[0]).masked
    clean = recorded(model, basis, task.clean)
    here = torch.ones(task.clean.shape[1], dtype=torch.bool)
    here[list(masked)] = False
    pairs = list(zip(basis.slots, clean.errors, strict=True))
    only_masked = tuple(error if slot.exact else error * ~here[:, None].to(error.device) for slot, error in pairs)
    every = [torch.ones(units.shape[:3], dtype=torch.bool) for units in clean.units]
    logits = through(model, basis, task.clean, replace(clean, errors=only_masked), every, "corrupted")
    own, replaced = clean.logits.log_softmax(-1), logits.log_softmax(-1)
    unexplained = []
    for number, (slot, error) in enumerate(pairs):
        if slot.exact:
            unexplained.append(0.0)
            continue
        with torch.no_grad():
            passing = (slot.decode(clean.units[: number + 1]) + error)[:, here].flatten(0, 1)
        unexplained.append(float(error[:, here].square().sum() / (passing - passing.mean(0)).square().sum()))
    return {
        "same answer": float((logits.argmax(-1) == clean.logits.argmax(-1)).double().mean()),
        "KL": float((own.exp() * (own - replaced)).sum(-1).mean()),
        "L0": [float((units[:, here] != 0).sum(2).double().mean()) for units in clean.units],
        "FVU": unexplained,
    }


def told(error: BaseException) -> str:
    """An error and what to try next, as one line. Ours say that themselves."""
    if isinstance(error, tlc.TLCircuitsError):
        return f"{type(error).__name__}: {error}"
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    cause: BaseException | None = error
    while cause is not None:
        for kind in type(cause).__mro__:
            if kind.__name__ in NEXT:
                return f"{line.rstrip('.')}. Next: {NEXT[kind.__name__]}."
        cause = cause.__cause__ or cause.__context__
    return line


def _none() -> Tensor:
    return torch.zeros(0, 1, dtype=torch.int64)
