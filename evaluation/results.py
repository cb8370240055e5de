"""results.json: scores with intervals, floors, controls, and all that is needed to get the same numbers again."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import unimoe

from .config import EvaluationConfig
from .errors import EvaluationError
from .loading import LoadedTask
from .metrics import Pairs, Scores
from .scores.answers import count_answers
from .scores.estimates import Draws, Estimate, estimate, estimate_categories, estimate_difference, whole
from .scores.floors import best_floor, compute_floors

_VERSIONED = ("torch", "transformers", "numpy", "jiwer", "rapidfuzz", "whisper-normalizer", "pycocoevalcap")


def draws_of(task: LoadedTask, config: EvaluationConfig) -> Draws:
    """Say how the task's rows are drawn: the same for all predictions of it."""
    return Draws([sample.cluster for sample in task.samples], config.bootstrap.samples, config.seed)


def summarise(task: LoadedTask, scores: Scores, config: EvaluationConfig) -> dict[str, Any]:
    """Estimate the main value, all named values, that of each category, and the share that could not be read.

    Raises:
        EvaluationError: If the references hold nothing to count.
    """
    draws, cut = draws_of(task, config), whole(task.samples, task.average)
    values = {name: estimate(pairs, [cut], draws)[0] for name, pairs in scores.values.items()}
    main = next(iter(values.values()))
    if main["value"] is None:
        raise EvaluationError(f"{task.name}: no reference holds a word after normalisation, so there is no error rate")
    return {
        **main,
        "n": len(task.samples),
        "clusters": len(set(draws.clusters)),
        "unparsed_rate": float(scores.unparsed.mean()),
        "values": values,
        "categories": estimate_categories(scores.main, task.samples, task.average, draws),
        "notes": list(scores.notes),
    }


def compare(task: LoadedTask, scores: Scores, others: Scores, config: EvaluationConfig) -> Estimate:
    """Estimate the paired difference of two models on the same rows: main value of the first minus the second's."""
    return estimate_difference(scores.main, others.main, whole(task.samples, task.average), draws_of(task, config))


def verdict(summary: dict[str, Any], floor: float | None, *, higher_is_better: bool) -> str:
    """Return `above floor` if the whole interval is better than the floor; `no floor` if there is none."""
    if floor is None:
        return "no floor"
    above = summary["low"] > floor if higher_is_better else summary["high"] < floor
    return "above floor" if above else "not above floor"


def task_result(
    task: LoadedTask,
    scores: Scores,
    *,
    predictions: Sequence[str],
    config: EvaluationConfig,
    prompt: str,
    decoding: dict[str, Any] | None,
    shuffled: Scores | None = None,
    baseline: Scores | None = None,
) -> dict[str, Any]:
    """Put together all that results.json says about one task.

    Args:
        task: The task.
        scores: Of the model's predictions.
        predictions: Of the model, by row.
        config: Of the evaluation.
        prompt: What the model was asked in the first row, rendered.
        decoding: Arguments of `model.generate`. None: the predictions were there already.
        shuffled: Scores with other rows' media.
        baseline: Scores of the baseline.
    """
    metric = task.metric
    summary = summarise(task, scores, config)
    floors = compute_floors(task.train, task.samples, metric, task.average) if task.train else {}
    floor = best_floor(floors, metric)
    result = {
        "metric": task.metric_name,
        **summary,
        "answers": count_answers(*task.read(predictions)),
        "floor": floor,
        "floors": floors,
        "verdict": verdict(summary, floor, higher_is_better=metric.higher_is_better),
        "higher_is_better": metric.higher_is_better,
        "normaliser": metric.normaliser,
        "average": asdict(task.average),
        "prompt": prompt,
        "decoding": decoding,
        "data": task.data,
        "data_hash": task.data_hash,
        "train_hash": task.train_hash,
        **task.facts,
    }
    if shuffled is not None:
        result["shuffled"] = summarise(task, shuffled, config)
    if baseline is not None:
        difference = compare(task, scores, baseline, config)
        result["baseline"] = {**summarise(task, baseline, config), "difference": difference}
    return result


def add_judged(
    result: dict[str, Any], task: LoadedTask, values: dict[str, Pairs], unread: int, *, config: EvaluationConfig
) -> None:
    """Add a judge's values, with their intervals, to a task's result; the metric stays what the task is about.

    Args:
        result: Of `task_result`; `judged` is added.
        task: The task.
        values: Of `judge_rows`.
        unread: Replies that could not be read.
        config: Of the evaluation.
    """
    assert config.judge is not None and task.judge is not None
    cut, draws = whole(task.samples), draws_of(task, config)
    result["judged"] = {
        "by": config.judge.model,
        "best": dict(task.judge.values),
        "values": {name: estimate(pairs, [cut], draws)[0] for name, pairs in values.items()},
        "unread": unread,
    }


def versions() -> dict[str, str]:
    """Name the versions of Python, unimoe and the libraries that numbers depend on, and their processor."""
    found = {"python": platform.python_version(), "unimoe": unimoe.__version__, "processor": _processor()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Name the processor, its instructions that torch uses, and the threads: they decide how sums round."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, "") or platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"


__all__ = ["add_judged", "compare", "draws_of", "summarise", "task_result", "verdict", "versions"]
