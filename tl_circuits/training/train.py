"""Training a cross-layer or per-layer transcoder on a model's prompts.

Ameisen et al. 2025, "Circuit Tracing", section 2 and appendix: features of every layer are trained jointly to
reconstruct the outputs of all MLPs that they write. A last short stage also minimises the divergence of the
full replacement model.
"""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.errors import FitError, SettingError, warn_once
from tl_circuits.graph.asked import folder_name, number
from tl_circuits.harvest import ActivationCache, Prompts, digest_of, identity_of
from tl_circuits.hooks import Model
from tl_circuits.progress import stage
from tl_circuits.training.checkpoint import Checkpoint
from tl_circuits.training.folder import RunFolder, terminated
from tl_circuits.training.loggers import check_loggers
from tl_circuits.training.plan import check_asked, plan
from tl_circuits.training.run import Run, Step
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, source
from tl_circuits.transcoder import CrossLayerTranscoder

LOG_EVERY = 10
USELESS, NOTHING = 2.0, 0.9
"""An FVU above the first is no matter of the batch: what writes nothing has 1, which the second tells."""


def train(
    model: Model,
    data: Any,
    settings: TrainingSettings,
    *,
    weights: Float[Tensor, " _"] | None = None,
    scored: Bool[Tensor, "prompt pos"] | None = None,
    folder: str | Path | None = None,
    checkpoint_every: int = 200,
    cache: str | Path | None = None,
    loggers: Iterable[str] = (),
    shards: int | None = None,
    progress: bool | None = None,
) -> CrossLayerTranscoder:
    """A transcoder trained on what the model's MLPs read and write on these prompts.

    `data` are right-padded token ids of shape (prompt, position), beginning-of-sequence tokens included; a list of
    texts or of lists of token ids; or a `datasets.Dataset` with a column "tokens", "input_ids" or "text". A stream
    (`datasets.IterableDataset`) is read from its beginning for as many tokens as the steps take.
    Beginning-of-sequence tokens and padding count nowhere. Prompts are drawn in proportion to `weights` (default: all
    tokens alike); the fine-tuning counts the divergence of next-token predictions at `scored` positions (default: at
    all kept ones).

    - Deterministic by `settings.seed` on one thread; the model is borrowed and left as it was.
    - With a `folder`, checkpoints go into it every `checkpoint_every` steps, at the end, and when SIGTERM or Ctrl-C
      comes, which then does what it would have done; `log.jsonl` has a line for every tenth step and the last. The same
      call takes up what is in the folder, and ends with the weights of a run that was never broken off.
    - `loggers`, "wandb" and "tensorboard", take what `log.jsonl` has; each is an extra of this package of that name.
    - With a `cache`, what the MLPs read and write is kept in that folder, harvested once, and used by every run on the
      same prompts of the same model; what is missing or torn there is harvested again. The batches are the same as
      without.
    - Where `torch.distributed` is initialised, its processes train together: `shards` of them (default: all) share
      every layer's features, and the others repeat them on other tokens of each batch.
    - Bars appear after two seconds: where a person may be watching, or by `progress` everywhere or nowhere.

    Raises `SettingError` for settings that do not go together, and where the run does not fit in memory or on disk;
    `PromptError` for data that is empty, too short or another vocabulary's; `FitError` for NaN, with the layer and the
    prompts, and where the loss diverges; `TLCircuitsError` where another of the processes has ended or does not
    answer for ten minutes; `FileError` where a folder holds another run or another model's activations, or the disk is
    full.
    """
    check_asked(model, settings, cache)
    every = number("train", "checkpoint_every", checkpoint_every)
    place = Shards.of_world(None if shards is None else number("train", "shards", shards))
    _refuse_together(settings, place)
    read = Prompts.of(model, data, settings.context, settings.steps * settings.batch_tokens)
    prompts = _data(read, weights, scored)
    names = check_loggers(loggers, folder)
    _refuse_what_does_not_fit(model, settings, read, place, folder, cache)
    held = None if folder is None else RunFolder.of(folder, place)
    # Notebooks switch gradients off for good, and so may whoever calls.
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as ending:
        at = None if held is None else _claimed(held, ending, model, prompts, settings, names)
        kept = None if cache is None else _cached(model, prompts.prompts, settings, cache, place, progress)
        origin = ending.enter_context(closing(source(model, prompts, settings, kept)))
        begun = (model, prompts, origin, settings, place)
        run = Run.begin(*begun) if at is None else Run.resume(*begun, at)
        # Reading and harvesting may take processes hours, and some of them longer than others; steps may not.
        place.barrier(patiently=True)
        return _advanced(run, held, every, progress)


