"""Fidelity: figures known on paper, equal to a plain computation prompt by prompt, whatever the batches."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

import tl_circuits as tlc
from tests import models, texts
from tests.test_refusals import fresh, refusal
from tests.test_works import state
from tl_circuits.__main__ import app
from tl_circuits.intervention import Fidelity
from tl_circuits.intervention.bootstrap import Bootstrap, Estimate, ratio
from tl_circuits.intervention.fidelity_report import DENSITY_EDGES
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo import compiled

# Some of one length, and one of a single token, which nothing follows.
PROMPTS = [[1, 5, 9, 3], [4, 4, 8, 30], [7, 2], [22, 11, 6, 3, 3, 9, 36], [5, 5], [9]]
SETS = {"long": PROMPTS[:2] + PROMPTS[3:4], "short": PROMPTS[2:3] + PROMPTS[4:]}

both = pytest.mark.parametrize("model_class", models.CLASSES)


def values(found: Fidelity) -> dict[str, float]:
    """All figures of a set by name, without intervals."""
    flat = {}

    def walk(name: str, value: Any) -> None:
        match value:
            case {"value": float(), "low": _, "high": _}:
                flat[name] = value["value"]
            case dict():
                for key, inner in value.items():
                    walk(f"{name}.{key}", inner)
            case list() | tuple():
                for key, inner in enumerate(value):
                    walk(f"{name}.{key}", inner)
            case int() | float():
                flat[name] = float(value)

    walk("", plain(found))
    return flat


def plain(found: Fidelity) -> dict[str, Any]:
    """Everything of a set as JSON values."""
    return tlc.FidelityReport("", "", None, found).to_dict()["overall"]


# What is known on paper


@pytest.mark.slow
@pytest.mark.parametrize("circuit", compiled.CIRCUITS, ids=lambda circuit: circuit.__name__)
def test_a_transcoder_that_reproduces_the_mlps_has_no_error_at_all(circuit: Any) -> None:
    made = circuit()
    found = tlc.evaluate(made.model, made.transcoder, [prompt.tokens for prompt in made.prompts], each_layer=True)
    for measure in (found.overall.agreement, found.overall.last_agreement):
        assert measure.value.value == 1
    for measure in (found.overall.kl, found.overall.last_kl, found.overall.fvu):
        assert measure.value.value == pytest.approx(0, abs=1e-12)
    for layer in found.overall.layers:
        assert layer.fvu.value.value == layer.nmse.value.value == 0
        assert layer.agreement is not None
        assert layer.kl is not None
        assert layer.agreement.value == 1
        assert layer.kl.value == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_neurons_as_features_are_the_model_itself() -> None:
    model: Any = models.hooked("gpt2", act_fn="relu")
    blocks = [block.mlp for block in model.blocks]
    W_enc, b_enc = [mlp.W_in.T.contiguous() for mlp in blocks], [mlp.b_in for mlp in blocks]
    b_dec = torch.stack([mlp.b_out for mlp in blocks])
    exact = CrossLayerTranscoder(W_enc, b_enc, [mlp.W_out for mlp in blocks], b_dec, read="mlp.hook_in")
    found = tlc.evaluate(model, exact, PROMPTS).overall
    assert found.agreement.value.value == 1
    assert found.kl.value.value == pytest.approx(0, abs=1e-12)
    assert found.kl.floor.value > 1e-2
    assert found.ce_recovered.value.value == pytest.approx(1, abs=1e-9) or math.isnan(found.ce_recovered.value.value)
    assert found.ce.value.value == pytest.approx(found.ce.ceiling.value, abs=1e-12)
    for layer in found.layers:
        assert layer.fvu.value.value == pytest.approx(0, abs=1e-12)


def constant(b_dec: Tensor) -> CrossLayerTranscoder:
    """A transcoder without active features."""
    nothing = torch.zeros(3, 8, 16, dtype=torch.float64)
    return CrossLayerTranscoder(nothing, nothing[..., 0], nothing, b_dec)


@pytest.mark.slow
@both
def test_writing_nothing_leaves_all_and_more_than_the_variance_unexplained(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    found = tlc.evaluate(model, constant(torch.zeros(3, 16)), PROMPTS).overall
    for layer in found.layers:
        assert layer.nmse.value.value == pytest.approx(1)
        assert layer.fvu.value.value > 1
        assert layer.fvu.value.value == pytest.approx(1 / layer.nmse.floor.value)
        assert (layer.l0.value, layer.density, layer.dead, layer.dead_share) == (0, 0, 8, 1)
        assert layer.density_histogram == (0,) * (len(DENSITY_EDGES) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "model_class"), list(zip(models.FAMILIES, models.CLASSES * 3, strict=True)))
def test_writing_the_mean_is_the_floor(family: str, model_class: str) -> None:
    model, read = models.model_of(family, model_class), models.reads(family)[0]
    wrote = [torch.cat([layer[0] for layer in mlp_outputs(model, prompt)], 1) for prompt in PROMPTS]
    means = torch.cat([part.unflatten(1, (3, 16)) for part in wrote]).mean(0)
    silent = constant(means)
    silent.read = read
    found = tlc.evaluate(model, silent, PROMPTS).overall
    for measure in (found.agreement, found.kl, found.last_agreement, found.last_kl, found.ce):
        assert measure.value.value == pytest.approx(measure.floor.value, abs=1e-9)
    for layer in found.layers:
        assert layer.fvu.value.value == pytest.approx(1, abs=1e-9)
        assert layer.nmse.value.value == pytest.approx(layer.nmse.floor.value, abs=1e-9)
    assert found.ce_recovered.value.value == pytest.approx(0, abs=1e-6) or math.isnan(found.ce_recovered.value.value)


def mlp_outputs(model: Any, prompt: Any) -> list[Tensor]:
    """What each MLP writes on one prompt."""
    _, cache = model.run_with_cache(torch.as_tensor(prompt)[None])
    return [cache[f"blocks.{layer}.hook_mlp_out"] for layer in range(3)]


# The same, prompt by prompt


@torch.no_grad()
def by_hand(model: Any, transcoder: CrossLayerTranscoder, prompts: list[Any], bos: int | None = None) -> dict[str, Any]:
    """The figures as their definitions say, one prompt at a time, by the dense `replace_mlps` and by hooks."""
    error, square, active, wrote = torch.zeros(3), torch.zeros(3), torch.zeros(3), []
    counts = torch.zeros(3, models.N_FEATURES)
    sums: dict[str, float] = dict.fromkeys(("own ce", "agreement", "kl", "ce", "last agreement", "last kl"), 0.0)
    alone = {"agreement": torch.zeros(3), "kl": torch.zeros(3)}
    floor, error, square, active = dict(sums), error.double(), square.double(), active.double()
    runs = []
    for prompt in prompts:
        tokens = torch.as_tensor(prompt)[None]
        kept = torch.ones(tokens.shape[1], dtype=torch.bool)
        kept[0] = bos is None or tokens[0, 0] != bos
        with tlc.replace_mlps(model, transcoder, error_terms=True) as features:
            own = model(tokens)
            parts = [features[f"blocks.{layer}.hook_mlp_out.hook_transcoder_error"][0][kept] for layer in range(3)]
            for layer in range(3):
                a = features[layer][0][kept]
                active[layer] += (a != 0).sum()
                counts[layer] += (a != 0).sum(0)
        y = [layer[0] for layer in mlp_outputs(model, prompt)]
        error += torch.stack([part.double().square().sum() for part in parts])
        square += torch.stack([layer[kept].double().square().sum() for layer in y])
        wrote.append(torch.stack([layer[kept] for layer in y]))
        with tlc.replace_mlps(model, transcoder):
            replaced = model(tokens)
        runs.append((tokens, kept, own, replaced, parts, y))
    everything = torch.cat(wrote, 1).double()
    mean = everything.mean(1, keepdim=True)
    for tokens, kept, own, replaced, parts, y in runs:
        keep = [layer * ~kept[:, None] for layer in y]
        ablation = [(keep[layer] + mean[layer] * kept[:, None])[None] for layer in range(3)]
        add(sums, tokens, kept, own, replaced)
        add(floor, tokens, kept, own, with_writes(model, tokens, dict(enumerate(ablation))))
        for layer, part in enumerate(parts):
            written = y[layer].clone()
            written[kept] -= part
            one = dict.fromkeys(sums, 0.0)
            add(one, tokens, kept, own, with_writes(model, tokens, {layer: written[None]}))
            for name, column in alone.items():
                column[layer] += one[name]
    n_tokens, n_prompts = everything.shape[1], len(prompts)
    n_predicted = sum(int(kept[:-1].sum()) for _, kept, *_ in runs)
    per = {"ce": n_predicted, "own ce": n_predicted, "last agreement": n_prompts, "last kl": n_prompts}
    return {
        "fvu": error / (everything - mean).square().sum((1, 2)),
        "nmse": error / square,
        "l0": active / n_tokens,
        "dead": [int((count == 0).sum()) for count in counts],
        "replaced": {name: value / per.get(name, n_tokens) for name, value in sums.items()},
        "floor": {name: value / per.get(name, n_tokens) for name, value in floor.items()},
        "alone": {name: column / n_tokens for name, column in alone.items()},
        "tokens": n_tokens,
    }


def with_writes(model: Any, tokens: Tensor, writes: dict[int, Tensor]) -> Tensor:
    """The logits where these MLPs write that."""
    hooks = [
        (f"blocks.{layer}.hook_mlp_out", lambda was, value=value, **_: value.to(was)) for layer, value in writes.items()
    ]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def add(sums: dict[str, float], tokens: Tensor, kept: Tensor, own: Tensor, other: Tensor) -> None:
    """One prompt's part."""
    p, q = own[0].double().softmax(-1), other[0].double().softmax(-1)
    for pos in kept.nonzero()[:, 0].tolist():
        same = float(own[0, pos].argmax() == other[0, pos].argmax())
        kl = float((p[pos] * (p[pos] / q[pos]).log()).sum())
        sums["agreement"] += same
        sums["kl"] += kl
        if pos == tokens.shape[1] - 1:
            sums["last agreement"] += same
            sums["last kl"] += kl
        else:
            sums["ce"] -= float(q[pos, tokens[0, pos + 1]].log())
            sums["own ce"] -= float(p[pos, tokens[0, pos + 1]].log())


