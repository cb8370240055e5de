"""Merge the experts of a layer: which of them form a group, and the average of each group.

MC-SMoE (Li et al. 2024, arXiv 2310.01334): the average is weighed by use, and channels are aligned to those of the
expert that is used most. HC-SMoE (Chen et al. 2024, arXiv 2410.08589): groups are clusters of average linkage. The
router stays as it is: a merged expert answers for its group (`expert_aliases` of `MoEConfig`).
Pure functions. E experts, E' after merging, I expert width, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UniMoEError
from .matching import match_channels


def weight_features(gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Lay out all weights of each expert in a row, (E, 3*I*D), for `cosine_similarity`.

    Copies whose channels stand in another order look different; their outputs do not.

    Args:
        gate: (E, I, D).
        up: (E, I, D).
        down: (E, D, I).
    """
    return torch.cat([weights.flatten(1) for weights in (gate, up, down)], dim=1)


def group_experts(similarity: Tensor, number: int) -> list[int]:
    """Join the two groups whose members are most alike on average, until a number of groups is left.

    Args:
        similarity: Of each two experts, (E, E), symmetric: of `unimoe.analysis.diversity`, say.
        number: E'.

    Returns:
        Group of each expert, E of them below E', as `expert_aliases` has them: in the order of their first members.

    Raises:
        UniMoEError: If there are not so many experts.
    """
    size = len(similarity)
    if not 1 <= number <= size:
        raise UniMoEError(f"{size} experts cannot form {number} groups. Choose a number from 1 to {size}.")
    groups = [[expert] for expert in range(size)]
    sums = similarity.double().clone()  # over the pairs of members of two groups
    while len(groups) > number:
        members = torch.tensor([len(group) for group in groups], device=sums.device)
        means = sums / torch.outer(members, members)
        is_pair = torch.ones_like(means, dtype=torch.bool).triu(diagonal=1)
        first, second = divmod(int(means.masked_fill(~is_pair, float("-inf")).argmax()), len(groups))
        groups[first] += groups.pop(second)
        sums[first] += sums[second]
        sums[:, first] += sums[:, second]
        rest = [group for group in range(len(sums)) if group != second]
        sums = sums[rest][:, rest]
    return [next(number for number, group in enumerate(groups) if expert in group) for expert in range(size)]


@torch.no_grad()
def merge_experts(
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    aliases: Sequence[int],
    *,
    counts: Tensor | None = None,
    align: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the experts of each group. Copies come out as they are, bit for bit.

    Args:
        gate: (E, I, D).
        up: (E, I, D).
        down: (E, D, I).
        aliases: Group of each expert, as `group_experts` gives them.
        counts: How often each expert is used, (E,): its weight in the average. None, or a group that nobody uses: the
            mean.
        align: Put the channels of each expert in the order in which they are nearest to those of the most used one.

    Returns:
        The same three of the merged experts, (E', ...), in the dtype given.
    """
    channels = torch.cat([gate, up, down.transpose(1, 2)], dim=-1)  # (E, I, 3D)
    used = torch.ones(len(gate)) if counts is None else counts
    groups = [[expert for expert, own in enumerate(aliases) if own == group] for group in range(max(aliases) + 1)]
    merged = torch.stack([_average(channels[group], used[group].double(), align) for group in groups])
    gates, ups, downs = merged.to(gate.dtype).chunk(3, dim=-1)
    return gates.contiguous(), ups.contiguous(), downs.transpose(1, 2).contiguous()


def _average(channels: Tensor, used: Tensor, align: bool) -> Tensor:
    """Average experts whose channels are (M, I, 3D), float64, by their use (M,).

    What differs from the most used one is averaged, and is exactly 0 for its copies.
    """
    weights = (used if used.sum() > 0 else torch.ones_like(used)).to(channels.device)
    first = int(weights.argmax())
    most_used = channels[first].double()
    change = torch.zeros_like(most_used)
    for place, (own, weight) in enumerate(zip(channels, weights / weights.sum(), strict=True)):
        if place == first:
            continue
        aligned = own[match_channels(most_used, own)] if align else own
        change += weight * (aligned - most_used)
    return most_used + change


__all__ = ["group_experts", "merge_experts", "weight_features"]
