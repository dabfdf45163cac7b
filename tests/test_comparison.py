"""Circuits of any units on one measure: what the curves hold by law, and scorers against brute force."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.test_refusals import refusal
from tl_circuits.comparison import Basis, CircuitCurve, Slot, Task, circuit_curve
from tl_circuits.comparison.curve import told_apart, whole_numbers
from tl_circuits.comparison.passes import Recorded, recorded, through
from tl_circuits.comparison.scorers import scores
from tl_circuits.errors import FitError, PromptError, SettingError
from tl_circuits.hooks import Tap, has_user_hooks
from tl_circuits.zoo import compiled

CLEAN = torch.tensor([[1, 5, 9, 3, 7], [1, 6, 2, 3, 7], [1, 30, 9, 4, 7]])
CORRUPTED = torch.tensor([[1, 8, 9, 3, 7], [1, 5, 2, 3, 7], [1, 31, 9, 4, 7]])
BASES = ("neurons", "CLT", "PLT", "skip PLT", "SAE", "SFC", "heads and MLPs")
OF_MLPS = ("neurons", "CLT", "PLT", "skip PLT", "SAE")
PATCHED = {"SFC": ("attn_out", "mlp_out", "resid_post"), "SAE": ("mlp_out",)}

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_basis = pytest.mark.parametrize("name", BASES)


def basis_of(name: str, model: Any) -> Basis:
    made: dict[str, Callable[[], Basis]] = {
        "neurons": lambda: Basis.neurons(model),
        "CLT": lambda: Basis.features(model, models.transcoder()),
        "PLT": lambda: Basis.features(model, models.transcoder(span=1)),
        "skip PLT": lambda: Basis.features(model, models.transcoder(span=1, skip=True)),
        "heads and MLPs": lambda: Basis.blocks(model),
        "SAE": lambda: Basis.saes(model, random_saes(model, PATCHED["SAE"])),
        "SFC": lambda: Basis.saes(model, random_saes(model, PATCHED["SFC"]), "SFC"),
    }
    return made[name]()


class RandomSAE:
    """What a basis asks of an SAE of SAELens, in plain torch."""

    def __init__(self, point: str, d_in: int, dtype: torch.dtype, seed: int) -> None:
        metadata = type("Metadata", (), {"hook_name": point})()
        self.cfg = type("Config", (), {"metadata": metadata, "d_in": d_in})()
        draw = torch.Generator().manual_seed(seed)
        self.W_enc, self.W_dec = (torch.randn(d_in, 20, generator=draw, dtype=dtype) / d_in**0.5 for _ in range(2))

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W_enc - 0.2)

    def decode(self, units: Tensor) -> Tensor:
        return units @ self.W_dec.T


def random_saes(model: Any, points: tuple[str, ...]) -> list[RandomSAE]:
    named = [f"blocks.{layer}.hook_{point}" for layer in range(models.N_LAYERS) for point in points]
    dtype = next(model.parameters()).dtype
    return [RandomSAE(point, model.cfg.d_model, dtype, seed) for seed, point in enumerate(named)]


def task(model: Any) -> Task:
    """Prompts whose answers are what the model prefers on them, over what it prefers on their counterfactuals."""
    clean, corrupted = (model(tokens)[:, -1].detach() for tokens in (CLEAN, CORRUPTED))
    change = clean - corrupted
    return Task("any", CLEAN, CORRUPTED, change.argmax(-1), change.argmin(-1))


def runs(model: Any, basis: Basis, asked: Task) -> tuple[Recorded, Recorded]:
    return recorded(model, basis, asked.clean), recorded(model, basis, asked.corrupted)


def circuit(like: Recorded, on: bool) -> list[Tensor]:
    return [torch.full(units.shape[:3], on) for units in like.units]


def put(cache: Any) -> Callable[..., Tensor]:
    """A plain hook that puts what another run had."""
    return lambda _, hook: cache[hook.name]


# What holds of every basis


@both
@every_basis
def test_to_look_at_units_changes_nothing(name: str, model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    seen = recorded(model, basis_of(name, model), CLEAN)
    torch.testing.assert_close(seen.logits, model(CLEAN)[:, -1].detach(), atol=1e-10, rtol=0)
    assert not has_user_hooks(model)


@pytest.mark.slow
@both
@every_basis
@pytest.mark.parametrize("errors", ["corrupted", "kept"])
def test_all_units_with_errors_of_the_pass_are_the_model(name: str, model_class: str, errors: Any) -> None:
    model = models.model_of("gpt2", model_class)
    basis, asked = basis_of(name, model), task(model)
    clean, corrupted = runs(model, basis, asked)
    logits = through(model, basis, asked.clean, corrupted, circuit(clean, True), errors)
    same = torch.allclose(logits, clean.logits, atol=1e-9)
    assert same == (errors == "kept" or basis.slots[0].exact)


@both
@every_basis
def test_without_any_unit_every_mlp_writes_what_it_wrote_in_the_corrupted_run(name: str, model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    basis, asked = basis_of(name, model), task(model)
    clean, corrupted = runs(model, basis, asked)
    found = through(model, basis, asked.clean, corrupted, circuit(clean, False), "corrupted")
    points = ["hook_mlp_out", "attn.hook_z"] if name == "heads and MLPs" else ["hook_mlp_out"]
    points = [f"hook_{point}" for point in PATCHED[name]] if name in PATCHED else points
    written: dict[str, Tensor] = {}

    def keep(point: str) -> Callable[..., None]:
        return lambda value, **_: written.__setitem__(point, value)

    def put(point: str) -> Callable[..., Tensor]:
        return lambda _value, **_: written[point]

    named = [f"blocks.{layer}.{point}" for layer in range(models.N_LAYERS) for point in points]
    with model.hooks([(point, keep(point)) for point in named]):
        model(asked.corrupted)
    with model.hooks([(point, put(point)) for point in named]):
        expected = model(asked.clean)[:, -1].detach()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "errors"),
    [
        *((name, "corrupted") for name in BASES),
        *((name, "kept") for name in ("CLT", "SAE", "heads and MLPs")),
        ("CLT", "zero"),
        ("heads and MLPs", "zero"),
    ],
)
def test_a_circuit_is_nothing_without_units_and_ends_at_all_of_them(name: str, errors: Any) -> None:
    model = models.model_of("gpt2", "hooked")
    basis = basis_of(name, model)
    curve = circuit_curve(model, basis, task(model), "attribution-patching", errors=errors)
    assert curve.sizes[0] == 0
    assert float(curve.faithfulness[0]) == 0
    # What is left without all units is the empty circuit, and all without none is the circuit of all.
    torch.testing.assert_close(curve.complete[-1], curve.faithful[0])
    torch.testing.assert_close(curve.complete[0], curve.faithful[-1])
    if errors == "kept" or basis.slots[0].exact:
        assert float(curve.faithfulness[-1]) == pytest.approx(1, abs=1e-9)
        assert bool(curve.answered[-1].all())


@pytest.mark.slow
def test_all_bases_of_the_mlps_start_from_the_same_empty_circuit() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    empty = [circuit_curve(model, basis_of(name, model), asked, "ig-inputs", sizes=[]).empty for name in OF_MLPS]
    for other in empty[1:]:
        torch.testing.assert_close(other, empty[0], atol=1e-9, rtol=0)


def shuffled_slots(basis: Basis) -> Basis:
    """The same units, numbered otherwise."""

    def otherwise(slot: Slot, number: int, n_units: int) -> Slot:
        order = torch.randperm(n_units, generator=torch.Generator().manual_seed(number))
        back[number] = order.argsort()

        def decode(units: Any) -> Tensor:
            return slot.decode([part.index_select(2, back[place]) for place, part in enumerate(units)])

        return replace(slot, encode=lambda x: slot.encode(x).index_select(2, order), decode=decode)

    back: dict[int, Tensor] = {}
    sizes = [part.shape[2] for part in recorded(models.model_of("gpt2", "hooked"), basis, CLEAN).units]
    slots = tuple(otherwise(slot, n, size) for n, (slot, size) in enumerate(zip(basis.slots, sizes, strict=True)))
    return Basis(basis.name, slots)


def told_by_the_runs(basis: Basis) -> list[int]:
    """Sizes of circuits of units that are on in either run: of those that are not, numbers decide who comes first."""
    model = models.model_of("gpt2", "hooked")
    on = [
        (one != 0) | (other != 0)
        for one, other in zip(*(recorded(model, basis, tokens).units for tokens in (CLEAN, CORRUPTED)), strict=True)
    ]
    each = [(part.flatten(3).any(3) if part.ndim > 3 else part).flatten(1).sum(1) for part in on]
    n_units = int(torch.stack(each).sum(0).min())
    return [2**power for power in range(n_units.bit_length()) if 2**power <= n_units]


@pytest.mark.slow
@every_basis
def test_how_units_are_numbered_does_not_matter(name: str) -> None:
    model = models.model_of("gpt2", "hooked")
    basis, asked = basis_of(name, model), task(model)
    sizes = told_by_the_runs(basis)
    one, other = (
        circuit_curve(model, of, asked, "attribution-patching", sizes=sizes) for of in (basis, shuffled_slots(basis))
    )
    torch.testing.assert_close(one.faithfulness, other.faithfulness, atol=1e-7, rtol=0)
    torch.testing.assert_close(one.completeness, other.completeness, atol=1e-7, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["ig-inputs", "influence"])
def test_how_the_features_of_a_transcoder_are_numbered_does_not_matter(scorer: Any) -> None:
    model, clt = models.model_of("gpt2", "hooked"), models.transcoder(activation="relu")
    order = torch.randperm(models.N_FEATURES, generator=torch.Generator().manual_seed(0))
    shuffled = type(clt)(
        [rows[order] for rows in clt.W_enc],
        [rows[order] for rows in clt.b_enc],
        [rows[order] for rows in clt.W_dec],
        clt.b_dec,
        read=clt.read,
        write=clt.write,
    )
    bases = [Basis.features(model, each) for each in (clt, shuffled)]
    sizes = told_by_the_runs(bases[0])
    one, other = (circuit_curve(model, each, task(model), scorer, sizes=sizes) for each in bases)
    torch.testing.assert_close(one.faithfulness, other.faithfulness, atol=1e-7, rtol=0)
    torch.testing.assert_close(one.completeness, other.completeness, atol=1e-7, rtol=0)


# Scorers


def measured_by_hand(model: Any, asked: Task, point: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    with model.hooks([(point, lambda value, **_: change(value))]):
        return asked.measure(model(asked.clean)[:, -1])


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_along_inputs_are_those_of_a_pass_built_by_hand(steps: int) -> None:
    model = models.model_of("gpt2", "hooked")
    asked, start = task(model), "blocks.0.hook_resid_pre"
    _, clean = model.run_with_cache(asked.clean)
    _, corrupted = model.run_with_cache(asked.corrupted)
    total: dict[str, Tensor] = {}
    points = [f"blocks.{layer}.mlp.hook_post" for layer in range(models.N_LAYERS)]
    for step in range(steps):
        share, kept = (step + 0.5) / steps, dict[str, Tensor]()
        between = corrupted[start] + share * (clean[start] - corrupted[start])

        def keep(value: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            value.retain_grad()
            kept[hook.name] = value

        def enter(_value: Tensor, between: Tensor = between, **_: Any) -> Tensor:
            return between

        with model.hooks([(start, enter), *((point, keep) for point in points)]):
            asked.measure(model(asked.clean)[:, -1]).sum().backward()
        for point in points:
            total[point] = total.get(point, 0) + _grad(kept[point]) / steps
    found = scores(model, Basis.neurons(model), asked, "ig-inputs", steps=steps)
    for point, score in zip(points, found, strict=True):
        torch.testing.assert_close(score, total[point] * (clean[point] - corrupted[point]), atol=1e-5, rtol=1e-5)


def _grad(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


def test_attribution_patching_is_the_slope_of_patching_a_little() -> None:
    model = models.model_of("gpt2", "hooked")
    asked, step = task(model), 1e-6
    for name in ("neurons", "CLT", "heads and MLPs"):
        basis = basis_of(name, model)
        clean, corrupted = runs(model, basis, asked)
        found = scores(model, basis, asked, "attribution-patching")
        for number, pos, unit in ((0, 1, 0), (1, 2, 0), (len(basis.slots) - 1, 4, 0)):
            differs = clean.units[number] - corrupted.units[number]
            unit = (
                int(differs.flatten(3).abs().sum(3).sum(0)[pos].argmax())
                if differs.ndim > 3
                else int(differs.abs().sum(0)[pos].argmax())
            )
            moved = [part.clone() for part in clean.units]
            moved[number][:, pos, unit] -= step * differs[:, pos, unit]
            at = _written_with(model, basis, asked, number, moved[number])
            slope = (asked.measure(clean.logits) - asked.measure(at)) / step
            torch.testing.assert_close(found[number][:, pos, unit], slope, atol=1e-4, rtol=1e-4)


def _written_with(model: Any, basis: Basis, asked: Task, at: int, units: Tensor) -> Tensor:
    from tl_circuits.comparison.passes import pushed

    with torch.no_grad():
        return pushed(model, basis, asked.clean, lambda number, own: units if number == at else own)


@pytest.mark.slow
def test_integrated_along_a_units_own_values_the_gradients_are_the_whole_effect_of_a_slot() -> None:
    # Of one slot at a time: moving all its units from corrupted to clean is what its scores sum to, in the limit.
    model = models.model_of("gpt2", "hooked")
    basis, asked = Basis.neurons(model), task(model)
    clean, corrupted = runs(model, basis, asked)
    found = scores(model, basis, asked, "ig-activations", steps=24)
    for number in range(len(basis.slots)):
        then = _written_with(model, basis, asked, number, corrupted.units[number])
        effect = asked.measure(clean.logits) - asked.measure(then)
        torch.testing.assert_close(found[number].sum((1, 2)), effect, atol=5e-3, rtol=5e-3)


@pytest.mark.slow
def test_ablation_is_what_a_hook_does() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    found = scores(model, Basis.blocks(model), asked, "ablation")
    _, corrupted = model.run_with_cache(asked.corrupted)
    whole = asked.measure(model(asked.clean)[:, -1])
    # A head or a whole MLP: what follows the position, nothing of an MLP's output.
    for slot, point, cell in ((0, "blocks.0.attn.hook_z", (1, 1)), (3, "blocks.1.hook_mlp_out", (4,))):

        def put(value: Tensor, point: str = point, cell: tuple[int, ...] = cell) -> Tensor:
            value[:, *cell] = corrupted[point][:, *cell]
            return value

        expected = whole - measured_by_hand(model, asked, point, put)
        unit = (cell[0], cell[1] if len(cell) > 1 else 0)
        torch.testing.assert_close(found[slot][:, *unit], expected.detach(), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_influence_is_that_of_each_prompts_graph() -> None:
    model, clt = models.model_of("gpt2", "hooked"), models.transcoder()
    asked = task(model)
    found = scores(model, Basis.features(model, clt), asked, "influence")
    local = tlc.localize(model, clt, asked.clean[1], masked_positions=())
    graph = tlc.attribute(local, tlc.Targets.difference(int(asked.answer[1]), int(asked.corrupted_answer[1])))
    for feature in local.active()[::7]:
        expected = graph.node(str(feature)).influence
        assert float(found[feature.layer][1, feature.pos, feature.index]) == pytest.approx(expected, abs=1e-12)
    assert sum(float((part[1] > 0).sum()) for part in found) <= len(local.features)
    curve = circuit_curve(model, Basis.features(model, clt), asked, found, sizes=[1])
    assert curve.scorer == "given"


# Known answers: one word of the prompt decides, and one chain of features carries it.


def planted() -> tuple[compiled.Compiled, Task]:
    made = compiled.chain_at_one_token()
    yes, no = made.prompts
    tokens, answers = (yes.tokens, no.tokens), torch.tensor([yes.answer, no.answer])
    return made, Task("chain", torch.cat(tokens), torch.cat(tokens[::-1]), answers, answers.flip(0))


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["ablation", "ig-activations", "ig-inputs"])
def test_the_planted_chain_is_the_circuit(scorer: Any) -> None:
    made, asked = planted()
    basis = Basis.features(made.model, made.transcoder)
    curve = circuit_curve(made.model, basis, asked, scorer)
    # Of each word a feature in either layer; those of the other word fall silent.
    assert float(curve.faithfulness[-1]) == pytest.approx(1, abs=1e-6)
    by_size = dict(zip(curve.sizes, curve.faithfulness.tolist(), strict=True))
    assert by_size[4] == pytest.approx(1, abs=1e-6)
    assert curve.k80 is not None
    assert curve.k80 <= 4
    assert curve.kc20 is not None
    assert curve.kc20 <= 4
    assert float(curve.accuracy[-1]) == 1


@pytest.mark.slow
def test_gradients_of_the_clean_run_alone_miss_what_goes_through_what_is_silent_there() -> None:
    # The other word's first feature acts through its second, which is below its threshold: the slope there is zero.
    made, asked = planted()
    basis = Basis.features(made.model, made.transcoder)
    guess, truth = (scores(made.model, basis, asked, scorer) for scorer in ("attribution-patching", "ablation"))
    missed = [(one == 0) & (other.abs() > 1e-6) for one, other in zip(guess, truth, strict=True)]
    assert [int(part.sum()) for part in missed] == [2, 0]
    assert all(int(((one != 0) & (other != 0)).sum()) >= 2 for one, other in zip(guess, truth, strict=True))


@pytest.mark.slow
def test_a_wrong_circuit_is_worse_by_every_measure() -> None:
    made, asked = planted()
    basis = Basis.features(made.model, made.transcoder)
    right = scores(made.model, basis, asked, "ablation")
    best, worst = (circuit_curve(made.model, basis, asked, each) for each in (right, turned(right)))
    assert best.cpr > worst.cpr + 0.1
    assert best.area(to=8) > worst.area(to=8) + 0.1
    assert best.at(4) > worst.at(4) + 0.1
    assert best.recovered is not None
    assert worst.recovered is not None
    assert float(best.recovered.mean()) > float(worst.recovered.mean()) + 0.1
    assert best.cpr_linear > worst.cpr_linear + 0.1
    assert best.cmd < worst.cmd - 0.1
    assert best.cmd_linear < worst.cmd_linear - 0.1
    assert (worst.k80 or 10**9) > (best.k80 or 10**9)
    assert (worst.kc20 or 10**9) > (best.kc20 or 10**9)
    assert float(best.accuracy.mean()) > float(worst.accuracy.mean())


def turned(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The least of these by size is the first now."""
    most = max(float(part.abs().max()) for part in found)
    return tuple(most - part.abs() for part in found)


