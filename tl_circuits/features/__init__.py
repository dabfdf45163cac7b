"""What features mean: where each fires, what it makes likelier, what it reads, and what people call it."""

from tl_circuits.features.card import Example as Example
from tl_circuits.features.card import FeatureCard as FeatureCard
from tl_circuits.features.card import Histogram as Histogram
from tl_circuits.features.card import Interval as Interval
from tl_circuits.features.card import OperandGrid as OperandGrid
from tl_circuits.features.cards import FeatureCards as FeatureCards
from tl_circuits.features.collect import feature_cards as feature_cards
from tl_circuits.features.load import load_cards as load_cards
from tl_circuits.features.operands import Operands as Operands
from tl_circuits.features.scores import Judge as Judge
from tl_circuits.features.scores import LabelScore as LabelScore
from tl_circuits.features.scores import Passage as Passage
from tl_circuits.features.scores import mean_scores as mean_scores
from tl_circuits.features.scores import score_labels as score_labels
from tl_circuits.features.shared import shared_tokens as shared_tokens
