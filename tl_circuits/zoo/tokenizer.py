"""The zoo's tokenizers: words, the two pieces of each city's name, digits. Text goes in and comes out as English."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tl_circuits.zoo.world import RELATIONS, STATES, fact

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(4)
IGNORED = -100


@runtime_checkable
class Asked(Protocol):
    """What a model reads and what it should say next."""

    @property
    def text(self) -> str: ...

    @property
    def answer(self) -> str: ...


def vocabulary() -> tuple[str, ...]:
    """The demo's tokens in order: special, words of the questions, digits, pieces of cities, states and answers."""
    words = [
        "the",
        " the",
        " of",
        " state",
        " containing",
        " is",
        *(f" {relation}" for relation in RELATIONS),
        "+",
        "=",
    ]
    first = [" " + city.split("|")[0] for state in STATES for city in state.cities]
    second = [city.split("|")[1] for state in STATES for city in state.cities]
    answers = [f" {fact(state, relation)}" for relation in RELATIONS for state in STATES]
    tokens = [*words, *"0123456789", *sorted(first), *sorted(second), *(f" {state.name}" for state in STATES), *answers]
    return (*SPECIAL, *dict.fromkeys(tokens))


def save_tokenizer(folder: Path, tokens: Sequence[str], *, apart: str | None = None) -> None:
    """Writes a tokenizer that `AutoTokenizer.from_pretrained(folder)` loads, BOS first as a language model expects.

    All tokens are equally likely to a unigram model, so a text is cut into as few of them as possible; what is in none
    becomes `<unk>`. What the regular expression `apart` matches is cut by itself. A capital "The" at the start reads as
    "the".
    """
    tokenizer = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=UNKNOWN, byte_fallback=False))
    if apart is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(apart), "isolated")
    tokenizer.normalizer = normalizers.Replace(Regex(r"^The\b"), "the")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names).save_pretrained(
        folder
    )


def encode(prompts: Iterable[Asked], tokenizer) -> tuple[Int64[Tensor, "prompt pos"], Int64[Tensor, "prompt pos"]]:
    """Tokens, padded on the right, and what should follow each: the answer's tokens and EOS, `IGNORED` elsewhere."""
    rows = []
    for prompt in prompts:
        question, whole = (tokenizer(text).input_ids for text in (prompt.text, prompt.text + prompt.answer))
        rows.append((whole, [IGNORED] * (len(question) - 1) + whole[len(question) :] + [EOS]))
    width = max(len(whole) for whole, _ in rows)
    tokens = torch.full((len(rows), width), PAD)
    targets = torch.full((len(rows), width), IGNORED)
    for row, (whole, following) in enumerate(rows):
        tokens[row, : len(whole)] = torch.tensor(whole)
        targets[row, : len(whole)] = torch.tensor(following)
    return tokens, targets