@pytest.mark.slow
def test_saes_of_saelens_are_a_basis() -> None:
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    model = models.model_of("gpt2", "hooked")
    torch.manual_seed(0)
    saes = []
    for layer in reversed(range(models.N_LAYERS)):
        metadata = SAEMetadata(hook_name=f"blocks.{layer}.hook_mlp_out")
        config = StandardSAEConfig(d_in=models.D_MODEL, d_sae=24, dtype="float64", device="cpu", metadata=metadata)
        sae = StandardSAE(config)
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        saes.append(sae)
    basis, asked = Basis.saes(model, saes), task(model)
    assert [slot.layer for slot in basis.slots] == [0, 1, 2]
    seen = recorded(model, basis, asked.clean)
    torch.testing.assert_close(seen.logits, model(asked.clean)[:, -1].detach(), atol=1e-9, rtol=0)
    curve = circuit_curve(model, basis, asked, "attribution-patching")
    same = circuit_curve(model, Basis.neurons(model), asked, "attribution-patching", sizes=[])
    torch.testing.assert_close(curve.empty, same.empty, atol=1e-9, rtol=0)


# Tasks


@pytest.fixture(scope="module")
def demo() -> tuple[Any, tlc.CrossLayerTranscoder]:
    return tlc.demo("hooked")


