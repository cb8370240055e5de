"""Differences, p values and Holm's correction: what they say of chance is as often true as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.compare.paired import Difference, decide, holm, p_value, paired_difference, seed_deviations
from evaluation.scores.intervals import bootstrap


def compare(right: np.ndarray, other: np.ndarray, samples: int = 2000) -> Difference:
    """Two variants by the rows that each of their seeds got right, (S, rows)."""

    def draw(rows: np.ndarray) -> np.ndarray:
        scores = np.stack([rows, np.ones(len(rows))], axis=-1).astype(float)
        return bootstrap(scores, [str(row) for row in range(len(rows))], samples=samples, seed=0)

    draws, others = (np.stack([draw(rows) for rows in variant]) for variant in (right, other))
    return paired_difference(right.mean(axis=1), other.mean(axis=1), draws, others)


def rows_right(*shares: float, rows: int = 400) -> np.ndarray:
    return np.arange(rows) < np.array(shares)[:, None] * rows


def test_equal_answers_show_nothing() -> None:
    found = compare(rows_right(0.6), rows_right(0.6))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_p_value_and_the_interval_agree() -> None:
    for share in (0.51, 0.52, 0.55, 0.6):
        found = compare(rows_right(share), rows_right(0.5))
        assert (found.p < 0.05) == (found.low > 0), share
        assert found.value == pytest.approx(share - 0.5, abs=0.003)


def test_pairing_takes_out_what_rows_share() -> None:
    """Both are right in about half of the rows, the same ones: a small difference shows at once."""
    paired = compare(rows_right(0.55), rows_right(0.5))
    unpaired = compare(rows_right(0.55), rows_right(0.5)[:, ::-1])
    assert paired.p < 0.01 < unpaired.p
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)


def test_one_seed_says_nothing_of_seeds_and_several_do() -> None:
    one = compare(rows_right(0.7), rows_right(0.5))
    assert (one.low, one.high, one.p) == (one.rows_low, one.rows_high, one.rows_p)
    three = compare(rows_right(0.9, 0.5, 0.7), rows_right(0.5, 0.5, 0.5))
    assert three.by_seed == pytest.approx((0.4, 0, 0.2))
    assert three.low < 0 < three.rows_low and three.rows_p < 0.05 < three.p


def test_seeds_are_paired_in_their_order() -> None:
    alike = compare(rows_right(0.8, 0.4, 0.6), rows_right(0.7, 0.3, 0.5))
    mixed = compare(rows_right(0.8, 0.4, 0.6), rows_right(0.3, 0.5, 0.7))
    assert alike.value == pytest.approx(mixed.value) and alike.p < 0.05 < mixed.p


def test_deviations_of_seeds_are_those_of_students_t() -> None:
    drawn = seed_deviations(np.array([0.2, 0.4, 0.6]), samples=200_000)
    assert np.quantile(drawn, 0.975) == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=0.03)
    with pytest.raises(ValueError, match="1 seed"):
        seed_deviations(np.array([0.2]), samples=10)


def test_unlike_variants_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        paired_difference(np.zeros(2), np.zeros(1), np.zeros((2, 9)), np.zeros((1, 9)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_a_difference_a_p_value_below_5_percent_is_as_rare_as_it_says(seeds: int) -> None:
    """And one below a half is not much rarer; it may be somewhat, as seeds and rows are added (`seed_deviations`)."""
    generator, found = np.random.default_rng(0), []
    for _ in range(100):
        ease = generator.random(100)  # rows are easy or hard for both
        variants = [
            generator.random((seeds, 100)) < ease + 0.1 * (seeds > 1) * generator.standard_normal((seeds, 1))
            for _ in range(2)
        ]
        found.append(compare(*variants, samples=300).p)
    assert np.mean(np.array(found) < 0.05) <= 0.09
    assert 0.3 <= np.mean(np.array(found) < 0.5) <= 0.6


def test_a_p_value_is_never_0_and_draws_that_are_no_numbers_do_not_count() -> None:
    assert p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert p_value(np.array([1.0] * 9 + [np.nan] * 90)) == pytest.approx(2 / 10)
    assert p_value(np.array([-1.0, 1.0] * 50)) == 1.0


def test_holms_correction_is_that_of_the_books() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([0.04]) == [0.04]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_correction_keeps_order_and_never_helps(values: list[float]) -> None:
    corrected = holm(values)
    assert all(one <= other <= 1 for one, other in zip(values, corrected, strict=True))
    order = sorted(range(len(values)), key=lambda place: values[place])
    assert [corrected[place] for place in order] == sorted(corrected)


@pytest.mark.parametrize(
    ("value", "p", "higher", "said"),
    [
        (0.1, 0.01, True, "better"),
        (-0.1, 0.01, True, "worse"),
        (-0.1, 0.01, False, "better"),
        (0.1, 0.01, False, "worse"),
        (0.1, 0.05, True, "no difference shown"),
        (0.0, 0.01, True, "no difference shown"),
    ],
)
def test_the_decision_knows_what_is_better(value: float, p: float, higher: bool, said: str) -> None:
    assert decide(value, p, higher_is_better=higher) == said
