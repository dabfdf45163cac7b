"""Six families under the names that users type, tiny and random, with tokenizers that begin as the real ones do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import get_pretrained_model_config, get_pretrained_state_dict
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from tests import models
from tests.hub import Hub

WINDOW = 4
_TEXT = [" Austin is in Texas.", "user\nmodel\n"] * 50

GEMMA_CHAT = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first = '' -%}"
    "{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant.') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ (first if loop.first else '') + message['content'] | trim }}{{ '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Words:
    """A tokenizer: its special tokens in order, what they are for, and whether text starts with its BOS."""

    special: tuple[str, ...]
    roles: dict[str, str]
    starts_with_bos: bool = False
    chat: str | None = None

    def save(self, folder: Path) -> int:
        """Writes it as AutoTokenizer reads it; its size is returned."""
        bpe = Tokenizer(BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=list(self.special), initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(_TEXT, trainer)
        if self.starts_with_bos:
            bos = self.roles["bos_token"]
            bpe.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, self.special.index(bos))]
            )
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe, **self.roles)
        fast.chat_template = self.chat
        fast.save_pretrained(folder)
        return len(fast)


_ENDOFTEXT = "<|endoftext|>"
_GPT2 = Words((_ENDOFTEXT,), dict.fromkeys(("bos_token", "eos_token", "unk_token"), _ENDOFTEXT))
_NEOX = Words((_ENDOFTEXT, "<|padding|>"), _GPT2.roles)
_LLAMA = Words(
    ("<|begin_of_text|>", "<|end_of_text|>"),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    starts_with_bos=True,
)
_GEMMA = Words(
    ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    starts_with_bos=True,
    chat=GEMMA_CHAT,
)
_QWEN = Words((_ENDOFTEXT, "<|im_start|>", "<|im_end|>"), {"eos_token": "<|im_end|>", "pad_token": _ENDOFTEXT})


@dataclass(frozen=True)
class Named:
    """A model of the hub: its repository, the name of its classes, its tokenizer, and how it is made small.

    `hooked` are the sizes that TransformerLens hard-codes for HookedTransformer, made small; None where it reads them
    from the hub.
    """

    repository: str
    config: type[Any]
    words: Words
    extra: dict[str, Any] = field(default_factory=dict)
    hooked: dict[str, Any] | None = None
    name: str = ""

    def serve(self, hub: Hub) -> None:
        """Puts the model on the hub, its weights as they come from a seed."""
        folder = hub.repository(self.repository)
        d_vocab = self.words.save(folder)
        torch.manual_seed(0)
        config = self.config(vocab_size=d_vocab, **self._special(), **self.extra)
        model = transformers.AutoModelForCausalLM.from_config(config)
        models._shake(model, 0.1)
        model.save_pretrained(folder)

    def _special(self) -> dict[str, int | None]:
        roles = ("bos_token", "eos_token", "pad_token")
        known = {role: self.words.roles.get(role) for role in roles}
        return {f"{role}_id": None if word is None else self.words.special.index(word) for role, word in known.items()}

    def bridge(self, dtype: torch.dtype = torch.float32) -> Any:
        """By its name, as a TransformerBridge."""
        return TransformerBridge.boot_transformers(self.name or self.repository, dtype=dtype).eval()

    def as_hooked(self, dtype: torch.dtype = torch.float32, kind: type[HookedTransformer] = HookedTransformer) -> Any:
        """By its name, as a HookedTransformer; where its sizes are hard-coded, with the small ones in their place."""
        name = self.name or self.repository
        if self.hooked is None:
            return kind.from_pretrained_no_processing(name, dtype=dtype).eval()
        theirs = get_pretrained_model_config(name, dtype=dtype, device="cpu").to_dict()
        heads = {"n_heads": 2, "n_key_value_heads": 1, "d_head": 8, "rotary_dim": 8, "attn_scale": 8**0.5, "d_mlp": 32}
        d_vocab = transformers.AutoConfig.from_pretrained(name).vocab_size
        small = {"d_model": models.D_MODEL, "n_layers": models.N_LAYERS, "n_ctx": models.N_CTX, "d_vocab": d_vocab}
        config = HookedTransformerConfig.from_dict({**theirs, "d_vocab_out": d_vocab, **small, **heads, **self.hooked})
        model = kind(config)
        hf_model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        model.load_and_process_state_dict(
            get_pretrained_state_dict(name, config, hf_model, dtype=dtype),
            fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False,
        )  # fmt: skip
        return model.eval()


_SIZES: dict[str, Any] = {
    "hidden_size": models.D_MODEL, "intermediate_size": 32, "num_hidden_layers": models.N_LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": models.N_CTX,
}  # fmt: skip
_GROUPED: dict[str, Any] = _SIZES | {"num_key_value_heads": 1, "head_dim": 8}
_GPT2_SIZES: dict[str, Any] = {
    "n_embd": models.D_MODEL, "n_layer": models.N_LAYERS, "n_head": 2, "n_positions": models.N_CTX,
    # TransformerLens reads this one, which the real model's config still has.
    "n_ctx": models.N_CTX,
}  # fmt: skip
_LLAMA_ROPE: dict[str, Any] = {
    "rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def _gemma(repository: str, config: type[Any], turns: tuple[str, ...]) -> Named:
    """With a window that is shorter than a prompt, on the layers that have one."""
    layers = [f"{turn}_attention" for turn in turns]
    hooked = {
        "attn_types": ["local" if turn == "sliding" else "global" for turn in turns],
        "window_size": WINDOW,
    }
    extra = _GROUPED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": layers}
    return Named(repository, config, _GEMMA, extra, hooked)


_ALTERNATE = ("sliding", "full", "sliding")
FAMILIES: dict[str, Named] = {
    "gpt2": Named("openai-community/gpt2", transformers.GPT2Config, _GPT2, _GPT2_SIZES, name="gpt2"),
    "pythia": Named("EleutherAI/pythia-70m", transformers.GPTNeoXConfig, _NEOX, _SIZES | {"rotary_pct": 0.25}),
    "llama": Named(
        "meta-llama/Llama-3.2-1B",
        transformers.LlamaConfig,
        _LLAMA,
        _GROUPED | {"rope_parameters": _LLAMA_ROPE, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        {},
    ),
    "gemma-2": _gemma("google/gemma-2-2b", transformers.Gemma2Config, _ALTERNATE),
    "gemma-3": _gemma("google/gemma-3-1b-it", transformers.Gemma3TextConfig, _ALTERNATE),
    "qwen3": Named("Qwen/Qwen3-0.6B", transformers.Qwen3Config, _QWEN, _GROUPED | {"tie_word_embeddings": True}),
}
GEMMA_3_PT = _gemma("google/gemma-3-1b-pt", transformers.Gemma3TextConfig, _ALTERNATE)


def serve_all(hub: Hub) -> None:
    """All of them, and GPT-2 under its old name too, as on the real hub."""
    for named in (*FAMILIES.values(), GEMMA_3_PT):
        named.serve(hub)
    hub.moved["gpt2"] = "openai-community/gpt2"
