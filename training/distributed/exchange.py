"""The exchange of expert parallelism: token rows go to the processes that have their experts, answers come back.

P processes of a group, E experts, n = E / P experts of each process, T tokens and K experts per token of this one, D
hidden size. (Lepikhin et al. 2020, GShard, arXiv 2006.16668, section 3.2; Gale et al. 2022, MegaBlocks, arXiv
2211.15841: no token is dropped.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Splits(NamedTuple):
    """How many rows go between this process and each of the group."""

    sent: list[int]
    """To each process, (P,)."""
    received: list[int]
    """From each process, (P,)."""
    counts: Tensor
    """Of the received ones, from each process for each expert of this one, (P, n)."""


class Exchange(torch.autograd.Function):
    """Rows to other processes; the gradient takes the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        """Send rows (sum of sent, D), and return those that came (sum of received, D)."""
        ctx.splits, ctx.group = (sent, received), group
        return exchange_rows(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Send gradients of what came back to where it came from."""
        sent, received = ctx.splits
        return exchange_rows(gradient, received, sent, ctx.group), None, None, None


def exchange_rows(rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    """Send and receive rows all-to-all, in the order of the processes."""
    output = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(output, rows.contiguous(), received, sent, group=group)
    return output


def plan_splits(experts: Tensor, num_experts: int, group: Any) -> Splits:
    """Tell the other processes how many rows will come for each of their experts.

    Args:
        experts: Of each choice, (T*K,); E and more: none.
        num_experts: E.
        group: Of P processes.
    """
    own = torch.bincount(experts, minlength=num_experts + 1)[:num_experts].contiguous()  # (E,)
    counts = torch.empty_like(own)
    dist.all_to_all_single(counts, own, group=group)
    processes = dist.get_world_size(group)
    table = torch.stack([own.view(processes, -1).sum(dim=1), counts.view(processes, -1).sum(dim=1)]).tolist()
    return Splits(table[0], table[1], counts.view(processes, -1))


def run_experts(
    experts: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    *,
    num_experts: int,
    group: Any,
) -> Tensor:
    """Compute what experts that are sharded over processes answer; every process of the group must call this.

    Answers are weighed where the tokens are, so that gradients of routers stay in their process. Under autocast, rows
    travel in its dtype, in which experts compute.

    Args:
        experts: Those of this process: (rows, index, weights) -> answers, as `Experts.forward`.
        hidden_states: (T, D).
        top_k_index: Of all E experts, (T, K); E: none.
        top_k_weights: (T, K).
        num_experts: E.
        group: Of P processes; process p has the experts from p * n on.

    Returns:
        The weighted sum of the chosen experts, (T, D).
    """
    device = hidden_states.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    splits = plan_splits(top_k_index.flatten(), num_experts, group)
    order = top_k_index.flatten().argsort(stable=True)[: sum(splits.sent)]  # choices of none are last
    top_k = top_k_index.shape[1]
    rows = Exchange.apply(hidden_states.to(kind)[order // top_k], splits.sent, splits.received, group)
    every = torch.arange(splits.counts.shape[1], device=rows.device).repeat(len(splits.sent))
    index = every.repeat_interleave(splits.counts.flatten(), output_size=len(rows))[:, None]  # (rows, 1)
    answers = experts(rows, index, torch.ones_like(index, dtype=rows.dtype))
    back = Exchange.apply(answers.to(kind), splits.received, splits.sent, group).to(hidden_states.dtype)
    output = back.new_zeros(top_k_index.numel(), back.shape[-1]).index_copy(0, order, back)
    weights = top_k_weights.to(output.dtype)
    return torch.einsum("tkd,tk->td", output.view(*top_k_index.shape, -1), weights)


__all__ = ["Exchange", "Splits", "exchange_rows", "plan_splits", "run_experts"]