def check(found: Fidelity, expected: dict[str, Any]) -> None:
    """Equal to 1e-6 of the figures' sizes."""

    def same(value: Estimate | None, wanted: Any) -> None:
        assert value is not None
        assert value.value == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)

    assert found.n_tokens == expected["tokens"]
    for name in ("agreement", "kl", "ce", "last agreement", "last kl"):
        measure = getattr(found, name.replace(" ", "_"))
        same(measure.value, expected["replaced"][name])
        same(measure.floor, expected["floor"][name])
    same(found.ce.ceiling, expected["replaced"]["own ce"])
    gained = expected["floor"]["ce"] - expected["replaced"]["own ce"]
    if gained > 0:
        same(found.ce_recovered.value, (expected["floor"]["ce"] - expected["replaced"]["ce"]) / gained)
    else:
        assert math.isnan(found.ce_recovered.value.value)
    for layer in found.layers:
        same(layer.fvu.value, expected["fvu"][layer.layer])
        same(layer.nmse.value, expected["nmse"][layer.layer])
        same(layer.l0, expected["l0"][layer.layer])
        assert layer.dead == expected["dead"][layer.layer]
        assert sum(layer.density_histogram) == layer.n_features - layer.dead
        same(layer.agreement, expected["alone"]["agreement"][layer.layer])
        same(layer.kl, expected["alone"]["kl"][layer.layer])
    same(found.fvu.value, expected["fvu"].mean())
    same(found.l0, expected["l0"].mean())


