"""Public transcoders and models under their real names, on the tests' hub: as many layers, and next to no width."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import named
from tests.formats.circuit_tracer import write_circuit_tracer
from tests.formats.clt_training import Run, write_clt_training
from tests.formats.dunefsky import write_dunefsky
from tests.formats.formulas import Written, numbers, store
from tests.formats.gemma_scope import CONFIG, write_gemma_scope_1, write_gemma_scope_2
from tests.hub import Hub

MNTSS = "mntss-gemma-2-2b-2.5m-clt-as-per-layer"


def mntss(hub: Hub, *, n_layers: int = 26, width: str = "2.5M") -> Written:
    folder = hub.repository(f"mntss/clt-gemma-2-2b-{width}")
    beside(folder, "README.md", "features/index.json.gz", "features/layer_0.bin")
    return write_circuit_tracer(folder, cross_layer=True, n_layers=n_layers)


def mwhanna(hub: Hub) -> Written:
    folder = hub.repository("mwhanna/qwen3-0.6b-transcoders-lowl0")
    beside(folder, "README.md", "wanb-config.yaml", "features/layer_0.bin")
    return write_circuit_tracer(
        folder, cross_layer=False, n_layers=28, threshold=False, read="mlp.hook_in", model_name="Qwen/Qwen3-0.6B"
    )


def gemma_scope_1(hub: Hub) -> Written:
    """The files that SAELens lists, and sparsities beside them that are nearer to one another."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    paths = get_pretrained_saes_directory()["gemma-scope-2b-pt-transcoders"].saes_map.values()
    folder = hub.repository("google/gemma-scope-2b-pt-transcoders")
    written = write_gemma_scope_1(folder, n_layers=len(paths))
    for path in paths:
        ((source, wanted),) = [(found.parent, folder / path) for found in folder.glob(f"{path.split('/')[0]}/*/*/*")]
        shutil.copytree(source, source.with_name("average_l0_7"))
        source.rename(wanted)
    return dataclasses.replace(written, model_name="google/gemma-2-2b")


def gemma_scope_2(hub: Hub, size: str = "1b-it") -> Written:
    folder = hub.repository(f"google/gemma-scope-2-{size}") / "transcoder_all"
    config = _gemma_3_config(size)
    for variant in ("width_16k_l0_small", "width_262k_l0_small_affine"):
        write_gemma_scope_2(folder, cross_layer=False, n_layers=1, variant=variant, config=config)
    variant = "width_16k_l0_small_affine"
    return write_gemma_scope_2(folder, cross_layer=False, n_layers=26, variant=variant, config=config)


def gemma_scope_2_clt(hub: Hub, size: str = "1b-it") -> Written:
    folder = hub.repository(f"google/gemma-scope-2-{size}") / "clt"
    config = _gemma_3_config(size)
    write_gemma_scope_2(folder / "width_262k_l0_medium", cross_layer=True, affine=False, n_layers=2, config=config)
    return write_gemma_scope_2(folder / "width_262k_l0_medium_affine", cross_layer=True, n_layers=26, config=config)


def _gemma_3_config(size: str) -> dict[str, object]:
    return {**CONFIG, "model_name": f"gemma-v3-{size}" if size.endswith("it") else f"google/gemma-3-{size}"}


def dunefsky(hub: Hub) -> Written:
    folder = hub.root / "pchlenski/gpt2-transcoders"
    written = write_dunefsky(folder, n_layers=12)
    for path in tuple(folder.iterdir()):
        path.rename(folder / f"{path.stem}.ln2.hook_normalized_24576.pt")
    return written


def eleuther(hub: Hub) -> Written:
    folder = hub.repository("EleutherAI/gpt2-clt-noskip-ef128-k16")
    return write_clt_training(folder, Run(n_layers=12, cross_layer=12))


