"""What a pass has counted → cards: examples as text, histograms, and what the weights say of each feature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_circuits.errors import PromptError
from tl_circuits.features.card import Effects, Example, FeatureCard, Interval, OperandGrid
from tl_circuits.features.cards import Contexts, FeatureCards
from tl_circuits.features.contexts import ContextTally
from tl_circuits.features.directions import Strongest, logit_directions, reading_directions, strongest
from tl_circuits.features.encoders import CELLS, Encoder
from tl_circuits.features.kept import NOBODY, Kept
from tl_circuits.features.operands import Operands, operand_grids
from tl_circuits.features.table import CardTable
from tl_circuits.features.tally import Tally
from tl_circuits.hooks import Model
from tl_circuits.transcoder import CrossLayerTranscoder


class Vocabulary:
    """Token ids as text, each decoded once."""

    def __init__(self, model: Model) -> None:
        self._tokenizer = model.tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        if token not in self._known:
            decode = None if self._tokenizer is None else self._tokenizer.decode
            self._known[token] = str(token) if decode is None else decode([token])
        return self._known[token]


@dataclass(frozen=True)
class Asks:
    """Into how many intervals examples are put, how many tokens are named, and the grid of operands."""

    intervals: int
    tokens: int
    operands: Operands | None


def finished(
    model: Model,
    transcoder: CrossLayerTranscoder,
    tallies: Sequence[Tally],
    contexts: ContextTally,
    asks: Asks,
) -> FeatureCards:
    """The cards of one block of features. Raises `PromptError` where no token of the stream counted."""
    if not contexts.n_tokens:
        raise PromptError(
            "The token stream holds no token that counts: give at least one beside beginnings of sequence and padding."
        )
    words = Vocabulary(model)
    encoders = [Encoder(transcoder, tally.layer, tally.index) for tally in tallies]
    grids = {} if asks.operands is None else operand_grids(model, transcoder, encoders, asks.operands)
    cards = (
        card
        for tally in tallies
        for card in _cards(model, transcoder, tally, words, contexts.n_tokens, asks, grids.get(tally.layer))
    )
    return FeatureCards(CardTable.of(cards), _texts(contexts, words))


def _cards(
    model: Model,
    transcoder: CrossLayerTranscoder,
    tally: Tally,
    words: Vocabulary,
    n_seen: int,
    asks: Asks,
    grids: Tensor | None,
) -> Iterator[FeatureCard]:
    effects = _effects(model, transcoder, tally, words, asks.tokens)
    for row, (top_logits, bottom_logits, embeddings) in enumerate(effects):
        n_active, maximum = int(tally.n_active[row]), float(tally.maximum[row])
        yield FeatureCard(
            layer=tally.layer,
            index=int(tally.index[row]),
            top=tuple(_examples(tally.top, row, words)),
            intervals=tuple(_intervals(list(_examples(tally.sample, row, words)), asks.intervals)),
            top_logits=top_logits,
            bottom_logits=bottom_logits,
            embeddings=embeddings,
            histogram=tally.counts.histogram(row),
            maximum=maximum if n_active else None,
            density=n_active / n_seen,
            n_tokens=n_seen,
            operands=_grid(asks.operands, grids, row),
        )


def _examples(kept: Kept, row: int, words: Vocabulary) -> Iterator[Example]:
    before = int((kept.reach < 0).sum())
    for place in (kept.prompt[row] != NOBODY).nonzero()[:, 0].tolist():
        there = kept.tokens[row, place] != NOBODY
        yield Example(
            tuple(words[token] for token in kept.tokens[row, place][there].tolist()),
            tuple(kept.activations[row, place][there].tolist()),
            int(there[:before].sum()),
            int(kept.prompt[row, place]),
        )


def _intervals(drawn: list[Example], n_intervals: int) -> Iterator[Interval]:
    """Equal parts of what was drawn by activation, the highest first: so the parts are quantiles of all there is."""
    drawn.sort(key=lambda example: example.activation, reverse=True)
    for number in range(n_intervals):
        first, last = (len(drawn) * at // n_intervals for at in (number, number + 1))
        low, high = 1 - (number + 1) / n_intervals, 1 - number / n_intervals
        if last > first:
            yield Interval(f"quantiles {low:.3g} to {high:.3g}", tuple(drawn[first:last]))


def _effects(
    model: Model, transcoder: CrossLayerTranscoder, tally: Tally, words: Vocabulary, k: int
) -> Iterator[tuple[Effects, Effects, Effects]]:
    """Of each feature: the tokens that it makes likelier, less likely, and reads."""
    W_U, read = model.W_U.detach().float().T, reading_directions(model, transcoder, tally.layer)
    _, written, d_model = transcoder.W_dec[tally.layer].shape
    for index in tally.index.split(max(1, CELLS // (written * d_model))):
        likelier, unlikelier = strongest(logit_directions(model, transcoder, tally.layer, index), W_U, k, centred=True)
        W_enc = transcoder.W_enc[tally.layer]
        reads, _ = strongest(W_enc[index.to(W_enc.device)].to(read), read, k)
        yield from zip(*(_said(words, each) for each in (likelier, unlikelier, reads)), strict=True)


def _said(words: Vocabulary, found: Strongest) -> Iterator[Effects]:
    for tokens, values in zip(found.token.tolist(), found.value.tolist(), strict=True):
        yield tuple((words[token], value) for token, value in zip(tokens, values, strict=True))


def _grid(operands: Operands | None, grids: Tensor | None, row: int) -> OperandGrid | None:
    if operands is None or grids is None:
        return None
    return OperandGrid(operands.template, tuple(operands.a), tuple(operands.b), tuple(map(tuple, grids[row].tolist())))


def _texts(contexts: ContextTally, words: Vocabulary) -> Contexts:
    # In the order of their keys, which does not depend on how the stream was cut into passes.
    order = contexts.key.argsort(descending=True)
    order = order[contexts.there[order]]
    texts = tuple(
        tuple(words[token] for token in tokens.tolist() if token != NOBODY) for tokens in contexts.tokens[order]
    )
    active: Bool[Tensor, "feature context"] = torch.cat([each[order] for each in contexts.active], dim=1).T.contiguous()
    return Contexts(texts, active, contexts.n_tokens)
