"""Replacing a model's MLPs: for one prompt exactly and linearly, or in every pass."""

from tl_circuits.replacement.localize import LocalReplacementModel as LocalReplacementModel
from tl_circuits.replacement.localize import localize as localize
from tl_circuits.replacement.replace import ReplacementCache as ReplacementCache
from tl_circuits.replacement.replace import replace_mlps as replace_mlps
