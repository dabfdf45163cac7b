"""Many prompts → a folder of attribution graphs, by one process or several, resumed where it was broken off."""

import math
import operator
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import torch

from tl_circuits.attribution.attribute import TargetsLike, trace
from tl_circuits.attribution.limits import Limits
from tl_circuits.attribution.made_by import made_by
from tl_circuits.attribution.planner import default_memory_budget
from tl_circuits.attribution.prompts import as_json, many
from tl_circuits.attribution.ranks import Ranks, shares, together
from tl_circuits.attribution.targets import Targets
from tl_circuits.errors import SettingError, TLCircuitsError, TLCircuitsWarning
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import file_name, flag
from tl_circuits.graph.traced import Traced, TraceResults, add, alone, begin, graph_name, merge
from tl_circuits.hooks import Model
from tl_circuits.progress import stage
from tl_circuits.replacement.localize import check_fit
from tl_circuits.replacement.prompt import Prompt, as_positions, tokenize
from tl_circuits.transcoder import CrossLayerTranscoder

PATIENCE = 1800.0
"""A process that is done waits for the others at least so many seconds, and at least as long as its own share took."""


def trace_many(
    model: Model,
    transcoder: CrossLayerTranscoder,
    prompts: Iterable[Prompt] | Path,
    folder: str | Path,
    *,
    targets: TargetsLike = None,
    masked_positions: Sequence[int] | None = None,
    coverage: float = 1.0,
    max_features: int | None = None,
    time_budget: float | None = None,
    memory_budget: int | None = None,
    max_targets: int = 10,
    target_probability: float = 0.95,
    overwrite: bool = False,
    progress: bool | None = None,
) -> TraceResults:
    """`trace` of each prompt, saved in `folder` as soon as it is done: `0000-<first words>.graph`, `0001-...`.

    `prompts` are what `trace` takes, in any number, or the `Path` of a `.txt` or `.jsonl` file with one a line. The
    settings are those of `trace`, and hold for each prompt. `index.jsonl`, a line per prompt, says what became of it.

    - A prompt that cannot be traced, or takes more memory than there is, does not stop the rest: see `failed`.
    - Called again with the same model, transcoder, settings and prompts (more may follow, and what failed may change),
      it traces what is not done yet or is damaged; graphs are whole whatever broke it off. With others it refuses,
      unless `overwrite` is true: then what an earlier call wrote is removed. Models are compared by all their numbers,
      transcoders by a sample of them.
    - Where `torch.distributed` is initialised, every process calls it, with the same arguments and a folder that all
      see. Each traces a share, balanced by squared length, and returns the results of all: equal to those of one
      process, bit by bit with the same threads and `memory_budget` (default: a process's part of half of what the
      machine has to spare). Where one fails or hangs, the others do their shares, warn, and return what there is.

    Raises, before anything is traced, `FileError` where the folder cannot be written, was filled otherwise, or is being
    filled by another call; `PromptError` where no list of prompts is given; `FitError`, `SettingError` and
    `TargetError` as `trace` does.
    """
    folder, given = file_name(folder), many(prompts)
    positions = None if masked_positions is None else as_positions(masked_positions)
    wanted = Targets.parse(targets, max_targets, target_probability)
    limits = Limits.of(coverage, max_features, time_budget, memory_budget)
    flag("overwrite", overwrite)
    check_fit(model, transcoder)
    settings = {name: getattr(limits, name) for name in ("coverage", "max_features", "time_budget")}
    likely = {"max_targets": operator.index(max_targets), "target_probability": float(target_probability)}
    one = partial(trace, model, transcoder, targets=wanted, masked_positions=positions, **settings, **likely)
    made = made_by(model, transcoder, wanted, positions, settings)
    with together() as ranks:
        absent = Work(model, given, folder, made, one, memory_budget, progress).shared_by(ranks, overwrite)
    return _results(folder, len(given), absent)


