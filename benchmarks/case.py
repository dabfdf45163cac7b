"""The random cases that attribution benchmarks share, as files: a model, a transcoder, a prompt."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc
from benchmarks.holes import write_clt


@dataclass(frozen=True)
class Case:
    """What is traced. `l0` is the mean number of active features of a layer at a token; the first token plays BOS.

    `shape` is the architecture: GPT-2's, or Gemma 2's, whose transcoder is a CLT in bfloat16, on disk as large as it
    would be, with numbers for `numbered` features of a layer and holes for the rest.
    """

    kind: str = "clt"
    n_tokens: int = 16
    n_features: int = 2048
    l0: int = 20
    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    d_vocab: int = 50257
    seed: int = 0
    shape: str = "gpt2"
    numbered: int = 512

    MEANING: ClassVar[dict[str, str]] = {
        "kind": "clt or plt",
        "n_tokens": "tokens of the prompt",
        "n_features": "features of a layer",
        "l0": "active features of a layer at a token, on average",
        "n_layers": "of the model",
        "d_model": "width of the residual stream",
        "n_heads": "attention heads of a layer",
        "d_vocab": "tokens of the vocabulary",
        "seed": "what weights and tokens are drawn with",
        "shape": "gpt2, or gemma2: a CLT in bfloat16, on disk",
        "numbered": "features of a layer that have numbers, in shape gemma2",
    }

    def __post_init__(self) -> None:
        if self.kind not in ("clt", "plt") or self.shape not in ("gpt2", "gemma2"):
            raise SystemExit(f"A case is a clt or plt of shape gpt2 or gemma2, not {self.kind} of {self.shape}.")
        if self.shape == "gemma2" and self.kind != "clt":
            raise SystemExit("Cases of Gemma 2's shape are CLTs.")
        if self.n_tokens < 2 or not 0 < self.l0 < self.rows:
            raise SystemExit(
                f"{self.n_tokens} tokens with {self.l0} of {self.rows} features active: give at least 2 tokens, and "
                "more features than are active."
            )

    @property
    def rows(self) -> int:
        """How many features of a layer have numbers."""
        return min(self.numbered, self.n_features) if self.shape == "gemma2" else self.n_features

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser, **defaults: Any) -> None:
        """One option for each field."""
        for name, default in asdict(cls(**defaults)).items():
            meaning = f"{cls.MEANING[name]} (%(default)s)"
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=meaning)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Case":
        """The case that the command line asks for."""
        return cls(**{name: getattr(arguments, name) for name in asdict(cls())})


@dataclass(frozen=True)
class Loaded:
    """A case read back: a model, a prompt, and which of its positions are masked. `touch`: read all weights first."""

    model: HookedTransformer
    tokens: torch.Tensor
    masked: tuple[int, ...]
    touch: bool


def write(case: Case, folder: Path) -> None:
    """Writes the model, the transcoder (in circuit-tracer's layout) and the prompt, all random and seeded."""
    generator = torch.Generator().manual_seed(case.seed)
    tokens = torch.cat(
        [torch.zeros(1), torch.randint(1, case.d_vocab, (case.n_tokens - 1,), generator=generator)]
    ).long()
    config = gpt2(case) if case.shape == "gpt2" else gemma2(case)
    model = HookedTransformer(_config(config)).eval()
    reads = _reads(model, tokens)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, model, config, tokens, {"case": asdict(case), "masked": [0], "touch": case.shape == "gpt2"})
    del model
    if case.shape == "gemma2":
        write_clt(folder / "transcoder", reads, case.n_features, case.rows, case.l0, generator)
    else:
        tlc.save_transcoder(_transcoder(case, generator, reads), folder / "transcoder")


def write_demo(folder: Path, prompt: str, kind: str) -> None:
    """The same files for the model that ships with the package and one of its prompts."""
    model, transcoder = tlc.demo("hooked", transcoder=kind)
    names = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab", "act_fn", "eps", "model_name")
    config = {name: getattr(model.cfg, name) for name in names} | {"normalization_type": "LN", "device": "cpu"}
    folder.mkdir(parents=True, exist_ok=True)
    hooks = {"read": transcoder.read, "write": transcoder.write}
    about = {"case": {"kind": kind, "n_layers": model.cfg.n_layers}, "masked": [0], "touch": True, **hooks}
    write_model(folder, model, config, model.to_tokens(prompt)[0], about)
    tlc.save_transcoder(transcoder, folder / "transcoder")


