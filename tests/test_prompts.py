"""What a prompt may be, which of its positions are masked, and what a graph remembers of why."""

from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models, texts
from tl_circuits.nodes import Kind
from tl_circuits.replacement.prompt import tokenize

both = pytest.mark.parametrize("model_class", models.CLASSES)


@both
def test_text_gets_the_tokens_that_the_model_puts_before_it(model_class: str) -> None:
    model = texts.reader(model_class)
    prompt = tokenize(model, " Austin is")
    assert prompt.tokens.tolist() == model.to_tokens(" Austin is")[0].tolist()
    assert prompt.strings == ("<bos>", " Austin", " is")


@pytest.mark.slow
@both
def test_a_leading_bos_of_id_0_is_masked_and_the_graph_says_why(model_class: str) -> None:
    model = texts.reader(model_class)
    assert model.tokenizer.bos_token_id == 0
    graph = tlc.trace(model, models.transcoder(), " Austin is in")
    assert graph.provenance.masked_positions == (0,)
    assert "beginning-of-sequence token (id 0)" in graph.provenance.masked_why
    assert graph.provenance.prompt == "<bos> Austin is in"
    assert set(graph.nodes.pos[graph.nodes.span(Kind.MASKED)].tolist()) == {0}
    assert not bool((graph.nodes.pos[graph.nodes.span(Kind.FEATURE)] == 0).any())
    assert graph.conservation_error < 1e-10


@both
@pytest.mark.parametrize(
    ("tokens", "masked"),
    [([0, 0, 0, 5, 0, 7], (0, 1, 2)), ([5, 0, 7], ()), ([0], (0,)), ([0, 0], (0, 1)), ([7], ())],
)
def test_only_the_bos_tokens_at_the_start_are_masked(
    model_class: str, tokens: list[int], masked: tuple[int, ...]
) -> None:
    assert tokenize(texts.reader(model_class), tokens).masked == masked


@pytest.mark.slow
def test_a_prompt_of_ids_without_a_tokenizer_is_remembered_with_spaces_between_them() -> None:
    graph = tlc.trace(models.model_of("gpt2", "hooked"), models.transcoder(), [3, 14, 15])
    assert graph.provenance.prompt == "3 14 15"


@both
def test_text_that_already_starts_with_bos_has_all_of_them_masked(model_class: str) -> None:
    prompt = tokenize(texts.reader(model_class), "<bos> Austin is")
    leading = sum(string == "<bos>" for string in prompt.strings)
    assert leading >= 1
    assert prompt.masked == tuple(range(leading))


@both
def test_a_model_without_a_tokenizer_masks_nothing_and_says_so(model_class: str) -> None:
    prompt = tokenize(models.model_of("gpt2", model_class), [0, 1, 2])
    assert prompt.masked == ()
    assert "nothing masked" in prompt.masked_why
    assert prompt.strings == ("0", "1", "2")


@both
@pytest.mark.parametrize(("given", "masked"), [((), ()), ([-1, 1, 1], (1, 3)), ([0, -4], (0,))])
def test_positions_given_by_the_user_take_the_place_of_the_rule(
    model_class: str, given: Any, masked: tuple[int, ...]
) -> None:
    prompt = tokenize(texts.reader(model_class), " Austin is in", given)
    assert prompt.masked == masked
    assert "user" in prompt.masked_why


@both
def test_chat_messages_are_written_by_the_chat_template_with_one_bos(model_class: str) -> None:
    model = texts.reader(model_class)
    chat = [{"role": "user", "content": " Austin"}]
    prompt = tokenize(model, chat)
    assert "".join(prompt.strings) == "<bos>user: Austin model:"
    assert prompt.strings.count("<bos>") == 1
    assert prompt.masked == (0,)


@both
def test_text_that_is_too_long_is_refused_and_not_cut(model_class: str) -> None:
    with pytest.raises(tlc.PromptError, match="context holds 16"):
        tokenize(texts.reader(model_class), " Austin" * 16)
    assert len(tokenize(texts.reader(model_class), " Austin" * 15).tokens) == 16


@both
def test_empty_text_is_refused(model_class: str) -> None:
    with pytest.raises(tlc.PromptError, match="at least one"):
        tokenize(texts.reader(model_class), "")


@both
def test_a_prompt_of_ids_is_left_as_it_is(model_class: str) -> None:
    ids = torch.tensor([4, 9, 4], dtype=torch.int32)
    prompt = tokenize(texts.reader(model_class), ids)
    assert prompt.tokens.tolist() == [4, 9, 4]
    assert ids.tolist() == [4, 9, 4]


def test_text_and_its_ids_are_the_same_prompt() -> None:
    model, transcoder = texts.reader("hooked"), models.transcoder()
    by_text, by_ids = (tlc.localize(model, transcoder, prompt) for prompt in (" Austin is", [0, 271, 269]))
    assert torch.equal(by_text.features, by_ids.features)
    assert torch.equal(by_text.logits, by_ids.logits)


@both
def test_a_row_that_was_padded_on_the_left_is_refused(model_class: str) -> None:
    model = texts.reader(model_class)
    padded = model.to_tokens([" Austin", " Austin is in"], padding_side="left")
    assert padded[0].tolist()[:3] == [2, 2, 0]
    with pytest.raises(tlc.PromptError, match=r"starts with 2 padding tokens \(id 2\).*leave them out, tokens\[2:\]"):
        tokenize(model, padded[0])
    assert tokenize(model, padded[0][2:]).masked == (0,)
    assert tokenize(model, padded[1]).masked == (0,)


def test_padding_that_is_also_what_sequences_start_with_is_masked_as_such() -> None:
    model = texts.reader("hooked")
    pad = model.tokenizer.pad_token
    try:
        model.tokenizer.pad_token = model.tokenizer.bos_token
        assert tokenize(model, [0, 0, 5]).masked == (0, 1)
    finally:
        model.tokenizer.pad_token = pad
