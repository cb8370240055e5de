"""Weights by near ties against a slow loop over the published code's steps, and what they do to a router."""

import math
from typing import Any

import pytest
import torch
from moe.router_checks import make_config, make_router, make_tokens
from torch import Tensor

from unimoe import UniMoEForCausalLM
from unimoe.analysis import record, replay
from unimoe.moe.routers.selection import near_tie_weights

EPSILON = 0.01


def slowly(logits: list[float], count: int, epsilon: float) -> list[float]:
    """Weights of the `count` largest logits, largest first, over their sum and a millionth."""
    left, weights = list(logits), []
    for _ in range(count):
        largest = max(left)
        kept = [
            logit
            for logit in left
            if largest == logit or (largest - logit) / max(abs(logit), abs(largest)) <= 2 * epsilon
        ]
        weights.append(math.exp(largest) / sum(math.exp(logit) for logit in kept))
        left.remove(largest)
    return [weight / (sum(weights) + 1e-6) for weight in weights]


def quickly(logits: list[float], count: int, epsilon: float) -> list[float]:
    row = torch.tensor([logits], dtype=torch.float64)
    weights = near_tie_weights(row, row.topk(count).indices, epsilon=epsilon)
    return (weights / (weights.sum() + 1e-6)).flatten().tolist()


@pytest.mark.parametrize(
    ("logits", "count"),
    [
        ([3.0, 1.0, -2.0], 2),  # each choice stands alone
        ([2.0, 1.99, 1.97, 0.5], 3),  # two near the first, one near the second
        ([-1.0, -1.015, -1.03, -4.0], 3),  # all negative
        ([0.5, 0.5, 0.5, -0.5], 2),  # exact ties
        ([0.0, 0.0, -1.0], 2),  # of which the gap is 0 / 0
        ([0.01, -0.01, -0.0100001], 3),  # on both sides of 0
        ([1.0, 0.98, 0.9], 2),  # on the edge of the gap
        ([5.0], 1),  # a single one
        ([700.0, 699.0, 690.0, 1.0], 4),
    ],
)
def test_weights_are_those_of_the_slow_loop(logits: list[float], count: int) -> None:
    assert quickly(logits, count, EPSILON) == pytest.approx(slowly(logits, count, EPSILON), abs=1e-15)


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.2, 2.0])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_random_logits_get_the_weights_of_the_slow_loop(epsilon: float, shift: float) -> None:
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift
    rows = rows.mul(20).round() / 20  # so that some tie
    for count in (1, 3, 6):
        weights = near_tie_weights(rows, rows.topk(count).indices, epsilon=epsilon)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)
        for row, found in zip(rows.tolist(), weights.tolist(), strict=True):
            assert found == pytest.approx(slowly(row, count, epsilon), abs=1e-14)


def test_no_choice_weighs_nothing_and_a_closed_target_takes_no_part() -> None:
    closed = float("-inf")
    logits = torch.tensor([[1.0, closed, 0.99], [closed, closed, closed]], dtype=torch.float64, requires_grad=True)
    weights = near_tie_weights(logits, torch.tensor([[0, 3], [3, 3]]), epsilon=EPSILON)
    assert weights.tolist() == [[pytest.approx(1 / (1 + math.exp(-0.01))), 0.0], [0.0, 0.0]]
    weights.sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0].tolist()[1] == 0.0


def uniform_share(weights: Tensor, chosen: Tensor) -> float:
    """Share of tokens whose K choices have 1 / K each."""
    even = chosen / chosen.sum(dim=-1, keepdim=True)
    return float(((weights - even).abs().amax(dim=-1) < 1e-5).double().mean())


@pytest.mark.parametrize("fields", [{"num_experts_per_tok": 2}, {"router_type": "top_p", "router_top_p": 0.7}])
def test_nearly_all_tokens_get_even_weights_and_teach_the_router_nothing(fields: dict[str, Any]) -> None:
    """As the documentation of `combine_weights` says."""
    count, targets = 20_000, 5
    sizes = {
        "hidden_size": 2 * targets,
        "num_attention_heads": 1,
        "num_experts": targets,
        "num_experts_per_tok": targets,
    }
    router = make_router(make_config(**{**sizes, **fields}, combine_weights="near_tie"))
    with torch.no_grad():
        router.weight.copy_(torch.eye(targets, 2 * targets))
    hidden = torch.randn(count, 2 * targets, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden.requires_grad_()
    output = router(hidden, make_tokens(count)[1])
    weights, mask = output.record.router_gates, output.record.expert_mask
    assert 0.955 < uniform_share(weights.detach(), mask) < 0.98
    (weights * torch.randn(targets)).sum().backward()
    assert 0.955 < float((hidden.grad.abs().amax(dim=-1) < 1e-6).double().mean()) < 0.98


def test_choices_are_those_of_the_scores() -> None:
    fields = {"router_type": "top_p", "num_experts_per_tok": 6, "router_top_p": 0.8, "num_null_experts": 1}
    plain, by_ties = (make_router(make_config(**fields, combine_weights=name)) for name in ("scores", "near_tie"))
    one, other = plain(*make_tokens()), by_ties(*make_tokens())
    assert torch.equal(one.top_k_index, other.top_k_index) and torch.equal(one.router_logits, other.router_logits)
    assert torch.equal(one.record.router_probs, other.record.router_probs)
    assert not torch.equal(one.top_k_weights, other.top_k_weights)


def test_the_weights_are_the_same_in_training() -> None:
    router = make_router(make_config(combine_weights="near_tie", sparsemixer_epsilon=0.2))
    expected = router(*make_tokens()).top_k_weights
    assert torch.equal(router.train()(*make_tokens()).top_k_weights, expected)


def test_a_model_with_them_saves_trains_records_and_replays(tmp_path) -> None:
    fields = {"num_null_experts": 1, "num_shared_experts": 2, "shared_expert_intermediate_size": 4}
    config = make_config(
        **fields,
        router_type="top_p",
        num_experts_per_tok=5,
        combine_weights="near_tie",
        sparsemixer_epsilon=0.2,
        shared_expert_weighting="router",
        router_jitter_noise=0.01,
    )
    torch.manual_seed(0)
    model, ids = UniMoEForCausalLM(config).eval(), torch.randint(0, 30, (2, 9))
    with record(model) as routing:
        expected = model(ids).logits
    with replay(model, routing):
        assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.combine_weights == "near_tie" and torch.equal(loaded(ids).logits, expected)
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    assert output.loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
