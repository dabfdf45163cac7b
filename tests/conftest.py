"""What every test stands on: no network but a hub of its own, one thread, steady examples."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.hub import Hub, connect, served

_PLACE = tempfile.TemporaryDirectory(prefix="tl_circuits_hub")
_HUB = Hub(Path(_PLACE.name, "empty")).start()
# huggingface_hub reads its settings when it is imported, so they are made before anything here imports a model library.
connect(_HUB, Path(_PLACE.name, "home"))
# Wandb and tokenizers start background work otherwise, which a test cannot wait for.
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _stay_on_this_machine(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        raise RuntimeError(f"A test opens a connection to {arguments[1]}.")


sys.addaudithook(_stay_on_this_machine)

# Two threads on a busy machine make tiny operations some ninety times slower, here and in processes begun here.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The first example of a property builds models that the rest reuse, so a deadline per example would only be noise.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("quick", parent=settings.get_profile("ci"), max_examples=5)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_unconfigure() -> None:
    """The hub goes with the tests."""
    _HUB.stop()
    _PLACE.cleanup()


@pytest.fixture(scope="session")
def running_hub() -> Hub:
    """The hub that this process asks, which has nothing; `tests.hub.served` gives it a root and a cache for a while."""
    return _HUB


@pytest.fixture
def hub(running_hub: Hub, tmp_path: Path) -> Iterator[Hub]:
    """The hub with a root and a cache of this test's own."""
    with served(running_hub, tmp_path / "served") as fresh:
        yield fresh


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is repeated for every family of models is quick for one of them, and slow for the others."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("family", "gpt2") != "gpt2":
            item.add_marker(pytest.mark.slow)
