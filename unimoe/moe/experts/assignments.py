"""Assignments: (token, expert) pairs, and linear maps of them by the weights of their expert, in three ways.

For experts that transformers' kernels do not know. T tokens, K experts per token, A = T*K assignments, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import _grouped_linear

LINEARS = "linears"
"""Implementation of experts that are seen as `nn.Linear` modules (see `unimoe.experts_as_linears`)."""


class Assignments(NamedTuple):
    """What each token asks of which expert. An assignment to the expert E asks nothing."""

    token: Tensor
    """Token of each assignment, (A,)."""
    expert: Tensor
    """Expert of each assignment, (A,); sorted for `grouped_mm`."""
    weight: Tensor
    """Combine weight of each assignment, (A, 1); 0 where nothing is asked."""
    offsets: Tensor | None
    """How many ask for the experts up to each, (E,), if sorted."""
    implementation: str

    def linear(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Map inputs (A, i) by the weights (E, o, i) of their experts to (A, o); 0 where E."""
        return _LINEAR[self.implementation](inputs, weights, self)

    def combine(self, outputs: Tensor, num_tokens: int) -> Tensor:
        """Sum outputs (A, C) by token, (T, C)."""
        return sum_by_row(outputs, self.token, num_tokens)


def assign(top_k_index: Tensor, top_k_weights: Tensor, *, num_experts: int, implementation: str | None) -> Assignments:
    """Lay out the assignments of tokens (T, K).

    Args:
        top_k_index: As routers give it, (T, K).
        top_k_weights: As routers give them, (T, K).
        num_experts: E.
        implementation: `eager` (or None), `grouped_mm` or `batched_mm`.

    Raises:
        ValueError: If the implementation is another.
    """
    implementation = implementation or "eager"
    if implementation not in _LINEAR:
        raise ValueError(
            f"These experts cannot be computed by {implementation!r}. Choose with set_experts_implementation: "
            f"{', '.join(name for name in _LINEAR if name != LINEARS)}."
        )
    expert, weight = top_k_index.reshape(-1), top_k_weights.reshape(-1, 1)
    token = torch.arange(len(top_k_index), device=expert.device).repeat_interleave(top_k_index.shape[-1])
    weight = weight.masked_fill(expert[:, None] >= num_experts, 0.0)
    offsets = None
    if implementation == "grouped_mm":
        expert, order = expert.sort(stable=True)
        token, weight = token[order], weight[order]
        every = torch.arange(num_experts, device=expert.device)
        offsets = torch.searchsorted(expert, every, right=True, out_int32=True)
    return Assignments(token, expert, weight, offsets, implementation)


def sum_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum values (A, C) that go to the same of `num_rows` R rows, given for each as (A,), to (R, C).

    In the order of the assignments, hence the same each time; `index_add` on a GPU adds in any order.
    """
    ordered, order = rows.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(num_rows, device=rows.device))
    return F.embedding_bag(order, values, starts, mode="sum")


def _eager(inputs: Tensor, weights: Tensor, chosen: Assignments) -> Tensor:
    rows = [torch.where(chosen.expert == expert)[0] for expert in range(len(weights))]
    outputs = torch.cat([F.linear(inputs[own], weight) for own, weight in zip(rows, weights, strict=True)])
    return outputs.new_zeros(len(inputs), weights.shape[1]).index_copy(0, torch.cat(rows), outputs)


def _grouped(inputs: Tensor, weights: Tensor, chosen: Assignments) -> Tensor:
    assert chosen.offsets is not None
    if weights.stride(1) * weights.element_size() % 16:
        raise ValueError(
            f"grouped_mm needs rows of a multiple of 16 bytes; {weights.shape[2]} values (a rank or latent size) in "
            f"{weights.dtype} are none. Choose a multiple of {16 // weights.element_size()}, or with "
            "set_experts_implementation another."
        )
    no_expert = chosen.expert[:, None] >= len(weights)
    # The kernel leaves the rows past the last offset as they are in memory, forward and backward.
    return _grouped_linear(inputs.masked_fill(no_expert, 0.0), weights, chosen.offsets).masked_fill(no_expert, 0.0)


def _batched(inputs: Tensor, weights: Tensor, chosen: Assignments) -> Tensor:
    no_expert = chosen.expert[:, None] >= len(weights)
    own = weights[chosen.expert.clamp(max=len(weights) - 1)]  # (A, o, i)
    return torch.bmm(own, inputs[..., None].to(own.dtype)).squeeze(-1).masked_fill(no_expert, 0.0)


def _linears(inputs: Tensor, weights: nn.ModuleList, chosen: Assignments) -> Tensor:
    first: Any = weights[0]
    outputs = inputs.new_zeros(len(inputs), first.out_features)
    for expert, linear in enumerate(weights):
        rows = torch.where(chosen.expert == expert)[0]
        if len(rows):
            outputs = outputs.index_copy(0, rows, linear(inputs[rows]).to(outputs.dtype))
    return outputs


_LINEAR: dict[str, Callable[[Tensor, Any, Assignments], Tensor]] = {
    "eager": _eager,
    "grouped_mm": _grouped,
    "batched_mm": _batched,
    LINEARS: _linears,
}


__all__ = ["LINEARS", "Assignments", "assign", "sum_by_row"]
