"""Edges between heads and MLPs: how much each matters, and how much of a behaviour the n best of them carry.

A source (the embedding, a head, an MLP) adds to the residual stream; a target (a head, an MLP, the logits) reads it.
The edge between them is what the target reads of that source. Its score is the estimated change of the task's measure
when the target alone reads the source's output of the corrupted run, with the sign turned, summed over positions:

- `eap`: the gradient at the target's input on the clean run, times the source's difference (Syed et al. 2023);
- `eap-ig`: the same, the gradient averaged on the way from the corrupted to the clean embeddings, at midpoints
  (Hanna et al. 2024, who take the ends of the steps).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tl_circuits.comparison.curve import CircuitCurve, measured_curve, sizes_of
from tl_circuits.comparison.parts import Parts
from tl_circuits.comparison.passes import last_logits, passing
from tl_circuits.comparison.task import Task, check_task
from tl_circuits.errors import SettingError
from tl_circuits.hooks import Model, Tap, installed

EdgeScorer = Literal["eap", "eap-ig"]
Hook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """What keeping each edge is worth to each prompt; 0 where there is no edge, from a later part to an earlier one.

    Sources are "embed", "L0H0", … and "MLP0", …; targets heads, MLPs and "logits".
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Float64[Tensor, "prompt target source"]
    exists: Bool[Tensor, "target source"]


def edge_scores(model: Model, task: Task, scorer: EdgeScorer = "eap-ig", *, steps: int = 5) -> EdgeScores:
    """The scores of all edges. Raises `SettingError` for a scorer or steps that are none, `FitError` for other models.

    Models are refused whose parts cannot be told apart (`tl_circuits.comparison.parts`).
    """
    if scorer not in get_args(EdgeScorer):
        raise SettingError(f"scorer={scorer!r} is none: give one of {', '.join(get_args(EdgeScorer))}.")
    if not isinstance(steps, int) or steps < 1:
        raise SettingError(f"steps={steps} integrates nothing: give a whole number, 1 or more.")
    check_task(model, task)
    parts = Parts.of(model)
    clean, corrupted = (_outputs(parts, tokens) for tokens in (task.clean, task.corrupted))
    shares = [1.0] if scorer == "eap" else [(step + 0.5) / steps for step in range(steps)]
    total = torch.zeros(())
    for share in shares:
        entering = corrupted[:, :, 0] + share * (clean[:, :, 0] - corrupted[:, :, 0])
        gradients = _gradients(parts, task, entering)
        total = total + torch.einsum("bpsd,bptd->bts", clean - corrupted, gradients) / len(shares)
    values = torch.where(parts.exists.to(total.device), total, 0.0).to(torch.float64)
    return EdgeScores(parts.sources, parts.targets, values, parts.exists)


def edge_curve(
    model: Model,
    task: Task,
    scorer: EdgeScorer | EdgeScores = "eap-ig",
    *,
    sizes: Sequence[int] | None = None,
    steps: int = 5,
    progress: bool | None = None,
) -> CircuitCurve:
    """The curve of the circuits of edges that a scorer picks: for each prompt its own n edges of the largest |score|.

    Along every other edge the target reads the source's output of the corrupted run. The empty circuit is the corrupted
    run, and that of all edges the model. Raises what `edge_scores` and `circuit_curve` raise.
    """
    found = edge_scores(model, task, scorer, steps=steps) if isinstance(scorer, str) else scorer
    parts = Parts.of(model)
    if found.values.shape != (len(task), len(parts.targets), len(parts.sources)):
        raise SettingError(
            f"Edge scores have shape {tuple(found.values.shape)}, but there are {len(task)} prompts, "
            f"{len(parts.targets)} targets and {len(parts.sources)} sources: score this task on this model."
        )
    if not bool(found.values.isfinite().all()):
        raise SettingError("Edge scores hold NaN or infinity: no order can be made of them.")
    there = parts.exists.flatten().nonzero()[:, 0]
    order = there[found.values.flatten(1)[:, there].abs().cpu().argsort(dim=1, descending=True, stable=True)]
    corrupted = _outputs(parts, task.corrupted)

    def run(size: int, of_circuit: bool) -> Float64[Tensor, "prompt d_vocab"]:
        kept = torch.full((len(task), parts.exists.numel()), not of_circuit)
        kept.scatter_(1, order[:, :size], of_circuit)
        return _patched(parts, task.clean, corrupted, kept.unflatten(1, parts.exists.shape))

    with torch.no_grad():
        whole = last_logits(model, task.clean)
    named = ("edges of heads and MLPs", scorer if isinstance(scorer, str) else "given", "corrupted")
    return measured_curve(task, named, sizes_of(sizes, len(there)), run, whole, progress)


