"""What a newcomer gives to training by mistake, and what is said of it."""

import errno
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tl_circuits as tlc
import tl_circuits.progress
from models import bridge
from tests.test_training_run import SHORT, Words, model, same, tokens
from tl_circuits.errors import _SAID, FileError, FitError, PromptError, SettingError, TLCircuitsWarning
from tl_circuits.harvest import Prompts
from tl_circuits.training import train
from tl_circuits.training.checkpoint import _digest_of, digest, remedy
from tl_circuits.training.folder import RunFolder
from tl_circuits.training.plan import in_units, plan
from tl_circuits.training.run import Run
from tl_circuits.training.shards import Shards


@pytest.fixture
def with_words(monkeypatch: pytest.MonkeyPatch) -> Any:
    own = bridge("gpt2", torch.float32)
    monkeypatch.setattr(own, "tokenizer", Words())
    _SAID.clear()
    return own


# What the caller has set


TWO = replace(SHORT, steps=2, finetune_steps=1, finetune_prompts=2)


@pytest.mark.slow
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_where_it_is_called_from_are_on_in_training(off: Any) -> None:
    with off():
        there = train(model(), tokens(), TWO)
        assert plan(model(), SHORT, 100, measure=True).sparse_seconds > 0
    assert same(there, train(model(), tokens(), TWO))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_are_in_float32_whatever_the_default_is(dtype: torch.dtype, tmp_path: Path) -> None:
    given, default = tokens(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        there = train(model(), given, TWO, folder=tmp_path / "run", cache=tmp_path / "cache")
    finally:
        torch.set_default_dtype(default)
    assert same(there, train(model(), given, TWO))
    assert same(there, train(model(), given, TWO, folder=tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:The model is in torch")
def test_a_model_in_16_bits_is_trained_on_and_fine_tuned_in_float32(dtype: torch.dtype) -> None:
    found = train(bridge("gpt2", dtype), tokens(), TWO)
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in found.parameters())


# Data


def test_a_table_of_pandas_is_refused_and_not_read_by_its_column_names(with_words: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["abc", "de"]})
    with pytest.raises(PromptError, match=r"DataFrame with columns 'text'.*datasets\.Dataset\.from_pandas\(data\)"):
        train(with_words, table, SHORT)
    assert Prompts.of(with_words, table["text"]).n_kept == 5


def test_splits_of_a_dataset_are_refused_with_the_first() -> None:
    from datasets import Dataset, DatasetDict

    data = DatasetDict({"train": Dataset.from_dict({"text": ["abc"]}), "test": Dataset.from_dict({"text": ["d"]})})
    with pytest.raises(PromptError, match=r"splits 'train', 'test': give one, data\['train'\]"):
        train(model(), data, SHORT)


def test_a_row_that_is_no_prompt_is_told_with_its_number(with_words: Any) -> None:
    with pytest.raises(PromptError, match="Row 2, None, is no prompt"):
        Prompts.of(with_words, ["abc", "d", None])


@pytest.mark.parametrize("ids", [None, 3, [[3, 4]]], ids=repr)
def test_rows_whose_ids_are_none_are_told_beside_a_text_too(with_words: Any, ids: Any) -> None:
    with pytest.raises(PromptError, match=r"Row 0, .*, is no prompt to train on"):
        Prompts.of(with_words, iter([{"input_ids": ids, "text": "abc"}]))


def test_a_stream_that_ends_in_an_error_is_told_with_its_row(with_words: Any) -> None:
    class Rows:
        column_names = None

        def __iter__(self) -> Any:
            yield from [{"text": "abc"}, {"text": "d"}]
            raise ConnectionError("the other side\nhung up")

    says = r"Row 2 of the data set could not be read \(ConnectionError: the other side hung up\).*your connection"
    with pytest.raises(FileError, match=says):
        Prompts.of(with_words, Rows())


def test_half_a_character_is_told_with_its_row(with_words: Any) -> None:
    says = r"Row 1 holds '\\ud800' at place 2, which is half a character .*decode the text anew"
    for data in (["abc", "ab\ud800"], iter([{"input_ids": [3, 4], "text": text} for text in ("ab", "ab\ud800")])):
        with pytest.raises(PromptError, match=says):
            Prompts.of(with_words, data)


@pytest.mark.slow
def test_prompts_of_unlike_lengths_are_told_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[3, 4]] * 99 + [[3, 4] * 6]
    Prompts.of(model(), rows)
    monkeypatch.setattr("tl_circuits.harvest.prompts.MANY", 1000)
    says = r"100 prompts of 2 tokens on average are padded to the 12 of the longest, .* over 6 times .*context="
    with pytest.warns(TLCircuitsWarning, match=says):
        Prompts.of(model(), rows)
    Prompts.of(model(), rows, context=4)
    monkeypatch.setattr("tl_circuits.harvest.prompts.available_memory", lambda: 11_999)
    with pytest.raises(PromptError, match=r"100 prompts padded to the 12 tokens of the longest take .* give fewer"):
        Prompts.of(model(), rows)


