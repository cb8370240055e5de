"""95 % bootstrap intervals of a ratio of sums, over clusters of rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bootstrap(scores: Floats, clusters: Sequence[str], *, samples: int, seed: int) -> Floats:
    """Draw whole clusters with replacement and compute the ratio of sums, again and again.

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        clusters: Cluster of each row. Rows of one cluster (one picture, several questions) are drawn together.
        samples: How many times.
        seed: The same seed and clusters draw the same rows, so differences of two results are paired.

    Returns:
        The value in each resample, (samples,).

    Raises:
        ValueError: If scores and clusters differ in length, or there are none.
    """
    if len(scores) != len(clusters) or not len(scores):
        raise ValueError(
            f"Found {len(scores)} scores but {len(clusters)} clusters; expected one cluster for each score."
        )
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), 2))
    np.add.at(sums, index, scores)  # (clusters, 2)
    generator = np.random.default_rng(seed)
    values = np.empty(samples)
    for sample in range(samples):
        numerator, denominator = sums[generator.integers(len(names), size=len(names))].sum(axis=0)
        values[sample] = numerator / denominator if denominator else np.nan
    return values


def interval(values: Floats) -> tuple[float, float]:
    """Lower and upper end of the 95 % percentile interval of bootstrap values."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


__all__ = ["bootstrap", "interval"]