def write_model(folder: Path, model: Any, config: dict[str, Any], tokens: torch.Tensor, about: dict[str, Any]) -> None:
    """The model's weights and the prompt as one file, and what they are as another."""
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    save_file(weights | {"tokens": tokens}, folder / "model.safetensors")
    hooks = {"read": "hook_resid_mid", "write": "hook_mlp_out"}
    (folder / "case.json").write_text(json.dumps(hooks | about | {"model": config}))


def read_case(folder: Path) -> Loaded:
    """What was written."""
    about = json.loads((folder / "case.json").read_text())
    weights = load_file(folder / "model.safetensors")
    # A copy: the tensors of a file share its mapping, which would stay as long as one of them.
    tokens = weights.pop("tokens").clone()
    model = HookedTransformer(_config(about["model"] | {"init_weights": False}))
    model.load_state_dict(weights, strict=False)
    return Loaded(model.eval(), tokens, tuple(about["masked"]), about["touch"])


def gpt2(case: Case) -> dict[str, Any]:
    """GPT-2's architecture."""
    return {
        "n_layers": case.n_layers,
        "d_model": case.d_model,
        "n_heads": case.n_heads,
        "d_head": case.d_model // case.n_heads,
        "d_mlp": 4 * case.d_model,
        "d_vocab": case.d_vocab,
        "n_ctx": max(1024, case.n_tokens),
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "seed": case.seed,
        "device": "cpu",
        "model_name": "random-gpt2-shape",
    }


def gemma2(case: Case) -> dict[str, Any]:
    """Gemma 2's architecture, in bfloat16: norms on both sides of each block, grouped queries, soft caps."""
    # Gemma 2 2B: 8 heads of 256 in a width of 2304.
    d_head = max(2, case.d_model * 8 // 9 // case.n_heads // 2 * 2)
    return {
        "n_layers": case.n_layers,
        "d_model": case.d_model,
        "n_heads": case.n_heads,
        "n_key_value_heads": max(1, case.n_heads // 2),
        "d_head": d_head,
        "d_mlp": 4 * case.d_model,
        "d_vocab": case.d_vocab,
        "n_ctx": max(1024, case.n_tokens),
        "act_fn": "gelu_pytorch_tanh",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "final_rms": True,
        "use_normalization_before_and_after": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "attn_scores_soft_cap": 50.0,
        "output_logits_soft_cap": 30.0,
        "dtype": "bfloat16",
        "seed": case.seed,
        "device": "cpu",
        "model_name": "random-gemma2-shape",
    }


def _config(plain: dict[str, Any]) -> HookedTransformerConfig:
    return HookedTransformerConfig(**(plain | {"dtype": getattr(torch, plain.get("dtype", "float32"))}))


def _reads(model: HookedTransformer, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What each layer's transcoder reads after the first token."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_mid"))
    return [cache[f"blocks.{layer}.hook_resid_mid"][0, 1:] for layer in range(model.cfg.n_layers)]


def threshold(preactivations: torch.Tensor, l0: int) -> torch.Tensor:
    """Between the last activation that `l0` features a token let through and the next."""
    top = preactivations.flatten().topk(l0 * len(preactivations) + 1).values
    return (top[-1] + top[-2]) / 2


def _transcoder(case: Case, generator: torch.Generator, reads: list[torch.Tensor]) -> tlc.CrossLayerTranscoder:
    W_enc = torch.randn(case.n_layers, case.n_features, case.d_model, generator=generator) / case.d_model**0.5
    spans = [case.n_layers - layer if case.kind == "clt" else 1 for layer in range(case.n_layers)]
    W_dec = [
        torch.randn(case.n_features, span, case.d_model, generator=generator) / case.d_model**0.5 for span in spans
    ]
    thresholds = [
        threshold(read @ rows.T, case.l0).expand(case.n_features) for rows, read in zip(W_enc, reads, strict=True)
    ]
    zeros = torch.zeros(case.n_layers, case.n_features)
    return tlc.CrossLayerTranscoder(
        W_enc, zeros, W_dec, torch.zeros(case.n_layers, case.d_model), activation=tlc.JumpReLU(torch.stack(thresholds))
    )
