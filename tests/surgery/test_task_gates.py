"""Task gates: nothing at zero, routing by task where not, and the model itself as it was."""

from pathlib import Path

import pytest
import torch
from stock import make
from surgery.rows import token_batches
from tiny import TEXT

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import UniMoEError
from unimoe.surgery.adapt import language_loss
from unimoe.surgery.mixture import routed
from unimoe.surgery.task_gates import TaskGates

BATCH = token_batches()[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mlp", "lora", "two widths"])
def test_a_task_of_zeros_is_the_model_bit_for_bit(kind: str) -> None:
    model = make(kind)
    before = model(**BATCH.inputs, output_router_logits=True)
    with TaskGates(model, 3).task(2):
        after = model(**BATCH.inputs, output_router_logits=True)
    assert torch.equal(after.logits, before.logits)
    assert all(map(torch.equal, after.router_logits, before.router_logits))


@torch.no_grad()
def test_a_task_is_routed_by_its_own_bias() -> None:
    model, base = make("mlp"), make("mlp")
    gates = TaskGates(model, 2)
    gates.biases["0"][1, 3] = 100.0
    before = model(**BATCH.inputs).logits
    chosen: list[torch.Tensor] = []
    with gates.task(1), routed(model, lambda layer, states, index, weights: chosen.append(index)):
        found = model(**BATCH.inputs, output_router_logits=True)
    assert (chosen[0][:, 0] == 3).all() and (found.router_logits[0][:, 3] > 90).all()
    with gates.task(0):
        assert torch.equal(model(**BATCH.inputs).logits, before)
    assert torch.equal(model(**BATCH.inputs).logits, before)
    assert model.state_dict().keys() == base.state_dict().keys()


def test_gates_learn_and_come_back_from_their_file(tmp_path: Path) -> None:
    model = make("mlp").requires_grad_(False)
    gates = TaskGates(model, 2)
    optimizer, losses = torch.optim.Adam(gates.parameters(), lr=0.1), []
    for _ in range(5):
        with gates.task(1):
            losses.append(language_loss(model, BATCH))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] and not gates.biases["0"][0].any()
    gates.save(tmp_path)
    again = TaskGates.load(model, tmp_path)
    assert all(torch.equal(again.biases[index], bias) for index, bias in gates.biases.items())
    with pytest.raises(UniMoEError, match=r"task_gates\.safetensors: it is of another model .*size mismatch"):
        TaskGates.load(UniMoEForCausalLM(UniMoETextConfig(**TEXT, num_experts=2)), tmp_path)


def test_other_routers_are_refused_by_name() -> None:
    with pytest.raises(UniMoEError, match=r"model.layers.0.mlp: its router takes no bias of a task"):
        TaskGates(make("qwen3_moe"), 2)
