from itertools import pairwise

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.scores.estimates import (
    Draws,
    categories,
    estimate,
    estimate_categories,
    estimate_difference,
    resampled,
    value_of,
    whole,
)
from evaluation.scores.intervals import bootstrap, interval
from evaluation.tasks import Average, Sample


def row(number: int, cluster: str = "", **found: str) -> Sample:
    return Sample(str(number), (), "yes", ("yes",), cluster or str(number), f"rows:{number}", categories=found)


def test_intervals_hold_the_value_and_shrink_with_rows() -> None:
    def width(rows: int) -> float:
        scores = np.ones((rows, 2))
        scores[: rows // 5, 0] = 0
        low, high = interval(bootstrap(scores, [str(row) for row in range(rows)], samples=1000, seed=0))
        assert low < 0.8 < high
        return high - low

    assert width(2000) == pytest.approx(width(200) / np.sqrt(10), rel=0.15)
    assert width(2000) == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 2000), rel=0.1)


def test_rows_of_one_cluster_count_as_one() -> None:
    scores = np.ones((400, 2))
    scores[:200, 0] = 0
    alone = bootstrap(scores, [str(row) for row in range(400)], samples=500, seed=0)
    together = bootstrap(scores, [str(row // 4) for row in range(400)], samples=500, seed=0)
    assert together.std() == pytest.approx(2 * alone.std(), rel=0.15)


def test_equal_seeds_draw_equal_rows_so_differences_are_paired() -> None:
    scores = np.column_stack([np.random.default_rng(0).integers(0, 2, 100), np.ones(100)])
    clusters = [str(row) for row in range(100)]
    first, second = (bootstrap(scores, clusters, samples=200, seed=3) for _ in range(2))
    assert np.array_equal(first, second)


def test_scores_without_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="Found 2 scores but 1 clusters"):
        bootstrap(np.ones((2, 2)), ["a"], samples=100, seed=0)


def slow_bootstrap(scores: np.ndarray, clusters: list[str], samples: int, seed: int) -> list[list[int]]:
    """Rows of each resample, one by one."""
    names = sorted(set(clusters))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        chosen = [names[number] for number in generator.integers(len(names), size=len(names))]
        drawn.append([row for name in chosen for row, cluster in enumerate(clusters) if cluster == name])
    return drawn


@pytest.mark.parametrize("over", ["rows", "mean", "sum"])
def test_the_bootstrap_equals_a_slow_loop(over: str) -> None:
    generator = np.random.default_rng(0)
    clusters = [str(number) for number in generator.integers(0, 17, size=90)]
    scores = np.column_stack([generator.normal(size=90), generator.integers(0, 4, size=90)])
    samples = [row(number, cluster, kind="abc"[number % 3]) for number, cluster in enumerate(clusters)]
    cut = whole(samples, Average(over, "kind"))  # type: ignore[arg-type]

    def value(rows: list[int]) -> float:
        kinds = [[r for r in rows if r % 3 == kind] for kind in range(3)] if over != "rows" else [rows]
        ratios = [sum(scores[r, 0] for r in part) / sum(scores[r, 1] for r in part) for part in kinds]
        return sum(ratios) if over == "sum" else sum(ratios) / len(ratios)

    drawn = resampled(scores, [cut], Draws(clusters, 200, 5))[0]
    expected = [value(rows) for rows in slow_bootstrap(scores, clusters, 200, 5)]
    assert drawn == pytest.approx(expected, abs=1e-9)
    assert value_of(scores, cut) == pytest.approx(value(list(range(90))), abs=1e-12)
    if over == "rows":
        assert np.allclose(bootstrap(scores, clusters, samples=200, seed=5), expected)


def test_many_clusters_are_drawn_in_blocks_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(50, 2)) + 3
    clusters = [str(number) for number in range(50)]
    at_once = bootstrap(scores, clusters, samples=33, seed=0)
    monkeypatch.setattr("evaluation.scores.intervals._BLOCK", 200)
    assert bootstrap(scores, clusters, samples=33, seed=0) == pytest.approx(at_once)


def test_intervals_of_clustered_rows_cover_the_truth_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(1)
    clusters = [str(number // 5) for number in range(300)]
    covered = 0
    for seed in range(300):
        chance = np.repeat(generator.uniform(0.4, 1.0, size=60), 5)  # rows of a cluster are alike
        scores = np.column_stack([generator.random(300) < chance, np.ones(300)])
        low, high = interval(bootstrap(scores, clusters, samples=300, seed=seed))
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_categories_are_the_value_over_their_rows_and_are_averaged_as_the_whole() -> None:
    kinds = ["count", "count", "colour", "colour", "code", "code"]
    parts = ["see", "see", "see", "see", "think", "think"]
    samples = [row(n, kind=kind, part=part) for n, (kind, part) in enumerate(zip(kinds, parts, strict=True))]
    scores = np.column_stack([[200, 100, 0, 100, 0, 0], np.ones(6)])
    total, draws = Average("sum", "kind"), Draws([sample.cluster for sample in samples], 100, 0)
    found = estimate_categories(scores, samples, total, draws)
    assert [found["kind"][kind]["value"] for kind in ("code", "colour", "count")] == [0, 50, 150]
    assert found["part"]["see"]["value"] == 200 and found["part"]["see"]["n"] == 4
    assert value_of(scores, whole(samples, total)) == 200
    assert value_of(scores, whole(samples, Average("mean", "kind"))) == pytest.approx(200 / 3)
    for low, high in pairwise([found["part"]["see"][end] for end in ("low", "value", "high")]):
        assert low <= high


def test_a_mean_over_categories_weighs_them_alike_whatever_their_rows() -> None:
    samples = [row(n, kind="rare" if n == 0 else "often") for n in range(11)]
    scores = np.column_stack([[1.0] + [0.0] * 10, np.ones(11)])
    assert value_of(scores, whole(samples)) == pytest.approx(1 / 11)
    assert value_of(scores, whole(samples, Average("mean", "kind"))) == 0.5
    found = estimate(scores, [whole(samples, Average("mean", "kind"))], Draws([s.id for s in samples], 200, 0))[0]
    assert found["low"] is not None and found["high"] is not None  # resamples without the rare row have a mean, too


def test_a_row_without_the_category_that_is_averaged_over_is_named() -> None:
    samples = [row(0, kind="a"), row(1, colour="b")]
    with pytest.raises(EvaluationError, match=r"rows:1: has no category 'kind', over which the mean.*found colour"):
        whole(samples, Average("mean", "kind"))
    assert list(categories(samples)) == ["colour", "kind"]


def test_a_value_without_anything_to_count_is_none() -> None:
    samples = [row(0), row(1)]
    scores = np.array([[0.0, 0.0], [0.0, 0.0]])
    nothing = {"value": None, "low": None, "high": None}
    assert estimate(scores, [whole(samples)], Draws(["0", "1"], 100, 0))[0] == nothing


def test_a_difference_of_equal_predictions_is_exactly_nothing_and_of_better_ones_narrow() -> None:
    generator = np.random.default_rng(0)
    samples = [row(number) for number in range(400)]
    draws = Draws([sample.cluster for sample in samples], 500, 0)
    hits = generator.random(400) < 0.5
    scores = np.column_stack([hits, np.ones(400)])
    better = np.column_stack([hits | (generator.random(400) < 0.1), np.ones(400)])
    assert estimate_difference(scores, scores, whole(samples), draws) == {"value": 0, "low": 0, "high": 0}
    found = estimate_difference(better, scores, whole(samples), draws)
    assert 0 < found["low"] < found["value"] < found["high"]  # type: ignore[operator]
    alone = estimate(scores, [whole(samples)], draws)[0]
    assert found["high"] - found["low"] < (alone["high"] - alone["low"]) / 2  # type: ignore[operator]