def _outputs(parts: Parts, tokens: Int64[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos source d_model"]:
    """What every source adds to the residual stream in the model's own pass."""
    seen = passing(parts.model, tokens, (parts.start, *parts.heads, *parts.mlps))
    with torch.no_grad():
        found = [seen[parts.start].unsqueeze(2)]
        for layer, (head, mlp) in enumerate(zip(parts.heads, parts.mlps, strict=True)):
            found += [parts.written(layer, seen[head]), seen[mlp].unsqueeze(2)]
    return torch.cat(found, dim=2)


def _gradients(
    parts: Parts, task: Task, entering: Float[Tensor, "prompt pos d_model"]
) -> Float[Tensor, "prompt pos target d_model"]:
    """The gradient of the measure in what each target alone reads, where this enters the first block."""
    model, pushes, reads = parts.model, dict[Tap, Tensor](), dict[Tap, Tensor]()

    def push(tap: Tap) -> Hook:
        def pushed(value: Tensor) -> Tensor:
            pushes[tap] = torch.zeros_like(value, requires_grad=True)
            return value + pushes[tap]

        return pushed

    taps = [tap for block in parts.blocks for tap in (*block.projections, block.mlp_in)] + [parts.final]
    functions: dict[Tap, Hook] = {tap: push(tap) for tap in taps}
    functions |= {block.attn_in: _first(reads, block.attn_in) for block in parts.blocks}
    functions[parts.start] = lambda value: entering.to(value)
    with torch.inference_mode(False), torch.enable_grad():
        with installed(model, functions):
            logits = last_logits(model, task.clean.clone())
        found = torch.autograd.grad(task.measure(logits).sum(), [pushes[tap] for tap in taps])
        of_tap = dict(zip(taps, found, strict=True))
        rows = []
        for layer, block in enumerate(parts.blocks):
            own = reads[block.attn_in].unsqueeze(2).expand(-1, -1, parts.n_heads, -1).clone().requires_grad_(True)
            projected = parts.projected(layer, own)
            rows.append(torch.autograd.grad(projected, own, [of_tap[tap] for tap in block.projections])[0])
            rows.append(of_tap[block.mlp_in].unsqueeze(2))
        rows.append(of_tap[parts.final].unsqueeze(2))
    return torch.cat(rows, dim=2).detach()


def _first(reads: dict[Tap, Tensor], tap: Tap) -> Hook:
    # A norm may run once for each of queries, keys and values, on the same input.
    def keep(value: Tensor) -> None:
        reads.setdefault(tap, value.detach().clone())

    return keep


def _patched(
    parts: Parts,
    tokens: Int64[Tensor, "prompt pos"],
    corrupted: Float[Tensor, "prompt pos source d_model"],
    kept: Bool[Tensor, "prompt target source"],
) -> Float64[Tensor, "prompt d_vocab"]:
    """Logits at the last position where each target reads along the kept edges only what the pass itself computes."""
    state = _Patching(parts, corrupted, (~kept).to(corrupted))
    with torch.no_grad(), installed(parts.model, state.functions()):
        return last_logits(parts.model, tokens)


@dataclass(eq=False)
class _Patching:
    """One pass: how far each source's output has moved from the corrupted run's, as far as it is known by then."""

    parts: Parts
    corrupted: Float[Tensor, "prompt pos source d_model"]
    cut: Float[Tensor, "prompt target source"]
    moved: list[Tensor] = field(default_factory=list)
    read: Tensor | None = None
    projected: tuple[Tensor, ...] | None = None

    def functions(self) -> dict[Tap, Hook]:
        parts, functions = self.parts, dict[Tap, Hook]()
        functions[parts.start] = lambda value: self._moved(value.unsqueeze(2))
        for layer, block in enumerate(parts.blocks):
            functions[block.attn_in] = self._enter
            for number, tap in enumerate(block.projections):
                functions[tap] = self._project(layer, number)
            functions[parts.heads[layer]] = self._heads(layer)
            functions[block.mlp_in] = self._into(parts.first(layer) + parts.n_heads - 1)
            functions[parts.mlps[layer]] = lambda value: self._moved(value.unsqueeze(2))
        functions[parts.final] = self._into(len(parts.targets) - 1)
        return functions

    def _moved(self, now: Float[Tensor, "prompt pos source d_model"]) -> None:
        known = sum(part.shape[2] for part in self.moved)
        self.moved = [*self.moved, now - self.corrupted[:, :, known : known + now.shape[2]]]

    def _withheld(self, targets: slice) -> Float[Tensor, "prompt pos target d_model"]:
        moved = torch.cat(self.moved, dim=2)
        return torch.einsum("bpsd,bts->bptd", moved, self.cut[:, targets, : moved.shape[2]])

    def _into(self, target: int) -> Hook:
        return lambda value: value - self._withheld(slice(target, target + 1))[:, :, 0].to(value)

    def _enter(self, value: Tensor) -> None:
        # Also called for what heads read, by the norm that is run on it.
        if value.ndim == 3:
            self.read = value

    def _project(self, layer: int, number: int) -> Hook:
        def put(own: Tensor) -> Tensor:
            if number == 0 or self.projected is None:
                self.projected = self._of_heads(layer)
            value = self.projected[number]
            return value.to(own)

        return put

    def _of_heads(self, layer: int) -> tuple[Tensor, ...]:
        assert self.read is not None
        start = self.parts.first(layer) - 1
        heads = slice(start, start + self.parts.n_heads)
        return self.parts.projected(layer, self.read.unsqueeze(2) - self._withheld(heads).to(self.read))

    def _heads(self, layer: int) -> Hook:
        return lambda z: self._moved(self.parts.written(layer, z))
