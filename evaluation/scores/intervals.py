"""95 % bootstrap intervals of a ratio of sums, over clusters of rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BLOCK = 4_000_000  # counts held at once: 32 MB


def resample(sums: Floats, *, samples: int, seed: int) -> Floats:
    """Draw as many clusters as there are, with replacement, and add up what they hold; again and again.

    Args:
        sums: What each cluster holds, (clusters, ...).
        samples: How many times.
        seed: The same seed and number of clusters draw the same clusters, so differences of two results are paired.

    Returns:
        Sums of each resample, (samples, ...).
    """
    clusters = len(sums)
    flat = sums.reshape(clusters, -1)
    drawn = np.empty((samples, flat.shape[1]))
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // clusters)
    for start in range(0, samples, size):
        block = drawn[start : start + size]
        draws = (generator.integers(clusters, size=clusters) for _ in block)
        counts = np.stack([np.bincount(draw, minlength=clusters) for draw in draws])  # multinomial, (block, clusters)
        block[:] = counts.astype(np.float64) @ flat
    return drawn.reshape(samples, *sums.shape[1:])


def cluster_sums(scores: Floats, index: NDArray[np.intp], clusters: int) -> Floats:
    """Add up numerators and denominators within each cluster, (clusters, 2).

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        index: Cluster of each row, (rows,).
        clusters: How many there are; some may have no row.
    """
    return np.stack([np.bincount(index, weights=column, minlength=clusters) for column in scores.T], axis=-1)


def number_clusters(clusters: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Enumerate each row's cluster, (rows,), and count them."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return index, len(names)


def bootstrap(scores: Floats, clusters: Sequence[str], *, samples: int, seed: int) -> Floats:
    """Draw whole clusters with replacement and compute the ratio of sums, again and again.

    Args:
        scores: Numerator and denominator of each row, (rows, 2).
        clusters: Cluster of each row. Rows of one cluster (one picture, several questions) are drawn together.
        samples: How many times.
        seed: The same seed and clusters draw the same rows, so differences of two results are paired.

    Returns:
        The value in each resample, (samples,); NaN where the denominator is 0.

    Raises:
        ValueError: If scores and clusters differ in length, or there are none.
    """
    if len(scores) != len(clusters) or not len(scores):
        raise ValueError(
            f"Found {len(scores)} scores but {len(clusters)} clusters; expected one cluster for each score."
        )
    return divide(resample(cluster_sums(scores, *number_clusters(clusters)), samples=samples, seed=seed))


def divide(sums: Floats) -> Floats:
    """Divide numerators by denominators (..., 2) -> (...); NaN where the denominator is 0."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def interval(values: Floats) -> tuple[float, float]:
    """Find both ends of the 95 % percentile interval of bootstrap values; NaN values are left out."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


__all__ = ["bootstrap", "cluster_sums", "divide", "interval", "number_clusters", "resample"]