def test_an_array_of_no_dimensions_is_no_training_data(with_words: Any) -> None:
    with pytest.raises(PromptError, match=r"ndarray array\(5\) is no training data: give a list of texts"):
        Prompts.of(with_words, np.array(5))


def test_words_that_the_tokenizer_does_not_know_are_told_with_their_share(
    with_words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Words, "unk_token_id", 3, raising=False)
    with pytest.warns(TLCircuitsWarning, match=r"2 of 5 tokens \(40\.0%\) of the data are unknown") as said:
        Prompts.of(with_words, ["aba", "cd"])
    assert len(said) == 1
    assert Prompts.of(with_words, ["bc", "cd"]).n_kept == 4
    monkeypatch.setattr(Words, "unk_token_id", Words.bos_token_id)
    assert Prompts.of(with_words, torch.tensor([[1, 5, 1, 6]])).n_kept == 3


def test_prompts_longer_than_the_context_are_told_how_to_cut_them() -> None:
    with pytest.raises(PromptError, match=r"17 tokens.*holds 16: cut them, tokens\[:, :16\]"):
        train(model(), torch.full((2, 17), 3), SHORT)
    with pytest.raises(PromptError, match=r"8 tokens, but context is to be 6: cut them, tokens\[:, :6\]"):
        train(model(), tokens(), replace(SHORT, context=6))


def test_an_id_larger_than_any_tokenizer_has_is_refused_as_another_vocabularys() -> None:
    with pytest.raises(PromptError, match=f"Token id {2**70} is not in the model's vocabulary of 37 tokens"):
        train(model(), [[3, 2**70]], SHORT)


def test_rows_of_tensors_are_compared_with_their_text_by_number(with_words: Any) -> None:
    from datasets import Dataset

    right = Dataset.from_dict({"input_ids": [[1, 3, 4, 5], [1, 6]], "text": ["abc", "d"]})
    assert Prompts.of(with_words, right.with_format("torch")).n_kept == 4


def test_padding_on_the_left_is_told_since_the_model_reads_it(with_words: Any) -> None:
    with pytest.warns(TLCircuitsWarning, match=r"1 of 2 prompts begin with padding \(id 0\).*padded on the right"):
        Prompts.of(with_words, torch.tensor([[0, 0, 1, 5], [1, 5, 6, 0]]))
    assert Prompts.of(with_words, torch.tensor([[0, 5, 6, 7], [1, 5, 6, 0]])).n_kept == 6


def test_prompts_are_known_by_every_token_and_its_place() -> None:
    row = [5, 9, 7, 8, 6]
    swapped = [9, 5, *row[2:]]
    orders = [
        torch.tensor([*a, *[row] * n, *b]) for n in range(1, 9) for a, b in (([row], [swapped]), ([swapped], [row]))
    ]
    numbers = [Prompts(each, torch.ones_like(each, dtype=torch.bool)).fingerprint() for each in orders]
    assert len(set(numbers)) == len(numbers)


# Settings and plans


def test_weights_have_to_be_of_prompts_that_count() -> None:
    _SAID.clear()
    lone = torch.eye(21)[0]
    with pytest.warns(TLCircuitsWarning, match="1 of 21"), pytest.raises(SettingError, match="all 20 of 21 prompts"):
        train(model(), [[5], *[[3, 4, 5, 6]] * 20], SHORT, weights=lone)


def test_a_name_too_long_for_the_file_system_is_told() -> None:
    with pytest.raises(FileError, match=r"cannot be looked at .*name too long.*name another"):
        train(model(), tokens(), SHORT, folder="x" * 300)


def test_a_context_of_one_token_is_refused() -> None:
    with pytest.raises(SettingError, match=r"context=1 leaves prompts of one token.*give 2 or more"):
        replace(SHORT, context=1)


