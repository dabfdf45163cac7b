"""Contact with SAELens: its transcoder objects as plain records, and back. The only file that imports it.

SAELens takes seconds to import, so that it is imported inside functions, when one needs it.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache, reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from tl_circuits.errors import FileError, FitError

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
"""What SAELens calls the two files of one SAE."""

LAYOUT = "6.54.12"
"""The version of SAELens whose settings are written here; a later one reads them by this number."""

UNPROCESSED = {"fold_ln": False, "center_writing_weights": False}
PROCESSED = {"fold_ln": True, "center_writing_weights": True}

NAMES = ("model_name", "hook_name", "hook_name_out", "hf_hook_name", "hf_hook_name_out")
"""What SAELens's metadata say of a transcoder in words."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, None),
    "finetuning_scaling_factor": (False, None),
    "activation_fn": ("relu", None),
    "activation_fn_str": ("relu", None),
    "apply_b_dec_to_input": (False,),
}


@dataclass(frozen=True)
class SAETranscoder:
    """One layer's transcoder as SAELens has it: its weights in SAELens's orientation, and its metadata.

        ŷ = φ(x @ W_enc + b_enc) @ W_dec + b_dec (+ x @ W_skip.T)

    `source` says in messages where it came from. `settings` are those of its architecture alone, such as k. `strays`
    names the settings that make SAELens compute something else than this equation, or leave it to its user.
    """

    source: str
    architecture: str
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " d_sae"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    hook_name: str | None = None
    hook_name_out: str | None = None
    hf_hook_name: str | None = None
    hf_hook_name_out: str | None = None
    model_name: str | None = None
    model_from_pretrained_kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    strays: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights that are there, under the names that SAELens stores them by."""
        named = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def config(self) -> dict[str, Any]:
        """What SAELens stores as cfg.json. Its one dtype is the smallest that holds all weights exactly."""
        d_in, d_sae = self.W_enc.shape
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in self.tensors.values()))
        metadata = {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}
        return {
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": str(dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": LAYOUT,
                "sae_lens_training_version": None,
                **metadata,
                "model_from_pretrained_kwargs": dict(self.model_from_pretrained_kwargs),
            },
            "d_out": self.W_dec.shape[1],
            **self.settings,
            "architecture": self.architecture,
        }


def strays(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings by which SAELens does something else to x or h than a transcoder's equation says.

    A setting that is absent counts as SAELens's default, which for `apply_b_dec_to_input` is True.
    """
    found = {name: config.get(name) for name in _NEUTRAL}
    found["apply_b_dec_to_input"] = config.get("apply_b_dec_to_input", True)
    return tuple(f"{name}={value!r:.40}" for name, value in found.items() if value not in _NEUTRAL[name])


def is_sae(value: object) -> bool:
    """Whether it is a SAELens SAE. Where SAELens was never imported nothing is, and it is not imported to ask."""
    return isinstance(value, getattr(sys.modules.get("sae_lens"), "SAE", ()))


def from_sae(sae: Any, source: str) -> SAETranscoder:
    """The record of a SAELens transcoder, which shares its weights.

    Raises `FitError` where `sae` is none: an autoencoder, a class that SAELens does not run under that architecture's
    name, or weights that its settings do not describe.
    """
    from sae_lens import Transcoder

    if not isinstance(sae, Transcoder):
        raise FitError(
            f"{source} is {type(sae).__name__}, and no transcoder: it reads and writes the same place. Give "
            "transcoders, such as SAE.from_pretrained loads from a release of transcoders."
        )
    config = sae.cfg.to_dict()
    architecture = sae.cfg.architecture()
    if type(sae) is not _registered(architecture):
        raise FitError(
            f"{source} is {type(sae).__name__}, which is not SAELens's class for its architecture {architecture!r}, "
            "so what it computes is not known: give one of SAELens's own transcoders."
        )
    weights = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    _check_shapes(weights, config, source)
    return SAETranscoder(
        source=source,
        architecture=architecture,
        **weights,
        **_metadata(sae.cfg.metadata, source),
        settings={name: config[name] for name in ("k", "relu") if name in config},
        strays=strays(config),
    )


