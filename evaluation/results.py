"""results.json: scores with intervals, floors, controls, and all that is needed to get the same numbers again."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unimoe

from .config import EvaluationConfig
from .floors import best_floor, compute_floors
from .intervals import bootstrap, interval
from .loading import LoadedTask
from .metrics import is_unparsed, ratio, score_all

Floats = NDArray[np.float64]
_VERSIONED = ("torch", "transformers", "numpy", "jiwer", "whisper-normalizer")


def score_rows(task: LoadedTask, predictions: Sequence[str]) -> Floats:
    """Numerator and denominator of each row, (rows, 2)."""
    rows = zip(predictions, task.samples, strict=True)
    return score_all(task.metric, ((text, row.reference, row.answers) for text, row in rows))


def resample(task: LoadedTask, scores: Floats, config: EvaluationConfig) -> Floats:
    """Bootstrap values over the task's clusters."""
    clusters = [sample.cluster for sample in task.samples]
    return bootstrap(scores, clusters, samples=config.bootstrap.samples, seed=config.seed)


def summarise(task: LoadedTask, predictions: Sequence[str], config: EvaluationConfig) -> dict[str, Any]:
    """Value, 95 % interval, number of rows and share of unparsed answers."""
    scores = score_rows(task, predictions)
    low, high = interval(resample(task, scores, config))
    return {
        "value": ratio(scores),
        "low": low,
        "high": high,
        "n": len(predictions),
        "unparsed_rate": sum(map(is_unparsed, predictions)) / len(predictions),
    }


def compare(
    task: LoadedTask, predictions: Sequence[str], other: Sequence[str], config: EvaluationConfig
) -> dict[str, float]:
    """Paired difference of two models on the same rows: value of the first minus value of the second."""
    scores, others = score_rows(task, predictions), score_rows(task, other)
    low, high = interval(resample(task, scores, config) - resample(task, others, config))
    return {"value": ratio(scores) - ratio(others), "low": low, "high": high}


def verdict(summary: dict[str, Any], floor: float | None, *, higher_is_better: bool) -> str:
    """`above floor` if the whole interval is better than the floor; `no floor` if there is none."""
    if floor is None:
        return "no floor"
    above = summary["low"] > floor if higher_is_better else summary["high"] < floor
    return "above floor" if above else "not above floor"


def task_result(
    task: LoadedTask,
    predictions: Sequence[str],
    *,
    config: EvaluationConfig,
    prompt: str,
    shuffled: Sequence[str] | None = None,
    baseline: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All that results.json says about one task.

    Args:
        prompt: What the model was asked in the first row, rendered.
        shuffled: Predictions with other rows' media.
        baseline: Predictions of the baseline.
    """
    metric = task.metric
    summary = summarise(task, predictions, config)
    floors = compute_floors(task.train, task.samples, metric) if task.train else {}
    floor = best_floor(floors, metric)
    result = {
        "metric": task.config.metric,
        **summary,
        "floor": floor,
        "floors": floors,
        "verdict": verdict(summary, floor, higher_is_better=metric.higher_is_better),
        "higher_is_better": metric.higher_is_better,
        "normaliser": metric.normaliser,
        "clusters": len({sample.cluster for sample in task.samples}),
        "prompt": prompt,
        "data": str(config.resolve(task.config.data)),
        "data_hash": task.data_hash,
        "train_hash": task.train_hash,
    }
    if shuffled is not None:
        result["shuffled"] = summarise(task, shuffled, config)
    if baseline is not None:
        difference = compare(task, predictions, baseline, config)
        result["baseline"] = {**summarise(task, baseline, config), "difference": difference}
    return result


def versions() -> dict[str, str]:
    """Versions of Python, unimoe and the libraries that the numbers depend on."""
    found = {"python": platform.python_version(), "unimoe": unimoe.__version__}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["compare", "score_rows", "summarise", "task_result", "verdict", "versions"]