def test_a_plan_says_that_fine_tuning_comes_after_it() -> None:
    assert "fine-tuning" not in plan(model(), SHORT, 100).__rich__()
    assert "7 steps of fine-tuning come after" in plan(model(), replace(SHORT, finetune_steps=7), 100).__rich__()


def test_a_plan_of_what_does_not_fit_names_a_width_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=100_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    wide = plan(model(), replace(SHORT, features=10**6), 100)
    assert not wide.fits
    assert f"features={wide.widest} would" in str(wide.__rich__())
    with pytest.raises(SettingError, match=f"100 MB are free: give features={wide.widest} or fewer"):
        wide.refuse_what_does_not_fit()
    assert plan(model(), replace(SHORT, features=wide.widest), 100).fits
    assert not plan(model(), replace(SHORT, features=wide.widest + 1), 100).fits
    free.available = 1000
    assert "no width would" in plan(model(), SHORT, 100).verdict


def test_a_plan_counts_what_fine_tuning_needs_and_says_what_would_make_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    told = replace(SHORT, finetune_steps=2, finetune_prompts=96)
    long, short = (plan(model(), told, 100, width=width) for width in (16, 4))
    assert long.finetune_memory > short.finetune_memory > 0
    assert long.finetune_tokens == 96 * 16
    assert plan(model(), told, 100, n_replicas=2).finetune_memory < long.finetune_memory
    assert plan(model(), SHORT, 100).finetune_memory == 0
    free = SimpleNamespace(available=long.memory + 1000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    found = plan(model(), told, 100, width=16)
    assert not found.fits
    assert "fewer finetune_prompts would" in found.verdict
    with pytest.raises(SettingError, match=r"prompts of up to 1536 tokens together needs .* MB, and .* are free: give"):
        found.refuse_what_does_not_fit()


def test_a_plan_grows_by_what_more_is_kept_for_the_backward_pass() -> None:
    wide = replace(SHORT, features=10**5)
    usual = plan(model(), wide, 100).memory
    assert plan(model(), replace(wide, charge="write"), 100).memory > usual
    assert plan(model(), replace(wide, charge="direction"), 100).memory > usual
    assert plan(model(), replace(wide, working_dtype="bfloat16"), 100).memory > usual
    assert plan(model(), replace(wide, backend="sparse"), 100).memory > usual
    assert plan(model(), replace(wide, backend="sparse", activation="topk", k=4), 100).memory < usual
    assert plan(model(), wide, 100, n_replicas=2).memory < usual


def test_a_plan_says_what_low_memory_spares_a_copy_of_the_parameters_at_the_most() -> None:
    few = replace(SHORT, features=10**5, batch_tokens=1, backend="sparse", activation="topk", k=1, sparsity=0.0)
    without, within = (plan(model(), replace(few, low_memory=low), 100) for low in (False, True))
    assert without.memory - within.memory == without.spared == within.spared
    assert 0.7 * 4 * within.parameters < within.spared < 4 * within.parameters
    assert f"low_memory spares {in_units(within.spared)}" in within.__rich__()
    assert "low_memory" not in without.__rich__()
    many = plan(model(), replace(SHORT, low_memory=True, batch_tokens=4096), 100)
    assert many.spared == 0
    assert "low_memory spares nothing: data or activations take more" in many.__rich__()


def test_low_memory_is_proposed_where_it_spares_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100_000_000))
    wide = replace(SHORT, features=10**6, batch_tokens=1)
    with pytest.raises(SettingError, match=r"low_memory=True, which spares \d+ MB, a smaller span, or processes"):
        plan(model(), wide, 100).refuse_what_does_not_fit()
    for told in (replace(wide, low_memory=True), replace(wide, batch_tokens=4096)):
        with pytest.raises(SettingError, match=r"features=\d+ or fewer, a smaller span"):
            plan(model(), told, 100).refuse_what_does_not_fit()


