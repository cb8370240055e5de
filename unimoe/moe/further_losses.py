"""Router losses beyond balance and z-loss: variation, entropy, orthogonality, score variance.

All are in float32. `token_groups` (T, G) holds 1 where a token belongs to a group; padding belongs to none. Dimensions
in front of (T, E) are layers, and what a loss returns has them too.
T tokens, E router targets (experts and null experts), K experts per token, G groups of tokens, D hidden size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .statistics import group_sums

# Added to squared norms and means that divide.
_EPSILON = 1e-10


def mean_over_groups(per_group: Tensor, tokens: Tensor) -> Tensor:
    """Average values (..., G) over the groups that have tokens, by their numbers (G,); 0 if none has."""
    present = (tokens > 0).to(per_group.dtype)
    return (per_group * present).sum(dim=-1) / present.sum().clamp(min=1)


def variation_loss(weights: Tensor, token_groups: Tensor, *, is_open: Tensor | None = None) -> Tensor:
    """Square the coefficient of variation of what each expert gets from a group of tokens; 0 when all get the same.

    Shazeer et al. 2017 (https://arxiv.org/abs/1701.06538): of the gates it is the importance loss (eq. 6-7), of the
    probabilities that a token chooses an expert, were its noise drawn again, the load loss (eq. 8-11). They speak of
    one group; here only the targets open to a group are compared. E - 1 if one target of E gets all.

    Args:
        weights: Gates or probabilities of the targets, (..., T, E).
        token_groups: (T, G).
        is_open: Targets that a token may choose, bool, (..., T, E). None: all.

    Returns:
        Mean over the groups that have tokens, (...); dimensionless.
    """
    is_open = torch.ones_like(weights, dtype=torch.bool) if is_open is None else is_open
    opened = (group_sums(is_open, token_groups) > 0).float()  # (..., G, E)
    number = opened.sum(dim=-1, keepdim=True).clamp(min=1)
    sums = group_sums(weights, token_groups) * opened
    mean = sums.sum(dim=-1, keepdim=True) / number
    variance = ((sums - mean).square() * opened).sum(dim=-1, keepdim=True) / number
    per_group = variance / (mean.square() + _EPSILON)
    return mean_over_groups(per_group.squeeze(-1), token_groups.sum(dim=0))


def entropy_loss(router_probs: Tensor, token_groups: Tensor) -> Tensor:
    """Make each token certain of its experts: mean over the tokens of a group of the entropy of its probabilities.

    The local term of LIMoE (Mustafa et al. 2022, https://arxiv.org/abs/2206.02770), and what keeps the
    sets of a top-p router small (Huang et al. 2024, https://arxiv.org/abs/2403.07652).

    Args:
        router_probs: (..., T, E); a row sums to 1.
        token_groups: (T, G).

    Returns:
        Mean over the groups that have tokens, (...); nats.
    """
    tokens = token_groups.sum(dim=0)
    sums = group_sums(_entropy(router_probs.float())[..., None], token_groups)  # (..., G, 1)
    return mean_over_groups(sums.squeeze(-1) / tokens.clamp(min=1), tokens)


def global_entropy_loss(router_probs: Tensor, token_groups: Tensor, *, min_experts: float | None = None) -> Tensor:
    """Make the tokens of a group use many experts: minus the entropy of their mean probabilities.

    The global term of LIMoE (https://arxiv.org/abs/2206.02770), whose groups are the modalities. Without
    threshold, `entropy_loss` plus this is minus the mutual information of token and expert within a group.

    Args:
        router_probs: (..., T, E); a row sums to 1.
        token_groups: (T, G).
        min_experts: S of the threshold max(0, log S - entropy): the loss ends once a group spreads as widely as evenly
            over S experts. None: no threshold.

    Returns:
        Mean over the groups that have tokens, (...); nats.
    """
    tokens = token_groups.sum(dim=0)
    entropy = _entropy(group_sums(router_probs, token_groups) / tokens.clamp(min=1)[:, None])  # (..., G)
    return mean_over_groups(-entropy if min_experts is None else F.relu(math.log(min_experts) - entropy), tokens)


def score_variance_loss(router_probs: Tensor, token_groups: Tensor, *, is_open: Tensor | None = None) -> Tensor:
    """Make experts tell tokens apart: minus the variance of each target's score over the tokens of a group.

    Guo et al. 2025, eq. 7 (https://arxiv.org/abs/2505.22323), who sum over tokens where this takes the mean, so that
    the coefficient does not depend on the size of the batch.

    Args:
        router_probs: (..., T, E).
        token_groups: (T, G).
        is_open: Targets that a token may choose, bool, (..., T, E). None: all.

    Returns:
        Mean over open targets, then over the groups that have tokens, (...); dimensionless, never positive.
    """
    tokens = token_groups.sum(dim=0)
    is_open = torch.ones_like(router_probs, dtype=torch.bool) if is_open is None else is_open
    open_targets = (group_sums(is_open, token_groups) > 0).sum(dim=-1).clamp(min=1)  # (..., G)
    means = group_sums(router_probs, token_groups) / tokens.clamp(min=1)[:, None]  # (..., G, E)
    # a token is in one group at most; where it is in none, its deviation counts nowhere
    with torch.autocast(router_probs.device.type, enabled=False):
        deviations = router_probs.float() - token_groups.float() @ means  # (..., T, E)
    variance = group_sums(deviations.square(), token_groups).sum(dim=-1) / tokens.clamp(min=1)
    return mean_over_groups(-variance / open_targets, tokens)


def expert_overlap(
    expert_outputs: Tensor, top_k_index: Tensor, *, num_experts: int, attention_mask: Tensor | None = None
) -> Tensor:
    """Make the experts of one token answer differently: squared projection of each one's output on each other's.

    Guo et al. 2025, eq. 6 (https://arxiv.org/abs/2505.22323), without the projection of an output on itself, and as a
    mean over tokens where they sum. It falls with the size of the outputs, too. Orthogonality losses are reported to
    depend on the data and sometimes to do harm (https://arxiv.org/abs/2605.06415): off unless asked for.

    Args:
        expert_outputs: Unweighted output of each chosen expert, (T, K, D).
        top_k_index: These experts, (T, K); an index of `num_experts` or more is no expert's, and whatever its output
            holds takes no part.
        num_experts: How many experts there are.
        attention_mask: False for padding, (T,). None: all tokens are real.

    Returns:
        Sum over ordered pairs of chosen experts, mean over real tokens; scalar, in squared units of the outputs.
    """
    outputs = expert_outputs.float().masked_fill((top_k_index >= num_experts)[..., None], 0.0)
    inner = _inner_products(outputs)  # (T, K, K)
    squares = inner.diagonal(dim1=-2, dim2=-1)[:, None, :]  # (T, 1, K): squared norm of what is projected on
    projections = (inner / (squares + _EPSILON)).square() * squares
    others = 1 - torch.eye(inner.shape[-1], device=inner.device)
    per_token = (projections * others).sum(dim=(-2, -1))
    weight = torch.ones_like(per_token) if attention_mask is None else attention_mask.reshape(-1).float()
    return (per_token * weight).sum() / weight.sum().clamp(min=1)


def orthogonality_loss(router_weight: Tensor, *, groups: int = 1) -> Tensor:
    """Make the rows of a router orthogonal: mean square of the entries of W W^T - I, with rows of length 1.

    ERNIE 4.5's router orthogonalisation, as in Baidu's public training code; its coefficient is not known. 2/E^2 if
    two of E otherwise orthogonal rows are the same. Reported to be sometimes harmful: see `expert_overlap`.

    Args:
        router_weight: (..., E, D); further dimensions are further routers.
        groups: Compare rows only within this many groups of neighbours. Divides E.

    Returns:
        Scalar, dimensionless.
    """
    rows = F.normalize(router_weight.float(), dim=-1).unflatten(-2, (groups, -1))  # (..., groups, E/groups, D)
    return _difference_from_identity(rows).square().mean()


def gram_loss(router_weight: Tensor) -> Tensor:
    """Keep similar tokens' logits similar by a router with orthonormal rows: mean absolute entry of W W^T - I.

    Omi et al. 2025, SimBal (https://arxiv.org/abs/2506.14038), who sum the entries, and train without a balance loss.
    Rows are not normalised: their lengths are pulled to 1.

    Args:
        router_weight: (..., E, D); further dimensions are further routers.

    Returns:
        Scalar, in squared units of the weights.
    """
    return _difference_from_identity(router_weight.float()).abs().mean()


def _difference_from_identity(rows: Tensor) -> Tensor:
    return _inner_products(rows) - torch.eye(rows.shape[-2], device=rows.device)


def _inner_products(rows: Tensor) -> Tensor:
    """Multiply each two rows (..., R, D): (..., R, R)."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.transpose(-2, -1)


def _entropy(probabilities: Tensor) -> Tensor:
    """Compute the entropy in nats of each row; a probability of 0 adds 0, and its gradient is finite."""
    return -(probabilities * probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()).sum(dim=-1)
