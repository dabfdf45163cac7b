"""Cards of the demo's features: what they fire on over its world."""

from tl_circuits.features import FeatureCards, Operands, feature_cards
from tl_circuits.features.chosen import Chosen
from tl_circuits.hooks import Model
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.firing import told
from tl_circuits.zoo.world import World, world

OPERANDS = Operands("{a}+{b}=", range(10, 100), range(10, 100))


def world_texts(facts: World) -> list[str]:
    """Every question with its answer, held out ones included, and some of the sums."""
    return [prompt.text + prompt.answer for prompt in told(facts)]


def demo_cards(
    model: Model, transcoder: CrossLayerTranscoder, features: Chosen = None, *, operands: Operands | None = None
) -> FeatureCards:
    """The cards of these features over the demo's world (default: all of them); `OPERANDS` plots them on its sums."""
    return feature_cards(model, transcoder, world_texts(world()), features=features, operands=operands)
