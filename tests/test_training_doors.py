"""What a newcomer gives to training by mistake, and what is said of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from models import bridge
from tests.test_training_run import SHORT, Words, model
from tl_circuits.errors import _SAID, PromptError, SettingError, TLCircuitsWarning
from tl_circuits.harvest import Prompts
from tl_circuits.training import train
from tl_circuits.training.plan import plan


@pytest.fixture
def with_words(monkeypatch: pytest.MonkeyPatch) -> Any:
    own = bridge("gpt2", torch.float32)
    monkeypatch.setattr(own, "tokenizer", Words())
    _SAID.clear()
    return own


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


# Settings and plans


def test_a_context_of_one_token_is_refused() -> None:
    with pytest.raises(SettingError, match=r"context=1 leaves prompts of one token.*give 2 or more"):
        replace(SHORT, context=1)


def test_a_plan_says_that_fine_tuning_comes_after_it() -> None:
    assert "fine-tuning" not in plan(SHORT, model(), 100).__rich__()
    assert "7 steps of fine-tuning come after" in plan(replace(SHORT, finetune_steps=7), model(), 100).__rich__()
