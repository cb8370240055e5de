"""How a router learns from a choice: straight-through, SparseMixer, dense; and the probability of a noisy choice.

T tokens, E experts (or router targets), K chosen for each token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def straight_through(value: Tensor, path: Tensor) -> Tensor:
    """Return `value`, with the gradient of `path`."""
    return value.detach() + (path - path.detach())  # the bracket is exactly 0


def probability_of_choice(clean: Tensor, noisy: Tensor, deviation: Tensor, top_k: int) -> Tensor:
    """Compute how probable each target is among the K, were its own noise drawn again (arXiv 1701.06538, eq. 8-9).

    Args:
        clean: Router logits without noise, (T, E); -inf where a target is closed.
        noisy: The same with noise.
        deviation: Standard deviation of the noise, (T, E).
        top_k: K.

    Returns:
        (T, E); 0 where a target is closed. The gradient flows through the clean logits and the deviation.
    """
    number = noisy.shape[-1]
    largest = noisy.detach().topk(min(top_k + 1, number), dim=-1).values
    kth = largest[:, top_k - 1 : top_k]
    beyond = largest[:, top_k : top_k + 1] if top_k < number else torch.full_like(kth, float("-inf"))
    threshold = torch.where(noisy.detach() >= kth, beyond, kth)  # what the target must exceed
    sure, closed = threshold.isneginf(), clean.isneginf()
    usable = ~sure & ~closed
    distance = torch.where(usable, clean, 0.0) - torch.where(usable, threshold, 0.0)
    probability = torch.special.ndtr(distance / deviation)
    return torch.where(usable, probability, torch.where(closed, 0.0, 1.0))


class _MidPoint(torch.autograd.Function):
    """Weights scaled by the mid-point mask; the gradient is that of a softmax at the sampled expert, unscaled."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, probs: Tensor, picked: Tensor, scale: Tensor) -> Tensor:
        weight = probs.gather(-1, picked)
        ctx.save_for_backward(probs, picked, weight)
        return weight * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        probs, picked, weight = ctx.saved_tensors
        grad = grad * weight
        return (-grad * probs).scatter_add(-1, picked, grad), None, None, None


def sparsemixer(logits: Tensor, top_k: int, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Sample K experts without repetition, with weights whose gradient estimates that of the choice.

    GRIN (Liu et al. 2024, arXiv 2409.12136), as in transformers' `phimoe`, for any K: each pick is a Gumbel sample of
    a softmax over the logits within a relative gap of 2 epsilon of the largest one left; Heun's third-order method
    scales three in four of the weights that are not the largest by a third.

    Args:
        logits: (T, E); -inf where a target is closed.
        top_k: K.
        epsilon: Half the gap.

    Returns:
        Weights (T, K), not renormalised, and targets (T, K). Where no open target is left, a weight of 0.
    """
    weights, targets, left = [], [], logits.detach()
    for _ in range(top_k):
        largest = left.max(dim=-1, keepdim=True).values
        gap = (largest - logits.detach()) / logits.detach().abs().clamp(min=largest)
        near = left.masked_fill(gap > 2 * epsilon, float("-inf"))
        some = ~largest.isneginf()
        near = torch.where(some, near, 0.0)
        picked = (near - torch.empty_like(near).exponential_().log()).argmax(dim=-1, keepdim=True)
        probs = near.softmax(dim=-1) * some
        is_largest = picked == probs.argmax(dim=-1, keepdim=True)
        exact = is_largest | (torch.rand_like(largest) > 0.75)
        scale = torch.add(0.3333, exact, alpha=0.6667).to(probs.dtype)
        weights.append(_MidPoint.apply(logits, probs, picked, scale))
        targets.append(picked)
        left = left.scatter(-1, picked, float("-inf"))
    return torch.cat(weights, dim=-1), torch.cat(targets, dim=-1)


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, probs: Tensor, hidden_states: Tensor, expert_output: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(hidden_states)
        ctx.expert_output, ctx.number, ctx.dtype = expert_output, probs.shape[-1], probs.dtype
        device = hidden_states.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return torch.zeros_like(hidden_states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (hidden_states,) = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            answers = [ctx.expert_output(expert, hidden_states) for expert in range(ctx.number)]
        columns = [(grad * answer).sum(dim=-1, dtype=ctx.dtype) for answer in answers]
        return torch.stack(columns, dim=-1), None, None


def dense_gradient(probs: Tensor, hidden_states: Tensor, expert_output: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return zeros (T, D) that carry the gradient of `sum_e probs[:, e] * expert_output(e, hidden_states)` to `probs`.

    DenseMixer: every expert answers every token, in the backward pass of training alone.

    Args:
        probs: (T, E).
        hidden_states: (T, D); no gradient reaches it from here.
        expert_output: Expert and tokens (T, D) -> that expert's answers (T, D).
    """
    return _DenseGradient.apply(probs, hidden_states.detach(), expert_output)


__all__ = ["dense_gradient", "probability_of_choice", "sparsemixer", "straight_through"]
