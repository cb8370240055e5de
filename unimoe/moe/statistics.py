"""What routing did, counted: tokens per layer, group of tokens and expert.

T tokens (B*S, row-major), E router targets (experts and null experts), L layers, G groups of tokens, M modalities.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ..modality import Modality


def count_routing(expert_mask: Sequence[Tensor], modality_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Count how many real tokens of each modality chose each expert in each layer.

    Args:
        expert_mask: For each sparse layer, which targets each token chose, (T, E); null experts are the last columns.
        modality_ids: `Modality` of each token, (B, S) with B*S = T.
        attention_mask: 1 for real tokens, (B, S). None: all tokens count.

    Returns:
        Assignments (layers, modalities, E), int64. A row sums to K times the tokens of that modality.
    """
    # float64: exact up to 2**53 tokens, and matrix products of integers do not run on GPUs.
    groups = token_groups(modality_ids, attention_mask, per_modality=True).double()  # (T, M)
    counts = [groups.T @ mask.double() for mask in expert_mask]
    return torch.stack(counts).round().long()


def token_groups(modality_ids: Tensor, attention_mask: Tensor | None = None, *, per_modality: bool = False) -> Tensor:
    """Say which group each token belongs to: one group of all real tokens, or one for each modality.

    Args:
        modality_ids: `Modality` of each token, (B, S).
        attention_mask: 1 for real tokens, (B, S). None: all tokens are real.
        per_modality: A group for each modality.

    Returns:
        1 where a token belongs to a group, else 0, float32, (T, 1) or (T, M). Padding belongs to none.

    Raises:
        ValueError: If the two have different shapes.
    """
    mask = torch.ones_like(modality_ids) if attention_mask is None else attention_mask
    if mask.shape != modality_ids.shape:
        raise ValueError(
            f"Modality ids of shape {tuple(modality_ids.shape)} do not fit an attention mask of shape "
            f"{tuple(mask.shape)}. Pass both as the processor returned them."
        )
    is_token = mask.reshape(-1, 1).float()
    if not per_modality:
        return is_token
    every = torch.arange(len(Modality), device=modality_ids.device)  # `one_hot` would read the ids back
    return (modality_ids.reshape(-1, 1) == every) * is_token


def group_sums(values: Tensor, token_groups: Tensor) -> Tensor:
    """Sum values of tokens (..., T, C) over each group of `token_groups` (T, G), in float32: (..., G, C)."""
    with torch.autocast(values.device.type, enabled=False):  # bf16 cannot count beyond 256
        return token_groups.T.float() @ values.float()


def router_load(expert_mask: Tensor, token_groups: Tensor, *, global_batch: bool = False) -> Tensor:
    """Count how many tokens of each group chose each target in each layer, for `load_balancing_loss`.

    Args:
        expert_mask: Which targets each token chose in each sparse layer, (L, T, E).
        token_groups: As `token_groups` returns them, (T, G).
        global_batch: Sum over all processes (Qiu et al. 2025, https://arxiv.org/abs/2501.11873); every process must
            call this then.

    Returns:
        Counts (L, G, E), float32, without gradient.
    """
    counts = group_sums(expert_mask, token_groups).detach()
    return sum_over_processes(counts) if global_batch else counts


def sum_over_processes(counts: Tensor) -> Tensor:
    """Add up what all processes counted; of a lone process, its own counts."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts
