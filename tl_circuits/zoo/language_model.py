"""The zoo's language models: GPT-2 in small, trained from scratch in minutes to answer questions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from tl_circuits.progress import stage
from tl_circuits.zoo.tokenizer import BOS, EOS, IGNORED

Batch = tuple[Int64[Tensor, "prompt pos"], Int64[Tensor, "prompt pos"]]


@dataclass(frozen=True)
class ModelSettings:
    """How a model is shaped and trained: AdamW, warm-up, then a cosine down to a fiftieth of the learning rate."""

    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    n_ctx: int = 16
    steps: int = 2000
    batch: int = 384
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.4
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * cosine)


def untrained(settings: ModelSettings, d_vocab: int) -> GPT2LMHeadModel:
    """A GPT-2: learned positions, layer norms, `gelu_new`, an unembedding of its own; eager attention, no dropout."""
    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=settings.n_ctx,
        n_embd=settings.d_model,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        # With GPT-2's .02 a stream this narrow starts so small that facts take thousands of steps to learn.
        initializer_range=0.1,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config.architectures = ["GPT2LMHeadModel"]
    return GPT2LMHeadModel._from_config(config, attn_implementation="eager")


def train_language_model(batch: Callable[[], Batch], settings: ModelSettings, d_vocab: int) -> GPT2LMHeadModel:
    """The model after `settings.steps` batches; the loss counts answers only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = untrained(settings, d_vocab)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    model.train()
    with stage("language model", settings.steps) as bar:
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.lr_at(step)
            tokens, targets = batch()
            loss = answer_loss(model(tokens).logits, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.update(1)
    return model.eval()


def answer_loss(logits: Float[Tensor, "prompt pos d_vocab"], targets: Int64[Tensor, "prompt pos"]) -> Float[Tensor, ""]:
    """Cross entropy over the tokens of the answers."""
    asked = targets != IGNORED
    return cross_entropy(logits[asked], targets[asked])


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], batch: Batch) -> float:
    """The share of prompts whose whole answer, and the end after it, is the model's top token at every step."""
    right = [
        ((model(tokens).argmax(-1) == targets) | (targets == IGNORED)).all(-1)
        for tokens, targets in zip(batch[0].split(1024), batch[1].split(1024), strict=True)
    ]
    return torch.cat(right).float().mean().item()
