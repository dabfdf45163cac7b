"""Transcoders by name: what SAELens's registry lists, what it does not, and what a user adds."""

import re
from collections import defaultdict
from collections.abc import Mapping
from difflib import SequenceMatcher, get_close_matches
from pathlib import PurePosixPath
from typing import NamedTuple

from tl_circuits.errors import FileError, SettingError
from tl_circuits.saelens import SAERelease
from tl_circuits.saelens import releases as listed_releases
from tl_circuits.transcoder.hub import Address
from tl_circuits.transcoder.published import HUB_NAMES, N_FEATURES, N_LAYERS, PUBLISHED
from tl_circuits.transcoder.release import Kind, Loader, Release, Variant

_OURS = {release.name: release for release in PUBLISHED}
_ADDED: dict[str, Release] = {}

_WIDTHS = {"16k": 2**14, "65k": 2**16, "262k": 2**18}
"""Features of a layer, by what the names of Gemma Scope's transcoders say."""

_LAYER = re.compile(r"(?:layer_|blocks\.|^)(\d+)(?!\d)[._/-]?")


def releases(model: str | None = None) -> tuple[Release, ...]:
    """The transcoders that can be loaded by name, or those for one model, named with its organisation or without.

    They are those in SAELens's registry (whatever was added to it in this process included), further public ones, and
    what `register_release` has added. SAELens's autoencoders are not among them. No network is asked.
    """
    if not isinstance(model, str | None):
        raise SettingError(f"{model!r} names no model: give a name such as google/gemma-2-2b, or nothing.")
    listed = (each for each in listed_releases().values() if each.paths and _is_transcoder(each))
    known = {each.name: _from_saelens(each) for each in listed}
    found = (known | _OURS | _ADDED).values()
    fitting = [release for release in found if model is None or release.is_for(model)]
    return tuple(sorted(fitting, key=lambda release: ((release.model or "").lower(), release.name)))


def register_release(release: Release) -> None:
    """Adds a release to those that are loaded and listed by name in this process; the same one twice is once.

    It goes before one of SAELens's under the same name. Raises `SettingError` where tl_circuits knows another one by
    that name.
    """
    if not isinstance(release, Release):
        raise SettingError(f"{release!r:.80} is no Release: give tlc.Release(name, 'org/name', ...).")
    known = (_OURS | _ADDED).get(release.name, release)
    if known != release:
        raise SettingError(
            f"'{release.name}' is the name of another release already, {known.repository}: give yours another name."
        )
    _ADDED[release.name] = release


def find(name: str) -> Release | None:
    """The release of that name, or None. SAELens's registry is read last, since that takes a second.

    Raises `FileError` where it is one of autoencoders.
    """
    release = (_ADDED | _OURS).get(name)
    # Whatever has a slash is a repository: SAELens's names have none.
    if release is not None or "/" in name:
        return release
    listed = listed_releases().get(name)
    if listed is not None and listed.transcoders is False:
        raise FileError(
            f"'{name}' is a release of autoencoders for {listed.model}: they read and write the same place, and a "
            "transcoder stands in for the MLP between two. `tl-circuits list` names those there are."
        )
    return _from_saelens(listed) if listed is not None and listed.paths else None


def choose(release: Release, variant: str | None) -> Variant:
    """The variant of that name, as `Release.choose` finds it; the error names whole releases where all have holes."""
    try:
        return release.choose(variant)
    except FileError as error:
        instead = [] if release.is_whole else _whole_beside(release)
        if not instead:
            raise
        raise FileError(f"{error} Whole is {' or '.join(map(repr, instead))}: load that by its name.") from error


def _whole_beside(release: Release) -> list[str]:
    """Two releases for the same model and of the same kind that cover every layer, whose names are most like it."""
    others = (each for each in releases(release.model) if each.kind == release.kind)
    known = (each for each in others if each.n_layers and any(variant.layers for variant in each.variants))
    whole = [each.name for each in known if each.is_whole]
    return sorted(whole, key=lambda name: -SequenceMatcher(None, name, release.name).ratio())[:2]


def names() -> list[str]:
    """Every name that is known, for guessing which one was meant."""
    return [release.name for release in releases()]


