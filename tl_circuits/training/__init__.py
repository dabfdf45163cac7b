"""Training transcoders."""

from tl_circuits.training.settings import TrainingSettings as TrainingSettings
from tl_circuits.training.train import train as train
