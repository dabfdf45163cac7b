"""Public transcoders and models under their real names, on the tests' hub: as many layers, and next to no width."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests import named
from tests.formats.circuit_tracer import write_circuit_tracer
from tests.formats.dunefsky import write_dunefsky
from tests.formats.formulas import Written
from tests.formats.gemma_scope import write_gemma_scope_1, write_gemma_scope_2
from tests.hub import Hub

MNTSS = "mntss-gemma-2-2b-2.5m-clt-as-per-layer"


def mntss(hub: Hub, *, n_layers: int = 26) -> Written:
    folder = hub.repository("mntss/clt-gemma-2-2b-2.5M")
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


def gemma_scope_2(hub: Hub) -> Written:
    folder = hub.repository("google/gemma-scope-2-1b-it") / "transcoder_all"
    for variant in ("width_16k_l0_small", "width_262k_l0_small_affine"):
        write_gemma_scope_2(folder, cross_layer=False, n_layers=1, variant=variant)
    return write_gemma_scope_2(folder, cross_layer=False, n_layers=26, variant="width_16k_l0_small_affine")


def gemma_scope_2_clt(hub: Hub) -> Written:
    folder = hub.repository("google/gemma-scope-2-1b-it") / "clt"
    write_gemma_scope_2(folder / "width_262k_l0_medium", cross_layer=True, affine=False, n_layers=2)
    return write_gemma_scope_2(folder / "width_262k_l0_medium_affine", cross_layer=True, n_layers=26)


def dunefsky(hub: Hub) -> Written:
    folder = hub.root / "pchlenski/gpt2-transcoders"
    written = write_dunefsky(folder, n_layers=12)
    for path in tuple(folder.iterdir()):
        path.rename(folder / f"{path.stem}.ln2.hook_normalized_24576.pt")
    return written


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


def serve_model(hub: Hub, family: str, *, n_layers: int, hidden_size: int = 4) -> named.Named:
    """The family's model under its real name, as deep as it really is."""
    model = named.FAMILIES[family]
    # Real prompts are long in a vocabulary of next to nothing but bytes.
    sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_hidden_layers": n_layers, "max_position_embeddings": 128}
    if family == "gpt2":
        sizes = {"n_embd": hidden_size, "n_layer": n_layers, "n_positions": 128, "n_ctx": 128}
    if "layer_types" in model.extra:
        sizes["layer_types"] = ["full_attention"] * n_layers
    deep = dataclasses.replace(model, extra=model.extra | sizes)
    with torch.random.fork_rng():
        deep.serve(hub)
    return deep
