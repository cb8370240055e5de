"""Values with their intervals: of all rows, of the rows of each category, and of means or sums over categories."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError
from ..tasks import Average, Sample
from .intervals import Floats, cluster_sums, divide, interval, number_clusters, resample

OVER_ROWS = Average()
"""All rows alike."""
Rows = NDArray[np.intp]
Estimate = dict[str, float | None]
"""`value`, `low`, `high`; None where there is nothing to divide by, such as precision where none said yes."""


@dataclass(frozen=True)
class Cut:
    """Rows that get one value.

    Args:
        parts: Rows of each category that is averaged over; all rows in one part if none is.
        total: Whether the values of the parts are added up instead of averaged.
    """

    parts: tuple[Rows, ...]
    total: bool

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Draws:
    """How rows are drawn: whole clusters, `samples` times, by a seed. Equal draws make differences paired."""

    clusters: Sequence[str]
    samples: int
    seed: int


def whole(samples: Sequence[Sample], average: Average = OVER_ROWS) -> Cut:
    """Take all rows.

    Raises:
        EvaluationError: If a row has no category on the axis that is averaged over.
    """
    return _cut(samples, range(len(samples)), average)


def categories(samples: Sequence[Sample], average: Average = OVER_ROWS) -> dict[str, dict[str, Cut]]:
    """Sort rows by axis and category, in alphabetical order; a category is averaged as all rows are."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, sample in enumerate(samples):
        for axis, category in sample.categories.items():
            found[axis][category].append(row)
    return {
        axis: {category: _cut(samples, found[axis][category], average) for category in sorted(found[axis])}
        for axis in sorted(found)
    }


def _cut(samples: Sequence[Sample], rows: Sequence[int], average: Average) -> Cut:
    if average.over == "rows":
        return Cut((np.asarray(rows, dtype=np.intp),), total=False)
    parts: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if average.axis not in samples[row].categories:
            raise EvaluationError(
                f"{samples[row].where}: has no category {average.axis!r}, over which the {average.over} is taken; "
                f"found {', '.join(samples[row].categories) or 'none'}."
            )
        parts[samples[row].categories[average.axis]].append(row)
    return Cut(tuple(np.asarray(part, dtype=np.intp) for part in parts.values()), total=average.over == "sum")


def value_of(scores: Floats, cut: Cut) -> float:
    """Compute the value of a cut: ratio of sums of each part, then their mean or sum; NaN if one counts nothing.

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        cut: Rows that get one value.
    """
    parts = divide(np.stack([scores[rows].sum(axis=0) for rows in cut.parts]))  # (parts,)
    return float(parts.sum() if cut.total else parts.mean())


def resampled(scores: Floats, cuts: Sequence[Cut], draws: Draws) -> list[Floats]:
    """Draw bootstrap values of each cut, (samples,).

    A part of which a resample has no row takes no part in the mean, and stands at the mean in a sum.

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        cuts: Rows that get one value each.
        draws: How rows are drawn.
    """
    index, clusters = number_clusters(draws.clusters)
    columns = [cluster_sums(scores[rows], index[rows], clusters) for cut in cuts for rows in cut.parts]
    drawn = divide(resample(np.stack(columns, axis=1), samples=draws.samples, seed=draws.seed))  # (samples, columns)
    ends = np.cumsum([len(cut.parts) for cut in cuts])
    means = [_mean(values) for values in np.split(drawn, ends[:-1], axis=1)]
    return [mean * len(cut.parts) if cut.total else mean for cut, mean in zip(cuts, means, strict=True)]


def _mean(values: Floats) -> Floats:
    """Take the mean over the last dimension without NaN; NaN where there is nothing else."""
    there = ~np.isnan(values)
    return divide(np.stack([np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1)], axis=-1))


def estimate(scores: Floats, cuts: Sequence[Cut], draws: Draws) -> list[Estimate]:
    """Estimate value and 95 % interval of each cut.

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        cuts: Rows that get one value each.
        draws: How rows are drawn.
    """
    values = (value_of(scores, cut) for cut in cuts)
    return [_as_json(value, drawn) for value, drawn in zip(values, resampled(scores, cuts, draws), strict=True)]


def estimate_difference(scores: Floats, others: Floats, cut: Cut, draws: Draws) -> Estimate:
    """Estimate the first minus the second on the same rows, whose clusters are drawn alike for both."""
    drawn = resampled(scores, [cut], draws)[0] - resampled(others, [cut], draws)[0]
    return _as_json(value_of(scores, cut) - value_of(others, cut), drawn)


def estimate_categories(
    scores: Floats, samples: Sequence[Sample], average: Average, draws: Draws
) -> dict[str, dict[str, dict[str, Any]]]:
    """Estimate value and interval of each category: axis -> category -> value, interval, rows."""
    return {
        axis: {
            category: {**found, "n": cut.rows}
            for (category, cut), found in zip(cuts.items(), estimate(scores, list(cuts.values()), draws), strict=True)
        }
        for axis, cuts in categories(samples, average).items()
    }


def _as_json(value: float, drawn: Floats) -> Estimate:
    if np.isnan(value) or np.isnan(drawn).all():
        return {"value": None if np.isnan(value) else value, "low": None, "high": None}
    low, high = interval(drawn)
    return {"value": value, "low": low, "high": high}


__all__ = [
    "OVER_ROWS",
    "Cut",
    "Draws",
    "Estimate",
    "categories",
    "estimate",
    "estimate_categories",
    "estimate_difference",
    "resampled",
    "value_of",
    "whole",
]
