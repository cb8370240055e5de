"""Arrays of pairs are complete and small."""

from itertools import product

from _pytest.mark.structures import ParameterSet
from pairwise import pairs, pairs_in_fast_tests, pairwise_array

FACTORS = ("abcd", "xyz", range(3), (True, False))


def test_every_two_values_that_can_meet_do() -> None:
    def legal(case: tuple) -> bool:
        return case[:2] != ("a", "x")

    array = pairwise_array(*FACTORS, legal=legal)
    legal_cases = [case for case in product(*FACTORS) if legal(case)]
    assert set().union(*map(pairs, array)) == set().union(*map(pairs, legal_cases))
    assert set(array) <= set(legal_cases)


def test_an_array_is_small_and_always_the_same() -> None:
    assert len(pairwise_array(*FACTORS)) <= 4 * 3 + 2  # of 72; no fewer than 12 can do
    assert pairwise_array(*FACTORS) == pairwise_array(*FACTORS)


def test_the_other_cases_are_slow() -> None:
    cases = pairs_in_fast_tests(*FACTORS)
    slow = [case for case in cases if isinstance(case, ParameterSet)]
    values = [tuple(case.values) if isinstance(case, ParameterSet) else case for case in cases]
    assert set(values) == set(product(*FACTORS)) and len(values) == len(set(values))
    assert len(cases) - len(slow) == len(pairwise_array(*FACTORS))
    assert all(mark.name == "slow" for case in slow for mark in case.marks)
