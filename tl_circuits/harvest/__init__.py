"""A token stream through a model: what its MLPs read and write, aligned token by token.

Prompts are laid out as one matrix of token ids. What is kept of them comes either from one sweep over everything, or
block by block: prompts in a random order, the tokens of each block shuffled. Every block is a function of its number,
so that a run that was broken off can go on where it was. Blocks are harvested when they are needed, or put together
from a cache on disk that holds every prompt once.

SAELens's `ActivationsStore` and `mixing_buffer` serve the same purpose and are not used: they shuffle by torch's global
random numbers and keep half of what they hold for later, so that a batch depends on all that came before it and cannot
be had by its number; the multi-hook loader reads no cache; and the user's own random state would move.
"""

from tl_circuits.harvest.blocks import Block as Block
from tl_circuits.harvest.blocks import blocks as blocks
from tl_circuits.harvest.cache import ActivationCache as ActivationCache
from tl_circuits.harvest.cache import CacheForm as CacheForm
from tl_circuits.harvest.identity import digest_of as digest_of
from tl_circuits.harvest.identity import identity_of as identity_of
from tl_circuits.harvest.pairs import Pairs as Pairs
from tl_circuits.harvest.pairs import collect as collect
from tl_circuits.harvest.pairs import passes as passes
from tl_circuits.harvest.prompts import COLUMNS as COLUMNS
from tl_circuits.harvest.prompts import Prompts as Prompts
from tl_circuits.harvest.prompts import kept_tokens as kept_tokens