@dataclass(frozen=True, eq=False)
class Work:
    """Prompts, where their graphs go, what makes these, and what traces one of them."""

    model: Model
    prompts: Sequence[Any]
    folder: Path
    made_by: Mapping[str, Any]
    trace: Callable[..., AttributionGraph]
    memory_budget: int | None
    progress: bool | None

    def shared_by(self, ranks: Ranks, overwrite: bool) -> tuple[int, ...]:
        """Does this process's share, and returns the processes that did not do theirs."""
        with ExitStack() as held:
            decided = ranks.agree(lambda: self._plan(ranks.size, overwrite, held))
            return self._done(ranks, decided)

    def _done(self, ranks: Ranks, decided: Mapping[str, Any]) -> tuple[int, ...]:
        if decided["asked"] != self._asked:
            raise SettingError(
                f"Process {ranks.rank} of {ranks.size} was given another model, transcoder, settings or prompts than "
                "process 0: call trace_many with the same in each."
            )
        mine, start = decided["shares"][ranks.rank], time.monotonic()
        shown = self.progress if ranks.rank == 0 else False
        name = "tracing prompts" if ranks.size == 1 else f"tracing prompts (process 1 of {ranks.size})"
        with stage(name, len(mine), show=shown) as bar:
            for number in mine:
                memory = self.memory_budget or default_memory_budget() // ranks.local_size
                entry = Traced(number, self._plain[number], graph_name(number, len(self.prompts), self._plain[number]))
                attempt = partial(self.trace, self.prompts[number], memory_budget=memory, progress=shown)
                add(self.folder, ranks.rank, _traced(entry, attempt, self.folder))
                bar.update()
        return ranks.finish(lambda: merge(self.folder), max(PATIENCE, time.monotonic() - start))

    def _plan(self, n_shares: int, overwrite: bool, held: ExitStack) -> dict[str, Any]:
        """What is left to do, shared out. Twice as long a prompt has twice the rows, each of them twice as long."""
        held.enter_context(alone(self.folder, "another call of trace_many"))
        entries = begin(self.folder, self.made_by, self._plain, overwrite=overwrite).entries
        left = [number for number in range(len(self.prompts)) if number not in entries or entries[number].file is None]
        costs = [_n_tokens(self.model, self.prompts[number]) ** 2 if n_shares > 1 else 1 for number in left]
        shared = [[left[place] for place in places] for places in shares(costs, n_shares)]
        return {"shares": shared, "asked": self._asked}

    @cached_property
    def _plain(self) -> list[Any]:
        return [as_json(prompt) for prompt in self.prompts]

    @property
    def _asked(self) -> str:
        return sha256(dumps([dict(self.made_by), self._plain], sort_keys=True).encode()).hexdigest()


def _n_tokens(model: Model, prompt: Prompt) -> int:
    with warnings.catch_warnings():
        # Whoever traces it says so.
        warnings.simplefilter("ignore", TLCircuitsWarning)
        try:
            return len(tokenize(model, prompt).tokens)
        except TLCircuitsError:
            return 0


def _traced(entry: Traced, attempt: Callable[[], AttributionGraph], folder: Path) -> Traced:
    start = time.monotonic()
    try:
        graph = attempt()
    except (TLCircuitsError, RuntimeError, MemoryError) as error:
        if not isinstance(error, TLCircuitsError) and not is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {error}"
        return replace(entry, file=None, seconds=time.monotonic() - start, error=said)
    assert entry.file is not None
    graph.save(folder / entry.file)
    return replace(
        entry,
        seconds=time.monotonic() - start,
        n_tokens=len(graph.tokens),
        coverage=_known(graph.coverage),
        conservation_error=_known(graph.conservation_error),
        probe_error=_known(graph.probe_error),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch says so by a `RuntimeError` on processors, and by one of its own on GPUs."""
    said = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return said or any(words in str(error) for words in ("can't allocate memory", "not enough memory"))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _results(folder: Path, n_prompts: int, absent: Sequence[int]) -> TraceResults:
    results = TraceResults.load(folder).first(n_prompts)
    if absent and results.missing:
        warnings.warn(
            f"Processes {', '.join(map(str, absent))} did not finish their share, so {len(results.missing)} "
            f"of {n_prompts} prompts were not come to. What is done is in '{folder}': call trace_many again for the "
            "rest.",
            TLCircuitsWarning,
            stacklevel=3,
        )
    return results
