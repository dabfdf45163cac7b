"""Whole runs: every architecture and activation, data of every kind, checkpoints, and runs broken off and taken up."""

import json
import os
import signal
import subprocess
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import D_VOCAB, N_LAYERS, bridge, hooked
from tl_circuits.errors import FileError, FitError, PromptError, SettingError, TLCircuitsWarning
from tl_circuits.harvest import Prompts, blocks, collect
from tl_circuits.training import TrainingSettings, train
from tl_circuits.training.calibration import threshold_for_l0
from tl_circuits.training.checkpoint import latest_checkpoint
from tl_circuits.training.folder import RunFolder
from tl_circuits.training.plan import plan
from tl_circuits.training.shards import Shards
from tl_circuits.transcoder import CrossLayerTranscoder, JumpReLU, ReLU, TopK

SHORT = TrainingSettings(features=24, steps=12, batch_tokens=32, dead_after=3)
ALONE = Shards()


def tokens(n: int = 24, width: int = 8) -> torch.Tensor:
    return torch.randint(3, D_VOCAB, (n, width), generator=torch.Generator().manual_seed(5))


def model() -> Any:
    return bridge("gpt2", torch.float32)


def same(one: CrossLayerTranscoder, other: CrossLayerTranscoder) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def close(one: CrossLayerTranscoder, other: CrossLayerTranscoder, bound: float) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(float((x - y).abs().max()) <= bound * max(1.0, float(x.abs().max())) for x, y in pairs)