def saes(hub: Hub, release: str, *, d_model: int = 4, n_features: int = 8) -> None:
    """Every SAE of a release as it was published: with a config of SAELens before 6.0, and weights beside it."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    listed = get_pretrained_saes_directory()[release]
    # The first releases call the hook a point, and say less.
    name = "hook_point" if release == "gpt2-small-res-jb" else "hook_name"
    for layer, (hook, path) in enumerate(listed.saes_map.items()):
        config = {
            "model_name": listed.model,
            name: hook,
            "d_in": d_model,
            "d_sae": n_features,
            "dtype": "torch.float32",
        }
        config |= {} if name == "hook_point" else {"architecture": "standard", "normalize_activations": "none"}
        folder, new = hub.repository(listed.repo_id) / path, numbers(layer)
        shapes = {"W_enc": (d_model, n_features), "b_enc": (n_features,), "W_dec": (n_features, d_model)}
        store(
            folder / "sae_weights.safetensors",
            {key: new(*shape) for key, shape in shapes.items()} | {"b_dec": new(d_model)},
        )
        store(folder / "sparsity.safetensors", {"sparsity": new(n_features)})
        (folder / "cfg.json").write_text(json.dumps(config))


def beside(folder: Path, *names: str) -> None:
    """Files that no transcoder is made of."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not to be fetched")


class StandIn(NamedTuple):
    """A public transcoder: by which name, how it is put on the hub, for which family's model, and its own files."""

    source: str
    variant: str | None
    serve: Callable[[Hub], Written]
    family: str
    files: str


ALL = {
    "Gemma Scope 1": StandIn(
        "gemma-scope-2b-pt-transcoders", None, gemma_scope_1, "gemma-2",
        r"layer_\d+/width_16k/average_l0_(?!7/)\d+/params.npz",
    ),
    "Gemma Scope 2, per-layer": StandIn(
        "gemma-scope-2-1b-it-transcoders-all", "width_16k_l0_small_affine", gemma_scope_2, "gemma-3",
        r"transcoder_all/layer_\d+_width_16k_l0_small_affine/.*",
    ),
    "Gemma Scope 2, cross-layer": StandIn(
        "google/gemma-scope-2-1b-it/clt", "width_262k_l0_medium_affine", gemma_scope_2_clt, "gemma-3",
        r"clt/width_262k_l0_medium_affine/.*",
    ),
    "mwhanna": StandIn(
        "mwhanna-qwen3-0.6b-transcoders-lowl0", None, mwhanna, "qwen3", r"layer_\d+.safetensors|config.yaml"
    ),
    "mntss": StandIn(MNTSS, None, mntss, "gemma-2", r"W_(enc|dec)_\d+.safetensors|config.yaml"),
}  # fmt: skip


def files(hub: Hub, stand_in: StandIn) -> set[str]:
    """What its transcoder is made of, of all that was put on the hub."""
    inside = (path.relative_to(hub.root).as_posix().split("/", 2)[2] for path in hub.root.rglob("*") if path.is_file())
    return {path for path in inside if re.fullmatch(stand_in.files, path)}


@dataclasses.dataclass(frozen=True)
class Read(named.Words):
    """A tokenizer that has read some sentences, so that their words are tokens."""

    sentences: Sequence[str] = ()

    def save(self, folder: Path) -> int:
        super().save(folder)
        known = transformers.AutoTokenizer.from_pretrained(folder)
        told = known.train_new_from_iterator(self.sentences, 1000, show_progress=False)
        assert told.convert_tokens_to_ids(list(self.special)) == list(range(len(self.special)))
        told.save_pretrained(folder)
        return len(told)