KINDS = [
    {"span": 3},
    {"span": 1, "activation": "topk"},
    {"span": 2, "skip": True, "shift": True},
    {"span": 3, "skip": True, "activation": "batchtopk"},
]


@pytest.mark.slow
@both
@pytest.mark.parametrize(("family", "kind"), [*(("gpt2", kind) for kind in KINDS), ("llama", KINDS[2])], ids=str)
def test_figures_are_those_of_a_plain_computation(family: str, model_class: str, kind: dict[str, Any]) -> None:
    model, transcoder = models.model_of(family, model_class), models.transcoder(dtype=torch.float64, **kind)
    found = tlc.evaluate(model, transcoder, PROMPTS, each_layer=True)
    check(found.overall, by_hand(model, transcoder, PROMPTS))


@pytest.mark.slow
@both
def test_tokens_that_begin_a_sequence_keep_the_mlps_and_do_not_count(model_class: str) -> None:
    model, transcoder = texts.reader(model_class), models.transcoder(dtype=torch.float64)
    said = [" Austin is", " is in Texas.", " Austin"]
    found = tlc.evaluate(model, transcoder, said, each_layer=True)
    tokens = [model.to_tokens(text)[0].tolist() for text in said]
    assert all(row[0] == model.tokenizer.bos_token_id for row in tokens)
    check(found.overall, by_hand(model, transcoder, tokens, bos=model.tokenizer.bos_token_id))
    assert values(tlc.evaluate(model, transcoder, tokens, each_layer=True).overall) == values(found.overall)


