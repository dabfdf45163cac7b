"""What a run is trained on: data of every kind, bad data, and activations kept on disk."""

import hashlib
import json
import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models import D_VOCAB, bridge, hooked
from tests.test_training_run import SHORT as LONGER
from tests.test_training_run import Words, close, model, same, tokens
from tl_circuits.errors import _SAID, FileError, FitError, PromptError, SettingError, TLCircuitsWarning
from tl_circuits.harvest import ActivationCache, Pairs, Prompts, cache, collect, passes
from tl_circuits.training import source, train

SHORT = replace(LONGER, steps=4)
READ, WRITE = SHORT.read, SHORT.write


@pytest.fixture
def with_words(monkeypatch: pytest.MonkeyPatch) -> Any:
    own = bridge("gpt2", torch.float32)
    monkeypatch.setattr(own, "tokenizer", Words())
    return own


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four prompts of eight tokens.
    monkeypatch.setattr("tl_circuits.harvest.pairs.TOKENS_PER_PASS", 32)
    _SAID.clear()


def prompts() -> Prompts:
    found = tokens()
    kept = torch.ones_like(found, dtype=torch.bool)
    kept[3, 2:], kept[4:9] = False, False
    return Prompts(found, kept)


def cached(folder: Path, of: Prompts | None = None, form: Any = "float32", own: Any = None) -> ActivationCache:
    return ActivationCache.harvested(folder, own or model(), of or prompts(), READ, WRITE, form)


# Sequences, streams and tokenizers


def test_sequences_shorter_than_two_tokens_count_nowhere_and_are_counted() -> None:
    with pytest.warns(TLCircuitsWarning, match="2 of 3 sequences are shorter than two tokens, number 1 first"):
        found = Prompts.of(model(), [[5, 6, 7], [5], []])
    assert found.kept.tolist() == [[True] * 3, [False] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("data", "longest"), [([[5], [6]], 1), ([[]], 0), (torch.full((4, 1), 5), 1)], ids=["one", "none", "matrix"]
)
def test_data_of_nothing_but_short_sequences_is_refused(data: Any, longest: int) -> None:
    with pytest.raises(PromptError, match=rf"All \d sequences are shorter.*longest has {longest}.*give longer"):
        train(model(), data, SHORT)


def test_padding_and_a_lone_beginning_of_sequence_make_no_sequence_longer(with_words: Any) -> None:
    with pytest.warns(TLCircuitsWarning, match="2 of 3 sequences"):
        found = Prompts.of(with_words, torch.tensor([[1, 5, 6], [5, 0, 0], [1, 0, 0]]))
    assert found.kept.tolist() == [[False, True, True], [False] * 3, [False] * 3]
    with pytest.warns(TLCircuitsWarning, match="1 of 2 sequences"):
        assert Prompts.of(with_words, ["", "abc"]).n_kept == 3


def test_what_is_left_over_of_a_long_text_is_no_sequence(with_words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "bos_token_id", None)
    assert Prompts.of(with_words, ["abcde"], context=4).tokens.tolist() == [[3, 4, 5, 6]]


@pytest.mark.slow
def test_a_stream_is_read_as_far_as_the_run_needs_and_no_further() -> None:
    from datasets import IterableDataset

    given: list[int] = []

    def rows() -> Any:
        for row in tokens(200).tolist():
            given.append(1)
            yield {"input_ids": row}

    told = replace(SHORT, steps=3)
    streamed = train(model(), IterableDataset.from_generator(rows), told)
    assert len(given) == 3 * 32 / 8
    assert same(streamed, train(model(), tokens(200)[:12], told))


def test_a_stream_of_texts_is_cut_as_a_list_is(with_words: Any) -> None:
    from datasets import Dataset

    texts = Dataset.from_dict({"text": ["cd", "efg"]})
    found = Prompts.of(with_words, texts.to_iterable_dataset(), context=3)
    assert torch.equal(found.tokens, Prompts.of(with_words, texts, context=3).tokens)
    assert torch.equal(found.tokens, Prompts.of(with_words, (text for text in ("cd", "efg")), context=3).tokens)
    with pytest.raises(PromptError, match=r"columns 'body'.*rename_column"):
        Prompts.of(with_words, Dataset.from_dict({"body": ["a"]}).to_iterable_dataset())
    with pytest.raises(PromptError, match="holds no prompt"):
        Prompts.of(with_words, iter(()))


