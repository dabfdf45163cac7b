"""What the features of the demo's transcoders fire on, in the words of its world: cities, states and relations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.graph import AttributionGraph
from tl_circuits.hooks import Model
from tl_circuits.training.pairs import collect, kept_tokens
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.tokenizer import encode
from tl_circuits.zoo.world import Prompt, World, name, world

# Sums are most of the prompts and have few words: these are enough to see which features are theirs.
SUMS = 400
# No more words than this are named, and as few as hold most of what a feature does.
NAMED, MOST = 3, 0.8
# A word tells what a feature fires on from this share of its activation up, where that is so often its share of tokens.
TELLING, MORE_THAN_CHANCE = 0.2, 3.0


@dataclass(frozen=True)
class Share:
    """A word, and the share of a feature's summed activation that falls on it."""

    word: str
    share: float


@dataclass(frozen=True)
class Firing:
    """Where and on what one feature fires over the world's prompts, as shares of its summed activation.

    `tokens` are those it fires at most. `states`, `cities` and `relations` are what the prompts ask about where it
    fires, each only where it falls on few words, and far more often than by chance; a word that is itself such a token
    is not said twice.
    """

    tokens: tuple[Share, ...]
    states: tuple[Share, ...]
    cities: tuple[Share, ...]
    relations: tuple[Share, ...]

    def __str__(self) -> str:
        about = [
            _in_words(share.word, share) for words in (self.states, self.cities, self.relations) for share in words
        ]
        places = [_in_words(f'"{token.word.strip()}"', token) for token in self.tokens]
        return ", ".join(about) + (" " if about else "") + (f"at {', '.join(places)}" if places else "never")


@torch.no_grad()
def firing(
    model: Model, transcoder: CrossLayerTranscoder, features: Sequence[tuple[int, int]], facts: World
) -> Mapping[tuple[int, int], Firing]:
    """What each of these features, by (layer, index), fires on over the world's prompts, held out ones included."""
    prompts = told(facts)
    tokens, _ = encode(prompts, model.tokenizer)
    kept = kept_tokens(tokens, model.tokenizer)
    pairs = collect(model, tokens, kept, transcoder.read, transcoder.write)
    asked = [prompts[row] for row in pairs.prompt.tolist()]
    words = {
        "tokens": model.tokenizer.convert_ids_to_tokens(tokens[kept].tolist()),
        "states": [prompt.state for prompt in asked],
        "cities": [name(prompt.city) for prompt in asked],
        "relations": [prompt.relation for prompt in asked],
    }
    found = {}
    for layer, read in enumerate(pairs.reads):
        here = [index for at, index in features if at == layer]
        activations = transcoder.encode(read, layer)[:, here]
        facets = {facet: _Facet.of(said, activations) for facet, said in words.items()}
        for column, index in enumerate(here):
            found[layer, index] = _firing(facets, column)
    return found


def labelled(graph: AttributionGraph, model: Model, transcoder: CrossLayerTranscoder) -> AttributionGraph:
    """The graph with what its features fire on, over the world's prompts, as their labels."""
    features = sorted({(feature.layer, feature.index) for feature in graph.nodes.features()})
    found = firing(model, transcoder, features, world())
    return graph.with_labels({feature: str(fires) for feature, fires in found.items()})


def told(facts: World) -> list[Prompt]:
    """Every prompt of the world, held out ones included, and of the sums as many as show which features are theirs."""
    prompts = [*facts.trained, *facts.held_out]
    sums = [prompt for prompt in prompts if prompt.kind == "addition"]
    step = max(len(sums) // SUMS, 1)
    return [prompt for prompt in prompts if prompt.kind != "addition"] + sums[::step]


@dataclass(frozen=True, eq=False)
class _Facet:
    """The words that can be said of a token, their share of all tokens, and of each feature's activation."""

    words: tuple[str, ...]
    of_tokens: Float[Tensor, " word"]
    of_features: Float[Tensor, "word feature"]

    @classmethod
    def of(cls, said: Sequence[str], activations: Float[Tensor, "token feature"]) -> "_Facet":
        """The facet of which this is said at each token; where nothing is, it is the empty word."""
        words = tuple(dict.fromkeys(said))
        place = {word: row for row, word in enumerate(words)}
        row_of: Int64[Tensor, " token"] = torch.tensor([place[word] for word in said])
        mass = activations.new_zeros(len(words), activations.shape[1]).index_add_(0, row_of, activations)
        tiny = torch.finfo(mass.dtype).tiny
        return cls(words, row_of.bincount() / len(said), mass / mass.sum(0).clamp_min(tiny))

    def most(self, feature: int) -> tuple[Share, ...]:
        """The words that hold most of a feature's activation, the first of them first."""
        shares = self._strongest(feature)
        before = [sum(share.share for share in shares[:place]) for place in range(len(shares))]
        return tuple(share for share, held in zip(shares, before, strict=True) if held < MOST)

    def telling(self, feature: int) -> tuple[Share, ...]:
        """The words that tell what a feature fires on; none where they do not."""
        found = tuple(share for share in self._strongest(feature) if share.word and share.share >= TELLING)
        by_chance = sum(float(self.of_tokens[self.words.index(share.word)]) for share in found)
        return found if sum(share.share for share in found) >= MORE_THAN_CHANCE * by_chance else ()

    def _strongest(self, feature: int) -> list[Share]:
        top = self.of_features[:, feature].topk(min(NAMED, len(self.words)))
        found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [Share(self.words[row], share) for row, share in found if share > 0]


def _firing(facets: Mapping[str, _Facet], feature: int) -> Firing:
    tokens = facets["tokens"].most(feature)
    known = {token.word.strip() for token in tokens}
    about = {
        facet: tuple(share for share in facets[facet].telling(feature) if share.word not in known)
        for facet in ("states", "cities", "relations")
    }
    return Firing(tokens, **about)


def _in_words(word: str, share: Share) -> str:
    return f"{word} {share.share:.0%}"
