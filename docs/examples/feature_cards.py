"""What features mean: cards from a stream of texts, labels of their own making, and how good these are."""

from pathlib import Path
from tempfile import TemporaryDirectory

import tl_circuits as tlc
from tl_circuits.features import mean_scores, shared_tokens
from tl_circuits.zoo.cards import world_texts
from tl_circuits.zoo.world import world

model, clt = tlc.demo()
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
cards = tlc.feature_cards(model, clt, world_texts(world()), features=graph)

card = cards.card("L2/623")
print(f"L2/623 is active on {card.density:.2%} of {card.n_tokens} tokens")
print("fires most on:", card.top[0])
print("and, of its weakest fifth, on:", card.intervals[-1].examples[0])
print("says:", [token for token, _ in card.top_logits[:4]])

cards = cards.with_labels(shared_tokens)
graph = graph.with_labels(cards.labels())
print("L0/398:", cards.card("L0/398").label)

with TemporaryDirectory() as folder:
    tlc.save_page(graph, Path(folder) / "dallas.html", cards=cards)
    path = cards.save(Path(folder) / "dallas.cards")
    print(tlc.load_cards(path, features=["L2/623"]))
    print(cards.save_public(folder).name, "as other people's viewers read them")


def guesses(passages, label):
    """A judge that looks for the label's first word, on the marked tokens where any are marked."""
    word = label.split('"')[1]
    marked = [[t for t, m in zip(p.tokens, p.marked or [True] * len(p.tokens), strict=True) if m] for p in passages]
    return [any(token.strip() == word for token in tokens) for tokens in marked]


score = mean_scores(tlc.score_labels(cards, guesses))
print(f"detection {score.detection:.2f}, fuzzing {score.fuzzing:.2f}")
