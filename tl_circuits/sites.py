"""Where a model's MLPs are read and written, and what must be frozen to make the rest linear. Owns every hook name."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tl_circuits.errors import FitError, warn_once
from tl_circuits.hooks import Model, Tap

READS = ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in")
WRITES = ("hook_mlp_out", "mlp.hook_out")


@dataclass(frozen=True)
class Site:
    """One MLP: its block's input and output in the residual stream, and where a transcoder reads and writes.

    `gathered` is what attention has brought to each position, before it is projected into the residual stream: from
    there on nothing moves between positions until the next block. None where the model has no hook there. What passes
    `mlp_in` reaches the MLP alone, and has been read.
    """

    layer: int
    block_in: Tap
    gathered: Tap | None
    read: Tap
    mlp_in: Tap
    write: Tap
    block_out: Tap


@dataclass(frozen=True)
class Sites:
    """All MLPs of a model in order, and the rest of what a local replacement model needs to know of it.

    `frozen` are the taps whose values are held at those of the prompt: attention patterns and norm denominators.
    `pos_embed` is there only where position embeddings are learned and added to the residual stream.
    """

    sites: tuple[Site, ...]
    frozen: tuple[Tap, ...]
    token_ids: Tap
    embed: Tap
    pos_embed: Tap | None
    unembed_in: Tap

    @property
    def n_layers(self) -> int:
        """The number of MLPs."""
        return len(self.sites)

    @property
    def patterns(self) -> tuple[Tap, ...]:
        """Those of the frozen taps where attention patterns pass."""
        return tuple(tap for tap in self.frozen if tap.name.endswith("attn.hook_pattern"))

    @classmethod
    def of(cls, model: Model, read: str, write: str) -> "Sites":
        """The sites of a model, for a transcoder that reads and writes at these points inside each block.

        Raises `FitError` for models that cannot be traced (attention only, patterns not exposed, split q/k/v inputs on
        a bridge, SAEs attached, active dropout, a dtype in the config that is not the parameters') and for points that
        a model lacks or that cut gradients.
        """
        _refuse_untraceable(model)
        _refuse_scaled(model, write)
        n_layers = model.cfg.n_layers
        points = _hook_points(model)
        learned_positions = model.cfg.positional_embedding_type == "standard"
        return cls(
            sites=tuple(_site(points, layer, read, write) for layer in range(n_layers)),
            frozen=tuple(Tap(name) for name in points.unique if _is_frozen(name)),
            token_ids=Tap("embed", "input"),
            embed=Tap(points.find("hook_embed") or "embed.hook_out"),
            pos_embed=Tap(points.find("hook_pos_embed") or "pos_embed.hook_out") if learned_positions else None,
            unembed_in=Tap("unembed", "input"),
        )


def neuron_taps(model: Model) -> tuple[Tap, ...]:
    """Where each MLP's neurons pass, after their activation. Raises `FitError` where the model does not show them."""
    taps = block_taps(model, "mlp.hook_post", "MLP neurons")
    _refuse_experts(model, taps)
    return taps


def head_taps(model: Model) -> tuple[Tap, ...]:
    """Where what each head has gathered passes, before it is projected. Raises `FitError` where it is not shown."""
    return block_taps(model, "attn.hook_z", "heads")


def activation_taps(model: Model) -> tuple[tuple[Tap, Tap], ...]:
    """What each MLP's activation function reads and gives. Raises `FitError` where the model does not show them."""
    with_norm = str(getattr(model.cfg, "act_fn", "")).endswith("_ln")
    ends = ("mlp.hook_pre", "mlp.hook_mid" if with_norm else "mlp.hook_post")
    before, after = (block_taps(model, point, "activation functions") for point in ends)
    _refuse_experts(model, after)
    return tuple(zip(before, after, strict=True))


def gate_taps(model: Model) -> tuple[Tap, ...]:
    """Where what each MLP's activations are multiplied with passes; none where they are not."""
    return block_taps(model, "mlp.hook_pre_linear", "gates") if getattr(model.cfg, "gated_mlp", False) else ()


def scale_taps(model: Model) -> tuple[Tap, ...]:
    """Where what each norm divides by passes, those of queries and keys too."""
    return tuple(Tap(name) for name in _hook_points(model).unique if name.endswith("hook_scale"))


def pattern_taps(model: Model) -> tuple[Tap, ...]:
    """Where each block's attention patterns pass. Raises `FitError` where the model does not show them."""
    return block_taps(model, "attn.hook_pattern", "attention patterns")


def embedding_tap(model: Model) -> Tap:
    """Where tokens, and positions where they are learned, enter the first block."""
    return block_taps(model, "hook_resid_pre", "block inputs")[0]


def block_taps(model: Model, point: str, what: str) -> tuple[Tap, ...]:
    """The same hook point of every block. Raises `FitError`, which says `what` passes there, where one is missing."""
    points = _hook_points(model)
    found = [points.find(f"blocks.{layer}.{point}") for layer in range(model.cfg.n_layers)]
    for layer, name in enumerate(found):
        if name is None:
            raise FitError(f"This model has no 'blocks.{layer}.{point}', so its {what} cannot be taken apart.")
    return tuple(Tap(name) for name in found if name is not None)


def check_read_point(model: Model, read: str, *, processed_weights: bool) -> None:
    """Raises `FitError` where weight processing has moved what a transcoder reads, or was expected and not done.

    Folding a norm moves `mlp.hook_in`; centring the writing weights of a LayerNorm model moves `hook_resid_mid`;
    `ln2.hook_normalized` is the same on both (TransformerLens, `process_weights_`).
    """
    folded, centred = _is_folded(model), _has_layer_norm(model) and _is_centred(model)
    moved = {"mlp.hook_in": folded, "hook_resid_mid": centred}.get(read, False)
    done = " and ".join(what for what, true in (("norms folded", folded), ("writing weights centred", centred)) if true)
    if moved and not processed_weights:
        raise FitError(
            f"This model's weights were processed ({done}), which changes {read!r}, the transcoder's read point. Load "
            "the model without processing (from_pretrained_no_processing, or a bridge without "
            "enable_compatibility_mode), or, if the transcoder was trained on the processed model, build it with "
            "processed_weights=True."
        )
    if processed_weights and not done:
        raise FitError(
            "The transcoder was trained on a model with processed weights (processed_weights=True), but this model's "
            "are not: call process_weights_() or enable_compatibility_mode() first."
        )


def warn_of_low_precision(model: Model, so: str, *, stacklevel: int = 3) -> None:
    """Warns once (`TLCircuitsWarning`) of a model in 16 bits, and says what comes of it."""
    dtype = next(model.parameters()).dtype
    if dtype in (torch.bfloat16, torch.float16):
        warn_once(
            f"The model is in {dtype}: {so}. float32 (model.to(torch.float32)) is recommended.", stacklevel=stacklevel
        )


@dataclass(frozen=True)
class _HookPoints:
    """Hook names: all by which a point may be called, and one for each point."""

    names: frozenset[str]
    unique: tuple[str, ...]
    modules: frozenset[str]
    resolve: Callable[[str], str]

    def find(self, name: str) -> str | None:
        """The name under which the model lists the point that TransformerLens calls `name`, if it has it."""
        # SAELens's bridge lists its points under their own names only, and resolves the others.
        return name if name in self.names else next((n for n in (self.resolve(name),) if n in self.names), None)


def _hook_points(model: Model) -> _HookPoints:
    # A bridge lists a point under its own name and under HookedTransformer's; hooking both would freeze it twice.
    first_name: dict[int, str] = {}
    for name, point in model.hook_dict.items():
        first_name.setdefault(id(point), name)
    blocks = cast(Any, model).blocks
    modules = {f"blocks.{layer}.mlp" for layer, block in enumerate(blocks) if hasattr(block, "mlp")}
    resolve = getattr(model, "_resolve_hook_name", lambda name: name)
    return _HookPoints(frozenset(model.hook_dict), tuple(first_name.values()), frozenset(modules), resolve)


def _site(points: _HookPoints, layer: int, read: str, write: str) -> Site:
    reads, gathered = _tap(points, layer, read, "read point", READS), points.find(f"blocks.{layer}.attn.hook_z")
    return Site(
        layer,
        block_in=_tap(points, layer, "hook_resid_pre", "block input"),
        gathered=None if gathered is None else Tap(gathered),
        read=reads,
        mlp_in=reads if read == "mlp.hook_in" else Tap(f"blocks.{layer}.mlp", "input"),
        write=_tap(points, layer, write, "write point", WRITES),
        block_out=_tap(points, layer, "hook_resid_post", "block output"),
    )


def _tap(points: _HookPoints, layer: int, point: str, role: str, known: tuple[str, ...] | None = None) -> Tap:
    name = f"blocks.{layer}.{point}"
    if known is not None and point not in known:
        raise FitError(f"{point!r} is not a {role} of a transcoder that can be traced. Known ones: {', '.join(known)}.")
    listed = points.find(name)
    if listed is not None:
        return Tap(listed)
    module = f"blocks.{layer}.mlp"
    if point in ("mlp.hook_in", "mlp.hook_out") and module in points.modules:
        return Tap(module, "input" if point == "mlp.hook_in" else "output")
    if known is None:
        raise FitError(
            f"This model has no {name!r}, the {role}, among its {len(points.names)} hook points, so it cannot be cut."
        )
    there = [other for other in known if points.find(f"blocks.{layer}.{other}") or other.startswith("mlp.")]
    raise FitError(
        f"This model has no {name!r}, the transcoder's {role}. It has {', '.join(there) or 'none of the known ones'}: "
        "blocks that run attention and MLP in parallel have no residual stream between them, and models without norms "
        "no normalized values."
    )


def _is_frozen(name: str) -> bool:
    # Query and key norms act before the pattern, which is itself held fixed.
    return name.endswith(("attn.hook_pattern", "hook_scale")) and not name.endswith(
        ("q_norm.hook_scale", "k_norm.hook_scale")
    )


def _refuse_experts(model: Model, neurons: tuple[Tap, ...]) -> None:
    # A bridge lists the whole output of a mixture of experts under the name that neurons have elsewhere.
    points = model.hook_dict
    for layer, tap in enumerate(neurons):
        if points[tap.name] is points.get(f"blocks.{layer}.mlp.hook_out"):
            raise FitError(
                f"The MLP of layer {layer} is a mixture of experts, whose neurons this model does not show: what it "
                f"calls 'blocks.{layer}.mlp.hook_post' is the MLP's whole output. Take units that are not its neurons "
                "(tlc.Basis.blocks or .saes), and score them by gradients without rules ('ig-inputs')."
            )


def _refuse_untraceable(model: Model) -> None:
    cfg = model.cfg
    if getattr(cfg, "attn_only", False):
        raise FitError("This model is attention-only (cfg.attn_only): it has no MLP that a transcoder could replace.")
    missing = [f"blocks.{layer}.attn.hook_pattern" for layer in range(cfg.n_layers)]
    missing = [name for name in missing if name not in model.hook_dict]
    if missing:
        raise FitError(
            f"{len(missing)} of {cfg.n_layers} blocks expose no attention pattern (first: {missing[0]!r}), so "
            "attention cannot be frozen. Load the model with attn_implementation='eager'; layers without attention "
            "patterns are not supported."
        )
    if hasattr(model, "original_model"):
        for flag in ("use_split_qkv_input", "use_attn_in"):
            if getattr(cfg, flag, False):
                raise FitError(
                    f"cfg.{flag} is on: on a TransformerBridge it bypasses the norm before attention, which can then "
                    f"not be frozen. Turn it off with model.set_{flag}(False)."
                )
    attached = getattr(model, "acts_to_saes", None)
    if attached:
        raise FitError(
            f"SAEs are attached to this model ({', '.join(attached)}): what they write is not the model's own, and "
            "cannot be attributed to it. Take them off with model.reset_saes(), and attach them again afterwards."
        )
    dtype = next(model.parameters()).dtype
    if getattr(cfg, "dtype", dtype) != dtype:
        raise FitError(
            f"The model's config says {cfg.dtype}, but its parameters are {dtype}: norms would compute in the wrong "
            "one. Make them agree: load the model in that dtype, or set model.cfg.dtype."
        )
    _refuse_dropout(model)


def _refuse_scaled(model: Model, write: str) -> None:
    # TransformerLens 3.9 puts back what it had wherever a hook gives the same numbers, and so cuts what hangs on them.
    scale = getattr(cast(Any, model).blocks[0], "residual_contribution_scale", None)
    if scale is not None and write == "hook_mlp_out":
        raise FitError(
            f"The blocks of this TransformerBridge multiply what their MLPs write by {scale}, and no gradient passes "
            "'hook_mlp_out' there. Use a transcoder that writes 'mlp.hook_out', before it is multiplied."
        )


def _refuse_dropout(model: Model) -> None:
    # A bridge runs the module it wraps, some of whose parts (embedding dropout) are not among its own.
    wrapped = getattr(model, "original_model", None)
    for module in itertools.chain(model.modules(), wrapped.modules() if isinstance(wrapped, nn.Module) else ()):
        rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        if module.training and isinstance(rate, int | float) and rate > 0:
            raise FitError(
                f"Dropout of {rate} is active ({type(module).__name__}), so every pass would differ: call "
                "model.eval() first."
            )


def _is_folded(model: Model) -> bool:
    if not getattr(model, "_weights_processed", False):
        return str(model.cfg.normalization_type).endswith("Pre")
    # A bridge keeps its norms when they are folded, with gains that are all the same.
    gains = [gain for name, gain in cast(Any, model).blocks[0].ln2.named_parameters() if name.endswith("weight")]
    return all(bool((gain == gain.flatten()[0]).all()) for gain in gains)


def _has_layer_norm(model: Model) -> bool:
    return model.cfg.normalization_type in ("LN", "LNPre")


def _is_centred(model: Model) -> bool:
    # Processing centres every row or none, and a vocabulary has many.
    rows: Tensor = cast(Any, model).W_E
    rows = rows[:: 1 + len(rows) // 512]
    return bool((rows.mean(-1).abs() <= 1e-4 * rows.abs().mean()).all())
