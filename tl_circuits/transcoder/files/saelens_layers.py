"""A per-layer transcoder as one SAELens record per layer, and such records as a transcoder.

Both say relu(h)·1[h > θ] where SAELens says JumpReLU. Of the activations that SAELens has no transcoder for, TopK and
GroupMax are architectures of ours (`FURTHER`), and BatchTopK is stored as the JumpReLU that it is at inference.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tl_circuits.errors import FileError, FitError
from tl_circuits.saelens import PROCESSED, UNPROCESSED, SAETranscoder
from tl_circuits.sites import READS, WRITES
from tl_circuits.transcoder.activations import Activation, BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from tl_circuits.transcoder.files.activations import threshold_at
from tl_circuits.transcoder.files.hf_names import read_point
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


@dataclass(frozen=True)
class Architecture:
    """A kind of transcoder by SAELens's name for it: which activation, with a skip or not, and its own settings."""

    name: str
    activation: type[Activation]
    skip: bool

    @property
    def class_name(self) -> str:
        """What a SAELens class of it is called."""
        return f"{self.activation.__name__}{'Skip' if self.skip else ''}Transcoder"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it has beyond those of every transcoder, with values to start from."""
        return {TopK: {"k": 1, "relu": False}, GroupMax: {"k": 1}}.get(self.activation, {})

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its weights."""
        more = {"threshold": self.activation is JumpReLU, "W_skip": self.skip}
        return ("W_enc", "b_enc", "W_dec", "b_dec", *(name for name, there in more.items() if there))


FURTHER = tuple(
    Architecture(f"tl_circuits_{activation.name}_{'skip_' if skip else ''}transcoder", activation, skip)
    for activation in (TopK, GroupMax)
    for skip in (False, True)
)
"""Ours, under names that no version of SAELens will take, and that tell who can read them."""

ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("transcoder", ReLU, skip=False),
        Architecture("skip_transcoder", ReLU, skip=True),
        Architecture("jumprelu_transcoder", JumpReLU, skip=False),
        Architecture("jumprelu_skip_transcoder", JumpReLU, skip=True),
        *FURTHER,
    )
}


def activation_of(architecture: Architecture, settings: Any) -> Callable[[Tensor], Tensor]:
    """One of our activations as SAELens calls it, from the settings of an SAE."""
    values = {name: getattr(settings, name) for name in architecture.settings}
    return partial(architecture.activation(**values), layer=0)


# Ours as SAELens's


def records_of(transcoder: CrossLayerTranscoder) -> Iterator[SAETranscoder]:
    """Its layers in order, as views of its weights. Raises `FitError` at once where SAELens cannot say what it is."""
    _check_sayable(transcoder)
    return (_record_of(transcoder, layer) for layer in range(transcoder.n_layers))


def _check_sayable(transcoder: CrossLayerTranscoder) -> None:
    if not transcoder.is_per_layer:
        raise FitError(
            f"This transcoder's features write up to {transcoder.span} layers, and a SAELens transcoder writes one: "
            "its decoders would have to be summed, which computes something else. save_transcoder keeps it as it is."
        )
    shifted = sum(int((shift != 0).sum()) for shift in transcoder.shift or ())
    if shifted:
        raise FitError(
            f"{shifted} of {sum(transcoder.n_features)} features have a shift that is added to what they write, for "
            "which SAELens has no place: keep the transcoder with save_transcoder."
        )
    _architecture(transcoder)
    activation = transcoder.activation
    if isinstance(activation, JumpReLU):
        negative = int((activation.threshold < 0).sum())
        if negative:
            raise FitError(
                f"{negative} of {activation.threshold.numel()} JumpReLU thresholds are negative and let negative "
                "activations through, which SAELens's JumpReLU never does: clamp them at 0 if that is meant, or keep "
                "the transcoder with save_transcoder."
            )
    if isinstance(activation, GroupMax):
        for layer, n_features in enumerate(transcoder.n_features):
            if n_features % activation.k:
                raise FitError(
                    f"GroupMax cannot divide the {n_features} features of layer {layer} into k={activation.k} groups: "
                    "k has to divide them."
                )


def _architecture(transcoder: CrossLayerTranscoder) -> Architecture:
    found = transcoder.activation
    kind = JumpReLU if type(found) is BatchTopK else type(found)
    for each in ARCHITECTURES.values():
        if each.activation is kind and each.skip == (transcoder.W_skip is not None):
            return each
    raise FitError(
        f"The activation {type(found).__name__} has no form in SAELens: use ReLU, JumpReLU, TopK, GroupMax or "
        "BatchTopK."
    )


