"""Bytes that training takes of memory, by what it is told: measured on runs, and rounded up rather than down."""

import math
from dataclasses import dataclass

from tl_circuits.harvest.pairs import tokens_of_pass
from tl_circuits.hooks import Model
from tl_circuits.training.calibration import ENTRIES, TOKENS_OF_BIASES
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.source import held_tokens, sampled_tokens
from tl_circuits.training.weights import Architecture

# float32 weights and two moments.
COPIES = 3
# Of every token's pre-activation while one layer of a dense step goes back: gradients of it, of its activation, and
# what they are made from.
BYTES_IN_PASSING = 28
# An entry of a sparse step: where it is, in three orders, and its values.
BYTES_OF_LISTED = 80
# Of decoders, beside those: rows along their first one and beside it, kept for the backward pass.
COPIES_BY_DIRECTION = 5
# The C library maps blocks from this size on by themselves and gives them back at once. Of smaller ones that come and
# go it was seen to keep so many times as much as was there together.
MAPPED, HOLES = 2**25, 1.5
# Biases are set from so many tokens at a time, a few copies of whose pre-activations are there.
BYTES_OF_BIAS = 10
# Fine-tuning has weights and moments, what they fold into, a copy of that, and gradients of each.
COPIES_IN_FINETUNING = 8


@dataclass(frozen=True)
class Need:
    """Bytes of one process at a stage of training: some for each of its features of a layer, and some beside.

    Below `mapped` features, `holes` come to each: what the C library keeps of what comes and goes.
    """

    per_feature: int
    beside: int
    holes: int = 0
    mapped: int = 0

    def of(self, features: int) -> int:
        """The bytes, at so many features."""
        return features * (self.per_feature + self.holes * (features < self.mapped)) + self.beside

    def widest(self, available: int) -> int:
        """The most features that fit."""
        left = max(0, available - self.beside)
        wide = left // self.per_feature
        return wide if wide >= self.mapped else left // (self.per_feature + self.holes)


def parameters_of(shape: Architecture) -> tuple[int, int]:
    """Parameters of a feature in every layer, and those that are there however many features there are."""
    d_model, n_layers = shape.d_model, shape.n_layers
    return n_layers * (d_model + 2) + _tables(shape) * d_model, n_layers * d_model * (1 + d_model * shape.skip)


def is_streamed(settings: TrainingSettings, n_layers: int, d_model: int, n_tokens: int) -> bool:
    """Whether data come in blocks."""
    return n_tokens > held_tokens(settings, n_layers, d_model)


def bytes_of_data(settings: TrainingSettings, n_layers: int, d_model: int, n_tokens: int, cached: bool) -> int:
    """What is held of the data, the sample apart. From a cache, the next block is there too."""
    held = n_tokens
    if is_streamed(settings, n_layers, d_model, n_tokens):
        # A block has two batches at least.
        block = max(held_tokens(settings, n_layers, d_model), 2 * settings.batch_tokens)
        held = 2 * block if cached else block
    return 8 * n_layers * d_model * held + 9 * n_tokens


def bytes_of_sample(settings: TrainingSettings, n_layers: int, d_model: int, n_tokens: int) -> int:
    """The sample that units and thresholds are taken from."""
    room, sampled = held_tokens(settings, n_layers, d_model), sampled_tokens(n_layers, d_model)
    streamed = is_streamed(settings, n_layers, d_model, n_tokens)
    return 8 * n_layers * d_model * (min(sampled, room) if streamed else sampled)


def need_of_beginning(shape: Architecture, settings: TrainingSettings, sample: int) -> Need:
    """Of the units, for which a sample that is held is there once more, and of biases set from it."""
    each, others = parameters_of(shape)
    biases = BYTES_OF_BIAS * min(ENTRIES, TOKENS_OF_BIASES * shape.features) if settings.initial_l0 else 0
    return Need(4 * each, 4 * others + sample + biases)


def need_of_fit(shape: Architecture, settings: TrainingSettings, n_replicas: int) -> Need:
    """Of a step, without the data.

    What activations leave for the backward pass goes as gradients come: at the most, the larger of the two is there.
    With `low_memory` there are no more gradients than one, or than decoders that are tied by their targets.
    """
    each, others = parameters_of(shape)
    batch = settings.batch_tokens // n_replicas
    kept = _kept_of_token(shape, settings) * batch
    gradients = 4 * shape.d_model * (shape.n_layers if shape.tied == "target" else 2)
    if not settings.low_memory:
        gradients = max(kept, 4 * each) - kept
    passing = kept + BYTES_IN_PASSING * batch
    per_feature = 4 * COPIES * each + gradients + passing
    if settings.charge == "direction":
        per_feature += 4 * COPIES_BY_DIRECTION * shape.d_model * _tables(shape)
    if settings.working_dtype == "bfloat16":
        per_feature += 4 * each
    beside = 4 * (COPIES + 1) * others + 24 * batch * shape.n_layers * shape.d_model
    return Need(per_feature, beside, int(HOLES * passing), MAPPED // (4 * batch))


def _kept_of_token(shape: Architecture, settings: TrainingSettings) -> int:
    """Bytes that the forward pass leaves of a feature's activations at one token, in all layers."""
    n_layers, n_pairs = shape.n_layers, sum(1 for _ in shape.pairs)
    if settings.backend == "sparse" and settings.initial_l0 is None:
        # Without biases from data, JumpReLU and ReLU begin with most of their features on.
        on = settings.k / settings.features if "topk" in settings.activation else 1
        return math.ceil(BYTES_OF_LISTED * n_layers * on)
    charged = 0 if not settings.sparsity else n_layers if settings.charge == "feature" else n_pairs
    # Copies in bfloat16 are made for every decoder.
    rounded = 2 * n_pairs if settings.working_dtype == "bfloat16" else 0
    return (12 if "topk" in settings.activation else 8) * n_layers + 4 * charged + rounded


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