def question(city: str) -> str:
    return f"the capital of the state containing {city} is"


def test_a_task_of_texts_is_that_of_their_tokens(demo: Any) -> None:
    model, _ = demo
    asked = Task.of(model, [(question("Dallas"), question("Oakland"), " Austin", " Sacramento")], "capitals")
    torch.testing.assert_close(asked.clean, model.to_tokens(question("Dallas")))
    torch.testing.assert_close(asked.corrupted, model.to_tokens(question("Oakland")))
    logits = model(asked.clean)[:, -1].double().detach()
    ids = [model.tokenizer.convert_tokens_to_ids(f" {name}") for name in ("Austin", "Sacramento")]
    torch.testing.assert_close(asked.measure(logits), logits[:, ids[0]] - logits[:, ids[1]])
    assert float(asked.measure(logits)) > 0


def test_where_several_answers_are_right_their_probabilities_count() -> None:
    contrast = torch.zeros(3, models.D_VOCAB)
    contrast[:, [4, 5]], contrast[:, [6]] = 1, -1
    answers = torch.tensor([4, 5, 4])
    asked = Task("x", CLEAN, CORRUPTED, answers, torch.tensor([6, 6, 6]), contrast)
    logits = torch.randn(3, models.D_VOCAB, dtype=torch.float64)
    likely = logits.softmax(-1)
    torch.testing.assert_close(asked.measure(logits), likely[:, 4] + likely[:, 5] - likely[:, 6])
    torch.testing.assert_close(asked.part([1]).measure(logits[1:2]), asked.measure(logits)[1:2])


