"""Layers that are listed one by one, each a file of its own in the format that it was published in.

SAELens's registry names a file for each layer, and so do some configs of circuit-tracer, which list files of other
repositories: `transcoders: [hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz, …]`.
"""

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tl_circuits.errors import FileError
from tl_circuits.transcoder import hub
from tl_circuits.transcoder.files.activations import jump_relu
from tl_circuits.transcoder.files.gemma_scope_1 import read_layer as read_gemma_scope_1
from tl_circuits.transcoder.files.gemma_scope_2 import read_layer as read_gemma_scope_2
from tl_circuits.transcoder.files.layers import assemble
from tl_circuits.transcoder.files.layout import listed
from tl_circuits.transcoder.files.tensors import open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder


def resolve(entries: object, config: Path) -> list[Path]:
    """The files that a config lists, one per layer: those of the hub are fetched, all others lie in its folder.

    Raises `FileError`, quoting the entry and the config, for what is neither.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise FileError(f"transcoders: {entries!r:.200} in '{config}' is not a list of file names, one per layer.")
    fetched = _fetch([entry for entry in entries if "://" in entry], config)
    return [fetched[entry] if entry in fetched else _beside(entry, config) for entry in entries]


def is_gemma_scope(paths: Sequence[Path]) -> bool:
    """Whether the files are of Gemma Scope 1 or 2, and not in circuit-tracer's own format."""
    return bool(paths) and (paths[0].suffix == ".npz" or "w_enc" in open_tensors(paths[0]).shapes)


def load(
    source: object, paths: Sequence[Path], *, read: str, write: str, model_name: str | None = None
) -> CrossLayerTranscoder:
    """The transcoder of these files of Gemma Scope, in the order of their layers.

    Whether it is cross-layer is told from its decoders. Raises `FileError`, quoting the file, where they make none.
    """
    layers, d_model = [], None
    for number, path in enumerate(paths):
        if path.suffix == ".npz":
            layer = read_gemma_scope_1(path, d_model)
        else:
            layer = read_gemma_scope_2(open_tensors(path), number, d_model, len(paths))
        d_model = len(layer[0].b_dec)
        layers.append(layer)
    return assemble(
        source,
        [weights for weights, _ in layers],
        jump_relu([threshold for _, threshold in layers], source, rectified=True),
        read=read,
        write=write,
        model_name=model_name,
    )


def _fetch(uris: Sequence[str], config: Path) -> dict[str, Path]:
    """Where each of the hub's files lies, once all are fetched."""
    wanted: dict[hub.Address, list[tuple[str, str]]] = defaultdict(list)
    for uri in uris:
        place = hub.Address.of_file(uri)
        if place is None:
            raise FileError(
                f"'{uri}' in '{config}' is no file of the hub: hf://org/name/folder/file is read, and names of files "
                "in the config's own folder."
            )
        address, name = place
        path = f"{address.folder}/{name}" if address.folder else name
        wanted[hub.Address(address.repo, address.revision)].append((uri, path))
    found = {}
    for address, pairs in wanted.items():
        # Only the folder that holds them all is listed: the repository may hold thousands of files.
        top = posixpath.commonpath([posixpath.dirname(path) for _, path in pairs])
        below = {uri: posixpath.relpath(path, top or ".") for uri, path in pairs}
        folder = hub.fetch(hub.list_files(hub.Address(address.repo, address.revision, top)), below.values())
        found |= {uri: folder / path for uri, path in below.items()}
    return found


def _beside(entry: str, config: Path) -> Path:
    path = PurePosixPath(entry.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in entry:
        raise FileError(
            f"'{entry}' in '{config}' leads out of the folder, so it was not opened: name a file in it, or one of the "
            "hub as hf://org/name/folder/file."
        )
    if path.suffix not in (".safetensors", ".npz") or not (config.parent / path).is_file():
        raise FileError(
            f"'{entry}' in '{config}' is no safetensors file in the folder: it holds {listed(config.parent)}."
        )
    return config.parent / path
