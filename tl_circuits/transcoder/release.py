"""A published transcoder: what is known of it before any of it is fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tl_circuits.errors import FileError, SettingError
from tl_circuits.transcoder.hub import Address

Kind = Literal["cross-layer", "per-layer"]
Loader = Literal["repository", "files", "saelens"]
_KINDS, _LOADERS = ("cross-layer", "per-layer"), ("repository", "files", "saelens")


@dataclass(frozen=True)
class Variant:
    """One transcoder of a release, such as a width and a sparsity. `name` is empty where the release holds one.

    `layers` are those that it covers, lowest first, and `paths` say where each lies, as the release's `loader` means
    it. `n_features` is their number in each layer. What is not known is empty or None.
    """

    name: str = ""
    layers: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    n_features: int | None = None


@dataclass(frozen=True)
class Release:
    """A transcoder, or several `variants` of one, in a repository of the hub. What is not known is None.

    `repository` is `org/name[@revision][/sub/folder]` (None only where SAELens loads it), `model` the name of the model
    on the hub, and `n_layers` is how many layers that has. `read` and `write` are hook points in a block. Where
    `variants` is empty, the files in the repository say which there are. `known_by` is who says all this: "SAELens",
    "tl_circuits" or "user".

    `loader` says what is loaded: "repository" is whatever transcoder the files there are, "files" the files of Gemma
    Scope that the variant's `paths` name, one for each layer, and "saelens" the SAEs that its `paths` name, each by
    `SAE.from_pretrained(name, path)`. Of a repository whose layers lie there without a config.yaml, those that `paths`
    name are read as the release says.

    Raises `SettingError` where a field cannot be what it is to be.
    """

    name: str
    repository: str | None
    model: str | None = None
    kind: Kind | None = None
    read: str | None = None
    write: str | None = None
    n_layers: int | None = None
    variants: tuple[Variant, ...] = ()
    loader: Loader = "repository"
    known_by: str = "user"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise SettingError(f"name={self.name!r} names no release: give it a name to be loaded by.")
        given = isinstance(self.repository, str) and Address.parse(self.repository) is not None
        if not given and not (self.repository is None and self.loader == "saelens"):
            raise SettingError(
                f"repository={self.repository!r} of '{self.name}' is no repository of the hub: give it as org/name, "
                "org/name@revision or org/name/folder."
            )
        for what, value, known in (("kind", self.kind, (None, *_KINDS)), ("loader", self.loader, _LOADERS)):
            if value not in known:
                raise SettingError(f"{what}={value!r} of '{self.name}' is none of {', '.join(map(str, known))}.")
        if self.n_layers is not None and (type(self.n_layers) is not int or self.n_layers < 1):
            raise SettingError(f"n_layers={self.n_layers!r} of '{self.name}' is no number of layers: give 1 or more.")
        self._check_variants()

    def _check_variants(self) -> None:
        if not isinstance(self.variants, tuple) or not all(isinstance(each, Variant) for each in self.variants):
            raise SettingError(f"variants={self.variants!r:.60} of '{self.name}' is no tuple of Variant.")
        unplaced = [each.name for each in self.variants if len(each.paths) != len(each.layers) or not each.paths]
        if self.loader != "repository" and (unplaced or not self.variants):
            raise SettingError(
                f"'{self.name}' is loaded layer by layer (loader={self.loader!r}): give variants whose paths name a "
                "place for each of their layers."
            )
        if self.loader == "files" and (self.read is None or self.write is None):
            raise SettingError(
                f"'{self.name}' is loaded from files that do not say where they read and write: give read and write."
            )

    @property
    def address(self) -> Address:
        """Where it lies on the hub."""
        address = None if self.repository is None else Address.parse(self.repository)
        assert address is not None, "checked when it was made, but for what SAELens alone loads"
        return address

    def is_for(self, model: str) -> bool:
        """Whether it is for that model, named with its organisation or without, in upper or lower case."""
        own = (self.model or "").lower()
        return bool(own) and model.lower() in (own, own.rpartition("/")[2])

    def missing(self, variant: Variant) -> list[int]:
        """The layers of the model that a variant is known not to cover."""
        if self.n_layers is None or not variant.layers:
            return []
        return sorted(set(range(self.n_layers)) - set(variant.layers))

    @property
    def is_whole(self) -> bool:
        """Whether a variant may cover every layer of the model; that none is known to does not say that none does."""
        return not self.variants or any(not self.missing(each) for each in self.variants)

    def choose(self, variant: str | None) -> Variant:
        """The variant of that name, or the only one. Where none is known, it is looked for in the repository.

        Raises `FileError` where there is none of that name, where there are several and none is named, and where it
        does not cover every layer of the model.
        """
        if not self.variants:
            return Variant(variant or "")
        fitting = [each for each in self.variants if variant is None or variant == each.name]
        if len(fitting) != 1:
            raise FileError(self._choices(variant))
        missing = self.missing(fitting[0])
        if missing:
            raise FileError(self._holes(fitting[0], missing))
        return fitting[0]

    def _holes(self, variant: Variant, missing: Sequence[int]) -> str:
        which = f"'{self.name}', variant {variant.name!r}," if variant.name else f"'{self.name}'"
        whole = ", ".join(each.name for each in self.variants if not self.missing(each))
        return (
            f"{which} covers {len(variant.layers)} of the {self.n_layers} layers of {self.model}; layers "
            f"{numbers(missing)} are missing, and every layer needs its transcoder. "
            + (f"Whole are {whole}: give one of these." if whole else self._further())
        )

    def _further(self) -> str:
        return f"None of its variants is whole: `tl-circuits list --model {self.model}` names further releases."

    def _choices(self, variant: str | None) -> str:
        if len(self.variants) == 1 and not self.variants[0].name:
            return f"There is no variant {variant!r} of '{self.name}', which is one transcoder: leave variant out."
        if not self.is_whole:
            least = min(len(self.missing(each)) for each in self.variants)
            return (
                f"'{self.name}' holds {len(self.variants)} transcoders, each of which lacks {least} or more of the "
                f"{self.n_layers} layers of {self.model}, and every layer needs its transcoder. {self._further()}"
            )
        told = []
        for each in self.variants:
            lacks = len(self.missing(each))
            told.append(f"{each.name} (lacks {lacks} of {self.n_layers} layers)" if lacks else each.name)
        holds = f"'{self.name}' holds {len(told)} transcoders ({', '.join(told)})"
        if variant is None:
            return f"{holds}: give one of these as variant."
        return f"There is no variant {variant!r}: {holds}; give one of these."


def numbers(values: Sequence[int]) -> str:
    """The numbers as text, the first of them where there are many."""
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