def test_prompts_that_are_no_pairs_are_refused(demo: Any) -> None:
    model, _ = demo
    pair = (question("Dallas"), question("Oakland"), " Austin", " Sacramento")
    with refusal(PromptError, "has 10 tokens, but '36\\+59=' 7", "prompts of one length"):
        Task.of(model, [pair, ("36+59=", "36+49=", "9", "8")])
    with refusal(PromptError, "Task 'none' has no prompts: give at least one"):
        Task.of(model, [], "none")
    with refusal(tlc.TargetError, "'Austin Denver' is not one token of this vocabulary"):
        Task.of(model, [(*pair[:2], "Austin Denver", " Sacramento")])


@pytest.mark.slow
def test_units_drawn_at_random_are_those_that_differ_and_a_worse_circuit() -> None:
    made, asked = planted()
    basis = Basis.features(made.model, made.transcoder)
    found = scores(made.model, basis, asked, "random", seed=3)
    for part, again, other in zip(
        found,
        scores(made.model, basis, asked, "random", seed=3),
        scores(made.model, basis, asked, "random"),
        strict=True,
    ):
        torch.testing.assert_close(part, again)
        assert not torch.equal(part, other)
    assert sum(int((part[0] > 0).sum()) for part in found) == 4


# What is refused


def test_answers_that_are_the_same_are_refused() -> None:
    answers = torch.tensor([3, 4, 5])
    with refusal(PromptError, r"prompt 0 and its counterfactual have the same answer \(3\)", r"such pairs \(3 here\)"):
        Task("x", CLEAN, CORRUPTED, answers, answers)


