"""Which experts are kept: the highest scores, under what a user asks for and what the model's class can express."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ..errors import UniMoEError
from ..modality import Modality
from .expert_axis import Kept
from .folders import Losses
from .ranking import Ranking
from .saliency import Saliency, Score


@dataclass(frozen=True)
class Wish:
    """What is to be kept.

    Args:
        ratio: Share of the experts that go, above 0 and below 1.
        keep: Experts of each layer that stay. One of the two is given.
        score: What the experts are scored by; see `LayerUse.score`.
        quota: Modality key -> experts of each layer that stay because most of what it gets comes from them.
        protect: Layer -> experts that stay. Super experts always do.
        ranking: Layer -> all its experts, best first; instead of a score.
        multiple_of: What the number of experts that stay is a multiple of; serving engines refuse odd numbers.
    """

    ratio: float | None = None
    keep: int | None = None
    score: Score = "reap"
    quota: Mapping[str, int] | None = None
    protect: Mapping[int, Collection[int]] | None = None
    ranking: Ranking | None = None
    multiple_of: int = 1

    def scores(self, found: Saliency) -> Mapping[int, Tensor]:
        """Layer -> what its experts are ordered by, (E,)."""
        if self.ranking is None:
            return found.scores(self.score)
        return {layer: -torch.tensor(experts).argsort().double() for layer, experts in self.ranking.items()}

    def number(self, experts: int) -> int:
        """Experts of each layer that stay, of so many.

        Raises:
            UniMoEError: If nothing would go, or nothing stay.
        """
        if self.keep is not None and self.ratio is not None:
            raise UniMoEError("ratio", "both a ratio and a number to keep are given.", "Give one of them.")
        if self.keep is None and not 0 < (self.ratio or 0) < 1:
            cure = "Give the share of the experts that go, such as 0.25; or how many stay (keep)."
            raise UniMoEError("ratio", f"it is {self.ratio}, and lies between 0 and 1.", cure)
        number = self.keep if self.keep is not None else ceil(experts * (1 - (self.ratio or 0)) - 1e-9)
        number = ceil(number / self.multiple_of) * self.multiple_of
        if not 1 <= number < experts:
            problem = f"{number} of {experts} experts would stay"
            problem += f", as a multiple of {self.multiple_of}." if self.multiple_of > 1 else "."
            raise UniMoEError("keep", problem, f"Choose a number from 1 to {experts - 1}.")
        return number


def choose(found: Saliency, config: Any, wish: Wish) -> Kept:
    """Choose the experts that each sparse layer keeps.

    Experts of isolated modalities, of routing groups and of groups with a shared latent space keep their groups, each
    its part of the number.

    Args:
        found: How much they matter.
        config: Of the model.
        wish: What is to be kept.

    Returns:
        Layer -> experts, group by group, in each in ascending order.

    Raises:
        UniMoEError: If the wishes cannot all hold; the layer and the numbers are named.
    """
    text = config.get_text_config()
    if getattr(text, "router_type", None) == "hash":
        raise UniMoEError("router_type", "it is 'hash', and a table names the experts.", "Pass a router that scores.")
    if getattr(text, "expert_aliases", None):
        raise UniMoEError("expert_aliases", "experts were merged, and answer for several.", "Prune before merging.")
    number = wish.number(text.num_experts)
    least = text.num_experts_per_tok - (getattr(text, "num_null_experts", 0) or 0)
    if number < least:
        cure = "Keep as many, or first lower num_experts_per_tok."
        raise UniMoEError("keep", f"{number} experts would stay, and each token passes {least}.", cure)
    _check_protected(found, wish)
    groups = _groups(text)
    parts = _parts([len(group) for group in groups], number, text)
    forced = _forced(found, wish)
    scores = wish.scores(found)
    return {
        layer: [
            expert
            for group, part in zip(groups, parts, strict=True)
            for expert in _best(layer, scores[layer], group, part, forced[layer] & set(group))
        ]
        for layer in found.layers
    }


def lost(found: Saliency, kept: Kept) -> Losses:
    """Tell what each modality would lose: the share of its `assignments`, and of the `output` that experts gave it.

    Args:
        found: How much experts matter.
        kept: What stays. Modalities without a token are left out.
    """
    return {
        layer: {
            modality.key: {
                "assignments": 1 - float(use.count[modality, own].sum() / use.count[modality].sum()),
                "output": 1 - float(use.share[modality, own].sum()),
            }
            for modality in Modality
            if use.count[modality].any()
        }
        for layer, use in found.layers.items()
        for own in [list(kept[layer])]
    }


def _check_protected(found: Saliency, wish: Wish) -> None:
    for layer, experts in (wish.protect or {}).items():
        count = len(found.layers[layer].largest) if layer in found.layers else 0
        if wrong := [expert for expert in experts if not 0 <= expert < count]:
            sparse = ", ".join(map(str, found.layers))
            problem = f"layer {layer} has no expert {wrong[0]}" if count else f"layer {layer} has no experts"
            raise UniMoEError("protect", f"{problem}.", f"The sparse layers are {sparse}.")


def _groups(text: Any) -> list[list[int]]:
    """Experts that must keep their part of the number, as the configuration says."""
    every = list(range(text.num_experts))
    if getattr(text, "is_isolated", False):
        if _equal_groups(text) > 1:
            problem = "experts belong to modalities, and to groups that share a latent space, too."
            raise UniMoEError("expert_groups", problem, "Prune before experts become latent.")
        own = {tuple(sorted(group)) for group in (text.expert_groups or {}).values()}
        common = sorted(set(every) - {expert for group in own for expert in group})
        return [*([common] if common else []), *map(list, sorted(own))]
    count = _equal_groups(text)
    size = len(every) // count
    return [every[number * size : (number + 1) * size] for number in range(count)]


def _equal_groups(text: Any) -> int:
    latent = text.expert_latent_groups if getattr(text, "expert_type", None) == "latent" else 1
    return max(getattr(text, "n_group", 1) or 1, latent)


def _parts(sizes: list[int], number: int, text: Any) -> list[int]:
    """Experts that each group keeps: by its size, at least one, together the number."""
    equal = _equal_groups(text)
    if len(sizes) == equal and number % equal:
        cure = f"Keep a multiple of {equal}."
        raise UniMoEError("keep", f"{number} experts cannot be shared out to {equal} groups of the same size.", cure)
    if number < len(sizes):
        cure = f"Keep at least {len(sizes)}."
        raise UniMoEError("keep", f"{number} experts cannot be shared out to {len(sizes)} groups.", cure)
    ideal = [size * number / sum(sizes) for size in sizes]
    parts = [max(1, int(share)) for share in ideal]
    while (gap := number - sum(parts)) != 0:
        step = 1 if gap > 0 else -1
        open_ones = [place for place, part in enumerate(parts) if 1 <= part + step <= sizes[place]]
        parts[max(open_ones, key=lambda place: step * (ideal[place] - parts[place]))] += step
    return parts


def _forced(found: Saliency, wish: Wish) -> dict[int, set[int]]:
    """Experts of each layer that stay whatever their score: protected, super, and of a modality's quota."""
    stays = {layer: set(experts) for layer, experts in found.super_experts().items()}
    for layer, experts in (wish.protect or {}).items():
        stays[layer] |= set(experts)
    for key, count in (wish.quota or {}).items():
        for layer, use in found.layers.items():
            share = use.share[Modality.from_key(key)]
            if not share.any():
                problem = f"no calibration row has {key}, so that its quota cannot be met."
                raise UniMoEError("quota", problem, "Add such rows, or leave the quota out.")
            stays[layer] |= set(share.argsort(descending=True, stable=True)[:count].tolist())
    return stays


def _best(layer: int, scores: Tensor, group: list[int], number: int, forced: set[int]) -> list[int]:
    """Experts of a group that stay: the forced ones, then by score; of equal ones the first."""
    if len(forced) > number:
        problem = f"{len(forced)} experts have to stay (protected, super or of a quota), and {number} can."
        raise UniMoEError(f"layer {layer}", problem, "Keep more, protect fewer, or lower the quota.")
    order = sorted(group, key=lambda expert: (expert not in forced, -float(scores[expert]), expert))
    return sorted(order[:number])


__all__ = ["Wish", "choose", "lost"]
