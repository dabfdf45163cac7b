"""The small language model that is taught the behaviours of `sentences`, and how well it has learnt them."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.circuits.sentences import TASKS, Pair, pairs, vocabulary
from tl_circuits.zoo.demo import hooked
from tl_circuits.zoo.language_model import Batch, ModelSettings, train_language_model, untrained
from tl_circuits.zoo.tokenizer import BOS, IGNORED, PAD

NAME = "circuits-sentences"
N_CTX = 20
SHARES = {"modular addition": 4.0, "induction": 3.0, "indirect object": 2.0, "docstring": 2.0, "greater-than": 2.0}
"""How much more often than others a behaviour is taught: those that take longer to learn."""


@dataclass(frozen=True)
class Recipe:
    """How the model is shaped and taught: of every behaviour `pool` sentences times its share, again and again."""

    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    steps: int = 2400
    batch: int = 256
    lr: float = 3e-3
    weight_decay: float = 0.3
    pool: int = 3000
    seed: int = 0

    @property
    def settings(self) -> ModelSettings:
        """The same for the demo's schedule."""
        shape = {name: getattr(self, name) for name in ("n_layers", "d_model", "n_heads", "batch", "lr")}
        return ModelSettings(n_ctx=N_CTX, steps=self.steps, weight_decay=self.weight_decay, seed=self.seed, **shape)


def save_tokenizer(folder: Path) -> None:
    """Writes a tokenizer with a token for every word."""
    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(vocabulary())}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **special).save_pretrained(
        folder
    )


def sentence_model(folder: Path, recipe: Recipe) -> Any:
    """The model as a HookedTransformer, from a folder where it has been taught before, and else taught now."""
    place = folder / "model.safetensors"
    said = folder / "model.json"
    language_model = untrained(recipe.settings, len(vocabulary()))
    if not (said.is_file() and json.loads(said.read_text(encoding="utf-8"))["recipe"] == asdict(recipe)):
        folder.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        language_model = taught(recipe)
        record = {"recipe": asdict(recipe), "processor_s": round(time.process_time() - began, 1)}
        save_file({name: tensor.contiguous() for name, tensor in language_model.state_dict().items()}, place)
        said.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    language_model.load_state_dict(load_file(place))
    save_tokenizer(folder)
    model = hooked(language_model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True))
    model.cfg.model_name = NAME
    return model.requires_grad_(False)


def taught(recipe: Recipe) -> GPT2LMHeadModel:
    """The model after its steps. Deterministic by seed on one thread."""
    draw, how = torch.Generator().manual_seed(recipe.seed), recipe.settings
    tokens, targets, weights = lessons(recipe.seed, recipe.pool)

    def batch() -> Batch:
        rows = torch.multinomial(weights, how.batch, replacement=True, generator=draw)
        return tokens[rows], targets[rows]

    return train_language_model(batch, how, len(vocabulary()))


def lessons(
    seed: int,
    pool: int,
) -> tuple[Int64[Tensor, "prompt pos"], Int64[Tensor, "prompt pos"], Tensor]:
    """What is taught: sentences, what should follow each word of them, and how often each is drawn."""
    number = {word: row for row, word in enumerate(vocabulary())}
    rows, asked, weights = [], [], []
    for task in TASKS:
        share = SHARES.get(task, 1.0)
        drawn = list(itertools.islice(pairs(task, seed), round(pool * share)))
        rows += [[BOS, *(number[word] for word in _taught(pair))] for pair in drawn]
        asked += [pair.taught for pair in drawn]
        weights += [share / len(drawn)] * len(drawn)
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), PAD)
    targets = torch.full_like(tokens, IGNORED)
    for row, (ids, last) in enumerate(zip(rows, asked, strict=True)):
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, len(ids) - 1 - last : len(ids) - 1] = torch.tensor(ids[-last:])
    return tokens, targets, torch.tensor(weights)


def token_ids(sentences: Sequence[tuple[str, ...]]) -> Int64[Tensor, "prompt pos"]:
    """Sentences of one length as token ids, the beginning of sequence first."""
    number = {word: row for row, word in enumerate(vocabulary())}
    return torch.tensor([[BOS, *(number[word] for word in words)] for words in sentences])


def _taught(pair: Pair) -> tuple[str, ...]:
    return (*pair.clean, pair.answer, *pair.rest)
