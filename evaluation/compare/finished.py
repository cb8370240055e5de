"""Finished evaluations read back: results.json, and scores of their predictions, made anew with data and metric.

results.json keeps no scores of rows; predictions and data do. What is scored here must come to what results.json says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from unimoe.errors.suggest import did_you_mean

from ..config import BootstrapConfig, EvaluationConfig
from ..errors import EvaluationError, read_json
from ..loading import LoadedTask, load_tasks
from ..predictions import match_predictions
from ..results import draws_of
from ..scores.estimates import resampled, value_of, whole

Floats = NDArray[np.float64]
_SAME = ("metric", "data_hash", "n")
_NEEDED = (*_SAME, "value")


@dataclass(frozen=True)
class FinishedRun:
    """The output folder of a finished evaluation, and its results.json."""

    folder: Path
    results: dict[str, Any]

    def task(self, name: str) -> dict[str, Any]:
        """Return what results.json says of a task.

        Raises:
            EvaluationError: If it was not measured.
        """
        tasks = self.results["tasks"]
        if name not in tasks:
            raise EvaluationError(
                f"{self.folder}: task {name!r} was not measured.{did_you_mean(name, tasks)} Choose tasks that all "
                "runs have with --task."
            )
        if not isinstance(tasks[name], dict) or (lacking := sorted({*_NEEDED} - tasks[name].keys())):
            what = f"lacks {lacking[0]!r}" if isinstance(tasks[name], dict) else "is no object"
            raise EvaluationError(f"{self.folder / 'results.json'}: task {name!r} {what}. Run its evaluation again.")
        return dict(tasks[name])


@dataclass(frozen=True)
class Scored:
    """A run's score in a task, and its bootstrap values (samples,)."""

    value: float
    draws: Floats


def read_run(folder: Path) -> FinishedRun:
    """Read the results.json of an evaluation's output folder.

    Raises:
        EvaluationError: If there is none, or it is not one.
    """
    path = folder / "results.json"
    try:
        results = read_json(path.read_bytes(), where=str(path))
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}). A run is the output folder of `python -m evaluation`."
        ) from error
    except EvaluationError as error:
        raise EvaluationError(error.where, error.problem, "Run its evaluation again.", key=error.key) from None
    if not isinstance(results, dict) or not isinstance(results.get("tasks"), dict) or "config" not in results:
        raise EvaluationError(f"{path}: has no tasks and config, so it is not an evaluation's results.json.")
    return FinishedRun(folder, results)


def load_answered_tasks(
    run: FinishedRun, names: Sequence[str], *, samples: int, data_root: Path | None = None
) -> tuple[EvaluationConfig, list[LoadedTask]]:
    """Read the rows again that a run has answered.

    Args:
        run: The run.
        names: Its tasks.
        samples: Of the bootstrap, instead of the run's own.
        data_root: Where the data are now. None: where they were.

    Raises:
        EvaluationError: If the data cannot be read, or are not those that were answered.
    """
    try:
        config = EvaluationConfig.model_validate(run.results["config"])
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise EvaluationError(
            f"{run.folder / 'results.json'}: config.{key}: {problem['msg']}. Run its evaluation again."
        ) from error
    if lost := [name for name in names if name not in config.tasks]:
        raise EvaluationError(f"{run.folder / 'results.json'}: its config has no task {lost[0]!r}.")
    chosen = {name: config.tasks[name] for name in names}
    changes: dict[str, Any] = {"tasks": chosen, "bootstrap": BootstrapConfig(samples=samples)}
    config = config.model_copy(update=changes | ({} if data_root is None else {"data_root": data_root}))
    tasks = load_tasks(config)
    for task in tasks:
        if task.data_hash != (then := run.task(task.name)["data_hash"]):
            raise EvaluationError(
                f"{task.data} has changed since {run.folder} was measured (SHA-256 "
                f"{then[:12]} then, {task.data_hash[:12]} now). Restore it, or evaluate again."
            )
    return config, tasks


def score_run(run: FinishedRun, task: LoadedTask, config: EvaluationConfig) -> Scored:
    """Score a run's predictions for the rows of a task.

    Raises:
        EvaluationError: If they answer other rows, or come to another score than results.json says.
    """
    path = run.folder / "predictions" / f"{task.name}.jsonl"
    scores, cut = task.score(match_predictions(path, task.samples)).main, whole(task.samples, task.average)
    value, said = value_of(scores, cut), run.task(task.name)["value"]
    if abs(value - said) > 1e-9:
        raise EvaluationError(
            f"{path} scores {value:.4f} in {task.metric_name}, but results.json says {said:.4f}: the metric has "
            "changed since. Run the evaluation again; its answers are kept."
        )
    return Scored(value, resampled(scores, [cut], draws_of(task, config))[0])


def refuse_unlike(run: FinishedRun, first: FinishedRun, name: str) -> None:
    """Refuse to compare two runs in a task that was another one for each of them.

    Raises:
        EvaluationError: Naming what differs, with both sides.
    """
    here, there = run.task(name), first.task(name)
    for key in _SAME:
        if here[key] != there[key]:
            raise EvaluationError(
                f"{run.folder} and {first.folder} cannot be compared in {name}: {key} is {_short(here[key])} and "
                f"{_short(there[key])}. Evaluate both on the same rows with the same metric, or leave it out with "
                "--task."
            )


def differing_questions(run: FinishedRun, first: FinishedRun, names: Sequence[str]) -> list[str]:
    """Say in what the asking of two runs differs; they can be compared, but not only the models differ."""
    return [
        f"{name}: {key}"
        for name in names
        for key in ("prompt", "decoding")
        if run.task(name).get(key) != first.task(name).get(key)
    ]


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 40 else str(value)


__all__ = [
    "FinishedRun",
    "Scored",
    "differing_questions",
    "load_answered_tasks",
    "read_run",
    "refuse_unlike",
    "score_run",
]
