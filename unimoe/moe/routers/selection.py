"""Which experts a token may and does get: limits by group, probability mass, capacity, and experts that choose; and
scores of reserved experts, and weights by near ties.

Pure functions. T tokens, E experts (or router targets).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def limit_to_groups(ranking: Tensor, num_groups: int, kept: int) -> Tensor:
    """Close all experts but those of each token's best groups (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

    Args:
        ranking: Scores (T, E); -inf for experts that are closed already.
        num_groups: Groups of neighbouring experts, at least two in each.
        kept: How many groups stay open: those with the largest sum of their two best scores.

    Returns:
        The ranking, with -inf in the other groups (0 would let a closed expert win over a negative score).
    """
    by_group = ranking.unflatten(-1, (num_groups, -1))  # (T, groups, E / groups)
    best = by_group.topk(2, dim=-1).values.sum(dim=-1).topk(kept, dim=-1).indices  # (T, kept)
    is_open = torch.zeros(by_group.shape[:-1], dtype=torch.bool, device=ranking.device).scatter(-1, best, True)
    return by_group.masked_fill(~is_open[..., None], float("-inf")).flatten(-2)


def smallest_prefix(ordered: Tensor, mass: float) -> Tensor:
    """Count how many of the largest probabilities it takes to reach a mass.

    Args:
        ordered: Probabilities in descending order, (T, E).
        mass: In (0, 1]. At 1 all count, whatever rounding makes of their sum.

    Returns:
        Numbers from 1 to E, (T,).
    """
    number = ordered.shape[-1]
    if mass >= 1:
        return torch.full(ordered.shape[:-1], number, device=ordered.device)
    return (1 + (ordered.cumsum(dim=-1) < mass).sum(dim=-1)).clamp(max=number)


def near_tie_weights(logits: Tensor, targets: Tensor, *, epsilon: float) -> Tensor:
    """Weigh each choice by its softmax over those alone that nearly tie with it and were not chosen before it.

    Code of Uni-MoE-2.0 (arXiv 2511.12609) in evaluation: with z of the choice and z_i of another target, that one
    nearly ties if (z - z_i) / max(|z|, |z_i|) is at most twice epsilon.

    Args:
        logits: (T, E); -inf where a target is closed.
        targets: Choices in descending order of their logits, (T, K); E where nothing was chosen.
        epsilon: Half the relative gap.

    Returns:
        (T, K), not renormalised: 1 where nothing comes near a choice, 0 where nothing was chosen.
    """
    weights, left = [], F.pad(logits, (0, 1), value=float("-inf"))  # (T, E+1)
    for target in targets.split(1, dim=-1):
        own = left.gather(-1, target)  # (T, 1)
        with torch.no_grad():  # 0 / 0 is no gap: equal logits tie
            gap = (own - left) / torch.maximum(own.abs(), left.abs())
        chosen = ~own.isneginf()
        near = torch.where(chosen, left.masked_fill(gap > 2 * epsilon, float("-inf")), 0.0)
        weights.append(near.softmax(dim=-1).gather(-1, target) * chosen)
        left = left.scatter(-1, target, float("-inf"))
    return torch.cat(weights, dim=-1)


def score_apart(
    score: Callable[[Tensor], Tensor],
    experts: Tensor,
    reserved: Sequence[Tensor],
    nulls: Tensor,
    *,
    to_all: Sequence[int] = (),
) -> Tensor:
    """Score each token's targets as if the experts reserved for others were not there, down to the last bit.

    How many closed targets stand beside them would change the order in which a softmax sums up.

    Args:
        score: Logits (T, C) -> scores (T, C).
        experts: Logits of the experts that are not reserved, (T, E').
        reserved: Those of the experts of each modality or task that has some, (T, E'') each; -inf for tokens of
            others. A token may choose those of one modality, beside those that are open to all.
        nulls: Those of null experts, (T, N).
        to_all: Which of the reserved are open to all tokens, by their number.

    Returns:
        (T, E+N), with 0 at experts reserved for others.
    """

    def scored(*places: int) -> Tensor:
        parts = [experts, *(reserved[place] for place in places), nulls]
        first, *middle, last = score(torch.cat(parts, dim=-1)).split([part.shape[-1] for part in parts], dim=-1)
        found = dict(zip(places, middle, strict=True))
        filled = [found.get(place, torch.zeros_like(part)) for place, part in enumerate(reserved)]
        return torch.cat([first, *filled, last], dim=-1)

    scores = scored(*to_all)
    for place, own in enumerate(reserved):
        if place not in to_all:
            scores = torch.where(own[:, :1].isneginf(), scores, scored(*to_all, place))
    return scores


def fair_load(is_open: Tensor, experts_per_token: int) -> Tensor:
    """Count how many tokens each expert would have if every token spread evenly over the experts open to it.

    Args:
        is_open: Which experts may take which tokens, bool, (T, E); none for padding.
        experts_per_token: K.

    Returns:
        float64, (E,); K * T / E if all experts are open to all tokens.
    """
    share = is_open.double() / is_open.sum(dim=-1, keepdim=True).clamp(min=1)
    return experts_per_token * share.sum(dim=0)


def within_capacity(gates: Tensor, chosen: Tensor, *, capacity: Tensor, by_weight: bool) -> Tensor:
    """Fill the capacity of each expert with the first tokens of a queue.

    Args:
        gates: Weight of each expert for each token, (T, E).
        chosen: Which experts each token chose, bool, (T, E); none for padding.
        capacity: Tokens of each expert at most, rounded up, (E,).
        by_weight: Queue by the largest weight of each token (batch-prioritised, Riquelme et al. 2021,
            arXiv 2106.05974, section 4.1), else by position. Equal weights: by position.

    Returns:
        Which choices are within it, bool, (T, E).
    """
    capacity = _round_up(capacity)
    if not by_weight:
        return chosen & (chosen.cumsum(dim=0) <= capacity)
    queue = gates.masked_fill(~chosen, 0.0).amax(dim=-1).sort(descending=True, stable=True).indices  # (T,)
    queued = chosen[queue]
    return torch.zeros_like(chosen).index_copy(0, queue, queued & (queued.cumsum(dim=0) <= capacity))


def expert_choice(scores: Tensor, is_open: Tensor, *, experts_per_token: int) -> Tensor:
    """Let every expert take its best tokens (Zhou et al. 2022, arXiv 2202.09368).

    Args:
        scores: (T, E).
        is_open: Which experts may take which tokens, bool, (T, E); none for padding.
        experts_per_token: Mean number of experts of a token (K).

    Returns:
        Which expert takes which tokens, bool, (T, E): as many as its fair load, rounded up; of equal scores the first.
    """
    capacity = _round_up(fair_load(is_open, experts_per_token))
    order = scores.masked_fill(~is_open, float("-inf")).sort(dim=0, descending=True, stable=True).indices
    numbers = torch.arange(len(scores), device=scores.device)[:, None].expand_as(order)
    return is_open & (torch.empty_like(order).scatter_(0, order, numbers) < capacity)


def _round_up(capacity: Tensor) -> Tensor:
    return (capacity - 1e-6).ceil()  # a sum of thirds must not become one token more


__all__ = [
    "expert_choice",
    "fair_load",
    "limit_to_groups",
    "near_tie_weights",
    "score_apart",
    "smallest_prefix",
    "within_capacity",
]
