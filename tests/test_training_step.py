"""The training step: dense and sparse backends agree, and both agree with the plain formulas."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tl_circuits.training import losses
from tl_circuits.training.codes import DenseCodes, encode
from tl_circuits.training.optimizer import Optimizer
from tl_circuits.training.pattern import Pattern
from tl_circuits.training.rules import Rule
from tl_circuits.training.step import Costs, cheaper, passed, revived
from tl_circuits.training.weights import Architecture, Weights, initial

RULES = (Rule("jump_relu", bandwidth=0.5), Rule("topk", k=3), Rule("batch_topk", k=3), Rule("relu"))
SHAPES = st.builds(
    Architecture,
    n_layers=st.just(3),
    d_model=st.just(8),
    features=st.sampled_from([5, 16]),
    span=st.sampled_from([1, 2, 3]),
    tied=st.sampled_from(["none", "source", "target"]),
    skip=st.booleans(),
)
COSTS = st.builds(
    Costs, penalty=st.sampled_from(["tanh", "l1"]), per=st.sampled_from(["feature", "write", "direction"])
)


def filled(shape: Architecture, rule: Rule, seed: int, dtype: torch.dtype = torch.float64) -> Weights:
    """Weights with all parameters random."""
    draw = torch.Generator().manual_seed(seed)
    start = initial(shape, 0.3 if rule.name == "jump_relu" else None, draw)
    moved = {name: (p + 0.4 * torch.randn(p.shape, generator=draw)).to(dtype) for name, p in start.parameters.items()}
    moved = {name: p.abs() if name.startswith("threshold") else p for name, p in moved.items()}
    weights = Weights(shape, {name: p.requires_grad_() for name, p in moved.items()})
    return weights


def batch(shape: Architecture, seed: int, n_tokens: int = 20, dtype: torch.dtype = torch.float64):
    draw = torch.Generator().manual_seed(seed + 1)
    x, y = (torch.randn(shape.n_layers, n_tokens, shape.d_model, generator=draw).to(dtype) for _ in range(2))
    return x, y


def loss_and_gradients(weights: Weights, x, y, rule: Rule, costs: Costs, backend, working=torch.float32):
    through = passed(weights, x, y, rule, backend, working=working, costs=costs)
    dead = ~through.fired()
    loss = through.reconstruction + 0.1 * through.cost + 0.05 * revived(weights, through, dead)
    names = list(weights.parameters)
    found = torch.autograd.grad(loss, [weights[name] for name in names], allow_unused=True)
    zeros = [torch.zeros_like(weights[name]) if g is None else g for name, g in zip(names, found, strict=True)]
    return loss.detach(), dict(zip(names, zeros, strict=True)), through


@pytest.mark.slow
@settings(max_examples=40)
@given(
    shape=SHAPES, rule=st.sampled_from(RULES), costs=COSTS, seed=st.integers(0, 999), dtype=st.sampled_from([64, 32])
)
def test_dense_and_sparse_steps_lose_the_same_and_have_the_same_gradients(shape, rule, costs, seed, dtype) -> None:
    kind, bound = (torch.float64, 1e-12) if dtype == 64 else (torch.float32, 1e-5)
    weights, (x, y) = filled(shape, rule, seed, kind), batch(shape, seed, dtype=kind)
    (dense, of_dense, one), (sparse, of_sparse, other) = (
        loss_and_gradients(weights, x, y, rule, costs, backend) for backend in ("dense", "sparse")
    )
    assert float((dense - sparse).abs()) <= bound * float(dense.abs())
    for name, gradient in of_dense.items():
        assert float((gradient - of_sparse[name]).abs().max()) <= bound * max(1, float(gradient.abs().max())), name
    assert torch.equal(one.fired(), other.fired())
    assert one.l0() == other.l0()
    if rule.name in ("jump_relu", "relu"):
        assert one.density() == pytest.approx(other.density())


@pytest.mark.slow
@settings(max_examples=20)
@given(shape=SHAPES, rule=st.sampled_from(RULES), seed=st.integers(0, 99), backend=st.sampled_from(["dense", "sparse"]))
def test_products_in_bfloat16_lose_and_pull_alike_up_to_its_eight_bits(shape, rule, seed, backend) -> None:
    weights, (x, y) = filled(shape, rule, seed, torch.float32), batch(shape, seed, dtype=torch.float32)
    # Inputs and encoders of few bits are exact in bfloat16, so that the same features are on.
    x, few = x.round(decimals=0), {name: p for name, p in weights.parameters.items()}
    with torch.no_grad():
        for name in few:
            if name.startswith("W_enc"):
                few[name].mul_(4).round_().div_(4)
    exact, rough = (
        loss_and_gradients(weights, x, y, rule, Costs(), backend, working)
        for working in (torch.float32, torch.bfloat16)
    )
    assert float((exact[0] - rough[0]).abs()) <= 0.02 * float(exact[0])
    assert rough[0].dtype == torch.float32
    for name, gradient in exact[1].items():
        assert float((gradient - rough[1][name]).norm()) <= 0.05 * float(gradient.norm()) + 1e-3, name


def norms_of(rows: torch.Tensor, per: str) -> torch.Tensor:
    """The norms that a feature is charged by, `feature charge`, of its rows `feature written d_model`."""
    if per == "feature":
        return rows.norm(dim=(1, 2))[:, None]
    if per == "write":
        return rows.norm(dim=2)
    axis = rows[:, :1] / rows[:, :1].norm(dim=2, keepdim=True)
    along = (rows * axis).sum(2)
    beside = (rows - along[:, :, None] * axis)[:, 1:].norm(dim=2)
    return torch.cat([along.norm(dim=1, keepdim=True), beside], dim=1)


@pytest.mark.slow
@given(shape=SHAPES, costs=COSTS, seed=st.integers(0, 99))
@settings(max_examples=20)
def test_a_step_is_the_plain_formula_through_ordinary_autograd(shape, costs, seed) -> None:
    # Rows that are tied have nothing beside each other, and the norm of nothing has no gradient to compare.
    assume(not (shape.tied == "source" and costs.per == "direction"))
    rule = Rule("relu")
    weights, (x, y) = filled(shape, rule, seed), batch(shape, seed)
    loss, gradients, _ = loss_and_gradients(weights, x, y, rule, costs, "sparse")
    h = [x[s] @ weights[f"W_enc.{s}"].T + weights[f"b_enc.{s}"] for s in range(shape.n_layers)]
    a = [each.relu() for each in h]
    stacked = weights.stacked()
    written = [stacked[f"W_dec.{s}"] for s in range(shape.n_layers)]
    plain = torch.zeros((), dtype=torch.float64)
    for layer in range(shape.n_layers):
        out = sum(a[s] @ written[s][:, layer - s] for s in shape.sources(layer)) + weights["b_dec"][layer]
        out = out + x[layer] @ weights[f"W_skip.{layer}"] if shape.skip else out
        plain = plain + (out - y[layer]).square().mean()
    for s in range(shape.n_layers):
        norms = norms_of(written[s], costs.per)
        scaled = a[s][:, :, None] * norms
        cost = torch.tanh(4.0 * scaled) if costs.penalty == "tanh" else scaled
        plain = plain + 0.1 * cost.sum((1, 2)).mean()
        dead = ~(a[s] > 0).any(0)
        held = written[s].detach().norm(dim=(1, 2))
        plain = plain + 0.05 * ((0 - h[s]).relu().mean(0) * held * dead).sum()
    assert float(loss) == pytest.approx(float(plain.detach()), rel=1e-12)
    names = list(weights.parameters)
    wanted = torch.autograd.grad(plain, [weights[name] for name in names], allow_unused=True)
    for name, gradient in zip(names, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(gradients[name], gradient, atol=1e-11, rtol=1e-9)


@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.05, 0.5, 1.0]), shape=st.sampled_from([(7, 9), (9, 7)]))
@settings(max_examples=20)
def test_products_over_a_pattern_are_those_of_the_matrix(seed: int, share: float, shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=draw, dtype=torch.float64) * (torch.rand(shape, generator=draw) < share)
    tokens, features = matrix.nonzero(as_tuple=True)
    pattern, values = Pattern(tokens, features, shape), matrix[tokens, features]
    gradient, rows = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in shape)
    torch.testing.assert_close(pattern.to_tokens(values, rows), matrix @ rows)
    torch.testing.assert_close(pattern.to_features(values, gradient), matrix.T @ gradient)
    torch.testing.assert_close(pattern.inner(gradient, rows), (gradient @ rows.T)[tokens, features])


def test_topk_keeps_at_most_k_positive_ones_of_each_token_and_batch_topk_k_on_average() -> None:
    x, W = torch.randn(40, 8), torch.randn(30, 8)
    top, batched = (encode(x, W, torch.zeros(30), None, Rule(name, k=4), "sparse") for name in ("topk", "batch_topk"))
    assert torch.bincount(top.active.tokens, minlength=40).tolist() == [4] * 40  # type: ignore[attr-defined]
    assert batched.n_active() == 160
    below = encode(-torch.ones(3, 8), torch.ones(30, 8), torch.zeros(30), None, Rule("topk", k=4), "sparse")
    assert below.n_active() == 0


def test_the_rank_one_revival_is_the_dense_one_where_the_dead_are_silent() -> None:
    x, W, b = torch.rand(50, 8), torch.rand(12, 8, requires_grad=True), torch.full((12,), -9.0, requires_grad=True)
    threshold, norm = torch.rand(12), torch.rand(12)
    dead = torch.arange(12) % 2 == 0
    plain = ((threshold - x @ W.T - b).relu() * norm * dead).sum(-1).mean()
    quick = losses.revival_of_silent(torch.addmv(b, W, x.mean(0)), threshold, norm, dead)
    torch.testing.assert_close(quick, plain)
    for one, other in zip(torch.autograd.grad(quick, [W, b]), torch.autograd.grad(plain, [W, b]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_charge_for_each_write_makes_one_feature_of_two_layers_as_dear_as_two_features() -> None:
    shape = Architecture(n_layers=2, d_model=1, features=1, span=2)
    weights = initial(shape, None, torch.Generator())
    weights["W_dec.0.0"][:], weights["W_dec.0.1"][:], weights["W_dec.1.1"][:] = 50.0, 50.0, 50.0
    on, off = (DenseCodes(torch.full((3, 1), value), torch.zeros(()), lambda: 1.0) for value in (1.0, 0.0))
    collapsed, chain = [on, off], [on, on]
    assert float(Costs(per="feature").of(weights, collapsed)) == pytest.approx(1)
    assert float(Costs(per="write").of(weights, collapsed)) == pytest.approx(2)
    weights["W_dec.0.1"][:] = 0
    assert float(Costs(per="write").of(weights, chain)) == pytest.approx(2)


def test_a_charge_for_each_direction_takes_amplification_for_one_and_a_further_step_for_two() -> None:
    shape = Architecture(n_layers=2, d_model=2, features=1, span=2)
    weights = initial(shape, None, torch.Generator())
    on, off = (DenseCodes(torch.full((3, 1), value), torch.zeros(()), lambda: 1.0) for value in (1.0, 0.0))
    weights["W_dec.0.0"][:] = torch.tensor([50.0, 0.0])
    weights["W_dec.0.1"][:] = torch.tensor([80.0, 0.0])
    assert float(Costs(per="direction").of(weights, [on, off])) == pytest.approx(1)
    weights["W_dec.0.1"][:] = torch.tensor([0.0, 80.0])
    assert float(Costs(per="direction").of(weights, [on, off])) == pytest.approx(2)


def test_tied_decoders_are_one_parameter() -> None:
    by_source = initial(Architecture(3, 4, 5, 3, tied="source"), None, torch.Generator())
    assert by_source.table(0, 0) is by_source.table(0, 2)
    by_target = initial(Architecture(3, 4, 5, 3, tied="target"), None, torch.Generator())
    assert by_target.table(0, 2) is by_target.table(2, 2)
    assert sum(name.startswith("W_dec") for name in by_target.parameters) == 3


class Alive(TorchDispatchMode):
    """How many tensors of one shape were ever there together, of those made inside."""

    def __init__(self, shape: tuple[int, int], before: list[torch.Tensor]) -> None:
        super().__init__()
        self.most, self._size = 0, shape[0] * shape[1]
        self._before = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in before}
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.numel() == self._size:
                weak = StorageWeakRef(tensor.untyped_storage())
                self._made |= {weak.cdata: weak} if weak.cdata not in self._before else {}
        self._made = {data: weak for data, weak in self._made.items() if not weak.expired()}
        self.most = max(self.most, len(self._made))
        return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("rule", [RULES[0], RULES[1]], ids=["jump_relu", "topk"])
@pytest.mark.parametrize("changes", [{}, {"tied": "source"}, {"span": 1}], ids=["untied", "tied", "per layer"])
def test_in_low_memory_the_gradients_of_two_parameters_are_never_there_together(rule, backend, changes) -> None:
    shape = replace(Architecture(n_layers=6, d_model=13, features=29, span=6), **changes)
    most = {}
    for low_memory in (False, True):
        weights, (x, y) = filled(shape, rule, 0, torch.float32), batch(shape, 0, dtype=torch.float32)
        optimizer = Optimizer(weights, low_memory=low_memory)
        optimizer.set_lr(1e-3)
        with Alive((29, 13), [*weights.parameters.values(), *optimizer.state().values()]) as alive:
            through = passed(weights, x, y, rule, backend, costs=Costs())
            dead = ~through.fired()
            dead[:, 0] = True
            (through.reconstruction + through.cost + revived(weights, through, dead)).backward()
            optimizer.step()
        most[low_memory] = alive.most
    # One gradient, and what is being added to it.
    assert most[True] <= 3
    assert most[False] >= sum(1 for p in weights.parameters.values() if p.shape == (29, 13))


def test_sparse_products_are_chosen_where_few_entries_count() -> None:
    assert cheaper(0.05, "cpu") == "sparse"
    assert cheaper(0.6, "cpu") == cheaper(0.05, "cuda") == "dense"
