"""Router losses: pure functions of what the routers recorded, in float32. Padding takes no part.

T tokens (B*S, row-major), E router targets (experts and null experts), M modalities.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modality import Modality


def load_balancing_loss(router_logits: Tensor, expert_mask: Tensor, token_groups: Tensor) -> Tensor:
    """Penalise uneven expert use in one layer; 1 when the tokens of a group spread evenly over the experts open to it.

    Fedus et al. 2021, Switch Transformer, eq. 4-6 (https://arxiv.org/abs/2101.03961), for each group of tokens apart,
    with the load fractions summing to 1. transformers' `load_balancing_loss_func` returns K times this value and pools
    all layers and modalities first, so that two layers which collapsed on different experts look balanced; this one
    does not. The gradient flows through the probabilities only.

    Args:
        router_logits: What the router's softmax saw, (T, E); -inf for experts closed to a token.
        expert_mask: Which targets each token chose, (T, E).
        token_groups: 1 where a token belongs to a group, (T, G). A token in no group (padding) takes no part.

    Returns:
        Mean over the groups that have tokens; scalar, dimensionless, float32. 0 if all groups are empty.
    """
    with torch.autocast(router_logits.device.type, enabled=False):  # bf16 cannot count beyond 256
        return _balance_of_groups(router_logits.float(), expert_mask.float(), token_groups.float())


def _balance_of_groups(router_logits: Tensor, expert_mask: Tensor, groups: Tensor) -> Tensor:
    tokens = groups.sum(dim=0)  # (G,)
    load = groups.T @ expert_mask  # (G, E)
    load = load / load.sum(dim=-1, keepdim=True).clamp(min=1)
    probability = groups.T @ router_logits.softmax(dim=-1) / tokens.clamp(min=1)[:, None]  # (G, E)
    open_experts = (groups.T @ torch.isfinite(router_logits).float() > 0).sum(dim=-1)  # (G,)
    per_group = open_experts * (load.detach() * probability).sum(dim=-1)
    return per_group.sum() / (tokens > 0).sum().clamp(min=1)


def router_balance_loss(
    router_logits: Sequence[Tensor],
    expert_mask: Sequence[Tensor],
    *,
    modality_ids: Tensor,
    attention_mask: Tensor | None = None,
    per_modality: bool = False,
) -> Tensor:
    """Average `load_balancing_loss` over layers, with one group of all real tokens or one group for each modality.

    Args:
        router_logits, expert_mask: One pair for each sparse layer, each (T, E).
        modality_ids: `Modality` of each token, (B, S).
        attention_mask: 1 for real tokens, (B, S). None: all tokens count.
        per_modality: Balance the tokens of each modality apart.

    Raises:
        ValueError: If T is not B*S.
    """
    real = _real_tokens(router_logits[0], modality_ids, attention_mask)  # (T,)
    groups = real[:, None]
    if per_modality:
        groups = F.one_hot(modality_ids.reshape(-1), len(Modality)) * groups
    losses = [load_balancing_loss(*layer, groups) for layer in zip(router_logits, expert_mask, strict=True)]
    return torch.stack(losses).mean()


def router_z_loss(
    router_logits: Sequence[Tensor], *, modality_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Keep router logits small: mean over real tokens and layers of squared log-sum-exp.

    Zoph et al. 2022, ST-MoE, eq. 5 (https://arxiv.org/abs/2202.08906). Arguments as in `router_balance_loss`.
    """
    real = _real_tokens(router_logits[0], modality_ids, attention_mask)
    squares = torch.stack([logits.float().logsumexp(dim=-1).square() for logits in router_logits])  # (L, T)
    return (squares * real).sum() / (real.sum().clamp(min=1) * len(router_logits))


def _real_tokens(router_logits: Tensor, modality_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    mask = torch.ones_like(modality_ids) if attention_mask is None else attention_mask
    if router_logits.shape[0] != mask.numel() or mask.shape != modality_ids.shape:
        raise ValueError(
            f"Router logits of {router_logits.shape[0]} tokens do not fit modality ids of shape "
            f"{tuple(modality_ids.shape)} and an attention mask of shape {tuple(mask.shape)}."
        )
    return mask.reshape(-1).float()
