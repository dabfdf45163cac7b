"""The small trained model, and its transcoders, that ship with the package."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tl_circuits.errors import SettingError
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.files import load_folder

ASSETS = Path(__file__).parent / "assets"
NAME = "tl-circuits-demo"


def demo(
    kind: str = "bridge", transcoder: str = "clt", *, assets: Path = ASSETS
) -> tuple[TransformerBridge | HookedTransformer, CrossLayerTranscoder]:
    """A trained model of three layers and its cross-layer ("clt") or per-layer ("plt") transcoder.

    The model, as a `TransformerBridge` ("bridge") or a `HookedTransformer` ("hooked") of the same weights, answers

    - two-hop questions about 200 real US cities: "the capital of the state containing Dallas is" → " Austin"; so, too,
      for bird, flower, tree, abbreviation, demonym, nickname and largest city;
    - sums of two-digit numbers, digit by digit: "36+59=" → "95".

    All are files of the package: no network is asked, and the random state is left as it was. `tl_circuits.zoo.world`
    holds what the model knows; other words read as `<unk>`. `assets/figures.json` says how good model and transcoders
    are, and `python -m tl_circuits.zoo.build` makes them anew.
    """
    if transcoder not in ("clt", "plt"):
        raise SettingError(f"transcoder={transcoder!r} does not ship with the demo: give 'clt' or 'plt'.")
    model = shipped_model(kind, assets / "model", NAME)
    return model, load_folder(assets / transcoder)


def shipped_model(kind: str, folder: Path, name: str) -> TransformerBridge | HookedTransformer:
    """The GPT-2 in a folder as a class of TransformerLens. Leaves the random state as it was."""
    if kind not in ("bridge", "hooked"):
        raise SettingError(f"kind={kind!r} is not a model class: give 'bridge' or 'hooked'.")
    with torch.random.fork_rng(devices=[]):
        language_model = load_language_model(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        as_class = bridge if kind == "bridge" else hooked
        return as_class(language_model, tokenizer, name)


def load_language_model(folder: Path) -> GPT2LMHeadModel:
    """The GPT-2 in a folder: eager attention, so that its patterns can be seen."""
    config = GPT2Config.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
    language_model = GPT2LMHeadModel(config)
    language_model.load_state_dict(load_file(folder / "model.safetensors"))
    return language_model.eval()


def bridge(language_model: GPT2LMHeadModel, tokenizer, name: str = NAME) -> TransformerBridge:
    """The model as TransformerLens's bridge: it runs these very parameters."""
    return TransformerBridge.boot_transformers(name, hf_model=language_model, tokenizer=tokenizer, device="cpu").eval()


def hooked(language_model: GPT2LMHeadModel, tokenizer, name: str = NAME) -> HookedTransformer:
    """The model as a HookedTransformer with a copy of the weights, none of them folded or centred."""
    shape = language_model.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_heads=shape.n_head,
        d_head=shape.n_embd // shape.n_head,
        d_mlp=4 * shape.n_embd,
        n_ctx=shape.n_positions,
        d_vocab=shape.vocab_size,
        act_fn=shape.activation_function,
        eps=shape.layer_norm_epsilon,
        normalization_type="LN",
        model_name=name,
        init_weights=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        # The user asked for this class by name and need not be told at every call that TransformerLens 4 will drop it.
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        model = HookedTransformer(config, tokenizer=tokenizer)
    weights = convert_gpt2_weights(language_model, config)
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()