def nearest_models(model: str) -> list[str]:
    """The models there are releases for whose names are most like that one, organisations left aside."""
    known = dict.fromkeys(release.model for release in releases() if release.model)
    plain = {name.rpartition("/")[2].lower(): name for name in known}
    return [plain[name] for name in get_close_matches(model.rpartition("/")[2].lower(), plain, n=3, cutoff=0.7)]


def _is_transcoder(listed: SAERelease) -> bool:
    """What SAELens has no loader of its own for goes by its name."""
    if listed.transcoders is None:
        return re.search(r"transcoder|(^|[-_])clt([-_]|$)", listed.name.lower()) is not None
    return listed.transcoders


def _from_saelens(listed: SAERelease) -> Release:
    model = HUB_NAMES.get(listed.model, listed.model)
    about = _About(listed.name, model, N_LAYERS.get(model))
    folders = {PurePosixPath(path).parts[0] for path in listed.paths.values() if path}
    match listed.loader:
        case "mntss_clt_layer_transcoder":
            # SAELens takes each layer for a transcoder of its own; the repository holds a cross-layer one.
            n_features = N_FEATURES.get(listed.repo)
            found = _variants(listed.paths, whole=True)
            variants = tuple(Variant(each.name, each.layers, n_features=n_features) for each in found)
            return about.release(listed.repo, variants, "cross-layer", "hook_resid_mid")
        case "mwhanna_transcoder":
            return about.release(listed.repo, _variants(listed.paths, whole=True), "per-layer", "mlp.hook_in")
        case "gemma_2_transcoder":
            files = {sae_id: f"{path}/params.npz" for sae_id, path in listed.paths.items()}
            variants = _variants(files, whole=True)
            return about.release(listed.repo, variants, "per-layer", "ln2.hook_normalized", "files")
        case "gemma_3" if listed.transcoders and len(folders) == 1:
            # SAELens says hook_mlp_in, which TransformerLens has before the norm; the files say behind it.
            variants = _variants({PurePosixPath(path).name: path for path in listed.paths.values()})
            return about.release(f"{listed.repo}/{folders.pop()}", variants, "per-layer", "mlp.hook_in")
        case _:
            repository = listed.repo if Address.parse(listed.repo) is not None else None
            variants = _variants({sae_id: sae_id for sae_id in listed.paths})
            return about.release(repository, variants, None, None, "saelens")


class _About(NamedTuple):
    """What SAELens says of a release as a whole."""

    name: str
    model: str
    n_layers: int | None

    def release(
        self,
        repository: str | None,
        variants: tuple[Variant, ...],
        kind: Kind | None,
        read: str | None,
        loader: Loader = "repository",
    ) -> Release:
        write = None if read is None else "hook_mlp_out"
        return Release(
            self.name, repository, self.model, kind, read, write, self.n_layers, variants, loader, known_by="SAELens"
        )


def _variants(paths: Mapping[str, str], *, whole: bool = False) -> tuple[Variant, ...]:
    """Paths by SAE id, layer by layer, as transcoders: those ids belong together that differ in their layer alone.

    With `whole`, all of them do, where no layer is there twice. An id that names no layer stands alone, as layer 0.
    """
    found = [(_LAYER.search(sae_id), sae_id, path) for sae_id, path in paths.items()]
    layers = [int(match[1]) if match else 0 for match, _, _ in found]
    together = whole and len(set(layers)) == len(layers)
    grouped: dict[str, dict[int, str]] = defaultdict(dict)
    for layer, (match, sae_id, path) in zip(layers, found, strict=True):
        rest = sae_id.replace(match[0], "", 1) if match else sae_id
        grouped["" if together else rest][layer] = path
    return tuple(
        Variant("" if len(grouped) == 1 else name, tuple(ordered), tuple(ordered.values()), _width(name, ordered))
        for name, placed in sorted(grouped.items())
        for ordered in [dict(sorted(placed.items()))]
    )


def _width(name: str, paths: Mapping[int, str]) -> int | None:
    """Features of a layer, where names say so."""
    match = re.search(r"width_(\d+[km])", " ".join((name, *paths.values())))
    return None if match is None else _WIDTHS.get(match[1])
