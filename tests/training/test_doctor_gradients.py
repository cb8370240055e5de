"""The gradient of each expert of a layer, whatever its experts are."""

from typing import Any

import pytest
import torch
from tiny import tiny_model

from training.config.train import TrainConfig
from training.doctor.gradients import task_gradients

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft": {"router_type": "soft", "slots_per_expert": 2},
    "merged": {"expert_aliases": [[0, 1, 0, 1], [0, 0, 1, 1]]},
    "reserved": {"reserved_experts": {"speech": [3]}},
}


@pytest.mark.parametrize("layers", LAYERS)
def test_each_expert_of_the_router_has_a_gradient_of_its_own_or_that_of_the_merged_one(layers: str) -> None:
    model = tiny_model(num_experts=4, num_experts_per_tok=2, **LAYERS[layers])
    ids = torch.randint(8, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    kinds = torch.zeros_like(ids)
    batch = {"input_ids": ids, "labels": ids, "mm_token_type_ids": kinds, "row_ids": list("abcd")}
    found = task_gradients(model, TrainConfig(parts=["experts", "router"]), [batch]).by_expert
    assert [len(own) for own in found.values()] == [4, 4]
    if layers == "merged":
        assert found[0][0] == found[0][2] and found[1][2] == found[1][3]
    closed = 1 if layers == "reserved" else 0  # no token of speech
    assert all(sum(not norm for norm in own) == closed for own in found.values())
