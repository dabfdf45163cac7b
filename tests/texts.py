"""Tiny models that read text, with a byte-level tokenizer of their own: " Austin" is one token, "Austin" is several."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests import models

_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ bos_token if loop.first }}{{ message['role'] }}:{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %} model:{% endif %}"
)


def tokenizer() -> Any:
    """A fresh tokenizer whose beginning-of-sequence token has id 0, as Pythia's has."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([" Austin is in Texas."] * 50, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    # TransformerLens loads a tokenizer anew by its name, so it has to have been a file.
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=bpe, **names).save_pretrained(Path(folder))
        loaded = AutoTokenizer.from_pretrained(folder, add_bos_token=True)
    loaded.chat_template = _CHAT_TEMPLATE
    return loaded


@cache
def reader(model_class: str) -> Any:
    """A random GPT-2 that reads text, in one class."""
    made = _hooked() if model_class == "hooked" else _bridge()
    models._shake(made, 0.1)
    return made.eval()


def _hooked() -> HookedTransformer:
    words = tokenizer()
    config = {**models._COMMON, **models._HOOKED["gpt2"], "d_vocab": len(words), "dtype": torch.float64}
    with models.quiet():
        return HookedTransformer(HookedTransformerConfig(**config), tokenizer=words)


def _bridge() -> Any:
    words = tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(words), n_embd=models.D_MODEL, n_layer=models.N_LAYERS, n_head=2, n_positions=models.N_CTX
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    model.config.dtype = torch.float64
    with models.quiet():
        return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=words)