@pytest.mark.slow
@both
def test_each_set_is_reported_as_if_it_were_evaluated_alone(model_class: str) -> None:
    model, transcoder = models.model_of("gpt2", model_class), models.transcoder()
    found = tlc.evaluate(model, transcoder, SETS, each_layer=True)
    assert list(found.sets) == ["long", "short"]
    for name, prompts in SETS.items():
        alone = tlc.evaluate(model, transcoder, prompts, each_layer=True)
        assert alone.sets == {}
        close(plain(found.sets[name]), plain(alone.overall))
    together = tlc.evaluate(model, transcoder, [*SETS["short"], *SETS["long"]], each_layer=True)
    close(plain(found.overall), plain(together.overall))


def close(found: Any, expected: Any) -> None:
    """Equal up to rounding, intervals and all."""
    match expected:
        case dict():
            assert found.keys() == expected.keys()
            for key in expected:
                close(found[key], expected[key])
        case list():
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                close(one, other)
        case float():
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
        case _:
            assert found == expected


@pytest.mark.slow
@settings(max_examples=5)
@given(
    st.lists(st.lists(st.integers(0, models.D_VOCAB - 1), min_size=1, max_size=5), min_size=2, max_size=7).flatmap(
        lambda prompts: st.tuples(st.just(prompts), st.permutations(prompts))
    ),
    st.integers(1, 8),
    st.sampled_from(models.CLASSES),
)
def test_neither_batches_nor_order_change_anything(
    prompts: tuple[list[list[int]], list[list[int]]], batch_size: int, model_class: str
) -> None:
    model, transcoder = models.model_of("gpt2", model_class), models.transcoder(activation="topk")
    given_so, otherwise = prompts
    found = tlc.evaluate(model, transcoder, given_so, resamples=40)
    other = tlc.evaluate(model, transcoder, otherwise, resamples=40, batch_size=batch_size)
    close(plain(other.overall), plain(found.overall))


@pytest.mark.slow
@both
def test_batch_topk_is_evaluated_as_at_inference_and_stays_in_training(model_class: str) -> None:
    model, transcoder = models.model_of("gpt2", model_class), copy.deepcopy(models.transcoder(activation="batchtopk"))
    expected = tlc.evaluate(model, transcoder, PROMPTS)
    transcoder.train()
    found = tlc.evaluate(model, transcoder, PROMPTS)
    assert plain(found.overall) == plain(expected.overall)
    assert all(module.training for module in transcoder.modules())


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_16_bits_give_nearly_the_same_figures(model_class: str, dtype: torch.dtype) -> None:
    model, transcoder = models.model_of("gpt2", model_class, dtype), models.transcoder()
    wide = copy.deepcopy(model).float()
    wide.cfg.dtype = torch.float32
    found, expected = (tlc.evaluate(one, transcoder, PROMPTS).overall for one in (model, wide))
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.fvu.value.value == pytest.approx(other.fvu.value.value, rel=0.05)
        assert one.l0.value == pytest.approx(other.l0.value, rel=0.05)
    assert found.kl.value.value == pytest.approx(expected.kl.value.value, rel=0.1)
    assert found.kl.floor.value == pytest.approx(expected.kl.floor.value, rel=0.1)


