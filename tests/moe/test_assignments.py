"""Linear maps and sums of assignments against loops, where some ask no expert and some rows get nothing."""

import pytest
import torch

from unimoe.moe.experts.assignments import assign, sum_by_row

T, K, E, WIDE, NARROW = 9, 2, 3, 8, 4


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm", "batched_mm"])
def test_each_assignment_is_mapped_by_its_expert_and_is_zero_without_one(kernel: str) -> None:
    index = torch.randint(0, E + 1, (T, K))
    index[0] = E
    chosen = assign(index, torch.rand(T, K), num_experts=E, implementation=kernel)
    assert sorted(zip(chosen.token.tolist(), chosen.expert.tolist(), strict=True)) == sorted(
        (token, expert) for token in range(T) for expert in index[token].tolist()
    )
    inputs, weights = torch.randn(T * K, WIDE), torch.randn(E, NARROW, WIDE)
    outputs = chosen.linear(inputs, weights)
    for output, x, expert in zip(outputs, inputs, chosen.expert.tolist(), strict=True):
        torch.testing.assert_close(output, weights[expert] @ x if expert < E else torch.zeros(NARROW))
    assert (chosen.weight[chosen.expert == E] == 0).all() and (chosen.weight[chosen.expert < E] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_is_the_sum_of_what_goes_to_it(dtype: torch.dtype) -> None:
    values = torch.arange(12).view(6, 2).to(dtype).requires_grad_()  # small whole numbers: exact in every dtype
    total = sum_by_row(values, torch.tensor([3, 0, 3, 3, 1, 0]), 5)
    assert total.tolist() == [[12, 14], [8, 9], [0, 0], [10, 13], [0, 0]]
    total.backward(torch.arange(10).view(5, 2).to(dtype))
    assert values.grad.tolist() == [[6, 7], [0, 1], [6, 7], [6, 7], [2, 3], [0, 1]]
