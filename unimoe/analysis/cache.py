"""What a cache of experts would do on a trace: hits of LRU, and of the best that any cache of its size could do.

Simulated, per layer; offloading itself is accelerate's. Each step asks for its experts one after the other.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..errors import UniMoEError

Asked = Sequence[Sequence[int]]
"""Experts of each step, such as those that the tokens of a forward pass chose in a layer."""


class CacheReport(NamedTuple):
    """Hits of caches of one size.

    Args:
        asked: Experts asked for, each once in a step.
        distinct: Different ones among them: misses that no cache avoids.
        lru: Hits if the one that was used longest ago goes.
        belady: Hits if the one that is used latest again goes (Belady 1966): the most that can be.
        kept: Share of the experts of a step that the step before had asked for, too: local consistency.
    """

    asked: int
    distinct: int
    lru: int
    belady: int
    kept: float


def cache_report(asked: Asked, size: int) -> CacheReport:
    """Simulate caches of experts of a layer.

    Args:
        asked: Experts of each step, in order; repeated ones of a step count once.
        size: Experts that a cache holds.

    Raises:
        UniMoEError: If it holds none.
    """
    if size < 1:
        raise UniMoEError("size", f"a cache of {size} experts holds none.", "Give at least 1.")
    steps = [list(dict.fromkeys(step)) for step in asked]
    flat = [expert for step in steps for expert in step]
    again = [len(set(step) & set(before)) for before, step in pairwise(steps)]
    later = sum(map(len, steps[1:]))
    return CacheReport(len(flat), len(set(flat)), _lru(flat, size), _belady(flat, size), sum(again) / max(later, 1))


def _lru(asked: Sequence[int], size: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for expert in asked:
        hits += expert in held
        held[expert] = None
        held.move_to_end(expert)
        if len(held) > size:
            held.popitem(last=False)
    return hits


def _belady(asked: Sequence[int], size: int) -> int:
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place in reversed(range(len(asked))):
        places[asked[place]].append(place)  # the next one last
    held: set[int] = set()
    hits = 0
    for expert in asked:
        places[expert].pop()
        hits += expert in held
        held.add(expert)  # it computes, so that it is there
        if len(held) > size:
            held.remove(max(held - {expert}, key=lambda own: places[own][-1] if places[own] else len(asked)))
    return hits


__all__ = ["CacheReport", "cache_report"]
