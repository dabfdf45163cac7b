"""A local replacement model and interventions → what the model would have gone on to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import PromptError, SettingError
from tl_circuits.graph.asked import flag, number, whole
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.intervene import as_cases, as_way, refuse_overflow
from tl_circuits.intervention.passes import Attention, Mode, Way, run
from tl_circuits.nodes import Feature, Intervention
from tl_circuits.replacement import LocalReplacementModel
from tl_circuits.replacement.localize import check_unhooked_since, refuse_replaced


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """What the model went on to say.

    - `interventions`, `mode`, `layers` (first and last), `attention`: what was done.
    - `tokens`: the new ids; `text`, what they read as. `logits` (new, d_vocab): what each was chosen by.
    - `inactive`: features intervened on at the prompt that were not active there. To scale these changes nothing.
    """

    local: LocalReplacementModel
    interventions: tuple[Intervention, ...]
    mode: str
    layers: tuple[int, int]
    attention: str
    tokens: Int64[Tensor, " new"]
    logits: Float[Tensor, "new d_vocab"]
    inactive: tuple[Feature, ...]

    @property
    def text(self) -> str:
        """The new tokens as the tokenizer writes them; their ids where the model has none."""
        tokenizer = self.local.model.tokenizer
        ids = self.tokens.tolist()
        return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        done = "; ".join(str(intervention) for intervention in self.interventions[:3]) or "nothing"
        more = len(self.interventions) - 3
        return (
            f"GenerationResult({done}{f' and {more} more' if more > 0 else ''}; {self.mode}, layers {self.layers[0]} "
            f"to {self.layers[1]}, attention {self.attention}: {len(self)} new tokens, {self.text!r})"
        )


def generate(
    local: LocalReplacementModel,
    interventions: Intervention | Sequence[Intervention] = (),
    max_new_tokens: int = 10,
    *,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_at_eos: bool = True,
    layers: tuple[int, int] | None = None,
    attention: Attention = "frozen",
    mode: Mode = "constrained",
) -> GenerationResult:
    """What the model would have gone on to say, had these features been otherwise.

    The prompt is run as `intervene` runs it, so the first new token is chosen by its logits, and keeps those values
    for as long as the text grows. New tokens run freely, since no pass of the model's own says what to hold there:
    attention, norms and MLPs run on from the changed prompt, in every mode. Where the positions of an intervention
    reach beyond the prompt (`positions=slice(start, None)`, or a number), the features of new tokens are encoded as
    they come, and what the change writes is added, as in mode "added". These are circuit-tracer's conventions. With
    mode "added" and attention "free" every token is that of `intervene` on the text so far.

    Positions count from the start of the prompt, or, negative, from its end. The last new token is never read, so
    nothing can be done to it. Greedy, unless `temperature` is above 0: then tokens are drawn by logits / temperature,
    from the `top_k` likeliest where given, by a generator of its own with this `seed`. Ends after `max_new_tokens`, or
    with the tokenizer's end-of-sequence token (`stop_at_eos`). Interventions that change nothing leave the model's own
    continuation. Every token takes a whole pass: keys and values are not cached.

    Raises `SettingError` as `intervene` does; `PromptError` where prompt and new tokens exceed the context.
    """
    way = as_way(local, layers, attention, mode)
    choose = _Choice.of(temperature, top_k, seed, local)
    n_new = number("generate", "max_new_tokens", max_new_tokens) - 1
    flag("stop_at_eos", stop_at_eos)
    _check_room(local, n_new)
    check_unhooked_since(local)
    refuse_replaced(local.model)
    several, (done, *_) = as_cases(interventions)
    if several:
        raise SettingError("generate takes one list of interventions, and several were given: call it for each.")
    edits = Edits.of(local, [done], way.layers, n_new)
    end = local.model.tokenizer.eos_token_id if stop_at_eos and local.model.tokenizer is not None else None
    continuation = _Continuation(local, edits, way)
    tokens: list[int] = []
    logits: list[Tensor] = []
    while len(tokens) <= n_new and (not tokens or tokens[-1] != end):
        logits.append(continuation.next_logits(tokens))
        refuse_overflow(local, logits[-1], done)
        tokens.append(choose(logits[-1]))
    return GenerationResult(
        local,
        done,
        way.mode,
        (way.layers[0], way.layers[-1]),
        way.attention,
        torch.tensor(tokens),
        torch.stack(logits),
        continuation.inactive,
    )


class _Continuation:
    """The logits after any continuation of a prompt, under edits of which some are of new tokens."""

    def __init__(self, local: LocalReplacementModel, edits: Edits, way: Way) -> None:
        on_prompt = edits.places[:, 2] < local.n_pos
        at_prompt, after = edits.where(on_prompt), edits.where(~on_prompt & edits.moving)
        before = at_prompt.before(local)
        self._local = local
        self._changes_prompt = bool((at_prompt.factor * before + at_prompt.offset != before).any())
        self._edits = edits.where(on_prompt | edits.moving) if self._changes_prompt else after
        # Nothing of the prompt is to be held where nothing of it changes.
        self._way = way if self._changes_prompt else Way("added", way.layers, "free")
        self.inactive = tuple(Feature(*place[1:]) for place in at_prompt.places[before == 0].tolist())

    def next_logits(self, new: list[int]) -> Float[Tensor, " d_vocab"]:
        """What the token after these new ones is chosen by."""
        local = self._local
        edits = self._edits.where(self._edits.places[:, 2] < local.n_pos + len(new))
        if self._changes_prompt or len(edits.places):
            return run(local, edits, self._way, new).logits[0, -1]
        if not new:
            return local.logits[-1]
        tokens = torch.cat([local.prompt.tokens, local.prompt.tokens.new_tensor(new)])
        with torch.inference_mode(False), torch.no_grad():
            return local.model(tokens[None])[0, -1].detach()


@dataclass(frozen=True)
class _Choice:
    """How a token is chosen by its logits."""

    temperature: float
    top_k: int | None
    generator: torch.Generator

    @classmethod
    def of(cls, temperature: Any, top_k: Any, seed: Any, local: LocalReplacementModel) -> "_Choice":
        known = isinstance(temperature, Real) and not isinstance(temperature, bool)
        if not known or not 0 <= float(temperature) < float("inf"):
            raise SettingError(
                f"temperature={temperature!r:.80}: give a finite number, 0 for the likeliest token each time, or above "
                "0 to draw."
            )
        if top_k is not None:
            number("generate", "top_k", top_k)
            if temperature == 0:
                raise SettingError(
                    f"top_k={top_k} says what to draw from, but temperature=0 takes the likeliest token: give "
                    "temperature=1, or leave out top_k."
                )
        if whole(seed) is None or not 0 <= seed < 2**63:
            raise SettingError(f"seed={seed!r:.80}: give a whole number from 0 to {2**63 - 1}.")
        generator = torch.Generator(local.logits.device).manual_seed(int(seed))
        return cls(float(temperature), top_k, generator)

    def __call__(self, logits: Float[Tensor, " d_vocab"]) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        likeliest = logits.float().topk(min(self.top_k or len(logits), len(logits)))
        # Less the largest first, so that a small temperature does not overflow.
        chances = ((likeliest.values - likeliest.values[0]) / self.temperature).softmax(-1)
        return int(likeliest.indices[torch.multinomial(chances, 1, generator=self.generator)])


def _check_room(local: LocalReplacementModel, n_new: int) -> None:
    n_ctx = local.model.cfg.n_ctx
    if local.n_pos + n_new > n_ctx:
        room = n_ctx - local.n_pos + 1
        raise PromptError(
            f"A prompt of {local.n_pos} tokens and {n_new} new ones to read after it exceed the model's context of "
            f"{n_ctx}: give max_new_tokens={room} or fewer."
        )
