"""The three expert implementations agree, forward and backward, and all skip the index "no expert"."""

import pytest
import torch
from torch import Tensor

from unimoe import UniMoETextConfig
from unimoe.moe.experts import Experts, stacked_experts

T, D, E, K = 30, 16, 4, 2


def make_experts(implementation: str, dtype: torch.dtype = torch.float32) -> Experts:
    config = UniMoETextConfig(hidden_size=D, intermediate_size=24, num_attention_heads=2, num_experts=E)
    config._experts_implementation = implementation
    experts = stacked_experts(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return experts.to(dtype)


def routed(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, indices with the sentinel among them (one token has nothing else), weights that are NOT 0
    there.
    """
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, E + 1, (T, K), generator=generator)
    index[0] = E
    hidden = torch.randn(T, D, generator=generator).to(dtype).requires_grad_()
    weights = torch.rand(T, K, generator=generator).to(dtype).requires_grad_()
    return hidden, index, weights


def loop(experts: Experts, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    rows = []
    for t in range(T):
        row = torch.zeros(D, dtype=hidden.dtype)
        for k in range(K):
            if (e := int(index[t, k])) < E:
                gate, up = (experts.gate_up_proj[e] @ hidden[t]).chunk(2)
                row = row + weights[t, k] * (experts.down_proj[e] @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows)


def poison_memory() -> None:
    """Leave NaNs in memory that will be reused, so that reading uninitialised rows shows."""
    blocks = [torch.full((T * K, width), float("nan")) for width in (D, 24, 48) for _ in range(8)]
    del blocks


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_implementation_equals_a_loop_with_sentinels_forward_and_backward(implementation: str) -> None:
    experts, (hidden, index, weights) = make_experts(implementation), routed()
    wanted = [hidden, weights, *experts.parameters()]
    expected = loop(experts, hidden, index, weights)
    expected_gradients = torch.autograd.grad(expected.square().sum(), wanted)
    poison_memory()
    actual = experts(hidden, index, weights)
    gradients = torch.autograd.grad(actual.square().sum(), wanted)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    for got, want in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
    assert actual[0].abs().sum() == 0


@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
def test_implementation_is_exact_in_float64(implementation: str) -> None:
    experts, inputs = make_experts(implementation, torch.float64), routed(torch.float64)
    torch.testing.assert_close(experts(*inputs), loop(experts, *inputs), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_no_tokens_give_no_rows_and_a_backward_pass(implementation: str) -> None:
    experts = make_experts(implementation)
    hidden = torch.zeros(0, D, requires_grad=True)
    output = experts(hidden, torch.zeros(0, K, dtype=torch.long), torch.zeros(0, K))
    assert output.shape == (0, D)
    output.sum().backward()
