"""A model, a transcoder and a token stream → a card for each feature, in one pass over the stream.

What is kept grows with features times examples, and not with tokens. Where that is more than the memory budget, the
features are done in blocks, each with a pass of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_circuits.errors import FitError, SettingError
from tl_circuits.features.cards import FeatureCards
from tl_circuits.features.chosen import Chosen, chosen
from tl_circuits.features.contexts import ContextTally
from tl_circuits.features.encoders import CELLS, Encoder, alone
from tl_circuits.features.finish import Asks, finished
from tl_circuits.features.kept import Seen, Window
from tl_circuits.features.operands import Operands
from tl_circuits.features.stream import Data, can_be_read_again, length, passes
from tl_circuits.features.tally import Tally
from tl_circuits.graph.asked import positive, whole
from tl_circuits.hooks import Model, Tap, run_to
from tl_circuits.progress import stage
from tl_circuits.replacement.localize import check_fit, refuse_replaced, warn_of_doubts
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder, at_inference

TOKENS_PER_PASS = 4096
MEMORY_BUDGET = 2**30


@dataclass(frozen=True)
class CardSettings:
    """What is kept of each feature; `sample` tokens are drawn from each of `intervals` parts of its activations."""

    top: int
    intervals: int
    sample: int
    window: Window
    tokens: int
    contexts: int
    seed: int

    def bytes_per_feature(self) -> int:
        """What a feature takes while the stream goes by."""
        return Tally.bytes_per_feature(self.top, self.intervals * self.sample, self.window) + self.contexts

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        window = {"before": self.window.before, "after": self.window.after}
        return {name: value for name, value in vars(self).items() if name != "window"} | window


def feature_cards(
    model: Model,
    transcoder: CrossLayerTranscoder,
    data: Data,
    *,
    features: Chosen = None,
    operands: Operands | str | None = None,
    top: int = 12,
    intervals: int = 5,
    sample: int = 4,
    before: int = 24,
    after: int = 8,
    tokens: int = 10,
    contexts: int = 64,
    context: int | None = None,
    seed: int = 0,
    memory_budget: int | None = None,
    progress: bool | None = None,
) -> FeatureCards:
    """A card for each feature: what it fires on in a stream of tokens, what it makes likelier, and what it reads.

    `data` are token ids of shape (prompt, position), texts or lists of token ids, or a `datasets.Dataset`, streamed or
    not; texts are cut into prompts of at most `context` tokens (default: the model's context). `features` are those of
    a graph, or some by (layer, index) or name (default: all of the transcoder). `operands` adds a grid of prompts such
    as "{a}+{b}=".

    - Of each feature the `top` prompts with the highest peaks are kept, and `sample` tokens from each of `intervals`
      equal parts of its activations, drawn at random by `seed`, each with `before` tokens before it and `after` behind.
    - `tokens` are how many tokens are named that it makes likelier, less likely, and reads.
    - `contexts` stretches of text are drawn from the whole stream, for scores of labels.
    - Beginnings of sequence and padding count nowhere. Activations are as at inference, in single precision.

    Memory does not grow with the stream: about (top + intervals · sample) · 8 · (before + after + 1) bytes a feature.
    Beyond `memory_budget` bytes (default: 1 GiB) the features are done in blocks, with a pass over the data for each.
    How data are cut into passes and features into blocks changes nothing beyond rounding.

    Raises `FitError` where model and transcoder do not fit and where activations are not finite, `PromptError` for data
    that cannot be run or have no token that counts, and `SettingError` for settings outside their ranges, features that
    the transcoder lacks, and data that can be read once where several passes are needed.
    """
    check_fit(model, transcoder)
    refuse_replaced(model)
    asked = chosen(features, transcoder)
    grid = _grid(operands)
    settings = _settings(top, intervals, sample, before, after, tokens, contexts, seed)
    blocks = list(_blocks(asked, settings, _budget(memory_budget), data))
    warn_of_doubts(model, transcoder)
    asks, parts = Asks(settings.intervals, settings.tokens, grid), []
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        at_inference(transcoder),
        stage("feature cards", length(data) * len(blocks), show=progress) as bar,
    ):
        for stream in (_Pass(model, transcoder, block, settings) for block in blocks):
            stream.read(data, context, bar)
            parts.append(finished(model, transcoder, stream.tallies, stream.contexts, asks))
    made_by = {"model": str(model.cfg.model_name), "transcoder": transcoder.source or ""}
    return FeatureCards.joined(parts, made_by | {"n_tokens": parts[0].contexts.n_tokens} | settings.to_dict())


def _grid(operands: Operands | str | None) -> Operands | None:
    grid = Operands(operands) if isinstance(operands, str) else operands
    if not isinstance(grid, Operands | None):
        raise SettingError(f"operands={operands!r:.80}: give a template such as '{{a}}+{{b}}=', or tlc.Operands(...).")
    return grid


class _Pass:
    """One block of features, and all that is counted of them."""

    def __init__(
        self, model: Model, transcoder: CrossLayerTranscoder, block: list[tuple[int, int]], settings: CardSettings
    ) -> None:
        self._model, self._sites = model, Sites.of(model, transcoder.read, transcoder.write).sites
        self._device = next(model.parameters()).device
        layers = sorted({layer for layer, _ in block})
        index = {at: torch.tensor([i for layer, i in block if layer == at], device=self._device) for at in layers}
        self.encoders = [Encoder(transcoder, layer, index[layer]) for layer in layers]
        kept = (settings.top, settings.intervals * settings.sample, settings.window, settings.seed)
        self.tallies = [Tally(layer, index[layer], *kept) for layer in layers]
        sizes = [len(index[layer]) for layer in layers]
        self.contexts = ContextTally(sizes, settings.contexts, settings.window, settings.seed)
        # Where features cannot be had alone, a whole layer of them is in memory at once.
        widest = 1 if alone(transcoder) else max(transcoder.n_features)
        self.tokens_per_pass = max(1, min(TOKENS_PER_PASS, CELLS // widest))

    def read(self, data: Data, context: int | None, bar: Any) -> None:
        """The whole stream."""
        for part in passes(self._model, data, context, self.tokens_per_pass):
            self._run(part.tokens, part.kept, part.first)
            bar.update(len(part.tokens))

    def _run(self, tokens: Int64[Tensor, "prompt pos"], kept: Bool[Tensor, "prompt pos"], first: int) -> None:
        """The model over some prompts, no further than the last layer that is asked of."""
        tokens, kept = tokens.to(self._device), kept.to(self._device)
        place = self.contexts.n_tokens + kept.flatten().cumsum(0).view_as(tokens) - 1
        drawn = self.contexts.draw(tokens, kept, first)
        functions: dict[Tap, Callable[[Tensor], None]] = {}
        for at, encoder in enumerate(self.encoders):
            functions[self._sites[encoder.layer].read] = self._observe(at, tokens, kept, first, place, drawn)
        run_to(self._model, tokens, functions, self._sites[self.encoders[-1].layer].read)
        self.contexts.n_tokens += int(kept.sum())

    def _observe(self, at: int, tokens: Tensor, kept: Tensor, first: int, place: Tensor, drawn: Any) -> Any:
        encoder, tally = self.encoders[at], self.tallies[at]

        def observe(x: Tensor) -> None:
            for columns in encoder.slices(tokens.numel()):
                activations = encoder.encode(x, columns) * kept[..., None]
                if not bool(activations.isfinite().all()):
                    raise FitError(
                        f"Features of layer {encoder.layer} are NaN or infinite in prompts {first} to "
                        f"{first + len(tokens) - 1}: run the model in float32, or leave these prompts out."
                    )
                seen = Seen(tokens, kept, first, activations)
                tally.add(seen, columns, place)
                self.contexts.mark(at, columns, drawn, activations)

        return observe


def _settings(
    top: object, intervals: object, sample: object, before: object, after: object, tokens: object, contexts: object,
    seed: object,
) -> CardSettings:  # fmt: skip
    given = {
        "top": top, "intervals": intervals, "sample": sample, "before": before, "after": after, "tokens": tokens,
        "contexts": contexts, "seed": seed,
    }  # fmt: skip
    found = {name: whole(value) for name, value in given.items()}
    for name, value in found.items():
        if value is None or value < 0:
            raise SettingError(f"feature_cards({name}={given[name]!r:.80}): give a whole number, 0 or more.")
    numbers: Any = found
    window = Window(numbers.pop("before"), numbers.pop("after"))
    return CardSettings(window=window, **numbers)


def _budget(given: object) -> int:
    found = MEMORY_BUDGET if given is None else positive(given)
    if found is None:
        raise SettingError(f"feature_cards(memory_budget={given!r:.80}): give a number of bytes, say 2**30.")
    return int(found)


def _blocks(
    asked: list[tuple[int, int]], settings: CardSettings, budget: int, data: Data
) -> Iterator[list[tuple[int, int]]]:
    each = settings.bytes_per_feature()
    size = budget // each
    if not size:
        raise SettingError(
            f"A feature takes {each:,} bytes, and memory_budget={budget:,} is less: raise it, or keep fewer examples "
            "(top, intervals, sample) or shorter ones (before, after)."
        )
    if len(asked) > size and not can_be_read_again(data):
        raise SettingError(
            f"{len(asked):,} features of {each:,} bytes take more than memory_budget={budget:,}, so "
            f"{-(-len(asked) // size)} passes over the data are needed, but a {type(data).__name__} can be read once: "
            "give a list or a data set, fewer features, or a larger memory_budget."
        )
    return (asked[first : first + size] for first in range(0, len(asked), size))
