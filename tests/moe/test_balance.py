"""The balance bias: it moves against the load, alone, and evens it out."""

import pytest
import torch

from unimoe import Modality, UniMoEForCausalLM, UniMoETextConfig
from unimoe.moe import RoutingContext, balance_routers, build_router, count_routing, update_balance_bias


def test_the_bias_moves_by_the_sign_of_the_missing_load() -> None:
    load = torch.tensor([[10, 0, 5, 5], [0, 0, 0, 0]])
    bias = update_balance_bias(torch.zeros(2, 4), load, 0.001)
    assert bias.tolist() == [[pytest.approx(-0.001), pytest.approx(0.001), 0.0, 0.0], [0.0] * 4]


def test_closed_targets_do_not_count_and_do_not_move() -> None:
    permitted = torch.tensor([[True, True, False, False]])
    bias = update_balance_bias(torch.zeros(1, 4), torch.tensor([[9, 1, 0, 0]]), 0.5, permitted)
    assert bias.tolist() == [[-0.5, 0.5, 0.0, 0.0]]


def skewed(scoring: str, scope: str = "layer") -> tuple:
    """A router of 16 experts whose logits lean by a fixed N(0, 1) towards some of them."""
    config = UniMoETextConfig(
        hidden_size=18,
        head_dim=18,
        num_attention_heads=1,
        num_experts=16,
        scoring_func=scoring,
        balance_bias=True,
        router_aux_loss_scope=scope,
    )
    router = build_router(config)
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, :16] = torch.eye(16)
        router.weight[:, 16] = torch.randn(16)
    tokens = torch.randn(2048, 18)
    tokens[:, 16] = 1.0
    return router, tokens


def max_violation(load: torch.Tensor) -> float:
    load = load.double()
    return float((load.max() - load.mean()) / load.mean())


def test_uneven_loads_become_even_in_two_thousand_steps() -> None:
    router, tokens = skewed("softmax")
    context = RoutingContext(torch.zeros(len(tokens), dtype=torch.long))
    scores = router(tokens, context).record.router_probs.detach()
    loads = []
    for _ in range(2000):  # what the router does with these scores, without the products
        load = torch.bincount((scores + router.balance_bias).topk(2, dim=-1).indices.flatten(), minlength=16)
        loads.append(load)
        router.balance_bias.copy_(update_balance_bias(router.balance_bias, load[None], 0.001))
    chosen = count_routing([router(tokens, context).record.expert_mask], torch.zeros(1, len(tokens), dtype=torch.long))
    assert max_violation(loads[0]) > 1.0
    assert max_violation(chosen[0, 0]) < 0.2


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_the_bias_changes_the_choice_and_never_a_weight(scoring: str) -> None:
    router, tokens = skewed(scoring)
    context = RoutingContext(torch.zeros(len(tokens), dtype=torch.long))
    before = router(tokens, context)
    router.balance_bias.copy_(torch.linspace(-0.3, 0.3, 16)[None])
    after = router(tokens, context)
    assert not torch.equal(before.record.expert_mask, after.record.expert_mask)
    assert torch.equal(before.record.router_probs, after.record.router_probs)
    same = (before.record.expert_mask == after.record.expert_mask).all(-1)
    assert 0 < same.sum() < len(tokens)
    assert torch.equal(before.record.router_gates[same], after.record.router_gates[same])


def test_a_modality_has_a_bias_of_its_own() -> None:
    router, tokens = skewed("softmax", scope="modality")
    assert router.balance_bias.shape == (len(Modality), 16)
    kinds = torch.arange(len(tokens)) % 2
    before = router(tokens, RoutingContext(kinds)).top_k_index
    router.balance_bias[Modality.IMAGE, 3] = 9.0
    after = router(tokens, RoutingContext(kinds)).top_k_index
    assert torch.equal(after[kinds == Modality.TEXT], before[kinds == Modality.TEXT])
    assert (after[kinds == Modality.IMAGE] == 3).any(-1).all()


def test_every_router_of_a_model_gets_the_load_of_its_layer(tmp_path) -> None:
    model = UniMoEForCausalLM(
        UniMoETextConfig(
            hidden_size=8, num_attention_heads=2, num_hidden_layers=3, moe_layers=[0, 2], num_experts=4, vocab_size=30,
            balance_bias=True,
        )
    )  # fmt: skip
    load = torch.zeros(2, len(Modality), 4, dtype=torch.long)
    load[0, 0, 1] = load[1, 1, 2] = 8
    balance_routers(model, load)
    biases = [model.model.layers[index].mlp.router.balance_bias for index in (0, 2)]
    assert [int(bias.argmin()) for bias in biases] == [1, 2]
    model.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    bias = loaded.model.layers[2].mlp.router.balance_bias
    assert bias.dtype == torch.float32 and torch.equal(bias, biases[1])
    with pytest.raises(ValueError, match="load is of 1 sparse layers, but the model has 2"):
        balance_routers(model, load[:1])


def test_experts_of_a_task_that_is_off_neither_move_nor_count() -> None:
    fields = {"num_experts": 4, "reserved_experts": {"task_ocr": [3]}, "balance_bias": True}
    router = build_router(UniMoETextConfig(hidden_size=8, num_attention_heads=2, **fields))
    load = torch.zeros(1, len(Modality), 4, dtype=torch.long)
    load[0, 0] = torch.tensor([5, 4, 3, 0])
    balance_routers(router, load)
    assert router.balance_bias.sign().tolist() == [[-1.0, 0.0, 1.0, 0.0]]
