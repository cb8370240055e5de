"""Routing gradients: each estimator against a closed form or transformers; evaluation is the same for all."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer as phimoe_sparsemixer

from unimoe import UniMoETextConfig
from unimoe.moe import RoutingContext, SparseMoeBlock, build_block
from unimoe.moe.routers.gradients import probability_of_choice, sparsemixer

T, D, E = 24, 8, 5
GRADIENTS = ["plain", "straight_through", "sparsemixer", "dense"]


def make_block(gradient: str, **text: Any) -> SparseMoeBlock:
    """A block in float64 whose weights do not depend on the estimator."""
    values = {"num_experts": E, "num_experts_per_tok": 2, "router_gradient": gradient, **text}
    block = build_block(UniMoETextConfig(hidden_size=D, num_attention_heads=2, intermediate_size=12, **values))
    assert isinstance(block, SparseMoeBlock)
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    return block.double()


def states() -> tuple[torch.Tensor, RoutingContext]:
    hidden = torch.randn(1, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return hidden, RoutingContext(torch.zeros(T, dtype=torch.long))


@pytest.mark.parametrize("gradient", GRADIENTS[1:])
@pytest.mark.parametrize("text", [{}, {"norm_topk_prob": False}, {"num_experts_per_tok": 1}])
def test_evaluation_is_that_of_plain_top_k(gradient: str, text: dict[str, Any]) -> None:
    outputs = [make_block(name, **text).eval()(*states()) for name in ("plain", gradient)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("gradient", ["straight_through", "dense"])
def test_training_computes_what_evaluation_does(gradient: str) -> None:
    block = make_block(gradient)
    torch.testing.assert_close(block.train()(*states()), block.eval()(*states()), rtol=0, atol=1e-12)


def router_gradient(block: SparseMoeBlock) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the router's weights, and of the output, for one fixed loss."""
    hidden, context = states()
    output = block.train()(hidden, context)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
    output.backward(upstream)
    assert block.router.weight.grad is not None
    return block.router.weight.grad, upstream[0]


def by_hand(block: SparseMoeBlock, upstream: torch.Tensor, *, dense: bool) -> torch.Tensor:
    """Sum over tokens of dL/dp_e (for the chosen experts, or all) through the softmax, token by token."""
    weight = block.router.weight.detach()
    total = torch.zeros_like(weight)
    hidden = states()[0][0]
    for token, gradient in zip(hidden, upstream, strict=True):
        p = (weight @ token).softmax(-1)
        chosen = range(E) if dense else p.topk(2).indices.tolist()
        slope = torch.zeros(E, dtype=p.dtype)
        for expert in chosen:
            slope[expert] = gradient @ block.experts.expert_output(expert, token[None])[0].detach()
        jacobian = torch.diag(p) - torch.outer(p, p)
        total += torch.outer(jacobian @ slope, token)
    return total


@pytest.mark.parametrize(("gradient", "dense"), [("straight_through", False), ("dense", True)])
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_the_router_learns_by_the_closed_form(gradient: str, dense: bool, factor: float) -> None:
    block = make_block(gradient, routed_scaling_factor=factor)
    actual, upstream = router_gradient(block)
    torch.testing.assert_close(actual, factor * by_hand(block, upstream, dense=dense), rtol=1e-9, atol=1e-12)


def test_the_dense_gradient_reaches_the_router_alone() -> None:
    blocks = [make_block(name) for name in ("plain", "dense")]
    gradients = [router_gradient(block)[0] for block in blocks]
    assert not torch.allclose(*gradients)
    plain, dense = (dict(block.experts.named_parameters()) for block in blocks)
    for name, parameter in plain.items():
        torch.testing.assert_close(dense[name].grad, parameter.grad, rtol=1e-12, atol=1e-14)


def test_one_expert_per_token_teaches_the_router() -> None:
    gradient, _ = router_gradient(make_block("plain", num_experts_per_tok=1))
    assert gradient.abs().max() > 1e-3
    renormalised, _ = router_gradient(make_block("plain", num_experts_per_tok=1, norm_topk_prob=True))
    assert renormalised.abs().max() < 1e-12  # why this is not the default
    straight, _ = router_gradient(make_block("straight_through", num_experts_per_tok=1, norm_topk_prob=True))
    assert straight.abs().max() > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_sparsemixer_equals_that_of_phimoe(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # phimoe draws its second uniform number twice and keeps the later one; here it keeps the first.
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_: tensor)
    results = []
    for function in (
        lambda s: phimoe_sparsemixer(s, 0.3, True, top_k=2),
        lambda s: sparsemixer(s, 2, epsilon=0.3),
    ):
        scores = torch.randn(400, E, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        torch.manual_seed(seed)
        weights, picked = function(scores)
        upstream = torch.randn(weights.shape, generator=torch.Generator().manual_seed(9))
        weights.backward(upstream)
        results.append((weights.detach(), picked, scores.grad))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert results[0][2].abs().max() > 1e-3


def test_sparsemixers_gradient_is_that_of_a_softmax_at_the_sample() -> None:
    logits = torch.randn(50, E, dtype=torch.float64).requires_grad_()
    weights, picked = sparsemixer(logits, 1, epsilon=0.4)
    upstream = torch.randn_like(weights)
    weights.backward(upstream)
    for row in range(50):
        s = logits[row].detach()
        near = s.masked_fill((s.max() - s) / s.abs().clamp(min=s.max()) > 0.8, float("-inf"))
        p = near.softmax(-1)
        d = int(picked[row])
        expected = p[d] * upstream[row, 0] * (torch.eye(E, dtype=s.dtype)[d] - p)
        torch.testing.assert_close(logits.grad[row], expected, rtol=1e-9, atol=1e-12)


def test_sparsemixer_leaves_closed_experts_alone() -> None:
    logits = torch.randn(30, E)
    logits[:, 2:] = float("-inf")
    logits[::2, 1] = float("-inf")  # one open expert, two picks
    logits.requires_grad_()
    weights, picked = sparsemixer(logits, 2, epsilon=0.01)
    weights.sum().backward()
    assert torch.isfinite(weights).all() and torch.isfinite(logits.grad).all()
    assert (weights[::2, 1] == 0).all() and (picked[::2, 0] == 0).all()
    assert (logits.grad[:, 2:] == 0).all()


def test_the_probability_of_a_choice_equals_repeated_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, deviation = torch.randn(3, E, generator=generator), torch.rand(3, E, generator=generator) + 0.2
    noisy = clean + deviation * torch.randn(3, E, generator=generator)
    for k, bigger in pairwise([1, 2, E]):
        probability = probability_of_choice(clean, noisy, deviation, k)
        for row in range(3):
            for expert in range(E):
                redrawn = noisy[row].repeat(20_000, 1)
                redrawn[:, expert] = clean[row, expert] + deviation[row, expert] * torch.randn(20_000)
                share = (redrawn.topk(k, dim=-1).indices == expert).any(-1).float().mean()
                assert float(probability[row, expert]) == pytest.approx(float(share), abs=0.015)
        assert (probability_of_choice(clean, noisy, deviation, bigger) >= probability - 1e-6).all()
    assert (probability_of_choice(clean, noisy, deviation, E) == 1).all()