def test_ids_of_another_tokenizer_are_told_by_the_text_beside_them(with_words: Any) -> None:
    from datasets import Dataset

    right = Dataset.from_dict({"input_ids": [[1, 3, 4, 5], [1, 6]], "text": ["abc", "d"]})
    wrong = Dataset.from_dict({"input_ids": [[1, 13, 14, 15], [1, 6]], "text": ["abc", "d"]})
    assert Prompts.of(with_words, right).n_kept == 4
    for data in (wrong, wrong.to_iterable_dataset()):
        with pytest.raises(PromptError, match=r"first 2 rows 1 of 4 ids in 'input_ids'.*another one\. Remove"):
            Prompts.of(with_words, data)


@pytest.mark.parametrize("buffer_tokens", [None, 32])
def test_nan_is_told_with_its_layer_its_batch_and_its_prompt(buffer_tokens: int | None, tmp_path: Path) -> None:
    own = hooked("gpt2", torch.float32)
    data = tokens().clamp(max=D_VOCAB - 2)
    data[13, 4] = D_VOCAB - 1
    kept = own.W_E.data[-1].clone()
    own.W_E.data[-1] = float("nan")
    told = replace(SHORT, buffer_tokens=buffer_tokens)
    try:
        for where in (None, tmp_path):
            with pytest.raises(FitError, match=r"NaN.*MLP of layer 0 reads.*batch of 4 prompts.*first in prompt 13"):
                train(own, data, told, cache=where)
    finally:
        own.W_E.data[-1] = kept


# Activations on disk


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[ActivationCache, Pairs]:
    """A cache in six shards, and what one sweep over the same prompts gives."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tl_circuits.harvest.pairs.TOKENS_PER_PASS", 32)
        made = cached(tmp_path_factory.mktemp("cache"))
        assert len(list(made.folder.glob("*.safetensors"))) == 6
        made.pairs(torch.arange(24))
        return made, collect(model(), prompts().tokens, prompts().kept, READ, WRITE)


@settings(max_examples=20)
@given(rows=st.lists(st.integers(0, 23), min_size=1, max_size=30))
def test_a_cache_gives_the_pairs_of_any_prompts(whole: tuple[ActivationCache, Pairs], rows: list[int]) -> None:
    made, everything = whole
    found = made.pairs(torch.tensor(rows))
    at = torch.cat([(everything.prompt == row).nonzero()[:, 0] for row in rows])
    assert torch.equal(found.reads, everything.reads[:, at])
    assert torch.equal(found.writes, everything.writes[:, at])
    assert torch.equal(torch.tensor(rows)[found.prompt], everything.prompt[at])


@pytest.mark.slow
def test_a_run_from_a_cache_is_the_run_without_one(tmp_path: Path) -> None:
    for told, bound in ((SHORT, 0.0), (replace(SHORT, buffer_tokens=64), 1e-4)):
        plain = train(model(), tokens(), told)
        found = [train(model(), tokens(), told, cache=tmp_path) for _ in range(2)]
        assert same(*found)
        # Blocks run through the model in other batches, whose sums round differently.
        assert close(plain, found[0], bound)


@pytest.mark.slow
def test_a_block_is_let_go_before_the_next_is_harvested_and_the_sample_holds_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[Any] = []

    def counting(*given: Any) -> Pairs:
        assert all(rows() is None for rows in held)
        found = collect(*given)
        held.append(weakref.ref(found.reads))
        return found

    monkeypatch.setattr(source, "collect", counting)
    train(model(), tokens(), replace(LONGER, buffer_tokens=64))
    assert len(held) == 6


def test_a_sample_is_bounded_by_bytes() -> None:
    assert source.sampled_tokens(4, 128) == 40_000
    assert source.sampled_tokens(12, 768) == 2**29 // (8 * 12 * 768)
    assert source.sampled_tokens(80, 8192) == 1024


def test_more_tokens_than_can_be_drawn_from_at_once_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_HELD", 100)
    own = Prompts.of(model(), tokens())
    found = source.source(model(), source.Data(own, own.kept, None), replace(SHORT, buffer_tokens=10**9))
    assert isinstance(found, source._Streamed)
    assert found.batch(0).reads.shape == (3, 32, 16)


@pytest.mark.slow
def test_blocks_of_a_cache_are_read_ahead_by_one_thread_that_ends_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, read = [], ActivationCache.pairs

    def noted(self: ActivationCache, rows: torch.Tensor) -> Any:
        threads.append(threading.current_thread().name)
        return read(self, rows)

    monkeypatch.setattr(ActivationCache, "pairs", noted)
    train(model(), tokens(), replace(LONGER, buffer_tokens=64), cache=tmp_path)
    # 24 prompts of 8 tokens are 3 blocks of 64 tokens, 2 batches each.
    assert threads == ["MainThread"] + ["activations_0"] * (len(threads) - 1)
    assert len(threads) == 7
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("activations")]


@pytest.mark.slow
def test_eight_bits_are_off_by_half_a_step_at_most_and_take_a_quarter(tmp_path: Path) -> None:
    exact, found = (cached(tmp_path / form, form=form).pairs(torch.arange(24)) for form in ("float32", "int8"))
    for a, b in ((exact.reads, found.reads), (exact.writes, found.writes)):
        assert bool(((a - b).abs() <= a.abs().amax(-1, keepdim=True) / 127 * 0.501).all())
        assert not torch.equal(a, b)
    d_model, n_layers = exact.reads.shape[2], len(exact.reads)
    sizes = [cache.bytes_of_cache(len(exact.prompt), n_layers, d_model, form) for form in ("float32", "int8")]
    for size, form in zip(sizes, ("float32", "int8"), strict=True):
        taken = sum(path.stat().st_size for path in (tmp_path / form).glob("*.safetensors"))
        assert size <= taken < size + 6 * 500
    trained = train(model(), tokens(), replace(SHORT, cache_dtype="int8"), cache=tmp_path / "trained")
    assert close(train(model(), tokens(), SHORT), trained, 0.1)
    with pytest.raises(SettingError, match="cache_dtype='int8' is for activations on disk: name a folder"):
        train(model(), tokens(), replace(SHORT, cache_dtype="int8"))


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Numbers of the first prompts of the batches harvested from now on; the harvest breaks off at one of them."""
    first: list[int] = []

    def counting(own: Any, *given: Any) -> Any:
        if int(given[-1][0]) == stop_at:
            raise KeyboardInterrupt
        first.append(int(given[-1][0]))
        return collect(own, *given)

    monkeypatch.setattr(cache, "collect", counting)
    return first


