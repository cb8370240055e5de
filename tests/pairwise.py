"""Few cases out of a product of factors in which every two values that can meet do."""

from collections.abc import Callable, Hashable, Iterable
from itertools import combinations, product
from typing import Any

import pytest

Case = tuple[Any, ...]


def pairs(case: Case) -> set[Hashable]:
    """Values of every two factors of a case, with the factors' numbers."""
    return set(combinations(enumerate(case), 2))


def pairwise_array(*factors: Iterable[Any], legal: Callable[[Case], bool] = lambda case: True) -> list[Case]:
    """Choose cases greedily, always the one with the most pairs that are still missing; the same each time.

    Args:
        factors: Values of each.
        legal: Whether a case can be; pairs that occur in no legal case are not asked for.
    """
    cases = {case: pairs(case) for case in product(*factors) if legal(case)}
    missing = set().union(*cases.values())
    chosen = []
    while missing:
        chosen.append(max(cases, key=lambda case: len(cases[case] & missing)))
        missing -= cases[chosen[-1]]
    return chosen


def pairs_in_fast_tests(*factors: Iterable[Any], legal: Callable[[Case], bool] = lambda case: True) -> list[Any]:
    """All cases, for `pytest.mark.parametrize`: those of the array of pairs, and marked as slow the others."""
    factors = tuple(tuple(factor) for factor in factors)
    chosen = pairwise_array(*factors, legal=legal)
    others = [case for case in product(*factors) if legal(case) and case not in chosen]
    return [*chosen, *(pytest.param(*case, marks=pytest.mark.slow) for case in others)]
