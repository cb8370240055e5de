"""A tiny sparse model with every modality, a row with every medium, and a count of what the encoders were asked."""

from collections import Counter
from collections.abc import Iterator

import pytest
from tiny import randomise, tiny_inputs, tiny_model
from torch import Tensor

from unimoe import UniMoEForConditionalGeneration

SPARSE = {"num_experts": 4, "num_null_experts": 1, "modality_routing": "bias", "shared_expert_intermediate_size": 8}


@pytest.fixture(scope="session")
def sparse() -> dict:
    """Fields of the sparse language model of `model`."""
    return dict(SPARSE)


@pytest.fixture(scope="module")
def model() -> UniMoEForConditionalGeneration:
    model = tiny_model(**SPARSE)
    randomise(model)  # the biases of modalities start at 0, where a wrong modality would change nothing
    return model


@pytest.fixture(scope="module")
def inputs(model: UniMoEForConditionalGeneration) -> dict[str, Tensor]:
    return tiny_inputs(model.config)


@pytest.fixture
def encoded(model: UniMoEForConditionalGeneration) -> Iterator[Counter]:
    """Units that went through each connector: those of video count as images."""
    counts: Counter = Counter()

    def count(key: str):
        return lambda module, args, output: counts.update({key: len(args[0])})

    hooks = [connector.register_forward_hook(count(key)) for key, connector in model.model.connectors.items()]
    yield counts
    for hook in hooks:
        hook.remove()