def _claimed(
    folder: RunFolder, ending: ExitStack, model: Model, prompts: Data, settings: TrainingSettings, names: Iterable[str]
) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one; the folder is this run's, and written to, until the end."""
    ending.callback(folder.close)
    at = folder.claim(settings, _record(model, prompts))
    folder.open(names, settings, at)
    return at


def _refuse_what_does_not_fit(
    model: Model,
    settings: TrainingSettings,
    read: Prompts,
    place: Shards,
    folder: str | Path | None,
    cache: str | Path | None,
) -> None:
    where = [None if path is None else folder_name(path) for path in (folder, cache)]
    taken = plan(
        model, settings, read.n_kept, n_shards=place.n_shards, n_replicas=place.n_replicas, width=read.tokens.shape[1],
        folder=where[0], cache=where[1],
    )  # fmt: skip
    taken.refuse_what_does_not_fit()


def _cached(
    model: Model,
    prompts: Prompts,
    settings: TrainingSettings,
    folder: str | Path,
    place: Shards,
    progress: bool | None,
) -> ActivationCache:
    return ActivationCache.harvested(
        folder_name(folder), model, prompts, settings.read, settings.write, settings.cache_dtype,
        place=(place.rank, place.n_processes), wait=partial(place.barrier, patiently=True),
        progress=progress,
    )  # fmt: skip


def _advanced(run: Run, folder: RunFolder | None, every: int, progress: bool | None) -> CrossLayerTranscoder:
    settings = run.settings
    name = "transcoder" if settings.cross_layer else "per-layer transcoder"
    with terminated() as asked_to_stop, stage(name, settings.all_steps, show=progress) as bar:
        bar.update(run.step)
        first, began = run.step, time.monotonic()
        while run.step < settings.all_steps:
            done = run.advance()
            _refuse_divergence(done)
            if run.step == settings.steps:
                _warn_of_a_useless_fit(done)
            bar.update(1)
            pace = _pace(done, settings.batch_tokens, run.step - first, time.monotonic() - began)
            bar.set_postfix_str(_in_short(done, pace), refresh=False)
            if folder is None:
                if asked_to_stop.is_set():
                    break
                continue
            folder.log(done, pace, LOG_EVERY, settings.all_steps - 1)
            stop = run.shards.agreed(asked_to_stop.is_set())
            if stop or run.step % every == 0 or run.step in (settings.steps, settings.all_steps):
                folder.save(run)
            if stop:
                folder.say(f"a checkpoint of step {run.step} of {settings.all_steps} is written")
                break
    # What is learnt is folded into copies: with the moments beside them, the end would take more than any step.
    run.optimizer.close()
    return run.transcoder()


def _pace(done: Step, batch_tokens: int, n_steps: int, seconds: float) -> dict[str, int | float]:
    """Tokens in all, and by the second since this process took its first step; fine-tuning draws whole prompts."""
    if done.kl is not None:
        return {}
    speed = n_steps * batch_tokens / max(1e-9, seconds)
    return {"tokens": (done.step + 1) * batch_tokens, "tokens_per_second": round(speed, 1)}


def _in_short(done: Step, pace: Mapping[str, int | float]) -> str:
    if done.kl is not None:
        return f"KL {done.kl:.4f}"
    fvu, l0 = sum(done.fvu) / len(done.fvu), sum(done.l0) / len(done.l0)
    speed = f"{pace['tokens_per_second']:,.0f} tokens/s"
    return f"FVU {fvu:.3f}, L0 {l0:.1f}, dead {sum(done.dead)}, {done.backend}, {speed}"


