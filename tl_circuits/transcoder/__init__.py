"""The transcoder type, its activations, and its files."""

from tl_circuits.transcoder.activations import Activation as Activation
from tl_circuits.transcoder.activations import BatchTopK as BatchTopK
from tl_circuits.transcoder.activations import GroupMax as GroupMax
from tl_circuits.transcoder.activations import JumpReLU as JumpReLU
from tl_circuits.transcoder.activations import ReLU as ReLU
from tl_circuits.transcoder.activations import TopK as TopK
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder as CrossLayerTranscoder
from tl_circuits.transcoder.transcoder import at_inference as at_inference