def to_sae(record: SAETranscoder) -> Any:
    """The SAELens object of a record, on the record's device, with weights of its own.

    It computes in its one dtype, whatever x's. Raises `FitError` where SAELens knows no such architecture.
    """
    from sae_lens import SAE

    if _registered(record.architecture) is None:
        raise FitError(
            f"SAELens knows no architecture {record.architecture!r}: call tl_circuits.register_saelens_classes() once."
        )
    config = record.config | {"device": str(record.W_enc.device)}
    # SAELens saves no tensor that is a view of another, as a transposed encoder is.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in record.tensors.items()}
    with warnings.catch_warnings():
        # It says how the model is to be loaded, once for each layer; the metadata say so too.
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        return SAE.load_from_disk("", device=config["device"], converter=lambda *_, **__: (config, own))


def train_sae(batches: Iterator[Tensor], config: Mapping[str, Any], steps: int, lr: float, folder: Path) -> Any:
    """SAELens's BatchTopK SAE, trained by SAELens's trainer, saved in 16 bits, and loaded as its JumpReLU SAE.

    `batches` are of one size, (token, d_in); `config` are SAELens's settings. `lr` falls to nothing over the last
    fifth. Initialises from the global random state.
    """
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    size = len(next(batches))
    plan = SAETrainerConfig(steps * size, size, lr, lr, lr_decay_steps=steps // 5, n_batches_for_norm_estimate=10)
    # As it is, a feature counts as dead after 1000 batches: in a short run none would be pulled back.
    plan.dead_feature_window = steps // 8
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig.from_dict(dict(config)))
    SAETrainer(plan, sae, batches).fit().half().save_inference_model(folder)
    return SAE.load_from_disk(folder)


def register(
    architecture: str,
    name: str,
    activation: Callable[[Any], Callable[[Tensor], Tensor]],
    *,
    skip: bool,
    settings: Mapping[str, Any],
) -> None:
    """Teaches SAELens in this process an architecture: its transcoder, with this activation on the pre-activations.

    `name` is what its class is called; `activation` makes the activation from the settings, whose names and defaults
    `settings` gives. Doing it again does nothing. Raises `FitError` where somebody else has taken the name.
    """
    from sae_lens import register_sae_class

    taken = _registered(architecture)
    if taken is None:
        register_sae_class(architecture, *_classes(architecture, name, activation, skip, settings))
    elif taken.__module__ != __name__:
        raise FitError(
            f"SAELens has {taken.__module__}.{taken.__name__} under the name {architecture!r}, which is tl_circuits' "
            "own: register that class under another name, or upgrade tl_circuits."
        )


def _registered(architecture: str) -> type | None:
    from sae_lens.registry import get_sae_class

    try:
        return get_sae_class(architecture)[0]
    except KeyError:
        return None


def _classes(
    architecture: str,
    name: str,
    activation: Callable[[Any], Callable[[Tensor], Tensor]],
    skip: bool,
    settings: Mapping[str, Any],
) -> tuple[Any, Any]:
    """A class of transcoders and the class of its settings."""
    from sae_lens import SkipTranscoder, SkipTranscoderConfig, Transcoder, TranscoderConfig

    def refuse_fold(_: Any) -> None:
        raise FitError(
            f"{name}.fold_W_dec_norm would scale pre-activations by decoder norms, and so choose other features: leave "
            "the norms as they are."
        )

    base, base_config = (SkipTranscoder, SkipTranscoderConfig) if skip else (Transcoder, TranscoderConfig)
    config: Any = make_dataclass(
        f"{name}Config",
        [(key, type(default), default) for key, default in settings.items()],
        bases=(base_config,),
        namespace={"architecture": classmethod(lambda _: architecture), "__module__": __name__},
    )

    def from_dict(cls: Any, config_dict: dict[str, Any]) -> Any:
        return cls(config.from_dict(config_dict))

    body = {
        "__module__": __name__,
        "get_activation_fn": lambda self: activation(self.cfg),
        "fold_W_dec_norm": refuse_fold,
        "from_dict": classmethod(from_dict),
    }
    return type(name, (base,), body), config


def _metadata(metadata: Any, source: str) -> dict[str, Any]:
    for name in NAMES:
        if not isinstance(metadata[name], str | None):
            raise FitError(f"{source} has {name}={metadata[name]!r:.40} in its metadata: give a text.")
    keywords = metadata.model_from_pretrained_kwargs or {}
    if not isinstance(keywords, Mapping):
        raise FitError(
            f"{source} has model_from_pretrained_kwargs={keywords!r:.40} in its metadata: give a table such as "
            "{'fold_ln': False}."
        )
    return {name: metadata[name] for name in NAMES} | {"model_from_pretrained_kwargs": dict(keywords)}


