"""Where a run's figures go beside its own log: Weights & Biases and TensorBoard, each where it is installed."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.training.run import Step

PER_LAYER = ("fvu", "l0", "dead")


class Logger(ABC):
    """Takes named numbers by step."""

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step."""

    @abstractmethod
    def close(self) -> None:
        """Ends it."""


class WeightsAndBiases(Logger):
    """A run of the project "tl_circuits" on wandb; taken up in the same folder, it goes on as the same run."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        import wandb

        known = folder / "wandb.id"
        if not known.is_file():
            known.write_text(secrets.token_hex(8), encoding="utf-8")
        self._run: Any = wandb.init(
            project="tl_circuits",
            name=folder.resolve().name,
            id=known.read_text(encoding="utf-8").strip(),
            dir=str(folder),
            config=dict(settings),
            resume="allow",
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Ends it."""
        self._run.finish()


class TensorBoard(Logger):
    """Event files in the folder's `tensorboard`; steps that are taken again replace those that were."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()), step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Ends it."""
        self._writer.close()


KINDS = {"wandb": WeightsAndBiases, "tensorboard": TensorBoard}


def check_loggers(names: Any, folder: Any) -> tuple[str, ...]:
    """The names of loggers. Raises `SettingError` for others, and where there is no folder for them."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SettingError(f"loggers={names!r:.60} is no list of names: give some of {', '.join(map(repr, KINDS))}.")
    given = tuple(names)
    for name in given:
        if not isinstance(name, str) or name not in KINDS:
            raise SettingError(f"loggers has {name!r:.60}, which is none of {', '.join(map(repr, KINDS))}.")
    if given and folder is None:
        raise SettingError(f"loggers={list(given)} write beside a run's own log: name a folder, folder=...")
    return given


def open_loggers(names: Iterable[str], folder: Path, settings: Mapping[str, Any], step: int) -> list[Logger]:
    """The loggers of a run that goes on from a step. Raises `SettingError` where a package is missing."""
    opened: list[Logger] = []
    for name in names:
        try:
            opened.append(KINDS[name](folder, settings, step))
        except ImportError as error:
            raise SettingError(
                f"loggers={[name]} needs the package {name}, which cannot be imported ({error}): "
                f"pip install 'tl-circuits[{name}]', or leave it out, since log.jsonl has the same figures."
            ) from error
        # Packages of others raise errors of their own where nobody is logged in, or nothing is reached.
        except Exception as error:
            for one in opened:
                one.close()
            login = "log in with 'wandb login' or set WANDB_MODE=offline" if name == "wandb" else "mend that"
            raise SettingError(
                f"loggers={[name]} could not be opened ({type(error).__name__}: {error}): {login}, or leave it out, "
                "since log.jsonl has the same figures."
            ) from error
    return opened


def figures_of(done: Step) -> dict[str, float]:
    """A step's figures by name: those of layers each, under "fvu/layer 0" and so on, and their mean or sum."""
    said = done.to_dict()
    found = {name: float(value) for name, value in said.items() if isinstance(value, int | float) and name != "step"}
    for name in PER_LAYER:
        values = said[name]
        found |= {f"{name}/layer {layer}": float(value) for layer, value in enumerate(values)}
        if values:
            found[name] = sum(values) if name == "dead" else sum(values) / len(values)
    return found