def test_the_units_of_a_plan_follow_its_size() -> None:
    found = plan(model(), SHORT, 100).__rich__()
    assert found.startswith("fits\n3,648 parameters")
    assert "0.00 GB" not in found
    assert [in_units(n) for n in (999, 1234, 99_940, 123_456_789, 5 * 10**12)] == [
        "999 bytes", "1.23 kB", "99.9 kB", "123 MB", "5000 GB",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_is_measured_is_bounded_however_large_a_step_is(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def shape(*given: Any, **more: Any) -> torch.Tensor:
        taken.append(given[1])
        return draw(*given, **more)

    # Made first: a model is drawn by the function that is watched.
    planned, draw = model(), torch.randn
    monkeypatch.setattr("tl_circuits.training.pace.BATCH", 64)
    monkeypatch.setattr("tl_circuits.training.pace.torch.randn", shape)
    small = plan(planned, replace(SHORT, batch_tokens=64), 100, measure=True)
    large = plan(planned, replace(SHORT, batch_tokens=64_000), 100, measure=True)
    assert set(taken) == {64}
    assert large.sparse_seconds > 20 * small.sparse_seconds


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((SHORT, 5, 100), FitError, "A TrainingSettings is no model to train on"),
        ((None, "paper", 100), SettingError, "'paper' are no settings"),
        ((None, SHORT, 0), SettingError, r"plan\(n_tokens=0\): ask for at least 1"),
        ((None, SHORT, "a"), SettingError, r"plan\(n_tokens='a'\)"),
    ],
)
def test_a_plan_of_something_else_is_refused(given: tuple[Any, ...], error: type[Exception], says: str) -> None:
    untyped: Any = getattr(plan, "__wrapped__", plan)
    with pytest.raises(error, match=says):
        untyped(given[0] or model(), *given[1:])


def test_folders_of_a_plan_may_be_texts(tmp_path: Path) -> None:
    found = plan(model(), SHORT, 100, folder=str(tmp_path / "run"), cache=str(tmp_path / "kept"))
    assert [Path(disk.path).name for disk in found.disks] == ["run", "kept"]


def test_the_planner_of_graphs_names_that_of_training() -> None:
    untyped: Any = getattr(tlc.plan, "__wrapped__", tlc.plan)
    with pytest.raises(SettingError, match=r"not TrainingSettings.*tl_circuits\.training\.plan"):
        untyped(SHORT)


def test_a_span_over_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(SettingError, match="span=9 is more than the model's 3 layers: give 3 or fewer"):
        train(model(), tokens(), replace(SHORT, span=9))


def test_a_place_where_no_files_may_be_made_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"Checkpoints cannot be written in '/proc/run': no files may be made there"):
        train(model(), tokens(), SHORT, folder="/proc/run")
    (tmp_path / "log").write_text("")
    with pytest.raises(FileError, match=r"Activations cannot be written in '.*log.clt': '.*log' is a file\. Name"):
        train(model(), tokens(), SHORT, cache=tmp_path / "log" / "clt")
    assert remedy(OSError(errno.EACCES, "")) == "allow writing there, or name another folder"
    assert remedy(OSError(errno.ENOSPC, "")) == "free space there"
    assert remedy(OSError(errno.EISDIR, "")) == "move what is in its place elsewhere, or name another folder"


# Folders of runs


@pytest.mark.slow
def test_a_folder_of_another_model_or_of_other_weights_or_marks_is_refused(tmp_path: Path) -> None:
    told, scored = replace(SHORT, steps=2), torch.ones(24, 8, dtype=torch.bool)
    train(model(), tokens(), told, folder=tmp_path)
    train(model(), tokens(), told, folder=tmp_path, scored=scored)
    scored[0] = False
    with pytest.raises(FileError, match=r"holds a run with model='\w+', and model='\w+' was given"):
        train(bridge("llama", torch.float32), tokens(), told, folder=tmp_path)
    for name, given in (("weights", torch.arange(1.0, 25.0)), ("scored", scored)):
        with pytest.raises(FileError, match=rf"holds a run with {name}=None, and {name}='\w+' was given"):
            train(model(), tokens(), told, folder=tmp_path, **cast(Any, {name: given}))


@pytest.mark.slow
def test_what_a_run_was_told_stays_where_the_disk_is_full_as_it_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(SHORT, steps=2)
    whole = train(model(), tokens(), told, folder=tmp_path)
    with monkeypatch.context() as patched:

        def full(path: Path, *_: Any, **__: Any) -> int:
            path.open("wb").close()
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(Path, "write_bytes", full)
        patched.setattr(Path, "write_text", full)
        with pytest.raises(FileError, match=r"run\.json' could not be written.*No space left.*free space there"):
            train(model(), tokens(), told, folder=tmp_path)
    assert same(whole, train(model(), tokens(), told, folder=tmp_path))


