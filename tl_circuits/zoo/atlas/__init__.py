"""The atlas: one small model of several behaviours, as in the case studies of the circuit papers."""

from tl_circuits.zoo.atlas.behaviour import Behaviour as Behaviour
from tl_circuits.zoo.atlas.behaviour import Lesson as Lesson
from tl_circuits.zoo.atlas.behaviour import Question as Question
from tl_circuits.zoo.atlas.behaviours import behaviours as behaviours
from tl_circuits.zoo.atlas.stored import atlas as atlas
from tl_circuits.zoo.atlas.stored import sae_folders as sae_folders
from tl_circuits.zoo.atlas.stored import task as task
