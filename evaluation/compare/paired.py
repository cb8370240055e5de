"""Differences of two evaluations on the same rows: interval, p value, and the correction for many. Pure functions.

Two things are left to chance: which rows a benchmark happens to have, and which seed a model was trained from. The
bootstrap answers for the rows. Seeds are few, and drawing three of them with replacement says too little of how seeds
differ: a ninth of such draws takes one seed three times, and their variance comes out a third too small. Student's t
answers for the seeds instead. Both are kept apart, and added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..scores.intervals import interval

Floats = NDArray[np.float64]
Decision = Literal["better", "worse", "no difference shown"]

LEVEL = 0.05
"""A difference is called shown if its corrected p value is below this."""


@dataclass(frozen=True)
class Difference:
    """How much more one variant scores than another, in the metric's unit.

    Args:
        value: Mean over the seeds.
        low, high: 95 % interval: other rows and, with several seeds, other seeds.
        p: Two-sided p value of the same.
        rows_low, rows_high, rows_p: The same for other rows alone: for these very models.
        by_seed: Difference of each seed.
    """

    value: float
    low: float
    high: float
    p: float
    rows_low: float
    rows_high: float
    rows_p: float
    by_seed: tuple[float, ...]


def paired_difference(values: Floats, others: Floats, draws: Floats, other_draws: Floats) -> Difference:
    """Compare the runs of two variants, seed by seed and row by row.

    Seeds are paired in their order. That is what runs need that share something of a seed, such as a start; where
    they share nothing any pairing is as good as another.

    Args:
        values: Scores of the first variant from each seed, (S,).
        others: Scores of the second variant.
        draws: Bootstrap values of the first, (S, samples).
        other_draws: Bootstrap values of the second, of the same rows.

    Returns:
        The first minus the second. With one seed (S = 1) nothing is said of other seeds.

    Raises:
        ValueError: If the two variants differ in seeds or samples.
    """
    if values.shape != others.shape or draws.shape != other_draws.shape or len(values) != len(draws):
        raise ValueError(
            f"Found values {values.shape} and {others.shape} with draws {draws.shape} and {other_draws.shape}; "
            "expected as many seeds, and as many samples, of both variants."
        )
    by_seed = values - others  # (S,)
    by_rows = (draws - other_draws).mean(axis=0)  # (samples,)
    total = by_rows + seed_deviations(by_seed, samples=len(by_rows)) if len(by_seed) > 1 else by_rows
    low, high = interval(total)
    rows_low, rows_high = interval(by_rows)
    return Difference(
        value=float(by_seed.mean()),
        low=low,
        high=high,
        p=p_value(total),
        rows_low=rows_low,
        rows_high=rows_high,
        rows_p=p_value(by_rows),
        by_seed=tuple(by_seed.tolist()),
    )


def seed_deviations(by_seed: Floats, *, samples: int, seed: int = 1) -> Floats:
    """Draw how far the mean over these seeds may be from the mean over all seeds.

    s / sqrt(S) times Student's t with S - 1 degrees of freedom, where s is the standard deviation of the S values.
    What rows and seeds do together is in s as well as in a bootstrap over rows, so their sum is a little too wide.

    Args:
        by_seed: Value from each seed, (S,).
        samples: Draws.
        seed: Of the draws.

    Returns:
        Deviations (samples,).

    Raises:
        ValueError: If there are fewer than two seeds.
    """
    seeds = len(by_seed)
    if seeds < 2:
        raise ValueError(f"Found {seeds} seed(s); how seeds differ takes at least 2.")
    drawn = np.random.default_rng(seed).standard_t(seeds - 1, size=samples)
    return np.asarray(drawn * by_seed.std(ddof=1) / seeds**0.5, dtype=np.float64)


def p_value(draws: Floats) -> float:
    """Compute the two-sided p value of "there is no difference": twice the smaller share of draws on one side of 0.

    It is the level at which the percentile interval begins to leave 0 out (Efron and Tibshirani 1993, An Introduction
    to the Bootstrap, chapter 15, achieved significance level). One draw is added to each side, so it is never 0
    (Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 4).

    Args:
        draws: Bootstrap values of a difference, (samples,); those that are not numbers are left out.
    """
    known = draws[~np.isnan(draws)]
    below, above = int((known <= 0).sum()), int((known >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(known) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number, in their order (Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than one before it. If
    those below 0.05 are called shown, the chance that any of them is not there is at most 5 %, however they depend on
    each other.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def decide(value: float, corrected_p: float, *, higher_is_better: bool) -> Decision:
    """Decide what a difference shows; that none is shown does not show that there is none."""
    if corrected_p >= LEVEL or not value:
        return "no difference shown"
    return "better" if (value > 0) == higher_is_better else "worse"


__all__ = [
    "LEVEL",
    "Decision",
    "Difference",
    "decide",
    "holm",
    "p_value",
    "paired_difference",
    "seed_deviations",
]
