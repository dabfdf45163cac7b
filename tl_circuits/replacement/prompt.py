"""What a user calls a prompt → token ids that this model can run."""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from tl_circuits.errors import PromptError, TLCircuitsWarning
from tl_circuits.graph.asked import whole
from tl_circuits.hooks import Model

Prompt: TypeAlias = str | Tensor | Sequence[Any]
"""Text, token ids (one prompt, in a tensor or a list), or chat messages (dictionaries of role and content)."""


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as the model reads it. `masked` are positions whose features are left out, `masked_why` says why."""

    tokens: Int64[Tensor, " pos"]
    strings: tuple[str, ...]
    masked: tuple[int, ...]
    masked_why: str


def tokenize(model: Model, prompt: Prompt, masked_positions: Sequence[int] | None = None) -> TokenizedPrompt:
    """The prompt's token ids, checked, with their strings and the positions to mask.

    Text gets the tokens that the model's own `to_tokens` puts before it. `masked_positions=None` masks the
    beginning-of-sequence tokens that the prompt starts with, where the tokenizer has one; on instruction-tuned models
    of Gemma 3 also the `<start_of_turn>user\\n` that follows them, since Gemma Scope 2 was not trained on these tokens
    (circuit-tracer masks the same four). Raises `PromptError` for empty prompts, for prompts longer than the context,
    for ids outside the vocabulary, for padding before the beginning and for positions outside the prompt.
    """
    tokens = _ids(model, prompt)
    check_tokens(model, tokens)
    strings = _strings(model, tokens)
    masked, why = _masked(model, tokens, strings, masked_positions)
    _warn_of_unknown_words(model, prompt, tokens)
    return TokenizedPrompt(tokens, strings, masked, why)


def check_tokens(model: Model, tokens: Int64[Tensor, " pos"]) -> None:
    """Raises `PromptError` for token ids that the model cannot read as one prompt, as `tokenize` does."""
    _check_ids(model, tokens)
    _check_padding(model, tokens)


_USER_TURN = ("<start_of_turn>", "user", "\n")
_GEMMA_3_IT = re.compile(r"gemma-3-\w+-it\b")


def _ids(model: Model, prompt: Prompt) -> Int64[Tensor, " pos"]:
    device = next(model.parameters()).device
    if isinstance(prompt, Tensor):
        return _one_prompt(prompt).to(device)
    if isinstance(prompt, Sequence) and len(prompt) == 0:
        raise PromptError(f"The prompt {prompt!r} is empty: give at least one token.")
    if isinstance(prompt, str) or (isinstance(prompt, list | tuple) and isinstance(prompt[0], dict)):
        return _text_ids(model, prompt).to(device)
    if isinstance(prompt, list | tuple | range) and all(whole(token) is not None for token in prompt):
        beyond = [token for token in prompt if not -(2**63) <= token < 2**63]
        if beyond:
            raise PromptError(f"Token ids {beyond[:5]} are outside every vocabulary: use this model's tokenizer.")
        return torch.tensor(prompt, dtype=torch.int64, device=device)
    raise PromptError(
        f"A prompt is text, token ids or chat messages; {prompt!r:.80} was given. To trace several prompts, trace each."
    )


def _one_prompt(ids: Tensor) -> Int64[Tensor, " pos"]:
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise PromptError(
            f"Token ids of shape {tuple(ids.shape)} were given: trace one prompt at a time, shape (pos,) or (1, pos)."
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise PromptError(f"Token ids of dtype {ids.dtype} were given: give integers.")
    return ids.to(torch.int64)


def _text_ids(model: Model, prompt: Any) -> Int64[Tensor, " pos"]:
    if model.tokenizer is None:
        raise PromptError("This model has no tokenizer, so it cannot read text: give token ids instead.")
    if isinstance(prompt, str):
        return cast(Any, model).to_tokens(_unicode(prompt), truncate=False)[0]
    try:
        text = model.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        # Templates are programs of their own, which raise what they like.
        raise PromptError(
            f"The tokenizer cannot lay out these chat messages: {error!s:.200} Give each a role and a content, and a "
            "model whose tokenizer has a chat template; or give text."
        ) from error
    return torch.tensor(model.tokenizer(_unicode(text), add_special_tokens=False)["input_ids"], dtype=torch.int64)


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"The prompt holds {text[error.start]!r} at place {error.start}, which is half a character and no text: "
            "leave it out, or decode the text anew with the right encoding."
        ) from error
    return text


def _check_ids(model: Model, tokens: Int64[Tensor, " pos"]) -> None:
    n_ctx, d_vocab = model.cfg.n_ctx, model.cfg.d_vocab
    if len(tokens) == 0:
        raise PromptError("The prompt has no tokens: give at least one.")
    if len(tokens) > n_ctx:
        raise PromptError(
            f"The prompt has {len(tokens)} tokens, but the model's context holds {n_ctx}: shorten it by "
            f"{len(tokens) - n_ctx}."
        )
    outside = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if len(outside):
        raise PromptError(
            f"Token ids {outside[:5].tolist()} are outside the vocabulary of {d_vocab} tokens (0 to {d_vocab - 1}): "
            "use this model's tokenizer."
        )


def _check_padding(model: Model, tokens: Int64[Tensor, " pos"]) -> None:
    """A row of a batch that was padded on the left: without its attention mask, the model would read the padding."""
    pad, bos = getattr(model.tokenizer, "pad_token_id", None), _bos(model.tokenizer)
    n_pad = int((tokens == pad).cumprod(0).sum()) if None not in (pad, bos) else 0
    if pad != bos and 0 < n_pad < len(tokens) and tokens[n_pad] == bos:
        raise PromptError(
            f"The prompt starts with {n_pad} padding tokens (id {pad}) before its beginning-of-sequence token (id "
            f"{bos}), which the model would read as text: leave them out, tokens[{n_pad}:]."
        )


def _masked(
    model: Model, tokens: Int64[Tensor, " pos"], strings: tuple[str, ...], given: Sequence[int] | None
) -> tuple[tuple[int, ...], str]:
    if given is not None:
        return _inside(len(tokens), as_positions(given)), "given by the user"
    bos = _bos(model.tokenizer)
    if bos is None:
        return (), "nothing masked: the model has no beginning-of-sequence token"
    named = f"beginning-of-sequence token (id {bos})"
    n_bos = int((tokens == bos).cumprod(0).sum())
    if n_bos == 0:
        return (), f"nothing masked: the prompt does not start with the {named}"
    is_gemma_3_it = _GEMMA_3_IT.search(str(model.cfg.model_name)) is not None
    n_turn = n_bos + len(_USER_TURN)
    if is_gemma_3_it and strings[n_bos:n_turn] == _USER_TURN:
        start = repr("".join(_USER_TURN))
        return tuple(range(n_turn)), f"{named} and {start}, on which transcoders of Gemma 3 chat models are not trained"
    return tuple(range(n_bos)), f"{named}, on which transcoders are not trained"


def _inside(n_pos: int, given: list[int]) -> tuple[int, ...]:
    outside = [position for position in given if not -n_pos <= position < n_pos]
    if outside:
        raise PromptError(
            f"masked_positions={outside} lie outside a prompt of {n_pos} tokens: use 0 to {n_pos - 1}, or negative "
            "ones."
        )
    return tuple(sorted({position % n_pos for position in given}))


def _bos(tokenizer: Any) -> int | None:
    """The id of the beginning-of-sequence token that the tokenizer came with."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or bos != tokenizer.eos_token_id:
        return bos
    # Where there is none (Qwen), TransformerLens gives the tokenizer its end-of-sequence token for one.
    default = inspect.signature(type(tokenizer).__init__).parameters.get("bos_token")
    own = tokenizer.init_kwargs.get("bos_token", None if default is None else default.default)
    return None if own is None else bos


