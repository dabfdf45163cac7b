"""A model, a transcoder and prompts → how faithfully, and how sparsely, the transcoder stands for the MLPs.

Two sweeps over the prompts: one for what the MLPs write on average, one for all figures, which are sums over tokens.
What is kept is sums, by prompt; nothing is by token.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from tl_circuits.attribution.prompts import many
from tl_circuits.errors import PromptError, SettingError
from tl_circuits.graph.asked import flag, number, whole
from tl_circuits.hooks import Model, has_user_hooks
from tl_circuits.intervention.bootstrap import Bootstrap, Estimate, Sums, ratio
from tl_circuits.intervention.fidelity_passes import BATCH_NUMBERS, Batch, FidelityPasses
from tl_circuits.intervention.fidelity_report import DENSITY_EDGES, Fidelity, FidelityReport, LayerFidelity, Measure
from tl_circuits.progress import stage
from tl_circuits.replacement.localize import check_fit, refuse_replaced, warn_of_another_model
from tl_circuits.replacement.prompt import Prompt, TokenizedPrompt, tokenize
from tl_circuits.transcoder import CrossLayerTranscoder, at_inference

SAME = 1e-12
"""What differs by no more than such a share of its size is the same: sums are in float64."""


def evaluate(
    model: Model,
    transcoder: CrossLayerTranscoder,
    data: Iterable[Prompt] | Mapping[str, Iterable[Prompt]] | Path,
    *,
    each_layer: bool = False,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> FidelityReport:
    """How faithfully the transcoder stands for the model's MLPs on these prompts, and how sparsely.

    `data` are prompts as `localize` takes them (texts, token ids or chat messages), or sets of them by name, each of
    which is reported as if it were evaluated alone, beside all together; a `Path` is a file of prompts, as for
    `trace_many`. The tokens that `localize` masks keep the model's MLPs and count nowhere. The figures and their
    definitions: `FidelityReport`, `Fidelity`, `LayerFidelity`.

    - Figures stand between a floor, the model with each MLP writing its mean over the set's tokens, and a ceiling, the
      model itself. Intervals are bootstraps over prompts, from `resamples` samples, at `level`.
    - `each_layer` also replaces each MLP alone, which takes a pass more for each layer.
    - Prompts of one length run side by side, at most `batch_size` of them (default: what takes some dozens of
      megabytes). Neither that nor the order of the prompts changes anything beyond rounding.
    - Activations are as at inference, whatever mode the transcoder is in. Sums are in float64.

    Raises `PromptError` for data without prompts, and, with the prompt's number, for prompts that cannot be run or have
    no token that is not masked; `FitError` where model and transcoder do not fit, and where NaN or infinity comes out;
    `SettingError` for settings outside their ranges.
    """
    check_fit(model, transcoder)
    refuse_replaced(model)
    drawn = _drawn(resamples, level, seed)
    flag("each_layer", each_layer)
    size = None if batch_size is None else number("evaluate", "batch_size", batch_size)
    sets = _sets(data)
    warn_of_another_model(model, transcoder)
    with torch.inference_mode(False), torch.no_grad(), at_inference(transcoder):
        prompts = _Prompts.of(model, sets)
        n_prompts = len(prompts.tokens)
        passes = FidelityPasses(model, transcoder, n_prompts=n_prompts, n_sets=len(sets), each_layer=each_layer)
        widest = max(*transcoder.n_features, model.cfg.d_vocab, transcoder.n_layers * transcoder.d_model)
        # Hooks of the user's own may count on one prompt.
        batches = list(prompts.batches(widest, 1 if has_user_hooks(model) else size))
        with stage("evaluating", 2 * n_prompts, show=progress) as bar:
            for batch in batches:
                passes.average(batch)
                bar.update(len(batch.rows))
            passes.end_average()
            for batch in batches:
                passes.measure(batch)
                bar.update(len(batch.rows))
    by_set = {name: _fidelity(passes, "set", prompts.group == i, [i], drawn) for i, name in enumerate(sets)}
    everything = list(range(len(sets)))
    scope = passes.scopes[-1]
    overall = _fidelity(passes, scope, prompts.group >= 0, everything, drawn)
    described = f"{transcoder.extra_repr()}, {transcoder.activation!r}"
    named = by_set if isinstance(data, Mapping) else {}
    return FidelityReport(str(model.cfg.model_name), described, transcoder.source, overall, named, **drawn)


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Prompts in an order that does not depend on how they were given: by length, then by token ids."""

    tokens: list[TokenizedPrompt]
    group: Int64[Tensor, " prompt"]
    names: list[str]

    @classmethod
    def of(cls, model: Model, sets: Mapping[str, list[Any]]) -> "_Prompts":
        """The prompts of these sets as token ids. Raises `PromptError`, with its number, for one that cannot be run."""
        found = []
        for group, (set_name, given) in enumerate(sets.items()):
            for place, prompt in enumerate(given):
                name = f"Prompt {place}" + (f" of {set_name!r:.80}" if set_name else "")
                found.append((_tokenized(model, prompt, name), group, name))
        found.sort(key=lambda item: (len(item[0].tokens), item[0].tokens.tolist()))
        tokens, groups, names = zip(*found, strict=True)
        return cls(list(tokens), torch.tensor(groups), list(names))

    def batches(self, widest: int, size: int | None) -> Iterator[Batch]:
        """Batches of prompts of one length, at most `size` of them, or as many as fit where tokens are so wide."""
        for n_pos, rows in groupby(range(len(self.tokens)), key=lambda row: len(self.tokens[row].tokens)):
            places = torch.tensor(list(rows))
            for part in places.split(size or max(1, BATCH_NUMBERS // (n_pos * widest))):
                some = [self.tokens[row] for row in part.tolist()]
                tokens = torch.stack([prompt.tokens for prompt in some])
                masked = torch.zeros_like(tokens, dtype=torch.bool)
                for row, prompt in enumerate(some):
                    masked[row, list(prompt.masked)] = True
                names = [self.names[row] for row in part.tolist()]
                yield Batch(tokens, masked, part, self.group[part].to(tokens.device), names)


def _tokenized(model: Model, prompt: Any, name: str) -> TokenizedPrompt:
    try:
        found = tokenize(model, prompt)
    except PromptError as error:
        raise PromptError(f"{name}: {error}") from error
    if len(found.masked) == len(found.tokens):
        raise PromptError(
            f"{name} has no token that counts: all {len(found.tokens)} are masked ({found.masked_why}). Give it at "
            "least one more, or leave it out."
        )
    return found


def _sets(data: Any) -> dict[str, list[Any]]:
    """Prompts by the name of their set, which is empty where none was given."""
    if not isinstance(data, Mapping):
        return {"": many(data, "evaluate", ", or give sets of prompts by name")}
    wrong = [name for name in data if not isinstance(name, str) or not name]
    if wrong or not data:
        raise PromptError(
            f"Sets of prompts {data!r:.80} were given: name each by a text, "
            "{'facts': ['the capital of Texas is', ...], ...}."
        )
    found = {}
    for name, prompts in data.items():
        try:
            found[name] = many(prompts, "evaluate", "")
        except PromptError as error:
            raise PromptError(f"Set {name!r:.80}: {error}") from error
    return found


def _drawn(resamples: Any, level: Any, seed: Any) -> dict[str, Any]:
    if not isinstance(level, Real) or isinstance(level, bool) or not 0 < float(level) < 1:
        raise SettingError(f"level={level!r:.80} is no level of an interval: give a number between 0 and 1, say 0.95.")
    if whole(seed) is None or not 0 <= int(seed) < 2**63:
        raise SettingError(f"seed={seed!r:.80} is no seed: give a whole number from 0 on.")
    least = math.ceil(round(2 / (1 - float(level)), 6))
    if whole(resamples) is None or resamples < least:
        raise SettingError(
            f"resamples={resamples!r:.80} tell no interval at level {float(level):g}: give a whole number, at least "
            f"{least}."
        )
    return {"resamples": whole(resamples), "level": float(level), "seed": whole(seed)}


def _fidelity(
    passes: FidelityPasses, scope: str, here: Tensor, groups: list[int], drawn: Mapping[str, Any]
) -> Fidelity:
    """The figures of some of the prompts, those of these sets, with means over `scope`."""
    sums = {name: column[here] for name, column in passes.sums.items()}
    bootstrap = Bootstrap.of(sums, **drawn)
    ablated, variance = f"ablated {scope}", f"variance {scope}"

    def measure(what: str, per: str, ceiling: Estimate) -> Measure:
        value, floor = (
            bootstrap.estimate(lambda s, way=way: ratio(s[f"{way} {what}"], s[per])) for way in ("replaced", ablated)
        )
        return Measure(value, floor, ceiling)

    def recovered(s: Sums) -> Tensor:
        return ratio(s[f"{ablated} ce"] - s["replaced ce"], s[f"{ablated} ce"] - s["own ce"])

    zero, one = Estimate.exactly(0.0), Estimate.exactly(1.0)
    counts = [active[groups].sum(0).cpu() for active in passes.active]
    n_tokens = int(sums["tokens"].sum())
    return Fidelity(
        n_prompts=int(here.sum()),
        n_tokens=n_tokens,
        n_predicted=int(sums["predicted"].sum()),
        agreement=measure("agreement", "tokens", one),
        kl=measure("kl", "tokens", zero),
        last_agreement=measure("last agreement", "prompts", one),
        last_kl=measure("last kl", "prompts", zero),
        ce=measure("ce", "predicted", bootstrap.estimate(lambda s: ratio(s["own ce"], s["predicted"]))),
        ce_recovered=Measure(bootstrap.estimate(recovered), zero, one),
        fvu=Measure(bootstrap.estimate(lambda s: _fvu(s, variance).nanmean(1)), one, zero),
        l0=bootstrap.estimate(lambda s: ratio(s["active"], s["tokens"][:, None]).mean(1)),
        layers=_layers(bootstrap, variance, counts, n_tokens),
    )


def _fvu(sums: Sums, variance: str) -> Tensor:
    # Of tokens at which an MLP writes the same, the mean differs from that by rounding.
    varies = sums[variance] > SAME**2 * sums["square"]
    return ratio(sums["error"], torch.where(varies, sums[variance], 0))


def _layers(bootstrap: Bootstrap, variance: str, counts: list[Tensor], n_tokens: int) -> tuple[LayerFidelity, ...]:
    def per_token(name: str) -> list[Estimate]:
        return bootstrap.estimates(lambda s: ratio(s[name], s["tokens"][:, None]))

    fvu = bootstrap.estimates(lambda s: _fvu(s, variance))
    nmse = bootstrap.estimates(lambda s: ratio(s["error"], s["square"]))
    nmse_floor = bootstrap.estimates(lambda s: ratio(s[variance], s["square"]))
    nothing = [None] * len(counts)
    alone = [per_token(name) if name in bootstrap.total else nothing for name in ("alone agreement", "alone kl")]
    zero, one, l0 = Estimate.exactly(0.0), Estimate.exactly(1.0), per_token("active")
    return tuple(
        LayerFidelity(
            layer=layer,
            fvu=Measure(fvu[layer], one, zero),
            nmse=Measure(nmse[layer], nmse_floor[layer], zero),
            l0=l0[layer],
            n_features=len(count),
            dead=int((count == 0).sum()),
            density_histogram=_histogram(count, n_tokens),
            agreement=alone[0][layer],
            kl=alone[1][layer],
        )
        for layer, count in enumerate(counts)
    )


def _histogram(count: Int64[Tensor, " feature"], n_tokens: int) -> tuple[int, ...]:
    density = count[count > 0].double() / n_tokens
    inner = torch.tensor(DENSITY_EDGES[1:-1], dtype=torch.float64)
    return tuple(torch.bucketize(density, inner).bincount(minlength=len(DENSITY_EDGES) - 1).tolist())
