"""Trainings of several kinds of model -> means over seeds with intervals, and differences to the first kind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.compare.paired import seed_deviations
from evaluation.config import load_config
from evaluation.loading import LoadedTask, load_tasks
from evaluation.report.columns import interval as interval_text
from evaluation.report.columns import number
from evaluation.scores.intervals import bootstrap, interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.value)} ({interval_text(self.low, self.high, between=' to ')})"


@dataclass(frozen=True)
class Cell:
    """What one kind came to in one task, and how much more that is than the first kind's."""

    score: Estimate
    difference: Estimate | None


Results = dict[str, dict[str, Cell]]
"""Kind -> task -> cell."""


def estimate(scores: Floats, clusters: Sequence[str], *, samples: int = 10_000) -> Estimate:
    """Estimate what a kind of model scores on other rows, trained from other seeds.

    Two deviations are drawn and added, `samples` times: of the rows, by drawing clusters of them with replacement,
    each with its score averaged over the seeds; of the seeds, by Student's t (`seed_deviations`).

    Args:
        scores: Numerator and denominator of each row for each seed, (S, rows, 2).
        clusters: Cluster of each row.
        samples: Draws.

    Raises:
        ValueError: If there are fewer than two seeds.
    """
    by_seed = scores[..., 0].sum(axis=1) / scores[..., 1].sum(axis=1)
    deviations = seed_deviations(by_seed, samples=samples)
    by_rows = bootstrap(scores.mean(axis=0), clusters, samples=samples, seed=0)
    return Estimate(float(by_seed.mean()), *interval(by_rows + deviations))


def difference(scores: Floats, others: Floats) -> Floats:
    """Scores of the first minus scores of the second, row by row and seed by seed, as scores (S, rows, 2).

    Raises:
        ValueError: If a row counts differently in the two.
    """
    if not np.array_equal(scores[..., 1], others[..., 1]):
        raise ValueError("A row weighs differently in the two kinds, so their scores cannot be subtracted row by row.")
    return np.stack([scores[..., 0] - others[..., 0], scores[..., 1]], axis=-1)


def compare_kinds(folders: Mapping[str, Sequence[Path]], evaluation: str) -> Results:
    """Read the predictions of all runs and compare each kind with the first.

    Args:
        folders: Kind -> folder of each seed, with `predictions/` and `data/`.
        evaluation: Configuration with which the runs were evaluated.

    Raises:
        ValueError: If two runs answered other rows.
    """
    first, *_ = [folder for of_kind in folders.values() for folder in of_kind]
    config = load_config(Path(evaluation), [f"output={first}", f"data_root={first}/data"])
    results: Results = {kind: {} for kind in folders}
    for task in load_tasks(config):
        clusters = [sample.cluster for sample in task.samples]
        scores = {
            kind: np.stack([read_scores(folder, task) for folder in of_kind]) for kind, of_kind in folders.items()
        }
        base, *others = scores
        results[base][task.name] = Cell(estimate(scores[base], clusters), None)
        for kind in others:
            apart = estimate(difference(scores[kind], scores[base]), clusters)
            results[kind][task.name] = Cell(estimate(scores[kind], clusters), apart)
    return results


def read_scores(folder: Path, task: LoadedTask) -> Floats:
    """Score the predictions that a run has kept, (rows, 2).

    Raises:
        ValueError: If they are of other data, or some are missing.
    """
    path = folder / "predictions" / f"{task.name}.jsonl"
    header, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if header["header"]["data"] != task.data_hash:
        raise ValueError(f"{path} answers other rows than the first run does. Remove the run and train it again.")
    predictions = {line["id"]: line["prediction"] for line in lines}
    if missing := [sample.id for sample in task.samples if sample.id not in predictions]:
        raise ValueError(f"{path} lacks {len(missing)} answers, {missing[0]} among them. Evaluate the run again.")
    return task.score([predictions[sample.id] for sample in task.samples]).main


def render(results: Results, facts: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Write results and what else is known of the kinds as a table in Markdown.

    Args:
        results: From `compare_kinds`.
        facts: Kind -> `tokens` of a unit of each medium, `parameters`, `steps` per second over the first kind's.
        labels: Task -> what it is called.
    """
    kinds = list(results)
    rows = [["", *kinds], ["---"] * (len(kinds) + 1)]
    for task, label in labels.items():
        cells = [results[kind][task] for kind in kinds]
        rows.append([label, *(str(cell.score) for cell in cells)])
        rows.append([f"{task}, more than {kinds[0]}", *(str(cell.difference or "") for cell in cells)])
    for medium in facts[kinds[0]]["tokens"]:
        rows.append([f"tokens, {medium}", *(str(facts[kind]["tokens"][medium]) for kind in kinds)])
    rows.append(["parameters of the connectors", *(f"{facts[kind]['parameters']:,}" for kind in kinds)])
    rows.append(["training steps a second, ratio", *(f"{facts[kind]['steps']:.2f}" for kind in kinds)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


__all__ = ["Cell", "Estimate", "compare_kinds", "difference", "estimate", "read_scores", "render"]
