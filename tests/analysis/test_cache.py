"""Caches of experts on a trace: no cache beats Belady's, and what is asked for first is missed by all."""

import random
from itertools import product

import pytest

from unimoe.analysis.cache import cache_report
from unimoe.errors import UniMoEError


def trace(seed: int, experts: int = 6, steps: int = 40) -> list[list[int]]:
    generator = random.Random(seed)
    return [generator.sample(range(experts), 2) for _ in range(steps)]


@pytest.mark.parametrize("seed", range(3))
def test_lru_hits_no_more_than_belady_and_a_whole_cache_misses_each_expert_once(seed: int) -> None:
    for size in range(1, 7):
        report = cache_report(trace(seed), size)
        assert report.lru <= report.belady <= report.asked - report.distinct
    assert report.lru == report.belady == report.asked - report.distinct == 80 - 6


def best(asked: list[int], size: int) -> int:
    """Most hits of any cache, by trying every choice of what goes."""
    states = {frozenset[int](): 0}
    for expert in asked:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            wider = held | {expert}
            options = [wider] if len(wider) <= size else [wider - {gone} for gone in held - {expert}]
            for option in options:
                following[option] = max(following.get(option, 0), hits + (expert in held))
        states = following
    return max(states.values())


def test_belady_is_the_best_of_all_choices() -> None:
    for seed, size in product(range(3), (1, 2, 3)):
        asked = trace(seed, experts=5, steps=10)
        flat = [expert for step in asked for expert in step]
        assert cache_report(asked, size).belady == best(flat, size)


def test_consistency_is_what_a_step_shares_with_the_one_before() -> None:
    assert cache_report([[0, 1], [1, 2], [1, 2], [3, 3]], 2).kept == pytest.approx((1 + 2 + 0) / 5)
    with pytest.raises(UniMoEError, match="a cache of 0 experts holds none"):
        cache_report([[0]], 0)
