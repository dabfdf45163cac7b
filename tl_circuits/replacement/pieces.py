"""A forward pass cut into affine pieces, one per block, each of which autograd can pull a cotangent back through.

With attention patterns and norm denominators held at the prompt's values and every MLP's write made a constant, a block
is affine in its input and in its write (Ameisen et al. 2025, "Attribution Graphs", the stop-gradients of J▼). Cutting
the pass at each block's input keeps every pull-back as short as one block, in whatever architecture the user brings.
A second cut, where attention has gathered from other positions, lets targets at different positions share what lies
between it and the read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import FitError
from tl_circuits.hooks import Model, Tap, has_user_hooks, installed
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder

COTANGENTS = {"cpu": 1024, "cuda": 2**18}
"""Targets times positions that are pulled back at once: enough to fill the matrix products, and on a CPU no more than
its cache holds, on a GPU no more than its memory."""
PATTERNS = {"cpu": 2**18, "cuda": 2**26}
"""Targets times positions squared that are: autograd copies attention's patterns for each target."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """One pass at batch 1 in pieces. All tensors are `1 pos d_model` and all but the leaves carry their autograd graph.

    `block_in[l]` are leaves; `block_in[n_layers]` is the last residual. `block_out[l]` is what arrives at the next
    leaf, edits by the user's hooks between blocks included. `writes[l]` are leaves too: what the MLP wrote,
    without the transcoder's linear skip, which stays in the graph. `reads[l]` is what the transcoder reads, and
    `reads[n_layers]`, in a whole pass, what the unembedding reads. `gathered[l]`, where the pass is cut there, is what
    attention brought to each position, as it depends on the block's input, and the leaf that goes on in its place.
    `frozen` holds the patterns and denominators.
    """

    block_in: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    reads: tuple[Tensor, ...]
    block_out: tuple[Tensor, ...]
    gathered: tuple["Gathered | None", ...]
    embed: Tensor
    pos_embed: Tensor | None
    frozen: dict[Tap, list[Tensor]]
    logits: Float[Tensor, "pos d_vocab"] | None

    def pull_back_read(
        self,
        layer: int,
        vector: Float[Tensor, "batch d_model"],
        pos: Int64[Tensor, " batch"],
        at_input: Float[Tensor, "batch pos d_model"],
    ) -> None:
        """Fills in the gradient of ⟨vector_b, read of `layer` at pos_b⟩ at the block's input (or the last residual)."""
        read, leaf = self.reads[layer], self.block_in[layer]
        gathered = self.gathered[layer] if layer < len(self.gathered) else None
        if gathered is None:
            _fill(at_input, read, leaf, vector, pos)
            return
        # From here to the read nothing moves between positions, so one cotangent serves a target at each of them.
        slot = _rank_among_equals(pos)
        shared = vector.new_zeros(int(slot.max()) + 1, *read.shape)
        shared[slot, 0, pos] = vector
        direct, at_gathered = _pull_back(read, (leaf, gathered.leaf), shared)
        if at_gathered is None:
            at_input.zero_()
        else:
            _fill(at_input, gathered.before, leaf, at_gathered[slot, 0, pos], pos)
        at_input[torch.arange(len(pos), device=pos.device), pos] += direct[slot, 0, pos]

    def pull_back_block(
        self, layer: int, at_out: Float[Tensor, "batch pos d_model"], at_input: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Fills in the cotangent of a block's input, given that of its output, and returns that of its MLP's write."""
        leaf, gathered, at_write = self.block_in[layer], self.gathered[layer], at_out
        for part in _parts(at_out[:, None]):
            leaves = (leaf, self.writes[layer]) if gathered is None else (leaf, self.writes[layer], gathered.leaf)
            direct, wrote, *rest = _pull_back(self.block_out[layer], leaves, at_out[part, None])
            if gathered is None:
                at_input[part] = direct[:, 0]
            else:
                (through,) = _pull_back(gathered.before, (leaf,), rest[0])
                torch.add(direct[:, 0], through[:, 0], out=at_input[part])
            # Most blocks add what the MLP writes as it is; where a norm comes in between, the cotangents differ.
            if wrote.data_ptr() != at_out[part].data_ptr():
                at_write = torch.empty_like(at_out) if at_write is at_out else at_write
                at_write[part] = wrote[:, 0]
        return at_write

    @cached_property
    def block_constants(self) -> tuple[Float[Tensor, "pos d_model"], ...]:
        """What each block adds whatever its input and its MLP's write: attention and norm biases, edits by hooks."""
        return tuple(
            _constant(out, self._leaves(layer) | {self.writes[layer]: self.writes[layer]})
            for layer, out in enumerate(self.block_out)
        )

    @cached_property
    def read_constants(self) -> tuple[Float[Tensor, "pos d_model"], ...]:
        """The part of each read that does not depend on its block's input."""
        return tuple(_constant(read, self._leaves(layer)) for layer, read in enumerate(self.reads))

    def _leaves(self, layer: int) -> dict[Tensor, Tensor]:
        """A block's input, and what attention gathers of it: each leaf, and the part of it that is not constant."""
        leaf, gathered = self.block_in[layer], self.gathered[layer] if layer < len(self.gathered) else None
        if gathered is None:
            return {leaf: leaf}
        return {leaf: leaf, gathered.leaf: _linear(gathered.before, {leaf: leaf})}

    @cached_property
    def embedding_constant(self) -> Float[Tensor, "pos d_model"]:
        """What enters the first block beside token and position embeddings: nothing, unless a hook or model adds it."""
        embeddings = self.embed if self.pos_embed is None else self.embed + self.pos_embed
        return (working(self.block_in[0]) - embeddings)[0]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What attention brought to each position: `before` depends on the block's input, `leaf` stands for it after."""

    before: Float[Tensor, "1 pos ..."]
    leaf: Float[Tensor, "1 pos ..."]


def working(value: Tensor) -> Tensor:
    """A value as sources are added up: detached, and in float32 at least, since a model may run in 16 bits."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def cut(
    model: Model,
    sites: Sites,
    transcoder: CrossLayerTranscoder,
    tokens: Int64[Tensor, " pos"],
    *,
    longer: Pieces | None = None,
) -> Pieces:
    """Runs the model once, inside hooks, and cuts the pass into pieces.

    With `longer`, a pass over a longer prompt that starts with these tokens, MLPs and attention patterns are held at
    its values and the pass stops before the unembedding. Raises `FitError` where a hook that must fire does not.
    """
    # The user's own hooks may move things between positions anywhere.
    recorder = _Recorder(sites, transcoder, len(tokens), longer, cut_gathered=not has_user_hooks(model))
    with torch.inference_mode(False), torch.enable_grad(), installed(model, recorder.functions()):
        # Cloning makes a normal tensor of tokens that were made in inference mode.
        batch = tokens.clone()[None]
        out = model(batch) if longer is None else model(batch, stop_at_layer=sites.n_layers)
    return recorder.pieces(out.detach()[0] if longer is None else None)


def idle(read: Callable[[Tensor], Tensor | None] | None = None) -> Callable[[Tensor], Tensor]:
    """After `read`, if any, has seen it, leaves an MLP whose write is replaced no position to work on."""

    def leave_none(value: Tensor) -> Tensor:
        if read is not None:
            read(value)
        return value[:, :0]

    return leave_none


class _Recorder:
    """The functions that cut a pass, and what they saw. A bridge may call a hook once per alias: the first counts."""

    def __init__(
        self,
        sites: Sites,
        transcoder: CrossLayerTranscoder,
        n_pos: int,
        longer: Pieces | None,
        *,
        cut_gathered: bool,
    ) -> None:
        self._sites, self._transcoder, self._n_pos, self._longer = sites, transcoder, n_pos, longer
        self._cut_gathered = cut_gathered
        self._seen: dict[tuple[str, int], Tensor] = {}
        self._leaves: dict[tuple[str, int], Tensor] = {}
        self._gathered: dict[int, Gathered] = {}
        self._frozen: dict[Tap, list[Tensor]] = {tap: [] for tap in sites.frozen}

    def functions(self) -> dict[Tap, Callable[[Tensor], Tensor | None]]:
        """What to call at each tap."""
        functions: dict[Tap, Callable[[Tensor], Tensor | None]] = {tap: self._freeze(tap) for tap in self._sites.frozen}
        for site in self._sites.sites:
            functions[site.block_in] = self._enter(site.layer)
            functions[site.read] = self._see("read", site.layer)
            functions[site.write] = self._write(site.layer)
            if site.gathered is not None and self._cut_gathered:
                functions[site.gathered] = self._gather(site.layer)
            if self._longer is not None:
                functions[site.mlp_in] = idle(functions.get(site.mlp_in))
        functions[self._sites.sites[-1].block_out] = self._enter(self._sites.n_layers)
        functions[self._sites.unembed_in] = self._see("read", self._sites.n_layers)
        functions[self._sites.embed] = self._see("embed", 0)
        if self._sites.pos_embed is not None:
            functions[self._sites.pos_embed] = self._see("pos_embed", 0)
        return functions

    def pieces(self, logits: Tensor | None) -> Pieces:
        """The pass, once it has run."""
        n_layers, whole = self._sites.n_layers, logits is not None
        unfired = [tap.name for tap, values in self._frozen.items() if not values and tap.name.endswith("hook_pattern")]
        unfired += [
            f"{name} of layer {layer}"
            for name in ("block_out", "read")
            for layer in range(n_layers)
            if (name, layer) not in self._seen
        ]
        if unfired:
            raise FitError(
                f"{len(unfired)} hooks did not fire in a forward pass (first: {unfired[0]}), so the model cannot be "
                "frozen. A bridge needs attn_implementation='eager', and SAEs or other wrappers must be taken off "
                "before tracing."
            )
        pos_embed = self._seen.get(("pos_embed", 0))
        return Pieces(
            block_in=tuple(self._leaves["block_in", layer] for layer in range(n_layers + 1)),
            writes=tuple(self._leaves["write", layer] for layer in range(n_layers)),
            reads=tuple(self._seen["read", layer] for layer in range(n_layers + whole)),
            block_out=tuple(self._seen["block_out", layer] for layer in range(n_layers)),
            gathered=tuple(self._gathered.get(layer) for layer in range(n_layers)),
            embed=working(self._seen["embed", 0]),
            pos_embed=None if pos_embed is None else working(pos_embed).expand_as(self._seen["embed", 0]),
            frozen=self._frozen,
            logits=logits,
        )

    def _freeze(self, tap: Tap) -> Callable[[Tensor], Tensor]:
        def freeze(value: Tensor) -> Tensor:
            frozen = value.detach()
            if self._longer is not None and tap in self._sites.patterns:
                # A view: patterns are what grows with the square of a prompt, and are kept once.
                longer = self._longer.frozen[tap][len(self._frozen[tap])]
                frozen = longer[..., : self._n_pos, : self._n_pos]
            self._frozen[tap].append(frozen)
            return frozen

        return freeze

    def _see(self, name: str, layer: int) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            self._seen.setdefault((name, layer), value)

        return see

    def _leaf(self, name: str, layer: int) -> Callable[[Tensor], Tensor]:
        def leaf(value: Tensor) -> Tensor:
            # The clone keeps a leaf from being an inference tensor and from sharing memory with the user's own caches.
            return self._leaves.setdefault((name, layer), value.detach().clone().requires_grad_())

        return leaf

    def _gather(self, layer: int) -> Callable[[Tensor], Tensor]:
        def gather(value: Tensor) -> Tensor:
            leaf = self._leaf("gathered", layer)(value)
            self._gathered.setdefault(layer, Gathered(value, leaf))
            return leaf

        return gather

    def _write(self, layer: int) -> Callable[[Tensor], Tensor]:
        def write(value: Tensor) -> Tensor:
            skip = self._transcoder.skip(self._seen["read", layer], layer)
            if self._longer is not None:
                constant = self._longer.writes[layer][:, : self._n_pos].detach()
            else:
                constant = value.detach() if skip is None else (value - skip).detach()
            leaf = self._leaf("write", layer)(constant)
            return leaf if skip is None else leaf + skip

        return write

    def _enter(self, layer: int) -> Callable[[Tensor], Tensor]:
        def enter(value: Tensor) -> Tensor:
            if layer > 0:
                self._seen.setdefault(("block_out", layer - 1), value)
            return self._leaf("block_in", layer)(value)

        return enter


def _pull_back(out: Tensor, leaves: tuple[Tensor, ...], cotangent: Tensor) -> tuple[Any, ...]:
    """The cotangents of the leaves, None for one on which `out` does not depend."""
    with torch.inference_mode(False), torch.enable_grad():
        pulled = torch.autograd.grad(
            out, leaves, cotangent.to(out.dtype), retain_graph=True, is_grads_batched=True, allow_unused=True
        )
    return tuple(None if at_leaf is None else at_leaf.to(cotangent.dtype) for at_leaf in pulled)


def _fill(
    at_leaf: Float[Tensor, "batch pos d_model"], out: Tensor, leaf: Tensor, vector: Tensor, pos: Int64[Tensor, " batch"]
) -> None:
    """The cotangent of the leaf for each vector that is one of `out` at its position."""
    for part in _parts(at_leaf[:, None]):
        at_leaf[part] = _pull_back(out, (leaf,), _spread(vector[part], pos[part], out))[0][:, 0]


def _parts(cotangent: Tensor) -> Iterator[slice]:
    """As many cotangents at a time as the cache holds."""
    batch, _, n_pos = cotangent.shape[:3]
    device = cotangent.device.type
    most, patterns = (bounds.get(device, bounds["cpu"]) for bounds in (COTANGENTS, PATTERNS))
    size = max(1, min(most // n_pos, patterns // n_pos**2))
    # Even parts: a small last one would be slow.
    n_parts = -(-batch // size)
    for part in range(n_parts):
        yield slice(part * batch // n_parts, (part + 1) * batch // n_parts)


def _spread(vector: Float[Tensor, "batch ..."], pos: Int64[Tensor, " batch"], like: Tensor) -> Tensor:
    """A cotangent of `like` for each vector: itself at its position, and zero at all others."""
    cotangent = vector.new_zeros(len(vector), *like.shape)
    cotangent[torch.arange(len(vector), device=pos.device), 0, pos] = vector
    return cotangent


def _rank_among_equals(values: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """0 for the first of each value, 1 for the second, and so on."""
    order = torch.argsort(values, stable=True)
    counts = torch.unique_consecutive(values[order], return_counts=True)[1]
    ranks = torch.arange(len(values), device=values.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.empty_like(ranks).index_copy_(0, order, ranks)


def _linear(out: Tensor, leaves: Mapping[Tensor, Tensor]) -> Tensor:
    """J·values, where `out` is affine in the leaves with derivative J, and each has its value.

    The gradient with respect to a cotangent u of Jᵀu·values is J·values, for any u.
    """
    with torch.inference_mode(False), torch.enable_grad():
        cotangent = torch.zeros_like(out, requires_grad=True)
        pulled = torch.autograd.grad(
            out, tuple(leaves), cotangent, create_graph=True, retain_graph=True, allow_unused=True
        )
        used = [
            (at_leaf, value.detach())
            for at_leaf, value in zip(pulled, leaves.values(), strict=True)
            if at_leaf is not None
        ]
        parts, values = zip(*used, strict=True)
        (linear,) = torch.autograd.grad(parts, cotangent, values, retain_graph=True)
    return linear


def _constant(out: Tensor, leaves: Mapping[Tensor, Tensor]) -> Float[Tensor, "pos d_model"]:
    return (working(out) - working(_linear(out, leaves)))[0]