def _refuse_divergence(done: Step) -> None:
    for what, value in (("loss", done.loss), ("norm of the gradient", done.gradient_norm)):
        if not math.isfinite(value):
            raise FitError(
                f"The {what} is {value} at step {done.step}, at a learning rate of {done.lr:.2g}: training diverged. "
                "Try a smaller lr; the checkpoints before this step are whole."
            )


def _warn_of_a_useless_fit(done: Step) -> None:
    worst = max(done.fvu)
    if worst > USELESS:
        warn_once(
            f"The fit ended at an FVU of {worst:.3g} in layer {done.fvu.index(worst)}, worse than 1, which that "
            "layer's mean alone has: try a smaller lr, or more steps.",
            stacklevel=4,
        )
    silent = [layer for layer, (fvu, l0) in enumerate(zip(done.fvu, done.l0, strict=True)) if not l0 and fvu > NOTHING]
    if silent:
        warn_once(
            f"The fit ended with no feature on in layers {', '.join(map(str, silent))}, where nothing is explained: "
            "try a smaller sparsity or threshold, a larger lr, or more steps.",
            stacklevel=4,
        )


def _refuse_together(settings: TrainingSettings, place: Shards) -> None:
    place.tokens(settings.batch_tokens)
    if settings.finetune_steps and place.n_shards > 1:
        raise SettingError(
            f"finetune_steps={settings.finetune_steps} need the whole transcoder in each process, and {place.n_shards} "
            "share its features: train with finetune_steps=0 and a folder, then give the same call with "
            "finetune_steps and shards=1, or in one process, which goes on from there."
        )
    if settings.finetune_steps:
        place.prompts(settings.finetune_prompts)
    if settings.low_memory and place.n_replicas > 1:
        raise SettingError(
            f"low_memory updates parameters before the gradients of {place.n_replicas} processes are averaged: leave "
            "it out, or let all processes share the features."
        )


def _data(prompts: Prompts, weights: Tensor | None, scored: Tensor | None) -> Data:
    for name, given in (("weights", weights), ("scored", scored)):
        if given is not None and not isinstance(given, Tensor):
            raise SettingError(f"{name}={given!r:.60} is no tensor: wrap it in torch.tensor(...).")
    if weights is not None:
        weights = _as_weights(weights, prompts)
    if scored is not None and scored.dtype != torch.bool:
        raise SettingError(f"scored is of {scored.dtype}, and marks are true or false: give scored.bool().")
    if scored is not None and scored.shape != prompts.kept.shape:
        raise SettingError(
            f"scored has shape {tuple(scored.shape)} for prompts of shape {tuple(prompts.kept.shape)}: give one mark "
            "for each token."
        )
    if scored is not None and not bool((scored & prompts.kept).any()):
        raise SettingError(
            f"scored marks {int(scored.sum())} tokens, none of them one that counts: mark some that are no padding and "
            "no beginning of sequence."
        )
    return Data(prompts, prompts.kept if scored is None else scored & prompts.kept, weights)


def _as_weights(weights: Tensor, prompts: Prompts) -> Tensor:
    """Weights of the prompts that have tokens that count, 0 of the others."""
    n = len(prompts.tokens)
    if (
        weights.shape != (n,)
        or weights.is_complex()
        or not bool((weights >= 0).all() and weights.sum() > 0 and weights.float().sum().isfinite())
    ):
        raise SettingError(
            f"weights has shape {tuple(weights.shape)} for {n} prompts: "
            "give each a finite number, none negative, and not all 0."
        )
    counting = weights.float() * prompts.kept.any(1)
    if not bool(counting.any()):
        raise SettingError(
            f"weights are 0 for all {int(prompts.kept.any(1).sum())} of {n} prompts that have tokens to train on: give "
            "some of those a weight."
        )
    return counting


def _record(model: Model, data: Data) -> dict[str, Any]:
    """What a run is of, beside its settings: another model or other prompts make another run."""
    prompts = data.prompts
    scored = None if torch.equal(data.scored, prompts.kept) else data.scored
    return {
        "model": identity_of(model),
        "prompts": list(prompts.tokens.shape),
        "fingerprint": prompts.fingerprint(),
        "weights": None if data.weights is None else digest_of(data.weights),
        "scored": None if scored is None else digest_of(scored),
    }