def signed(folder: Path, change: Any) -> None:
    """Changes the last checkpoint, and writes the SHA-256 of what it has become, as whoever made it by hand would."""
    said = max(folder.glob("checkpoints/*.json"))
    record = json.loads(said.read_text())
    tensors = said.with_name(next(iter(record["files"])))
    held = load_file(tensors)
    record |= change(held)
    save_file(held, tensors)
    del record["sha256"]
    if record.get("files"):
        record["files"] = {tensors.name: digest(tensors)}
    said.write_text(json.dumps(record | {"sha256": _digest_of(record)}))


OTHER_TENSORS = {
    "missing": ("weights/W_enc.1", None, r"has nothing as 'weights/W_enc\.1', and torch\.float32 of shape \(24, 16\)"),
    "shape": ("weights/W_enc.1", torch.ones(24, 5), r"has torch\.float32 of shape \(24, 5\) as 'weights/W_enc\.1'"),
    "dtype": ("exp_avg/b_dec", torch.ones(3, 16).double(), r"has torch\.float64 of shape \(3, 16\) as 'exp_avg/b_dec'"),
    "more": ("own", torch.ones(2), r"as 'own', and no such tensor is needed.*another run"),
    "counts": ("silent/of", None, r"has nothing as 'silent/of'.*remove this checkpoint"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHER_TENSORS)
def test_a_checkpoint_of_other_tensors_is_refused_by_name(tmp_path: Path, case: str) -> None:
    told, (name, tensor, says) = replace(SHORT, steps=2), OTHER_TENSORS[case]
    train(model(), tokens(), told, folder=tmp_path)

    def change(held: dict[str, torch.Tensor]) -> dict[str, Any]:
        held.pop(name, None)
        held |= {} if tensor is None else {name: tensor}
        return {}

    signed(tmp_path, change)
    with pytest.raises(FileError, match=says):
        train(model(), tokens(), replace(told, finetune_steps=1, finetune_prompts=2), folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"files": {}}, {"files": None}, {"state": None}, {"state": {"backend": "other"}}, {"step": 1}],
    ids=["no files", "files of none", "no state", "another backend", "another step"],
)
def test_a_checkpoint_that_says_something_else_is_passed_over_and_the_run_begins_again_where_it_is_the_last(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    told = replace(SHORT, steps=2)
    whole = train(model(), tokens(), told, folder=tmp_path)
    signed(tmp_path, lambda _: change)
    _SAID.clear()
    with pytest.warns(TLCircuitsWarning, match="is damaged.*There is none before it: the run begins again"):
        assert same(whole, train(model(), tokens(), told, folder=tmp_path))


@pytest.mark.slow
def test_a_second_process_is_not_let_into_the_folder_of_one_that_trains(tmp_path: Path) -> None:
    first = RunFolder.of(tmp_path, Shards())
    first.claim(SHORT, {})
    with pytest.raises(FileError, match=r"is being filled by another run: wait until that has ended, or give another"):
        train(model(), tokens(), SHORT, folder=tmp_path)
    first.close()
    (tmp_path / "run.json").unlink()
    train(model(), tokens(), replace(SHORT, steps=1), folder=tmp_path)


@pytest.mark.slow
def test_a_fit_that_is_worse_than_the_mean_is_told() -> None:
    _SAID.clear()
    with pytest.warns(TLCircuitsWarning, match=r"an FVU of \S+ in layer \d, worse than 1.*smaller lr"):
        train(model(), tokens(), replace(SHORT, steps=40, lr=1e3))


def test_layers_without_a_feature_are_told_where_they_explain_nothing() -> None:
    _SAID.clear()
    with pytest.warns(TLCircuitsWarning, match=r"no feature on in layers 0, 1, 2, where .* smaller sparsity"):
        train(model(), tokens(), replace(SHORT, steps=2, threshold=100.0))


def test_a_gradient_that_is_not_finite_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Run.advance
    monkeypatch.setattr(Run, "advance", lambda run: replace(advance(run), gradient_norm=float("inf")))
    with pytest.raises(FitError, match=r"norm of the gradient is inf at step 0.*smaller lr"):
        train(model(), tokens(), SHORT, folder=tmp_path, checkpoint_every=1)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_run_that_is_taken_up_says_from_where_and_one_that_ended_says_so(tmp_path: Path, capsys: Any) -> None:
    train(model(), tokens(), SHORT, folder=tmp_path)
    assert capsys.readouterr().err == ""
    train(model(), tokens(), replace(SHORT, finetune_steps=2, finetune_prompts=4), folder=tmp_path)
    assert "going on from step 12 of 14" in capsys.readouterr().err
    train(model(), tokens(), replace(SHORT, finetune_steps=2, finetune_prompts=4), folder=tmp_path)
    assert "already finished" in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_has_the_last_step_too(tmp_path: Path) -> None:
    train(model(), tokens(), SHORT, folder=tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 10, 11]


def test_the_pace_of_the_log_is_of_steps_and_not_of_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What came before the first step took no time of it; then each step takes 2 s.
    clock = map(float, range(100, 200, 2))
    monkeypatch.setattr(
        sys.modules["tl_circuits.training.train"], "time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    train(model(), tokens(), replace(SHORT, steps=2, finetune_steps=1, finetune_prompts=2), folder=tmp_path)
    said = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (said[0]["tokens"], said[0]["tokens_per_second"]) == (32, 16.0)
    assert "kl" in said[1]
    assert not {"tokens", "tokens_per_second"} & set(said[1])


def test_ctrl_c_writes_a_checkpoint_and_then_interrupts(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Run.advance

    def interrupted(self: Run) -> Any:
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Run, "advance", interrupted)
    # A job in the background of a shell ignores Ctrl-C, and so would the tests there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(model(), tokens(), SHORT, folder=tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "a checkpoint of step 5 of 12 is written" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "step-00000005.json").is_file()


def test_tensors_are_as_open_as_the_files_beside_them(tmp_path: Path) -> None:
    train(model(), tokens(), replace(SHORT, steps=2), folder=tmp_path / "run", cache=tmp_path / "kept")
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    found = list(tmp_path.glob("*/**/*.safetensors"))
    assert len(found) >= 2
    assert {path.stat().st_mode for path in found} == {usual}


def test_a_logger_that_cannot_be_opened_is_told_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UsageError(Exception):
        pass

    def init(**_: Any) -> None:
        raise UsageError("No API key configured")

    monkeypatch.setitem(sys.modules, "wandb", cast(Any, SimpleNamespace(init=init)))
    with pytest.raises(SettingError, match=r"\['wandb'\] could not be opened \(UsageError: No API key.*wandb login"):
        train(model(), tokens(), SHORT, folder=tmp_path / "run", loggers=["wandb"])
    assert not (tmp_path / "run").exists()


def test_shards_of_one_process_are_told() -> None:
    _SAID.clear()
    with pytest.warns(TLCircuitsWarning, match="shards=3 processes.*there is one.*--nproc-per-node 3"):
        Shards.of_world(3)
    assert Shards.of_world(1).n_shards == Shards.of_world().n_shards == 1


@pytest.mark.slow
def test_a_report_prints_as_a_table_and_says_whether_its_prompts_were_trained_on() -> None:
    clt = train(model(), tokens(), replace(SHORT, steps=2))
    reports = [tlc.training_report(model(), clt, tokens(4), trained_on=seen) for seen in (False, True)]
    for report, seen in zip(reports, (False, True), strict=True):
        assert "Write shares" in str(report)
        assert "TrainingReport(" not in repr(report)
        assert ("Of the training data" in str(report)) is seen
        assert report.to_dict()["trained_on"] is seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:2 of 4 sequences are shorter")
def test_rows_of_which_nothing_counts_are_left_out_of_a_report() -> None:
    clt = train(model(), tokens(), replace(SHORT, steps=2))
    with_empty = tlc.training_report(model(), clt, [[], [5, 6, 7], [8], [9, 5, 4, 3]])
    without = tlc.training_report(model(), clt, [[5, 6, 7], [9, 5, 4, 3]])
    assert with_empty.fidelity.overall.n_prompts == 2
    assert with_empty.to_dict() == without.to_dict()


# Progress


@pytest.mark.slow
@pytest.mark.parametrize("progress", [True, False, None])
def test_bars_are_shown_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool | None
) -> None:
    # Without the two seconds that a bar waits for.
    shown: Any = tl_circuits.progress.tqdm
    monkeypatch.setattr(tl_circuits.progress, "tqdm", lambda **bar: shown(**(bar | {"delay": 0})))
    train(model(), tokens(), SHORT, cache=tmp_path / "cache", progress=progress)
    said = capsys.readouterr().err
    # Nobody watches a test.
    assert ("activations: " in said) == ("transcoder: " in said) == bool(progress)