@pytest.mark.slow
def test_a_harvest_that_was_broken_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Prompts 4 to 7 have nothing to harvest.
    harvested = counted(monkeypatch, stop_at=16)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path)
    assert harvested == [0, 8, 12]
    harvested = counted(monkeypatch)
    whole = cached(tmp_path)
    assert harvested == [16, 20]
    assert torch.equal(
        whole.pairs(torch.arange(24)).writes, cached(tmp_path / "at once").pairs(torch.arange(24)).writes
    )


@pytest.mark.slow
def test_processes_harvest_a_shard_each_in_turn_and_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, found = [], {}

    def process(number: int) -> ActivationCache:
        found[number] = counted(monkeypatch)
        place = (number, 2)
        return ActivationCache.harvested(
            tmp_path, model(), prompts(), READ, WRITE, place=place, wait=lambda: waited.append(place)
        )

    process(0)
    whole = process(1)
    assert found == {0: [0, 8, 16], 1: [12, 20]}
    assert waited == [(0, 2), (1, 2)]
    assert len(whole.pairs(torch.arange(24)).prompt) == prompts().n_kept


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "said"])
def test_a_torn_shard_is_told_and_harvested_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    before = cached(tmp_path).pairs(torch.arange(24))
    shard = sorted(tmp_path.glob("*.safetensors"))[3]
    content = shard.read_bytes()
    match damage:
        case "bit":
            shard.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        case "cut":
            shard.write_bytes(content[: len(content) // 2])
        case "gone":
            shard.unlink()
        case "said":
            shard.with_suffix(".json").write_text("{")
    harvested = counted(monkeypatch)
    with pytest.warns(TLCircuitsWarning, match="shard-00003-of-00006.*torn.*SHA-256.*harvested again"):
        after = cached(tmp_path).pairs(torch.arange(24))
    assert harvested == [12]
    assert torch.equal(before.writes, after.writes)
    assert shard.read_bytes() == content


@pytest.mark.slow
def test_a_full_disk_keeps_the_shards_before_and_says_what_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = cache.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "00002" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        saved(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "save_file", full)
        with pytest.raises(FileError, match=r"Shard 2 of 6, 0\.0 MB.*No space left.*'int8'.*2 shards before it"):
            train(model(), tokens(), SHORT, cache=tmp_path)
    assert not list(tmp_path.glob("*.part"))
    harvested = counted(monkeypatch)
    train(model(), tokens(), SHORT, cache=tmp_path)
    assert harvested == [8, 12, 16, 20]


@pytest.mark.slow
def test_a_cache_of_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    cached(tmp_path)
    with pytest.raises(FileError, match=r"holds activations with fingerprint=\d+, and fingerprint=\d+ is needed: name"):
        cached(tmp_path, Prompts(prompts().tokens.flip(1), prompts().kept))
    with pytest.raises(FileError, match="form='float32', and form='int8' is needed"):
        cached(tmp_path, form="int8")
    with pytest.raises(FileError, match="model="):
        cached(tmp_path, own=bridge("pythia", torch.float32))
    (tmp_path / "cache.json").write_text("[")
    with pytest.raises(FileError, match=r"cache\.json' cannot be made or read.*name another folder"):
        cached(tmp_path)


def _nothing(tensor: torch.Tensor, *, hook: Any) -> torch.Tensor:  # noqa: ARG001
    return torch.zeros_like(tensor)


def test_one_changed_neuron_and_a_hook_that_is_left_make_another_model(tmp_path: Path) -> None:
    own = hooked("gpt2", torch.float32)
    cached(tmp_path, own=own)
    row = own.blocks[1].mlp.W_out.data[7]
    kept = row.clone()
    try:
        row[-1] += 1
        with pytest.raises(FileError, match=r"holds activations with model='\w+', and model='\w+' is needed"):
            cached(tmp_path, own=own)
        row.copy_(kept)
        own.add_perma_hook("blocks.0.hook_attn_out", _nothing)
        with pytest.raises(FileError, match="holds activations with model="):
            cached(tmp_path, own=own)
    finally:
        row.copy_(kept)
        own.reset_hooks(including_permanent=True)
    cached(tmp_path, own=own)


@pytest.mark.slow
def test_shards_without_their_record_are_not_taken_for_another_models(tmp_path: Path, monkeypatch: Any) -> None:
    cached(tmp_path, own=bridge("pythia", torch.float32))
    (tmp_path / "cache.json").unlink()
    harvested = counted(monkeypatch)
    with pytest.warns(TLCircuitsWarning, match="torn or of something else"):
        found = cached(tmp_path).pairs(torch.arange(24))
    assert harvested == [0, 8, 12, 16, 20]
    assert torch.equal(found.writes, collect(model(), prompts().tokens, prompts().kept, READ, WRITE).writes)


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda x: x[:3], lambda x: x[:, :, :1], lambda x: x.double()])
def test_a_shard_of_another_shape_is_harvested_again_whatever_its_digest(tmp_path: Path, change: Any) -> None:
    cached(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[3]
    said, content = shard.with_suffix(".json"), shard.read_bytes()
    tensors = load_file(shard)
    save_file(tensors | {"reads": change(tensors["reads"]).contiguous()}, shard)
    record = json.loads(said.read_text()) | {"sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
    said.write_text(json.dumps(record))
    with pytest.warns(TLCircuitsWarning, match="shard-00003-of-00006.*harvested again"):
        cached(tmp_path)
    assert shard.read_bytes() == content


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    cached(tmp_path)
    old, new = (tmp_path / f"shard-00000-of-00006.safetensors.{pid}.part" for pid in (1, 2))
    for scratch in (old, new):
        scratch.touch()
    os.utime(old, (0, 0))
    cached(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_passes_are_bounded_by_tokens_and_by_bytes() -> None:
    assert list(passes((10, 8), 3, 16)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    wide = list(passes((3, 8), 64, 2**20))
    assert wide == [slice(0, 1), slice(1, 2), slice(2, 3)]