class Stopped(Exception):
    pass


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a run break off, as if killed, when it is to take a step."""
    from tl_circuits.training.run import Run

    advance = Run.advance

    def at(step: int | None) -> None:
        def broken(self: Run) -> Any:
            if self.step == step:
                raise Stopped
            return advance(self)

        monkeypatch.setattr(Run, "advance", broken)

    return at


# Architectures and activations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({"activation": "topk", "k": 4}, TopK),
        ({"activation": "batch_topk", "k": 4}, JumpReLU),
        ({"activation": "relu", "penalty": "l1"}, ReLU),
        ({"charge": "write", "initial_l0": 4}, JumpReLU),
        ({"tied": "source", "skip": True}, JumpReLU),
        ({"tied": "target", "span": 2}, JumpReLU),
    ],
)
def test_backends_train_to_the_same_weights(changes: dict[str, Any], activation: type) -> None:
    told = replace(SHORT, **changes)
    dense, sparse = (train(model(), tokens(), replace(told, backend=backend)) for backend in ("dense", "sparse"))
    assert isinstance(dense.activation, activation)
    assert close(dense, sparse, 1e-4)
    assert (dense.W_skip is not None) == told.skip
    assert dense.span == (told.span or N_LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_updates_inside_the_backward_pass_are_those_after_it_bit_for_bit_where_nothing_is_clipped(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Clipping goes by the norm of the step before, so it has to stay out of the comparison.
    monkeypatch.setattr("tl_circuits.training.optimizer.CLIP", 1e6)
    told = replace(SHORT, backend=backend)
    one, other = (train(model(), tokens(), replace(told, low_memory=low)) for low in (False, True))
    assert same(one, other)


@pytest.mark.slow
def test_what_is_clipped_by_the_norm_of_the_step_before_trains_to_as_good_a_fit(tmp_path: Path) -> None:
    told, fvu = replace(SHORT, steps=40), {}
    for low in (False, True):
        train(model(), tokens(), replace(told, low_memory=low), folder=tmp_path / str(low))
        last = json.loads((tmp_path / str(low) / "log.jsonl").read_text().splitlines()[-1])
        fvu[low] = sum(last["fvu"])
    assert fvu[True] == pytest.approx(fvu[False], rel=0.1)


@pytest.mark.slow
def test_tied_decoders_stay_tied() -> None:
    by_source = train(model(), tokens(), replace(SHORT, tied="source"))
    scale = by_source.W_dec[0][:, 1].norm() / by_source.W_dec[0][:, 0].norm()
    torch.testing.assert_close(by_source.W_dec[0][:, 1], by_source.W_dec[0][:, 0] * scale)


def test_initial_biases_switch_on_as_many_features_as_asked_for() -> None:
    found = train(model(), tokens(), replace(SHORT, steps=1, lr=1e-9, features=40, initial_l0=5))
    pairs = collect(model(), tokens(), torch.ones(24, 8, dtype=torch.bool), found.read, found.write)
    on = [float((found.encode(x, layer) > 0).sum(-1).float().mean()) for layer, x in enumerate(pairs.reads)]
    assert on == pytest.approx([5.0] * N_LAYERS, abs=0.6)


@pytest.mark.slow
def test_batch_topk_becomes_a_jump_relu_of_the_same_l0_in_every_layer() -> None:
    found = train(model(), tokens(), replace(SHORT, activation="batch_topk", k=4, steps=40))
    pairs = collect(model(), tokens(), torch.ones(24, 8, dtype=torch.bool), found.read, found.write)
    on = [float((found.encode(x, layer) > 0).sum(-1).float().mean()) for layer, x in enumerate(pairs.reads)]
    assert on == pytest.approx([4.0] * N_LAYERS, abs=0.2)


@given(seed=st.integers(0, 999), l0=st.integers(1, 30))
@settings(max_examples=25)
def test_a_calibrated_threshold_is_passed_by_as_many_as_asked_for_or_by_all_positive_ones(seed: int, l0: int) -> None:
    h = torch.randn(50, 20, generator=torch.Generator().manual_seed(seed))
    threshold = threshold_for_l0(h, l0)
    wanted = min(l0 * 50, int((h > 0).sum()))
    assert abs(int((h > threshold).sum()) - wanted) <= 1


# Data


def test_blocks_hold_every_prompt_once_an_epoch_and_are_the_same_again() -> None:
    kept = torch.ones(30, 5, dtype=torch.bool)
    walk = blocks(kept, None, buffer_tokens=50, batch_tokens=20, seed=3)
    first = [next(walk) for _ in range(3)]
    assert torch.cat([block.prompts for block in first]).sort().values.tolist() == list(range(30))
    assert [block.n_batches for block in first] == [2, 2, 2]
    again = blocks(kept, None, buffer_tokens=50, batch_tokens=20, seed=3)
    assert all(torch.equal(next(again).prompts, block.prompts) for block in first)


@pytest.mark.slow
def test_data_that_is_held_and_data_that_comes_in_blocks_train_alike_well() -> None:
    held, streamed = (
        train(model(), tokens(80), replace(SHORT, steps=60, buffer_tokens=n, batch_tokens=64)) for n in (None, 128)
    )
    pairs = collect(model(), tokens(80), torch.ones(80, 8, dtype=torch.bool), held.read, held.write)

    def unexplained(found: CrossLayerTranscoder) -> float:
        active = [found.encode(x, layer) for layer, x in enumerate(pairs.reads)]
        errors = [(found.decode(active, layer) - y).square().sum() for layer, y in enumerate(pairs.writes)]
        return sum(float(e / (y - y.mean(0)).square().sum()) for e, y in zip(errors, pairs.writes, strict=True)) / 3

    assert unexplained(held) < 0.6
    assert unexplained(streamed) < 1.15 * unexplained(held)


class Words:
    """A tokenizer of letters."""

    bos_token_id, pad_token_id = 1, 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [3 + ord(letter) - ord("a") for letter in text]


@pytest.fixture
def with_words(monkeypatch: pytest.MonkeyPatch) -> Any:
    own = bridge("gpt2", torch.float32)
    monkeypatch.setattr(own, "tokenizer", Words())
    return own


def test_texts_are_cut_into_prompts_that_begin_with_bos(with_words: Any) -> None:
    found = Prompts.of(with_words, ["abcde", "xy"], context=4)
    assert found.tokens.tolist() == [[1, 3, 4, 5], [1, 6, 7, 0], [1, 26, 27, 0]]
    assert found.kept.tolist() == [
        [False, True, True, True],
        [False, True, True, False],
        [False, True, True, False],
    ]


def test_a_dataset_is_read_by_its_column_of_tokens_or_text(with_words: Any) -> None:
    from datasets import Dataset

    ids = Dataset.from_dict({"input_ids": [[1, 5, 6], [1, 7]], "other": ["", ""]})
    texts = Dataset.from_dict({"text": ["cd", "e"]})
    assert torch.equal(Prompts.of(with_words, ids).tokens, Prompts.of(with_words, texts).tokens)
    with pytest.raises(PromptError, match=r"columns 'body'.*'tokens', 'input_ids', 'text'.*rename_column"):
        Prompts.of(with_words, Dataset.from_dict({"body": ["a"]}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "holds no prompt"),
        ("abc", "str 'abc'.*list of texts"),
        (None, "NoneType"),
        (torch.zeros(3), r"\(3,\).*\(prompt, position\)"),
        (torch.zeros(0, 4, dtype=torch.int64), r"\(0, 4\)"),
        ([[1.5]], "no prompt to train on"),
        ([[2, D_VOCAB]], f"{D_VOCAB} is not in the model's vocabulary of {D_VOCAB}.*another model's tokenizer"),
        (torch.full((2, 17), 3), "17 tokens.*holds 16"),
        (["text"], "no tokenizer"),
    ],
)
def test_bad_data_is_refused(data: Any, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        train(model(), data, SHORT)


def test_tokens_that_do_not_fill_a_batch_of_a_block_are_refused() -> None:
    with pytest.raises(PromptError, match="12 tokens do not fill one batch of 32"):
        next(blocks(torch.ones(2, 6, dtype=torch.bool), None, 10, 32, 0))


def test_nan_is_told_with_its_layer_and_prompts() -> None:
    own = hooked("gpt2", torch.float32)
    own.blocks[1].mlp.W_out.data[0, 0] = float("nan")
    try:
        with pytest.raises(FitError, match=r"NaN.*what the MLP of layer 1 writes.*24 prompts that begins"):
            train(own, tokens(), SHORT)
    finally:
        own.blocks[1].mlp.W_out.data[0, 0] = 0.0


# Checkpoints


@pytest.mark.slow
def test_a_run_goes_on_by_the_backend_that_is_asked_for_then(tmp_path: Path, stops: Any) -> None:
    stops(5)
    with pytest.raises(Stopped):
        train(model(), tokens(), replace(SHORT, backend="dense"), folder=tmp_path, checkpoint_every=1)
    stops(None)
    train(model(), tokens(), replace(SHORT, backend="sparse", low_memory=True), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["backend"] for line in lines] == ["dense", "sparse", "sparse"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "sparse"},
        {"finetune_steps": 4, "finetune_prompts": 4},
        {"activation": "batch_topk", "k": 3, "finetune_steps": 4, "finetune_prompts": 4},
        {"buffer_tokens": 64, "low_memory": True, "working_dtype": "bfloat16"},
    ],
    ids=["sparse", "fine-tuned", "batch-topk", "streamed, bfloat16"],
)
def test_a_run_broken_off_anywhere_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, stops: Any, changes: dict[str, Any]
) -> None:
    told = replace(SHORT, steps=6, **changes)
    whole = train(model(), tokens(), told)
    for step in range(1, told.all_steps, 2):
        stops(step)
        with pytest.raises(Stopped):
            train(model(), tokens(), told, folder=tmp_path, checkpoint_every=2)
    stops(None)
    assert same(whole, train(model(), tokens(), told, folder=tmp_path, checkpoint_every=2))
    assert same(whole, train(model(), tokens(), told, folder=tmp_path, checkpoint_every=2))


@pytest.mark.slow
def test_the_log_has_every_tenth_step_once_even_where_steps_were_taken_twice(tmp_path: Path, stops: Any) -> None:
    told = replace(SHORT, steps=34)
    stops(25)
    with pytest.raises(Stopped):
        train(model(), tokens(), told, folder=tmp_path, checkpoint_every=15)
    stops(None)
    train(model(), tokens(), told, folder=tmp_path, checkpoint_every=15)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 33]
    assert all(len(line["fvu"]) == len(line["l0"]) == len(line["dead"]) == N_LAYERS for line in lines)
    assert lines[-1]["tokens"] == 34 * 32


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["tensors", "cut", "json", "gone"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    from tl_circuits.errors import _SAID

    train(model(), tokens(), replace(SHORT, steps=8), folder=tmp_path, checkpoint_every=4)
    place = tmp_path / "checkpoints"
    assert sorted(path.name for path in place.glob("*.json")) == ["step-00000004.json", "step-00000008.json"]
    last, said = next(place.glob("step-00000008.*.safetensors")), place / "step-00000008.json"
    content = last.read_bytes()
    match damage:
        case "tensors":
            last.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        case "cut":
            last.write_bytes(content[: len(content) // 2])
        case "json":
            said.write_text(said.read_text().replace("dense", "sparse").replace('"step": 8', '"step": 9'))
        case "gone":
            last.unlink()
    _SAID.clear()
    with pytest.warns(TLCircuitsWarning, match="(torn|damaged).*The checkpoint before it is used"):
        found = latest_checkpoint(place, ALONE, SHORT.features)
    assert found is not None
    assert found.step == 4


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    train(model(), tokens(), replace(SHORT, steps=2), folder=tmp_path)
    with pytest.raises(FileError, match=r"lr=0\.003, and lr=0\.001 was given"):
        train(model(), tokens(), replace(SHORT, steps=2, lr=1e-3), folder=tmp_path)
    with pytest.raises(FileError, match="holds a run with fingerprint="):
        train(model(), tokens().flip(0), replace(SHORT, steps=2), folder=tmp_path)
    with pytest.raises(FileError, match=r"names no folder: give a text such as .runs.mine."):
        train(model(), tokens(), SHORT, folder="")


def test_a_full_disk_leaves_the_checkpoints_before_and_says_what_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_circuits.training import checkpoint

    saved = checkpoint.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "step-00000004" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        saved(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FileError, match=r"checkpoint of 0\.\d MB.*No space left.*free space"):
        train(model(), tokens(), SHORT, folder=tmp_path, checkpoint_every=2)
    found = latest_checkpoint(tmp_path / "checkpoints", ALONE, SHORT.features)
    assert found is not None
    assert found.step == 2
    assert not list((tmp_path / "checkpoints").glob("*.part"))


KILLED = """
import sys, torch
sys.path[:0] = ["tests", "."]
torch.set_num_threads(1)
from tests.test_training_run import SHORT, model, tokens
from dataclasses import replace
from tl_circuits.training import train
train(model(), tokens(), replace(SHORT, steps=100_000), folder=sys.argv[1], checkpoint_every=100_000)
"""


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_then_ends_the_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    running = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root)
    log = tmp_path / "log.jsonl"
    try:
        for _ in range(3000):
            if log.is_file() and len(log.read_text().splitlines()) > 1:
                break
            running.poll()
            assert running.returncode is None
            __import__("time").sleep(0.1)
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(120) == -signal.SIGTERM
    finally:
        running.kill()
    found = latest_checkpoint(tmp_path / "checkpoints", ALONE, SHORT.features)
    assert found is not None
    assert 10 <= found.step < 100_000


SHOT = """
import os, random, signal, sys, time, torch
sys.path[:0] = ["tests", "."]
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from tests.test_training_run import SHORT, model, same, tokens
from tl_circuits.harvest import pairs
from tl_circuits.training import train
pairs.TOKENS_PER_PASS = 32
told, draw, killed, found = replace(SHORT, steps=30, backend="sparse", buffer_tokens=64), random.Random(0), 0, set()
def run(place):
    return train(model(), tokens(), told, folder=place, checkpoint_every=3, cache=place / "cache")
