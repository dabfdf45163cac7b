"""Where a transcoder reads and writes, from names of modules of the transformers library to names of hook points.

`h.3.mlp` and `model.layers.3.mlp` are the same place in two families; `{}` may stand for the number. A module's output
and the hook point named for it hold the same tensor on a model whose weights were not processed.
"""

import re
from typing import Literal

from tl_circuits.errors import FileError

_BEFORE_MLP = {"ln_2", "pre_feedforward_layernorm", "post_attention_layernorm"}
_MLP_IN = {"mlp", "mlp.c_fc", "mlp.dense_h_to_4h", "mlp.gate_proj", "mlp.up_proj"}
_MLP_OUT = {"mlp", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj"}
# Models without a norm after the MLP: what their MLP module returns is what is added to the residual stream, and the
# norm that transformers calls post_attention_layernorm is the one before the MLP.
_PLAIN = re.compile(r"gpt-?2|gpt-?neo|pythia|llama|qwen|mistral|smollm", re.IGNORECASE)


def read_point(name: str, side: Literal["input", "output"], model_name: str | None, source: object) -> str:
    """The hook point, inside a block, of a module's first input or of its output.

    Raises `FileError`, quoting `source`, for a place that is not known to be read by transcoders.
    """
    module = _module(name)
    if module in _MLP_IN and side == "input":
        return "mlp.hook_in"
    # In models with a norm after attention as well, post_attention_layernorm is that one.
    if module in _BEFORE_MLP and (module != "post_attention_layernorm" or _is_plain(model_name)):
        return "hook_resid_mid" if side == "input" else "mlp.hook_in"
    raise FileError(
        f"The {side} of '{name}', read according to '{source}' (model: {model_name}), is not known to be a place "
        "that a transcoder reads: the input of the MLP, and the input or output of the norm before it, are."
    )


def write_point(name: str, model_name: str | None, source: object) -> str:
    """The hook point, inside a block, of a module's output.

    Raises `FileError`, quoting `source`, for a place that is not known to be written by transcoders.
    """
    module = _module(name)
    if module == "post_feedforward_layernorm":
        return "hook_mlp_out"
    if module in _MLP_OUT:
        # On a model without a norm after the MLP both hold the same; of an unknown model only this one is certain.
        return "hook_mlp_out" if _is_plain(model_name) else "mlp.hook_out"
    raise FileError(
        f"The output of '{name}', written according to '{source}' (model: {model_name}), is not known to be a place "
        "that a transcoder writes: the output of the MLP, and of the norm after it, are."
    )


def _module(name: str) -> str:
    """What follows the number of the layer."""
    match = re.search(r"(?:^|\.)(?:h|layers|blocks)\.(?:\d+|\{\})\.(.+)$", name)
    return "" if match is None else match[1]


def _is_plain(model_name: str | None) -> bool:
    return model_name is not None and _PLAIN.search(model_name) is not None
