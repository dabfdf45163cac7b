"""Which format a folder is in, told from its files. A further one is a file that ends in its `Format`, named here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tl_circuits.errors import FileError
from tl_circuits.transcoder.files.circuit_tracer import CIRCUIT_TRACER
from tl_circuits.transcoder.files.clt_forge import CLT_FORGE
from tl_circuits.transcoder.files.clt_training import CLT_TRAINING
from tl_circuits.transcoder.files.crosslayer_coding import CROSSLAYER_CODING
from tl_circuits.transcoder.files.crosslayer_transcoder import CROSSLAYER_TRANSCODER
from tl_circuits.transcoder.files.gemma_scope_1 import GEMMA_SCOPE_1
from tl_circuits.transcoder.files.gemma_scope_2 import GEMMA_SCOPE_2
from tl_circuits.transcoder.files.joint_topk import JOINT_TOPK
from tl_circuits.transcoder.files.layout import Format, about_pickles, listed
from tl_circuits.transcoder.files.saelens_folders import SAELENS
from tl_circuits.transcoder.files.tensors import PICKLES
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

FORMATS = (
    CIRCUIT_TRACER,
    GEMMA_SCOPE_1,
    GEMMA_SCOPE_2,
    CLT_TRAINING,
    CROSSLAYER_TRANSCODER,
    CROSSLAYER_CODING,
    CLT_FORGE,
    SAELENS,
    JOINT_TOPK,
)


@dataclass(frozen=True)
class Found:
    """One transcoder in a folder. `label` is what `variant` calls it: its path below the folder, then the choice."""

    folder: Path
    format: Format
    choice: str
    label: str

    def load(self) -> CrossLayerTranscoder:
        """Read it."""
        return self.format.load(self.folder, self.choice)

    def files(self) -> list[Path]:
        """What it is made of, by names alone."""
        return sorted(self.format.files(self.folder, self.choice))


def load_folder(folder: str | Path, *, variant: str | None = None) -> CrossLayerTranscoder:
    """The transcoder in a folder, in whatever known format it lies there.

    Where the folder holds several (widths, sparsities, seeds, checkpoints, or folders of them up to two levels down),
    `variant` names one of them; the error that asks for it lists the names. The files alone decide the format.

    Raises `FileError` where nothing is recognised, more than one is and `variant` does not choose, or the files are
    incomplete, damaged or pickles.
    """
    return find(_existing(folder), variant=variant).load()


def everything(folder: Path) -> list[Found]:
    """Every transcoder in a folder, told from the names of its files. Raises `FileError` where it cannot be read."""
    try:
        return list(_search(folder, folder, depth=2))
    except OSError as error:
        raise FileError(f"'{folder}' cannot be looked through ({error}): check that it may be read.") from error


def find(folder: Path, *, variant: str | None = None, repository: str | None = None) -> Found:
    """The one transcoder that `variant` names, or that lies in the folder alone, told from the names of its files.

    `repository` is the one that the folder stands for, where nothing of it was fetched yet.

    Raises `FileError` where there is none, or where there are more.
    """
    found = everything(folder)
    if not found:
        raise FileError(
            f"'{folder}' holds {listed(folder)}, and no transcoder in a format that is read "
            f"({', '.join(known.name for known in FORMATS)}): give the folder that holds the weights and their config."
            + about_pickles(folder, repository)
        )
    fitting = [each for each in found if variant is None or variant in (each.label, each.format.name)]
    if len(fitting) == 1:
        return fitting[0]
    labels = sorted({each.label or each.format.name for each in found})
    shown = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
    if variant is not None and not fitting:
        raise FileError(f"There is no variant {variant!r} in '{folder}', which holds {shown}: give one of these.")
    raise FileError(
        f"'{folder}' holds {len(found)} transcoders ({shown}): give one of these as variant, or its folder as source."
    )


def _search(top: Path, folder: Path, depth: int) -> Iterator[Found]:
    """What lies in a folder, or else in those below it: a folder that is recognised is not looked into."""
    here = [(known, choice) for known in FORMATS for choice in known.choices(folder)]
    below = folder.relative_to(top).as_posix() if folder != top else ""
    for known, choice in here:
        # Two formats in one folder are told apart by their names.
        name = choice or (known.name if len({known.name for known, _ in here}) > 1 else "")
        yield Found(folder, known, choice, "/".join(part for part in (below, name) if part))
    if not here and depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _search(top, path, depth - 1)


def _existing(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.suffix.lower() in PICKLES:
        raise FileError(
            f"'{source}' is a {folder.suffix} file. Such files can run code when they are opened, so tl_circuits does "
            "not: convert it to safetensors where you trust it, and give the folder. `tl-circuits convert` does so "
            "without running any, for the transcoders of Dunefsky et al. and for circuit-tracer's graphs."
        )
    if folder.is_file():
        raise FileError(f"'{source}' is a file: give the folder that holds it, '{folder.parent}'.")
    if not folder.is_dir():
        raise FileError(
            f"There is no folder '{source}' on this machine: check the path. Releases and repositories are given as "
            "text, such as 'org/name'."
        )
    return folder
