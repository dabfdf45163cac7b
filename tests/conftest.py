"""What every test stands on: no network, one thread, steady examples."""

import os

# huggingface_hub reads this when it is imported, so it has to be set before anything here imports a model library.
os.environ["HF_HUB_OFFLINE"] = "1"
# Wandb and tokenizers start background work otherwise, which a test cannot wait for.
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two threads on a busy machine make tiny operations some ninety times slower.
torch.set_num_threads(1)

# The first example of a property builds models that the rest reuse, so a deadline per example would only be noise.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("quick", parent=settings.get_profile("ci"), max_examples=5)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is repeated for every family of models is quick for one of them, and slow for the others."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("family", "gpt2") != "gpt2":
            item.add_marker(pytest.mark.slow)
