"""Bytes that training takes of memory, by what it is told: measured on runs, and rounded up rather than down."""

from dataclasses import dataclass

from tl_circuits.harvest.pairs import tokens_of_pass
from tl_circuits.sites import Model
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.source import held_tokens, sampled_tokens
from tl_circuits.training.weights import Architecture

# float32 weights, two moments, and a gradient where it is held.
COPIES, COPIES_IN_LOW_MEMORY = 4, 3
# Of every token's pre-activation by a dense step: it, its activation, what it is charged, and gradients of these. Where
# parameters are updated inside the backward pass, more of it is still there at the most.
BYTES_OF_ENTRY, BYTES_OF_ENTRY_IN_LOW_MEMORY = 28, 44
# Of decoders, beside those: rows along their first one and beside it, kept for the backward pass.
COPIES_BY_DIRECTION = 8
# Fine-tuning has weights and moments, what they fold into, a copy of that, and gradients of each.
COPIES_IN_FINETUNING = 8


@dataclass(frozen=True)
class Need:
    """Bytes of one process at a stage of training: some for each of its features of a layer, and some beside."""

    per_feature: int
    beside: int

    def of(self, features: int) -> int:
        """The bytes, at so many features."""
        return features * self.per_feature + self.beside

    def widest(self, available: int) -> int:
        """The most features that fit."""
        return max(0, available - self.beside) // self.per_feature


def parameters_of(shape: Architecture) -> tuple[int, int]:
    """Parameters of a feature in every layer, and those that are there however many features there are."""
    d_model, n_layers = shape.d_model, shape.n_layers
    return n_layers * (d_model + 2) + _tables(shape) * d_model, n_layers * d_model * (1 + d_model * shape.skip)


def is_streamed(settings: TrainingSettings, n_layers: int, d_model: int, n_tokens: int) -> bool:
    """Whether data come in blocks."""
    return n_tokens > held_tokens(settings, n_layers, d_model)


def bytes_of_data(settings: TrainingSettings, n_layers: int, d_model: int, n_tokens: int, cached: bool) -> int:
    """What is held of the data. From a cache, the next block is there too."""
    room, sampled = held_tokens(settings, n_layers, d_model), sampled_tokens(n_layers, d_model)
    streamed = is_streamed(settings, n_layers, d_model, n_tokens)
    blocks = 2 if streamed and cached else 1
    # The sample is there twice while its scales are taken.
    tokens = blocks * min(n_tokens, room) + 2 * (min(sampled, room) if streamed else sampled)
    return 8 * n_layers * d_model * tokens + 9 * n_tokens


def need_of_fit(shape: Architecture, settings: TrainingSettings, n_replicas: int) -> Need:
    """Of a step, without the data."""
    each, others = parameters_of(shape)
    copies = COPIES_IN_LOW_MEMORY if settings.low_memory else COPIES
    batch = settings.batch_tokens // n_replicas
    entry = BYTES_OF_ENTRY_IN_LOW_MEMORY if settings.low_memory else BYTES_OF_ENTRY
    per_feature = 4 * copies * each + entry * batch * shape.n_layers
    if settings.charge == "direction":
        per_feature += 4 * COPIES_BY_DIRECTION * shape.d_model * _tables(shape)
    if settings.working_dtype == "bfloat16":
        per_feature += 4 * each
    return Need(per_feature, 4 * copies * others + 24 * batch * shape.n_layers * shape.d_model)


def need_of_finetuning(
    model: Model, shape: Architecture, settings: TrainingSettings, width: int, n_replicas: int
) -> Need:
    """Of a fine-tuning step on prompts of so many tokens, which keeps the whole replacement model's activations."""
    each, others = parameters_of(shape)
    tokens = settings.finetune_prompts // n_replicas * width
    cfg, d_model = model.cfg, shape.d_model
    in_layer = 16 * d_model + 4 * (cfg.d_mlp or 4 * d_model) + 4 * cfg.n_heads * width
    passing = 4 * tokens * (shape.n_layers * in_layer + 8 * cfg.d_vocab)
    per_feature = 4 * COPIES_IN_FINETUNING * each + 16 * tokens * shape.n_layers
    return Need(per_feature, 4 * COPIES_IN_FINETUNING * others + passing)


def bytes_of_pass(model: Model, width: int, n_tokens: int) -> int:
    """What the model takes in a pass over prompts: inside MLPs, and scores and patterns of one attention layer."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    inside = 4 * (model.cfg.d_mlp or 4 * d_model) + 8 * d_model + 2 * model.cfg.n_heads * width
    return 4 * min(n_tokens, tokens_of_pass(n_layers, d_model)) * inside


def _tables(shape: Architecture) -> int:
    return len({shape.table(*pair) for pair in shape.pairs})