def _check_shapes(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> None:
    d_in, d_sae, d_out = config["d_in"], config["d_sae"], config["d_out"]
    expected = shapes(d_in, d_sae, d_out)
    for name, tensor in weights.items():
        if name not in expected:
            raise FitError(f"{source} holds {name}, which no transcoder has: give it without.")
        if tuple(tensor.shape) != expected[name]:
            raise FitError(
                f"{name} of {source} has shape {tuple(tensor.shape)}, but its settings (d_in={d_in}, d_sae={d_sae}, "
                f"d_out={d_out}) say {expected[name]}: load it again."
            )


def shapes(d_in: int, d_sae: int, d_out: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight that a transcoder may have, as SAELens orients it."""
    return {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        "threshold": (d_sae,),
        "W_skip": (d_out, d_in),
    }


@dataclass(frozen=True)
class SAERelease:
    """A release in SAELens's registry: the repository, SAELens's name for the model, the loader, and paths by SAE id.

    A loader of None is SAELens's own format. `transcoders` is None where only the SAEs themselves can say.
    """

    name: str
    repo: str
    model: str
    loader: str | None
    paths: Mapping[str, str]
    transcoders: bool | None


_TRANSCODERS = {"gemma_2_transcoder", "mwhanna_transcoder", "mntss_clt_layer_transcoder"}
# Some of these open pickles. None of them gives a transcoder.
_AUTOENCODERS = {
    "connor_rob_hook_z",
    "deepseek_r1",
    "dictionary_learning_1",
    "gemma_2",
    "goodfire",
    "llama_scope",
    "llama_scope_r1_distill",
    "qwen_scope",
    "temporal",
}


def releases() -> dict[str, SAERelease]:
    """Every release that SAELens knows in this process, by its name: those that were added to its registry too.

    Where SAELens was not imported, nobody can have added any, and its file is read without importing it.
    """
    listed = None if "sae_lens" in sys.modules else _listed()
    return dict(_imported() if listed is None else listed)


def _imported() -> dict[str, SAERelease]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    # SAELens hands out its one directory, which has to stay as it is.
    return {
        name: _release(name, found.repo_id, found.model, found.conversion_func, dict(found.saes_map))
        for name, found in get_pretrained_saes_directory().items()
    }


@cache
def _listed() -> dict[str, SAERelease] | None:
    """What the file that SAELens reads its registry from says; None where it is not as we know it."""
    package = find_spec("sae_lens")
    if package is None or package.origin is None:
        return None
    # As safe_load reads, and four times as fast where PyYAML was built with libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = Path(package.origin).with_name("pretrained_saes.yaml").read_text("utf-8")
        content = loader(text).get_single_data()
        return {
            name: _release(
                name,
                about["repo_id"],
                about["model"],
                about.get("conversion_func"),
                {sae["id"]: str(sae["path"]) if isinstance(sae["path"], int) else sae["path"] for sae in about["saes"]},
            )
            for name, about in content.items()
        }
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return None


def _release(name: str, repo: str, model: str, loader: str | None, paths: Mapping[str, str]) -> SAERelease:
    return SAERelease(name, repo, model, loader, paths, _are_transcoders(loader, paths))


def from_pretrained(release: str, sae_id: str) -> Any:
    """One SAE of a release, as SAELens loads it. Raises `FileError` where SAELens cannot."""
    from sae_lens import SAE

    try:
        with warnings.catch_warnings():
            # How the model is to be loaded is kept with the transcoder.
            warnings.filterwarnings("ignore", category=UserWarning)
            return SAE.from_pretrained(release, sae_id, device="cpu")
    # SAELens, its loaders (some of them the user's own) and the hub's client raise errors of a dozen kinds.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FileError(
            f"SAELens could not load '{sae_id}' of its release '{release}' ({reason:.300}): check your connection, and "
            f"that SAE.from_pretrained({release!r}, {sae_id!r}) works by itself."
        ) from error


def _are_transcoders(loader: str | None, paths: Mapping[str, str]) -> bool | None:
    if loader == "gemma_3":
        return all(path.startswith(("transcoder/", "transcoder_all/", "clt/")) for path in paths.values())
    if loader in _AUTOENCODERS:
        return False
    return True if loader in _TRANSCODERS else None