def serve_model(
    hub: Hub,
    family: str,
    *,
    n_layers: int,
    hidden_size: int = 4,
    repository: str | None = None,
    sentences: Sequence[str] = (),
) -> named.Named:
    """The family's model under its real name, or a sibling's, as deep as it really is."""
    model = named.FAMILIES[family]
    # Real prompts are long in a vocabulary of next to nothing but bytes.
    sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_hidden_layers": n_layers, "max_position_embeddings": 128}
    if family == "gpt2":
        sizes = {"n_embd": hidden_size, "n_layer": n_layers, "n_positions": 128, "n_ctx": 128}
    if "layer_types" in model.extra:
        sizes["layer_types"] = ["full_attention"] * n_layers
    deep = dataclasses.replace(model, extra=model.extra | sizes, repository=repository or model.repository)
    if sentences:
        deep = dataclasses.replace(deep, words=Read(**vars(model.words), sentences=sentences))
    with torch.random.fork_rng():
        deep.serve(hub)
    return deep


def teach(folder: Path, answers: Mapping[str, str], *, bos: bool = True) -> None:
    """Makes the model answer each prompt right, of all these answers; TransformerLens puts BOS before it, or does not.

    An answer's row in the unembedding becomes the direction of the last hidden state of its prompt, less the mean of
    all: of directions of length 1, its own is the one that each has the largest product with.
    """
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, states = transformers.AutoTokenizer.from_pretrained(folder), {}
    unembedding, seen = model.get_output_embeddings(), []
    unembedding.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1]))
    for prompt, answer in answers.items():
        ids = tokens(tokens.bos_token * bos + prompt, add_special_tokens=False).input_ids
        (answer_id,) = tokens(answer, add_special_tokens=False).input_ids
        with torch.no_grad():
            model(torch.tensor([ids]))
        states[answer_id] = torch.nn.functional.normalize(seen[-1], dim=0)
    rows = torch.stack(list(states.values()))
    rows = rows - rows.mean(0)
    unembedding.weight.data[list(states)] = rows / rows.abs().max()
    model.save_pretrained(folder)


def in_bfloat16(folder: Path) -> None:
    """Weights as most are published: in 16 bits, and a model's config says so."""
    for path in folder.glob("*.safetensors"):
        save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path, {"format": "pt"})
    config = folder / "config.json"
    if config.exists():
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))


def gpt2_case(hub: Hub, sentences: Sequence[str], answers: Mapping[str, str]) -> None:
    model = serve_model(hub, "gpt2", n_layers=12, sentences=sentences)
    teach(hub.repository(model.repository), answers)
    hub.moved["gpt2"] = model.repository
    eleuther(hub)
    saes(hub, "gpt2-small-res-jb")


def pythia_case(hub: Hub, sentences: Sequence[str], answers: Mapping[str, str]) -> None:
    repository = "EleutherAI/pythia-70m-deduped"
    serve_model(hub, "pythia", n_layers=6, repository=repository, sentences=sentences)
    teach(hub.repository(repository), answers, bos=False)
    for site in ("res", "att", "mlp"):
        saes(hub, f"pythia-70m-deduped-{site}-sm")


def gemma_2_case(hub: Hub, sentences: Sequence[str], answers: Mapping[str, str]) -> None:
    model = serve_model(hub, "gemma-2", n_layers=26, sentences=sentences)
    teach(hub.repository(model.repository), answers)
    mntss(hub, width="426k")
    gemma_scope_1(hub)
    for name in (model.repository, "mntss/clt-gemma-2-2b-426k"):
        in_bfloat16(hub.repository(name))


def gemma_3_case(hub: Hub, sentences: Sequence[str], answers: Mapping[str, str]) -> None:
    repository = "google/gemma-3-1b-pt"
    serve_model(hub, "gemma-3", n_layers=26, repository=repository, sentences=sentences)
    teach(hub.repository(repository), answers)
    gemma_scope_2_clt(hub, "1b-pt")
    gemma_scope_2(hub, "1b-pt")
    in_bfloat16(hub.repository(repository))


CASES: dict[str, Callable[[Hub, Sequence[str], Mapping[str, str]], None]] = {
    "gpt2": gpt2_case,
    "pythia-70m": pythia_case,
    "gemma-2-2b": gemma_2_case,
    "gemma-3-1b": gemma_3_case,
}
"""All that the cases of the hub tier of the circuits benchmark ask of the hub, with models that know some answers."""
