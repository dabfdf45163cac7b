"""The random case that attribution benchmarks share, as files: a GPT-2-small shape, a transcoder, a prompt."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc


@dataclass(frozen=True)
class Case:
    """What is traced. `l0` is the mean number of active features of a layer at a token; the first token plays BOS."""

    kind: str = "clt"
    n_tokens: int = 16
    n_features: int = 2048
    l0: int = 20
    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    d_vocab: int = 50257
    seed: int = 0

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """One option for each field."""
        for name, default in asdict(cls()).items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Case":
        """The case that the command line asks for."""
        return cls(**{name: getattr(arguments, name) for name in asdict(cls())})


def write(case: Case, folder: Path) -> None:
    """Writes the model, the transcoder (in circuit-tracer's layout) and the prompt, all random and seeded."""
    generator = torch.Generator().manual_seed(case.seed)
    tokens = torch.cat(
        [torch.zeros(1), torch.randint(1, case.d_vocab, (case.n_tokens - 1,), generator=generator)]
    ).long()
    model = HookedTransformer(HookedTransformerConfig(**model_config(case))).eval()
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_mid"))
    transcoder = _transcoder(
        case, generator, [cache[f"blocks.{layer}.hook_resid_mid"][0, 1:] for layer in range(case.n_layers)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().contiguous() for name, value in model.named_parameters()} | {"tokens": tokens},
        folder / "model.safetensors",
    )
    (folder / "case.json").write_text(json.dumps({"case": asdict(case), "model": model_config(case)}))
    tlc.save_transcoder(transcoder, folder / "transcoder")


def read_model(folder: Path) -> tuple[HookedTransformer, torch.Tensor]:
    """The model and the prompt that `write` wrote."""
    weights = load_file(folder / "model.safetensors")
    tokens = weights.pop("tokens")
    model = HookedTransformer(HookedTransformerConfig(**json.loads((folder / "case.json").read_text())["model"]))
    model.load_state_dict(weights, strict=False)
    return model.eval(), tokens


def model_config(case: Case) -> dict[str, object]:
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


def _transcoder(case: Case, generator: torch.Generator, reads: list[torch.Tensor]) -> tlc.CrossLayerTranscoder:
    W_enc = torch.randn(case.n_layers, case.n_features, case.d_model, generator=generator) / case.d_model**0.5
    spans = [case.n_layers - layer if case.kind == "clt" else 1 for layer in range(case.n_layers)]
    W_dec = [
        torch.randn(case.n_features, span, case.d_model, generator=generator) / case.d_model**0.5 for span in spans
    ]
    # One threshold per layer, between the last activation that l0 per token lets through and the next.
    thresholds = []
    for rows, read in zip(W_enc, reads, strict=True):
        top = (read @ rows.T).flatten().topk(case.l0 * len(read) + 1).values
        thresholds.append(((top[-1] + top[-2]) / 2).expand(case.n_features))
    zeros = torch.zeros(case.n_layers, case.n_features)
    return tlc.CrossLayerTranscoder(
        W_enc, zeros, W_dec, torch.zeros(case.n_layers, case.d_model), activation=tlc.JumpReLU(torch.stack(thresholds))
    )