def _warn_of_unknown_words(model: Model, prompt: Prompt, tokens: Int64[Tensor, " pos"]) -> None:
    tokenizer = model.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    # Where bytes are tokens nothing is unknown, and GPT-2's tokenizer gives the unknown the id of its end of text.
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return
    places = (tokens == unknown).nonzero()[:, 0].tolist()
    if places:
        words = _unknown_words(tokenizer, prompt, unknown)
        named = f" ({', '.join(repr(word) for word in words)})" if words else ""
        warnings.warn(
            f"The model's vocabulary lacks what stands at positions {places} of the prompt{named}: it reads them as "
            "unknown. Mind case and spaces.",
            TLCircuitsWarning,
            stacklevel=4,
        )


def _unknown_words(tokenizer: Any, prompt: Prompt, unknown: int) -> list[str]:
    if not isinstance(prompt, str) or not tokenizer.is_fast:
        return []
    encoding = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    pairs = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [prompt[start:stop] for token, (start, stop) in pairs if token == unknown]


def as_positions(given: Any) -> list[int]:
    """Positions as whole numbers. Raises `PromptError` for what is no sequence of them."""
    positions = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    if isinstance(positions, str) or not isinstance(positions, Iterable):
        raise PromptError(f"masked_positions={given!r} is no sequence: write (0,) to mask the first, () to mask none.")
    positions = list(positions)
    if not all(whole(position) is not None for position in positions):
        raise PromptError(f"masked_positions={positions} are not all whole numbers: write (0,) to mask the first.")
    return [int(position) for position in positions]


def _strings(model: Model, tokens: Int64[Tensor, " pos"]) -> tuple[str, ...]:
    if model.tokenizer is None:
        return tuple(str(token) for token in tokens.tolist())
    return tuple(model.tokenizer.decode([token]) for token in tokens.tolist())