began = time.monotonic()
whole = run(Path(sys.argv[1]) / "whole")
length = time.monotonic() - began
while killed < int(sys.argv[2]):
    place = Path(sys.argv[1]) / f"from {killed}"
    ended = place / "checkpoints" / "step-00000030.json"
    while killed < int(sys.argv[2]) and not ended.exists():
        child = os.fork()
        if not child:
            run(place)
            os._exit(0)
        time.sleep(draw.uniform(0, length / 2))
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        steps = [int(path.stem[5:]) for path in place.glob("checkpoints/*.json")]
        found.add((len(list(place.glob("cache/shard*.json"))), max([0, *steps])))
    assert same(whole, run(place))
print(sorted(found))
print(killed)
"""


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    # TL_CIRCUITS_KILLS=20 kills more often than there is time for every time.
    kills = os.environ.get("TL_CIRCUITS_KILLS", "3")
    command = [sys.executable, "-W", "ignore", "-c", SHOT, str(tmp_path), kills]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == kills


# Settings, and what a run will take


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 25, "activation": "topk"}, "k=25 features cannot be on of 24"),
        ({"span": 2, "cross_layer": False}, "span=2 is for features"),
        ({"features": 0}, "features=0 must be at least 1"),
        ({"lr": float("nan")}, "lr=nan must be a finite number"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        replace(SHORT, **changes)


def test_a_setting_that_is_none_is_told_with_the_nearest_that_is() -> None:
    with pytest.raises(SettingError, match="'feature' is no training setting: did you mean 'features'"):
        TrainingSettings.of({"feature": 3})
    with pytest.raises(SettingError, match="features is missing"):
        TrainingSettings.of({"steps": 3})
    with pytest.raises(SettingError, match="'papers' is none of 'paper', 'per-write'"):
        TrainingSettings.preset("papers", features=3)


def test_presets_are_the_recipes_they_are_named_after() -> None:
    assert TrainingSettings.preset("paper", features=9) == TrainingSettings(features=9)
    assert TrainingSettings.preset("per-write", features=9).charge == "write"
    assert TrainingSettings.preset("batch-topk", features=99).rule.name == "batch_topk"
    dunefsky = TrainingSettings.preset("dunefsky", features=99, steps=2)
    assert (dunefsky.rule.name, dunefsky.costs.penalty, dunefsky.cross_layer) == ("relu", "l1", False)
    assert dunefsky.steps == 2


@pytest.mark.slow
def test_a_plan_counts_the_parameters_that_training_has() -> None:
    for told in (SHORT, replace(SHORT, tied="source", skip=True), replace(SHORT, cross_layer=False)):
        found = train(model(), tokens(), replace(told, steps=1))
        counted = plan(model(), told, 100).parameters
        decoders = sum(W.numel() for W in found.W_dec) if told.tied == "none" else 3 * 24 * 16
        wanted = sum(p.numel() for p in found.parameters()) - sum(W.numel() for W in found.W_dec) + decoders
        assert counted == wanted


def test_a_width_that_cannot_fit_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingError, match=r"million parameters need .* GB.*are free: give features=\d+ or fewer"):
        train(model(), tokens(), replace(SHORT, features=10**10))


@pytest.mark.parametrize(
    ("free", "says"),
    [
        (1_000_000, r"Checkpoints need 2\.16 MB more in '.*run', and 1\.00 MB are free there: free space, name"),
        (10_000_000, r"Activations need 69\.1 MB more in '.*kept', and 10\.0 MB are free there.*cache_dtype='int8'"),
    ],
)
def test_what_does_not_fit_on_the_disk_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, says: str
) -> None:
    from shutil import _ntuple_diskusage

    monkeypatch.setattr("shutil.disk_usage", lambda _: _ntuple_diskusage(free, 0, free))
    wide = replace(SHORT, features=400)
    planned = plan(model(), wide, 180_000, folder=tmp_path / "run", cache=tmp_path / "kept")
    with pytest.raises(SettingError, match=says):
        planned.refuse_what_does_not_fit()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_plan_counts_what_is_on_the_disk_already_and_a_quarter_for_eight_bits(tmp_path: Path) -> None:
    train(model(), tokens(), SHORT, folder=tmp_path / "run", cache=tmp_path / "kept")
    checkpoints, activations = plan(model(), SHORT, 192, folder=tmp_path / "run", cache=tmp_path / "kept").disks
    assert activations.needed == 0
    # The one that is there, beside the two more that there may be while one is written.
    assert checkpoints.needed == pytest.approx(2 / 3 * plan(model(), SHORT, 192).checkpoint, rel=0.1)
    whole, quarter = (
        plan(model(), replace(SHORT, cache_dtype=form), 192, cache=tmp_path / "new").disks[0].needed
        for form in ("float32", "int8")
    )
    assert (whole, quarter) == (2 * 192 * 3 * 16 * 4, 2 * 192 * 3 * (16 + 4))


@pytest.mark.slow
def test_a_plan_that_measures_grows_with_layers_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_circuits.training.pace._products", lambda: 1e9)
    told = replace(SHORT, features=256, batch_tokens=256)
    narrow, wide = (plan(model(), replace(told, cross_layer=across), 1000, measure=True) for across in (False, True))
    assert wide.dense_seconds > narrow.dense_seconds > 0
    assert narrow.harvest_seconds > 0
    assert (narrow.l0, plan(model(), replace(told, activation="topk", k=7), 9).l0) == (30, 7)


@pytest.mark.parametrize("record", ["{", "[]", "null", "{}", '{"settings": {"features": 24}}', '{"settings": 5}'])
def test_a_run_folder_whose_record_is_damaged_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record)
    folder = RunFolder.of(tmp_path, ALONE)
    with closing(folder), pytest.raises(FileError, match=r"run\.json' cannot be read.*or remove this file"):
        folder.claim(SHORT, {})


def test_a_loss_that_diverges_is_told_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_circuits.training import run

    taken = run.passed

    def explode(*given: Any) -> Any:
        found = taken(*given)
        return replace(found, errors=[error * float("nan") for error in found.errors])

    monkeypatch.setattr(run, "passed", explode)
    with warnings.catch_warnings(), pytest.raises(FitError, match=r"loss is nan at step 0.*smaller lr"):
        train(model(), tokens(), SHORT)