@pytest.mark.slow
@both
def test_the_model_is_as_it_was(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    before, logits = state(model), model(torch.tensor([PROMPTS[0]]))
    tlc.evaluate(model, models.transcoder(), PROMPTS, each_layer=True)
    assert state(model) == before
    assert torch.equal(model(torch.tensor([PROMPTS[0]])), logits)


@pytest.mark.slow
@both
def test_hooks_of_the_users_own_make_another_model_whose_prompts_run_one_by_one(model_class: str) -> None:
    model, transcoder, seen = models.model_of("gpt2", model_class), models.transcoder(), []

    def double(x: Tensor, **_: Any) -> Tensor:
        seen.append(len(x))
        return 2 * x

    plain_kl = tlc.evaluate(model, transcoder, PROMPTS).overall.kl.value.value
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", double)]):
        assert tlc.evaluate(model, transcoder, PROMPTS).overall.kl.value.value != pytest.approx(plain_kl)
    assert set(seen) == {1}


# Intervals


@pytest.mark.slow
def test_intervals_hold_their_figures_and_are_narrower_for_more_prompts() -> None:
    model, transcoder = models.hooked("gpt2"), models.transcoder()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, models.D_VOCAB, (160, 3), generator=generator)
    few, many = (tlc.evaluate(model, transcoder, prompts[:n]).overall for n in (10, 160))
    assert all(low <= value <= high for low, value, high in intervals(many) + intervals(few))
    for name in ("kl", "agreement", "last_kl", "fvu"):
        widths = [one.high - one.low for one in (getattr(few, name).value, getattr(many, name).value)]
        # Four times as narrow, in the long run.
        assert 2 < widths[0] / widths[1] < 8, name


def intervals(found: Fidelity) -> list[tuple[float, float, float]]:
    return [
        (one.low, one.value, one.high)
        for layer in found.layers
        for one in (layer.fvu.value, layer.nmse.value, layer.nmse.floor, layer.l0)
    ] + [
        (one.low, one.value, one.high)
        for measure in (found.agreement, found.kl, found.ce, found.last_kl)
        for one in (measure.value, measure.floor, measure.ceiling)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(level: float) -> None:
    sums = {"x": torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    sums |= {"n": torch.ones(400, dtype=torch.float64)}
    found = Bootstrap.of(sums, resamples=4000, level=level, seed=1).estimate(lambda s: ratio(s["x"], s["n"]))
    half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level))) * float(sums["x"].std()) / 20
    assert found.value == pytest.approx(float(sums["x"].mean()))
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


@pytest.mark.slow
def test_one_prompt_has_no_interval_and_the_seed_decides_those_of_more() -> None:
    model, transcoder = models.hooked("gpt2"), models.transcoder()
    alone = tlc.evaluate(model, transcoder, PROMPTS[:1])
    assert math.isnan(alone.overall.kl.value.low)
    assert alone.to_dict()["overall"]["kl"]["value"]["low"] is None
    first, second, other = (tlc.evaluate(model, transcoder, PROMPTS, seed=seed).overall for seed in (3, 3, 4))
    assert plain(first) == plain(second)
    assert first.kl.value.value == other.kl.value.value
    assert plain(first) != plain(other)


# What is told


