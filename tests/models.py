"""Tiny random models of six families in both model classes, and transcoders that fit. Built once, never changed."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import transformers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from tl_circuits.transcoder import Activation, BatchTopK, CrossLayerTranscoder, JumpReLU, ReLU, TopK

FAMILIES = ("gpt2", "pythia", "llama", "gemma-2", "gemma-3", "qwen3")
CLASSES = ("hooked", "bridge")
N_LAYERS, D_MODEL, N_FEATURES, D_VOCAB, N_CTX = 3, 16, 24, 37, 16

_COMMON: dict[str, Any] = {
    "n_layers": N_LAYERS, "d_model": D_MODEL, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": D_VOCAB,
    "n_ctx": N_CTX, "device": "cpu", "seed": 0,
}  # fmt: skip
_RMS: dict[str, Any] = {
    "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 8, "gated_mlp": True,
    "final_rms": True, "n_key_value_heads": 1,
}  # fmt: skip
_HOOKED: dict[str, dict[str, Any]] = {
    "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN"},
    "pythia": {
        "act_fn": "gelu", "normalization_type": "LN", "positional_embedding_type": "rotary", "rotary_dim": 4,
        "parallel_attn_mlp": True,
    },
    "llama": {"act_fn": "silu", **_RMS},
    "gemma-2": {
        "act_fn": "gelu_pytorch_tanh", "use_normalization_before_and_after": True, "attn_scores_soft_cap": 50.0,
        "output_logits_soft_cap": 30.0, **_RMS,
    },
    "gemma-3": {"act_fn": "gelu_pytorch_tanh", "use_normalization_before_and_after": True, "use_qk_norm": True, **_RMS},
    "qwen3": {"act_fn": "silu", "use_qk_norm": True, **_RMS},
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """HookedTransformer announces its own end in version 4 each time it is made."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _shake(model: torch.nn.Module, scale: float = 0.3) -> None:
    # Fresh models have zero biases and unit gains: laws that fail on biases would pass unseen.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@cache
def hooked(family: str, dtype: torch.dtype = torch.float64, **overrides: Any) -> HookedTransformer:
    """A random HookedTransformer."""
    with quiet():
        model = HookedTransformer(
            HookedTransformerConfig(**{**_COMMON, **_HOOKED[family], "dtype": dtype, **overrides})
        )
    _shake(model)
    return model.eval()


def _hf_config(family: str) -> Any:
    shared: dict[str, Any] = {
        "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": 32, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": N_CTX,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    match family:
        case "gpt2":
            return transformers.GPT2Config(
                vocab_size=D_VOCAB,
                n_embd=D_MODEL,
                n_layer=N_LAYERS,
                n_head=2,
                n_positions=N_CTX,
                bos_token_id=1,
                eos_token_id=2,
            )
        case "pythia":
            plain = {k: v for k, v in shared.items() if k not in ("num_key_value_heads", "head_dim")}
            plain |= {"rotary_pct": 0.5}
            return transformers.GPTNeoXConfig(**plain)
        case "llama":
            return transformers.LlamaConfig(**shared)
        case "gemma-2":
            return transformers.Gemma2Config(**shared, sliding_window=4, query_pre_attn_scalar=8)
        case "gemma-3":
            return transformers.Gemma3TextConfig(**shared, sliding_window=4, query_pre_attn_scalar=8)
        case "qwen3":
            return transformers.Qwen3Config(**shared)
        case "mixtral":
            return transformers.MixtralConfig(**shared, num_local_experts=2, num_experts_per_tok=1)
        case "granite":
            return transformers.GraniteConfig(**{k: v for k, v in shared.items() if k != "head_dim"})
    raise ValueError(family)


@cache
def bridge(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A random TransformerBridge."""
    torch.manual_seed(0)
    config = _hf_config(family)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()
    model.config.dtype = dtype
    _shake(model, 0.1)
    with quiet():
        return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=None)


def model_of(family: str, model_class: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model of one family in one class."""
    return (hooked if model_class == "hooked" else bridge)(family, dtype)


_ACTIVATIONS: dict[str, Callable[[torch.Generator], Activation]] = {
    "relu": lambda _: ReLU(),
    "jumprelu": lambda generator: JumpReLU(torch.rand(N_LAYERS, N_FEATURES, generator=generator)),
    "topk": lambda _: TopK(5),
    "batchtopk": lambda generator: BatchTopK(5, torch.rand(N_LAYERS, generator=generator)),
}


@cache
def transcoder(
    span: int = N_LAYERS,
    skip: bool = False,
    shift: bool = False,
    activation: str = "jumprelu",
    read: str = "ln2.hook_normalized",
    write: str = "hook_mlp_out",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> CrossLayerTranscoder:
    """A random transcoder of which about a quarter of the features are active."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    written = [min(span, N_LAYERS - layer) for layer in range(N_LAYERS)]
    return CrossLayerTranscoder(
        normal(N_LAYERS, N_FEATURES, D_MODEL) / D_MODEL**0.5,
        normal(N_LAYERS, N_FEATURES) * 0.3 - 0.3,
        [normal(N_FEATURES, n, D_MODEL) for n in written],
        normal(N_LAYERS, D_MODEL),
        W_skip=normal(N_LAYERS, D_MODEL, D_MODEL) * 0.2 if skip else None,
        shift=[normal(N_FEATURES, n) for n in written] if shift else None,
        activation=_ACTIVATIONS[activation](generator),
        read=read,
        write=write,
    )


def reads(family: str) -> tuple[str, ...]:
    """The read points that a family has: parallel blocks have no residual stream between attention and MLP."""
    return (
        ("ln2.hook_normalized", "mlp.hook_in")
        if family == "pythia"
        else ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in")
    )