@pytest.mark.slow
@both
def test_frozen_attention_is_that_of_plain_hooks_while_scoring_and_while_measuring(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    asked, basis = task(model), Basis.neurons(model)
    _, patterns = model.run_with_cache(asked.clean)
    _, there = model.run_with_cache(asked.corrupted)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    held = [(f"blocks.{layer}.attn.hook_pattern", put(patterns)) for layer in range(model.cfg.n_layers)]
    pushes = [torch.zeros_like(patterns[name], requires_grad=True) for name in names]
    pushed = [(name, lambda value, push=push, **_: value + push) for name, push in zip(names, pushes, strict=True)]
    with torch.enable_grad():
        asked.measure(model.run_with_hooks(asked.clean, fwd_hooks=held + pushed)[:, -1].double()).sum().backward()
    by_hand = [p.grad * (patterns[name] - there[name]) for name, p in zip(names, pushes, strict=True)]
    found = scores(model, basis, asked, "attribution-patching", attention="frozen")
    for ours, theirs in zip(found, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert not torch.allclose(found[0], scores(model, basis, asked, "attribution-patching")[0], atol=1e-6)

    curve = circuit_curve(model, basis, asked, "attribution-patching", attention="frozen", sizes=[7], progress=False)
    best = torch.cat([part.flatten(1) for part in found], 1).abs().argsort(dim=1, descending=True, stable=True)[:, :7]
    kept = torch.zeros(len(asked), sum(part[0].numel() for part in found), dtype=torch.bool).scatter(1, best, True)
    masks = (part.view(found[0].shape) for part in kept.split([part[0].numel() for part in found], 1))
    circuit = [
        (name, lambda value, on=on, other=there[name], **_: torch.where(on, value, other))
        for name, on in zip(names, masks, strict=True)
    ]
    logits = model.run_with_hooks(asked.clean, fwd_hooks=held + circuit)[:, -1].detach().double()
    torch.testing.assert_close(curve.faithful[1], asked.measure(logits), atol=1e-10, rtol=0)
    assert curve.attention == "frozen" == curve.to_dict()["attention"]
    running = circuit_curve(model, basis, asked, found, sizes=[7], progress=False)
    assert not torch.allclose(curve.faithful[1], running.faithful[1], atol=1e-6)
    assert not has_user_hooks(model)


@pytest.mark.slow
def test_a_circuit_found_on_other_prompts_is_that_of_their_mean_scores() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    here, there, basis = asked.part([2]), asked.part([0, 1]), basis_of("CLT", model)
    # As many as have a score.
    sizes = [1, 4, 16, 64]
    curve = circuit_curve(model, basis, here, "ig-inputs", found_on=there, sizes=sizes, progress=False)
    mean = tuple(part.mean(0, keepdim=True) for part in scores(model, basis, there, "ig-inputs"))
    given = circuit_curve(model, basis, here, mean, sizes=sizes, progress=False)
    torch.testing.assert_close(curve.faithful, given.faithful)
    assert (curve.found_on, given.found_on) == (there.name, None)
    own = circuit_curve(model, basis, here, "ig-inputs", sizes=sizes, progress=False)
    assert not torch.allclose(curve.faithful, own.faithful)
    short = replace(there, clean=there.clean[:, 1:], corrupted=there.corrupted[:, 1:])
    with refusal(PromptError, "2 prompts of 4 tokens", "give prompts of 5 tokens"):
        circuit_curve(model, basis, here, "ig-inputs", found_on=short)
    with refusal(SettingError, "but scores were given: name a scorer"):
        circuit_curve(model, basis, here, mean, found_on=there)


@pytest.mark.slow
def test_divergence_is_what_torch_makes_of_it_and_its_share_runs_from_nothing_to_all() -> None:
    model = models.model_of("gpt2", "hooked")
    curve = circuit_curve(model, Basis.neurons(model), task(model), progress=False)
    assert curve.divergence is not None
    assert curve.recovered is not None
    _, there = model.run_with_cache(CORRUPTED)
    empty = [(f"blocks.{layer}.hook_mlp_out", put(there)) for layer in range(model.cfg.n_layers)]
    logits = model.run_with_hooks(CLEAN, fwd_hooks=empty)[:, -1].detach().double().log_softmax(-1)
    whole = model(CLEAN)[:, -1].detach().double().log_softmax(-1)
    by_torch = torch.nn.functional.kl_div(logits, whole, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(curve.divergence[0], by_torch, atol=1e-10, rtol=0)
    torch.testing.assert_close(curve.divergence[-1], torch.zeros_like(by_torch), atol=1e-10, rtol=0)
    assert (float(curve.recovered[0]), curve.to_dict()["recovered"][-1]) == (0, pytest.approx(1))


@pytest.mark.slow
def test_a_basis_of_another_model_is_refused_or_said() -> None:
    small = models.model_of("gpt2", "hooked")
    asked = task(small)
    with refusal(FitError, "which is none of this model's .* hook points: make the basis of this model"):
        circuit_curve(small, Basis("any", (replace(Basis.neurons(small).slots[0], read=Tap("blocks.9.x")),)), asked)
    with refusal(FitError, "was trained on another model"):
        circuit_curve(
            small, Basis("CLT", basis_of("CLT", small).slots, compiled.chain_at_one_token().transcoder), asked
        )
    with refusal(FitError, "are of 1 layers, but the model has 3: make the basis of this model"):
        circuit_curve(small, Basis("neurons", Basis.neurons(small).slots[:1]), asked)
    of_another = copy.copy(models.transcoder())
    of_another.model_name = "somebody/else"
    with pytest.warns(UserWarning, match="says it was trained on 'somebody/else'"):
        circuit_curve(small, Basis.features(small, of_another), asked, sizes=[])


def test_settings_that_are_none_are_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    asked, basis = task(model), Basis.neurons(model)
    n_units = models.N_LAYERS * 5 * 32
    for options, says in (
        ({"sizes": [n_units + 1]}, rf"leave the 0 to {n_units} units"),
        ({"steps": 0}, "steps=0 integrates nothing"),
        ({"sizes": [-1]}, r"sizes=\[-1\]: a circuit has 0 units or more"),
        ({"scorer": (torch.zeros(3, 5, 31),) * 3}, r"shapes \[\(3, 5, 31\).*units of the slots are \[\(3, 5, 32\)"),
        ({"scorer": (torch.full((3, 5, 32), torch.nan),) * 3}, "slot 0 hold NaN"),
    ):
        with refusal(SettingError, says):
            circuit_curve(model, basis, asked, **{"scorer": "ig-inputs", **options})
    with refusal(SettingError, "neurons are no transcoder's features: score them by 'ig-inputs'"):
        scores(model, basis, asked, "influence")


def test_padding_that_the_model_would_read_as_text_is_refused(demo: Any) -> None:
    model, _ = demo
    asked = Task.of(model, [("the state containing Dallas is", "the state containing Oakland is", 3, 4)])
    padded = [torch.nn.functional.pad(tokens, (2, 0)) for tokens in (asked.clean, asked.corrupted)]
    with refusal(PromptError, "starts with 2 padding tokens", "leave them out"):
        circuit_curve(model, Basis.neurons(model), replace(asked, clean=padded[0], corrupted=padded[1]))


def test_numbers_that_are_not_whole_are_refused() -> None:
    # Users have no types checked.
    for given in ([2.0], 8, "12"):
        with refusal(SettingError, "give a list of whole numbers of units"):
            inspect.unwrap(whole_numbers)(given)
    model = models.model_of("gpt2", "hooked")
    with refusal(SettingError, "steps=1.5 integrates nothing: give a whole number"):
        inspect.unwrap(scores)(model, Basis.neurons(model), task(model), "ig-inputs", steps=1.5)


def test_a_task_that_the_model_cannot_do_is_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    asked = task(model)
    turned = Task("turned", asked.clean, asked.corrupted, asked.corrupted_answer, asked.answer)
    with refusal(SettingError, "tells the prompts from their counterfactuals no better", "Check the answers"):
        circuit_curve(model, Basis.neurons(model), turned, sizes=[])


class _SAE:
    def __init__(self, hook_name: str, normalize: str = "none", d_in: int = 16) -> None:
        metadata = type("Metadata", (), {"hook_name": hook_name})()
        given = {"metadata": metadata, "normalize_activations": normalize, "d_in": d_in}
        self.cfg = type("Config", (), given)()
        self.encode = self.decode = lambda value: value


@pytest.mark.slow
def test_without_the_corrupted_runs_errors_a_basis_has_an_empty_circuit_of_its_own_to_beat() -> None:
    model = models.model_of("gpt2", "hooked")
    with refusal(SettingError, "no circuit can be found", "basis's own: take errors='corrupted'"):
        circuit_curve(model, basis_of("PLT", model), task(model), errors="kept")


def test_a_prompt_that_is_its_own_counterfactual_is_refused() -> None:
    corrupted = CORRUPTED.clone()
    corrupted[1] = CLEAN[1]
    with refusal(PromptError, "prompt 1 is its own counterfactual", r"give another one.*\(1 here\)"):
        Task("same", CLEAN, corrupted, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))


def test_a_difference_of_rounding_alone_is_nothing_to_share() -> None:
    whole = torch.full((2,), 3.0, dtype=torch.float64)
    none, rows = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.bool)
    for less, is_told in ((1e-8, False), (1e-3, True)):
        made = CircuitCurve("any", "any", "any", "corrupted", (), none, none, rows, whole - less, whole)
        if is_told:
            assert told_apart(made) is made
        else:
            with refusal(SettingError, "measures 3, and the empty circuit 3:"):
                told_apart(made)


def test_a_task_of_another_model_is_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    basis, asked = Basis.neurons(model), task(model)
    with refusal(PromptError, r"Token ids \[40\] are outside the vocabulary of 37 tokens", "this model's tokenizer"):
        circuit_curve(model, basis, replace(asked, clean=CLEAN + torch.tensor([0, 10, 0, 0, 0])))
    for answer in (-1, 37):
        answers = torch.full((3,), answer)
        with refusal(tlc.TargetError, f"tokens {answer} to {answer}, but the model gives 0 to 36"):
            circuit_curve(model, basis, replace(asked, answer=answers))
    with refusal(tlc.TargetError, r"contrast has shape \(3, 5\), but there are 3 prompts and 37 tokens"):
        circuit_curve(model, basis, replace(asked, contrast=torch.ones(3, 5)))


def test_sizes_are_plain_integers_whatever_they_were_given_as() -> None:
    found = inspect.unwrap(whole_numbers)([*torch.tensor([2, 1]), *np.array([3]), True])
    assert found == [2, 1, 3, 1]
    assert {type(size) for size in found} == {int}


@pytest.mark.parametrize(("family", "model_class"), [("gpt2", "hooked"), ("gpt2", "bridge"), ("pythia", "bridge")])
def test_saes_are_taken_in_the_order_of_the_pass_however_a_model_lists_its_points(
    family: str, model_class: str
) -> None:
    model = models.model_of(family, model_class)
    of_block = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    passed = [f"blocks.{layer}.{point}" for layer in range(models.N_LAYERS) for point in of_block]
    basis = Basis.saes(model, [_SAE(point) for point in sorted(passed)])
    assert [slot.read.name for slot in basis.slots] == passed


def test_saes_that_do_not_fit_are_refused() -> None:
    model = models.model_of("gpt2", "hooked")
    with refusal(FitError, "'blocks.9.hook_mlp_out', which is none of the model's"):
        Basis.saes(model, [_SAE("blocks.9.hook_mlp_out")])
    with refusal(FitError, "'blocks.0.hook_mlp_in', which nothing passes in this model: switch that hook on"):
        Basis.saes(model, [_SAE("blocks.0.hook_mlp_in")])
    with refusal(FitError, "Two SAEs read the same point"):
        Basis.saes(model, [_SAE("blocks.0.hook_mlp_out")] * 2)
    with refusal(FitError, "normalize_activations='layer_norm': fold it in first"):
        Basis.saes(model, [_SAE("blocks.0.hook_mlp_out", "layer_norm")])