@pytest.mark.slow
def test_a_report_is_json_and_a_table() -> None:
    model, transcoder = models.hooked("gpt2"), models.transcoder()
    found = tlc.evaluate(model, transcoder, {"a\nb\x1b[2J": PROMPTS, "[red]": PROMPTS[:1]}, each_layer=True)
    read = json.loads(found.to_json())
    assert read["sets"].keys() == {"a\nb\x1b[2J", "[red]"}
    assert read["overall"]["layers"][2]["fvu"]["value"]["value"] == found.overall.layers[2].fvu.value.value
    text = str(found)
    assert repr(found) == text
    assert {letter for letter in text if not letter.isprintable()} == {"\n"}
    assert max(map(len, text.splitlines())) <= 88
    for word in ("agreement", "KL, nats", "CE recovered", "floor", "[red]", r"a\nb\x1b[2J", "alone"):
        assert word in text
    without = tlc.evaluate(model, transcoder, PROMPTS)
    assert "alone" not in str(without)
    assert without.overall.layers[0].agreement is None


@pytest.mark.slow
def test_densities_are_counted_by_decades() -> None:
    found = tlc.evaluate(models.hooked("gpt2"), models.transcoder(), PROMPTS).overall
    for layer in found.layers:
        assert layer.density == pytest.approx(layer.l0.value / models.N_FEATURES)
        # Of 20 tokens one is a share of 0.05.
        assert found.n_tokens == 20
        assert sum(layer.density_histogram[:4]) == 0
        assert sum(layer.density_histogram[4:]) == layer.n_features - layer.dead


@pytest.mark.slow
def test_negative_activations_are_active_too() -> None:
    every = copy.deepcopy(models.transcoder())
    every.activation = tlc.TopK(models.N_FEATURES)
    for layer in tlc.evaluate(models.hooked("gpt2"), every, PROMPTS).overall.layers:
        assert (layer.l0.value, layer.density, layer.dead) == (models.N_FEATURES, 1, 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("prompts")
    (place / "cities.txt").write_text("the capital of the state containing Dallas is\nthe state containing Dallas is\n")
    (place / "sums.jsonl").write_text('"36+59="\n{"prompt": "10+20="}\n')
    return place / "cities.txt", place / "sums.jsonl"


@pytest.mark.slow
def test_the_command_says_what_the_function_finds(files: tuple[Path, Path]) -> None:
    cities, sums = map(str, files)
    arguments = ["evaluate", "--prompts", cities, "--prompts", sums, "--plt", "--resamples", "50", "--seed", "7"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--each-layer"])
    assert done.exit_code == 0, done.output
    model, plt = tlc.demo(transcoder="plt")
    sets = {"cities": cities, "sums": sums}
    prompts = {name: Path(path) for name, path in sets.items()}
    expected = tlc.evaluate(model, plt, prompts, resamples=50, seed=7, each_layer=True)
    close(json.loads(done.stdout), expected.to_dict())
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert "cities" in told.stdout
    assert "agreement" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--prompts"),
        (["--prompts", "nothing.txt"], 1, "'nothing.txt' cannot be read"),
        (["--prompts", "a/x.txt", "--prompts", "b/x.txt"], 1, "'x', as their sets of prompts would be: rename"),
        (["--prompts", "x.txt", "--model", "gpt2"], 2, "brings no transcoder"),
        (["--prompts", "x.txt", "--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_a_line(arguments: list[str], code: int, says: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    assert done.exit_code == code
    assert says in " ".join(done.stderr.split())
    assert done.stdout == ""


# What is refused


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], r"No prompts were given \(\[\]\): give at least one"),
        ({}, r"Sets of prompts \{\}.*name each by a text"),
        ({"": [[1]]}, "name each by a text"),
        ({"a": [[1]], "b": []}, "Set 'b': No prompts were given"),
        ({"a": "text"}, "Set 'a': evaluate takes a list of prompts.*'text'.*in brackets"),
        ("text", "evaluate takes a list of prompts.*'text' was given.*by name"),
        ([[1, 2], []], r"Prompt 1: The prompt \[\] is empty: give at least one token"),
        ({"a": [[1, 2], [3], []]}, "Prompt 2 of 'a': .*is empty"),
        ([[1, 2], [99]], r"Prompt 1: Token ids \[99\].*vocabulary of 37"),
        ([[1, 2], [1] * 17], "Prompt 1: .*17 tokens.*holds 16.*by 1"),
        ([[1, 2], [1.5]], "Prompt 1: A prompt is text, token ids or chat messages"),
        (["text"], "Prompt 0: This model has no tokenizer"),
    ],
)
def test_data_that_is_none(data: Any, says: str) -> None:
    with refusal(tlc.PromptError, says):
        tlc.evaluate(models.hooked("gpt2"), models.transcoder(), data)


