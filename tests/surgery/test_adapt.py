"""Adaptation moves the parts that it names alone; Reptile finds weights from which it does more."""

import copy

import pytest
import torch
from stock import make
from surgery.rows import token_batches
from tiny import TEXT

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import UniMoEError
from unimoe.surgery import audit_change
from unimoe.surgery.adapt import adapt, language_loss, reptile
from unimoe.surgery.calibration import Batch, as_batch


@pytest.mark.parametrize("parts", [("router",), ("experts", "norms")], ids=" ".join)
@pytest.mark.parametrize("kind", ["mlp", "lora", "qwen2_moe", "qwen3_vl_moe"])
def test_the_parts_that_are_named_move_and_no_other(kind: str, parts: tuple[str, ...]) -> None:
    model = make(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    losses = adapt(model, token_batches(), steps=6, parts=parts)
    assert len(losses) == 6
    touched = audit_change(before, model).by_part()
    assert {part for part, (_, own, _) in touched.items() if own} == set(parts)
    assert trained == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_part_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(UniMoEError, match=r"has no 'routers'\. It has attention, embeddings, experts"):
        adapt(make("mlp"), token_batches(), parts=("routers",))


def test_one_round_of_reptile_goes_the_part_of_the_way_of_an_adaptation() -> None:
    start, batches = make("mlp"), token_batches()
    adapted, half, whole = (copy.deepcopy(start) for _ in range(3))
    adapt(adapted, batches, steps=3)
    reptile(half, [batches], rounds=1, rate=0.5, steps=3)
    reptile(whole, [batches], rounds=1, rate=1.0, steps=3)
    routers = [model.model.layers[1].mlp.router.weight for model in (start, half, adapted, whole)]
    assert torch.equal(routers[2], routers[3]) and not torch.equal(routers[0], routers[2])
    torch.testing.assert_close(routers[1], (routers[0] + routers[2]) / 2)


def counting(seed: int) -> tuple[list[Batch], Batch]:
    """A task: the next token is k further, of 16; batches to learn from, and one to ask."""
    generator = torch.Generator().manual_seed(seed)
    step = int(torch.randint(1, 15, (1,), generator=generator))

    def batch(rows: int) -> Batch:
        first = torch.randint(0, 16, (rows, 1), generator=generator)
        return as_batch({"input_ids": 3 + (first + step * torch.arange(10)) % 16})

    return [batch(8) for _ in range(4)], batch(32)


@pytest.mark.parametrize("parts", [("router",), ("router", "experts")], ids=" ".join)
@pytest.mark.parametrize("seed", range(3))
def test_after_meta_training_new_tasks_of_the_family_are_learned_to_a_lower_loss(
    seed: int, parts: tuple[str, ...]
) -> None:
    torch.manual_seed(seed)
    sizes = {"num_experts": 8, "moe_intermediate_size": 32, "initializer_range": 0.1}
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, **sizes)).eval()
    chosen = {"steps": 4, "learning_rate": 5e-3, "parts": parts}

    def loss_after_adapting() -> float:
        losses = []
        for number in range(3):
            learner, (batches, question) = copy.deepcopy(model), counting(1000 + number)
            adapt(learner, batches, **chosen)
            losses.append(float(language_loss(learner, question).detach()))
        return sum(losses) / 3

    before = loss_after_adapting()
    reptile(model, [counting(100 * seed + number)[0] for number in range(30)], rounds=30, **chosen)
    assert loss_after_adapting() < before - (0.5 if "experts" in parts else 0.01)
