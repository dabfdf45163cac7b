"""Per-layer transcoders from SAELens's objects, and as such objects."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from tl_circuits.errors import FitError
from tl_circuits.saelens import from_sae, is_sae, register, to_sae
from tl_circuits.transcoder.files.saelens_layers import FURTHER, activation_of, records_of, transcoder_of
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def from_saes(saes: Iterable[Any]) -> CrossLayerTranscoder:
    """The per-layer transcoder of SAELens transcoders, one for each layer, in any order.

    Of SAELens's `transcoder`, `skip_transcoder`, `jumprelu_transcoder` and `jumprelu_skip_transcoder`, and of those
    that `as_saes` adds. Encoders and decoders are shared with the SAEs, not copied: change neither afterwards
    (SAELens's `fold_W_dec_norm` does). Where `hook_name` is `hook_mlp_in`, the read point is what `hf_hook_name` says.

    A cross-layer transcoder that SAELens has loaded layer by layer has lost its decoders, which it sums, and looks like
    a per-layer one: load such a release by its name instead.

    Raises `FitError` where a layer is missing or there twice, an SAE is no transcoder, layers differ in width, read or
    write point, model or architecture, or a normalisation is left to be done outside of the weights.
    """
    if is_sae(saes) or isinstance(saes, str | bytes) or not isinstance(saes, Iterable):
        raise FitError(
            f"{type(saes).__name__} is no list of SAEs: give one SAELens transcoder for each layer, as [sae, ...]."
        )
    given = list(saes)
    for number, each in enumerate(given):
        if not is_sae(each):
            raise FitError(
                f"Item {number} of {len(given)} is {type(each).__name__}, and no SAE: give one SAELens "
                "transcoder for each layer (from_pretrained_with_cfg_and_sparsity gives three values, the SAE first)."
            )
    return transcoder_of([from_sae(each, f"SAE {number} of {len(given)}") for number, each in enumerate(given)])


def as_saes(transcoder: CrossLayerTranscoder) -> list[Any]:
    """The layers of a per-layer transcoder as SAELens transcoders, lowest first, with weights of their own.

    `sae(x)`, `sae.encode` and `sae.decode` compute what the layer computes, in the dtype of its weights (`sae.to` sets
    another). ReLU and JumpReLU become SAELens's own classes, BatchTopK the JumpReLU that it is at inference; TopK and
    GroupMax become classes of ours, for which this calls `register_saelens_classes`. Their metadata say where they read
    and write, so that `run_with_saes` runs them; it leaves a skip out, as SAELens 6.54 does with every skip.

    `from_saes` undoes it to the last bit, apart from what SAELens has no place for: the bandwidth of a JumpReLU.

    Raises `FitError` for a cross-layer transcoder, shifts, negative JumpReLU thresholds, and any other activation.
    """
    if not isinstance(transcoder, CrossLayerTranscoder):
        raise FitError(f"{transcoder!r:.60} is no transcoder: give a CrossLayerTranscoder, as load_transcoder returns.")
    records = records_of(transcoder)
    register_saelens_classes()
    return [to_sae(record) for record in records]


def register_saelens_classes() -> None:
    """Makes SAELens know TopK and GroupMax transcoders in this process: call it before loading them with SAELens.

    They are written by `save_transcoder` and by the SAEs of `as_saes`, under the architectures
    `tl_circuits_topk_transcoder`, `tl_circuits_groupmax_transcoder` and the same with `_skip_transcoder`. Without this
    call `SAE.load_from_disk` raises a `KeyError` of that name. Calling it again does nothing.

    Raises `FitError` where another class has taken one of the names.
    """
    for architecture in FURTHER:
        register(
            architecture.name,
            architecture.class_name,
            partial(activation_of, architecture),
            skip=architecture.skip,
            settings=architecture.settings,
        )