@both
def test_a_prompt_of_nothing_but_its_beginning(model_class: str) -> None:
    with refusal(tlc.PromptError, r"Prompt 1 has no token that counts: all 1 are masked.*id 0.*at least one more"):
        tlc.evaluate(texts.reader(model_class), models.transcoder(), [" Austin", [0]])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"level": 1.0}, "level=1.0.*between 0 and 1"),
        ({"level": math.nan}, "level=nan"),
        ({"resamples": 39}, "resamples=39.*at level 0.95.*at least 40"),
        ({"resamples": 100, "level": 0.99}, "resamples=100.*at level 0.99.*at least 200"),
        ({"seed": -1}, "seed=-1.*from 0 on"),
        ({"batch_size": 0}, "batch_size=0.*at least 1"),
    ],
)
def test_settings_outside_their_ranges(wrong: dict[str, Any], says: str) -> None:
    with refusal(tlc.SettingError, says):
        tlc.evaluate(models.hooked("gpt2"), models.transcoder(), PROMPTS, **wrong)


def test_a_transcoder_of_another_model() -> None:
    other = CrossLayerTranscoder(torch.zeros(2, 8, 16), torch.zeros(2, 8), torch.zeros(2, 8, 16), torch.zeros(2, 16))
    with refusal(tlc.FitError, "2 layers", "has 3"):
        tlc.evaluate(models.hooked("gpt2"), other, PROMPTS)


def test_a_model_whose_mlps_are_replaced_already() -> None:
    model, transcoder = models.hooked("gpt2"), models.transcoder()
    with tlc.replace_mlps(model, transcoder), refusal(tlc.FitError, "replaced at the moment", "leave that block"):
        tlc.evaluate(model, transcoder, PROMPTS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_where_an_mlp_writes_the_same_at_every_token_there_is_no_variance(dtype: torch.dtype) -> None:
    model = copy.deepcopy(models.hooked("gpt2", dtype))
    model.blocks[1].mlp.W_out.data.zero_()
    found = tlc.evaluate(model, models.transcoder(), [[1, 2, 3, 4, 5, 6, 7], [3, 4, 5], [9, 8, 7, 6]], resamples=40)
    first, same, last = (layer.fvu.value.value for layer in found.overall.layers)
    assert math.isnan(same)
    assert found.overall.fvu.value.value == pytest.approx((first + last) / 2)


@pytest.mark.slow
def test_nan_and_infinity_in_what_comes_out() -> None:
    model = fresh()
    damaged = copy.deepcopy(models.transcoder())
    damaged.W_dec[0].data[:, 1] = math.nan
    with refusal(tlc.FitError, r"W_dec\[0\] holds NaN or infinity in the rows of features \[0, 1, 2"):
        tlc.evaluate(model, damaged, PROMPTS)
    large = copy.deepcopy(models.transcoder())
    large.W_dec[1].data.clamp_(-3, 3).mul_(1e38)
    with refusal(tlc.FitError, "layer 1 is not finite, though its weights are", "another read point"):
        tlc.evaluate(model, large, PROMPTS)
    with refusal(
        tlc.FitError, r"Prompt \d: the logits of the model with its MLPs replaced", "float32", "trained on it"
    ):
        tlc.evaluate(model, constant(torch.tensor([0, 0, 1e38])[:, None].expand(3, 16).clone()), PROMPTS)
    model.blocks[2].mlp.W_out.data[0] = math.inf
    with refusal(tlc.FitError, r"Prompt \d: the logits of the model itself are not finite in torch.float32", "damaged"):
        tlc.evaluate(model, models.transcoder(), PROMPTS)