def _record_of(transcoder: CrossLayerTranscoder, layer: int) -> SAETranscoder:
    architecture = _architecture(transcoder)
    threshold = threshold_at(transcoder.activation, layer, transcoder.n_features[layer])
    hf_read, hf_write = _hf_names(transcoder, layer)
    return SAETranscoder(
        source=f"layer {layer}",
        architecture=architecture.name,
        W_enc=transcoder.W_enc[layer].detach().T,
        b_enc=transcoder.b_enc[layer].detach(),
        W_dec=transcoder.W_dec[layer].detach().squeeze(1),
        b_dec=transcoder.b_dec[layer].detach(),
        threshold=None if threshold is None else threshold.detach(),
        W_skip=None if transcoder.W_skip is None else transcoder.W_skip[layer].detach().T,
        hook_name=f"blocks.{layer}.{transcoder.read}",
        hook_name_out=f"blocks.{layer}.{transcoder.write}",
        hf_hook_name=hf_read,
        hf_hook_name_out=hf_write,
        model_name=transcoder.model_name,
        model_from_pretrained_kwargs=PROCESSED if transcoder.processed_weights else UNPROCESSED,
        settings={name: getattr(transcoder.activation, name) for name in architecture.settings},
    )


_HF_BLOCKS = (
    (re.compile(r"gemma-[23]"), "model.layers", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    (re.compile(r"llama|qwen|mistral"), "model.layers", "post_attention_layernorm", "mlp"),
    (re.compile(r"gpt-?2"), "transformer.h", "ln_2", "mlp"),
)
"""By the model's name: its blocks, the norm before the MLP, and the module whose output is `hook_mlp_out`."""


def _hf_names(transcoder: CrossLayerTranscoder, layer: int) -> tuple[str | None, str | None]:
    """The modules of the transformers library that are read and written, where the family is known."""
    for name, blocks, norm, written in _HF_BLOCKS:
        if transcoder.model_name is not None and name.search(transcoder.model_name.lower()):
            block = f"{blocks}.{layer}"
            reads = {"hook_resid_mid": f"{block}.{norm}.input", "mlp.hook_in": f"{block}.{norm}.output"}
            writes = {"hook_mlp_out": f"{block}.{written}.output", "mlp.hook_out": f"{block}.mlp.output"}
            # On a processed model the module of the same name holds something else.
            known = {} if transcoder.processed_weights else reads
            return known.get(transcoder.read), writes.get(transcoder.write)
    return None, None


# SAELens's as ours


def transcoder_of(records: Sequence[SAETranscoder]) -> CrossLayerTranscoder:
    """The per-layer transcoder of one record for each layer, in any order. Weights are shared, not copied.

    Raises `FitError` where a layer is missing or there twice, layers do not belong together, or a record computes what
    a transcoder here does not.
    """
    for record in records:
        _check_alone(record)
    ordered = _in_order(records)
    _check_together(ordered)
    first = ordered[0]
    return CrossLayerTranscoder(
        [record.W_enc.T for record in ordered],
        [record.b_enc for record in ordered],
        [record.W_dec for record in ordered],
        torch.stack([record.b_dec for record in ordered]),
        activation=_activation(ordered),
        W_skip=[record.W_skip.T for record in ordered if record.W_skip is not None] or None,
        read=_read(first),
        write=_write(first),
        model_name=first.model_name,
        processed_weights=_is_processed(first),
    )


def _check_alone(record: SAETranscoder) -> None:
    if record.architecture not in ARCHITECTURES:
        raise FitError(
            f"{record.source} has the architecture {record.architecture!r}: transcoders of "
            f"{', '.join(ARCHITECTURES)} are read."
        )
    if record.strays:
        raise FitError(
            f"{record.source} has {', '.join(record.strays)}, which changes what it reads or computes and is not in "
            "its weights: fold it into them where it is linear and set it to 'none' or False, or take a transcoder "
            "trained without it."
        )
    d_in, d_out = record.W_enc.shape[0], record.W_dec.shape[1]
    if d_in != d_out:
        raise FitError(
            f"{record.source} reads d_in={d_in} numbers and writes d_out={d_out}: a transcoder here reads and writes "
            "d_model numbers."
        )
    _read(record)
    _write(record)


def _in_order(records: Sequence[SAETranscoder]) -> list[SAETranscoder]:
    if not records:
        raise FitError("No SAE was given: give one transcoder for each layer of the model.")
    found: dict[int, SAETranscoder] = {}
    for record in records:
        layer = _place(record, "hook_name")[0]
        if layer in found:
            raise FitError(
                f"{found[layer].source} and {record.source} are both of layer {layer}: give one transcoder for each "
                "layer, all of one width and sparsity."
            )
        found[layer] = record
    n_layers = max(found) + 1
    if len(found) < n_layers:
        missing = next(layer for layer in range(n_layers) if layer not in found)
        raise FitError(
            f"There is no transcoder of layer {missing}: layers {', '.join(map(str, sorted(found)))} are there, and "
            f"{n_layers - len(found)} of {n_layers} are missing. Every layer of the model needs one."
        )
    return [found[layer] for layer in range(n_layers)]


def _check_together(records: Sequence[SAETranscoder]) -> None:
    _one("architecture", ((record.architecture, record) for record in records))
    for name in ARCHITECTURES[records[0].architecture].settings:
        _one(name, ((record.settings.get(name), record) for record in records))
    _one("read point", ((_read(record), record) for record in records))
    _one("write point", ((_write(record), record) for record in records))
    _one("model_name", ((record.model_name, record) for record in records))
    _one("fold_ln", ((_is_processed(record), record) for record in records))
    _one("d_model", ((record.W_dec.shape[1], record) for record in records))
    _one("device", ((str(record.W_dec.device), record) for record in records))


def _one(what: str, values: Iterable[tuple[object, SAETranscoder]]) -> None:
    (first, start), *rest = values
    for value, record in rest:
        if value != first:
            raise FitError(
                f"{start.source} and {record.source} differ in their {what}, {first!r:.60} and {value!r:.60}: one "
                "serves all layers; take transcoders that were trained together."
            )


def _activation(records: Sequence[SAETranscoder]) -> Activation:
    architecture = ARCHITECTURES[records[0].architecture]
    if architecture.activation is not JumpReLU:
        return architecture.activation(**{name: records[0].settings[name] for name in architecture.settings})
    thresholds = [record.threshold for record in records if record.threshold is not None]
    widths = [len(threshold) for threshold in thresholds]
    if len(set(widths)) > 1:
        raise FitError(f"The layers have {widths} features: JumpReLU is read where all layers have as many.")
    # SAELens rectifies as well, and h·1[h > θ]·1[h > 0] is h·1[h > max(θ, 0)].
    return JumpReLU(torch.stack(thresholds).clamp(min=0))


def _read(record: SAETranscoder) -> str:
    """The hook point it reads.

    SAELens gives Gemma Scope 2 the hook_name `hook_mlp_in`, which in TransformerLens is the residual stream before the
    norm; what was read is the norm's output, as `hf_hook_name` says.
    """
    layer, point = _place(record, "hook_name")
    by_hf = _hf_read(record)
    if point == "hook_mlp_in":
        if by_hf is None and "gemma-3" not in (record.model_name or ""):
            raise FitError(
                f"{record.source} reads 'blocks.{layer}.hook_mlp_in', which may mean the residual stream before the "
                "norm or the norm's output: set its hook_name to "
                f"'blocks.{layer}.hook_resid_mid' or 'blocks.{layer}.mlp.hook_in'."
            )
        return by_hf or "mlp.hook_in"
    if point not in READS:
        raise FitError(
            f"{record.source} reads {record.hook_name!r}, which is not a read point of a transcoder that can be "
            f"traced: after the block they are {', '.join(READS)}."
        )
    if by_hf not in (None, point):
        raise FitError(
            f"{record.source} reads {point!r} by its hook_name and {by_hf!r} by its hf_hook_name "
            f"({record.hf_hook_name}): correct its metadata so that both say where it was trained."
        )
    return point


def _hf_read(record: SAETranscoder) -> str | None:
    """What `hf_hook_name` says, where it names an input or an output."""
    module, _, side = (record.hf_hook_name or "").rpartition(".")
    if side not in ("input", "output"):
        return None
    try:
        return read_point(module, "input" if side == "input" else "output", record.model_name, record.source)
    except FileError as error:
        raise FitError(str(error)) from error


def _write(record: SAETranscoder) -> str:
    layer, point = _place(record, "hook_name_out")
    read_layer, _ = _place(record, "hook_name")
    if layer != read_layer:
        raise FitError(
            f"{record.source} reads layer {read_layer} and writes layer {layer}: a per-layer transcoder writes the "
            "layer that it reads."
        )
    if point not in WRITES:
        raise FitError(
            f"{record.source} writes {record.hook_name_out!r}, which is not a write point of a transcoder that can be "
            f"traced: after the block they are {', '.join(WRITES)}."
        )
    return point


def _place(record: SAETranscoder, name: str) -> tuple[int, str]:
    """The layer and the hook point inside its block."""
    value = getattr(record, name)
    match = re.fullmatch(r"blocks\.(\d{1,6})\.(.+)", value or "")
    if match is None:
        raise FitError(
            f"{record.source} has {name}={value!r:.60} in its metadata, and a name such as 'blocks.3.hook_mlp_out' is "
            "needed: set it to where it was trained."
        )
    return int(match[1]), match[2]


def _is_processed(record: SAETranscoder) -> bool:
    return any(record.model_from_pretrained_kwargs.get(name) is True for name in PROCESSED)
