"""Set-up for all tests: nothing is loaded from a hub, and one thread a process.

Whatever takes long to import is imported in fixtures: the process that hands out tests to others needs none of it.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models gain nothing from more."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_log_of_configurations() -> Iterator[None]:
    """Spare the tests the log for which transformers writes out each configuration that it reads."""
    from transformers import PreTrainedConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedConfig, "__repr__", object.__repr__)
        yield


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> None:
    """Let collections of garbage, for which trainings ask, pass over all that was imported by now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give every test the same chance, whichever tests ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny sparse model with random weights and its processor: what a user would load."""
    from tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("model"), num_experts=4, num_null_experts=1, modality_routing="bias")
