"""Runs on the same rows side by side: is one better than another, or is it chance?

output folders -> rows and metric of the first -> scores of all -> paired differences -> Holm's correction -> decisions
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unimoe.errors.suggest import did_you_mean

from ..config import EvaluationConfig
from ..errors import EvaluationError
from ..loading import LoadedTask
from .finished import FinishedRun, differing_questions, load_answered_tasks, read_run, refuse_unlike, score_run
from .paired import LEVEL, Decision, Difference, decide, holm, paired_difference

Variants = Mapping[str, Sequence[Path]]
"""Name -> output folders of its evaluations, one for each seed."""


@dataclass(frozen=True)
class Comparison:
    """A variant against the first one in a task.

    Args:
        task, metric, higher_is_better: What was measured.
        rows, clusters: Rows, and clusters of them that are drawn together.
        variant, against: Names of both.
        score, other: Their scores, means over seeds.
        difference: Score of the variant minus that of the other.
        corrected_p: p value of the difference after Holm's correction over all comparisons of the report.
        decision: What it shows.
    """

    task: str
    metric: str
    higher_is_better: bool
    rows: int
    clusters: int
    variant: str
    against: str
    score: float
    other: float
    difference: Difference
    corrected_p: float
    decision: Decision


@dataclass(frozen=True)
class Report:
    """All comparisons with one variant.

    Args:
        against: Its name.
        variants: Name -> folders.
        seeds: Runs of each variant.
        samples: Of the bootstrap.
        comparisons: Task by task, variant by variant.
        notes: In what else than the model the runs differ.
    """

    against: str
    variants: dict[str, list[str]]
    seeds: int
    samples: int
    comparisons: list[Comparison]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "level": LEVEL, "correction": "Holm"}


def compare_variants(
    variants: Variants,
    *,
    against: str | None = None,
    tasks: Sequence[str] = (),
    samples: int = 10_000,
    data_root: Path | None = None,
) -> Report:
    """Compare evaluated variants with one of them, on the same rows.

    Args:
        variants: At least two, each with as many runs.
        against: The one that the others are compared with. None: the first.
        tasks: Names of tasks. None: all, which every run must have.
        samples: Of the bootstrap.
        data_root: Where the data are now. None: where they were when the runs were measured.

    Raises:
        EvaluationError: If the runs cannot be compared; names what differs.
    """
    base = _choose(variants, against)
    runs = {name: [read_run(folder) for folder in folders] for name, folders in variants.items()}
    first = runs[base][0]
    names = list(tasks) or list(first.results["tasks"])
    everything = [run for of_variant in runs.values() for run in of_variant]
    for run in everything:
        _refuse_other_tasks(run, first, names, chosen=bool(tasks))
    config, loaded = load_answered_tasks(first, names, samples=samples, data_root=data_root)
    drafts = [draft for task in loaded for draft in _compare_task(task, config, runs, base)]
    corrected = holm([draft.difference.p for draft in drafts])
    return Report(
        against=base,
        variants={name: [str(folder) for folder in folders] for name, folders in variants.items()},
        seeds=len(runs[base]),
        samples=samples,
        comparisons=[_conclude(draft, p) for draft, p in zip(drafts, corrected, strict=True)],
        notes=_notes(everything, first, names),
    )


def _choose(variants: Variants, against: str | None) -> str:
    """Choose the variant that the others are compared with, once all can be compared with it."""
    if len(variants) < 2:
        raise EvaluationError(f"Found {len(variants)} variant(s) to compare; give at least two.")
    base = next(iter(variants)) if against is None else against
    if base not in variants:
        raise EvaluationError(f"--against {base}: no such variant.{did_you_mean(base, list(variants))}")
    for name, folders in variants.items():
        if len(folders) != len(variants[base]) or not folders:
            raise EvaluationError(
                f"{name} has {len(folders)} run(s), {base} has {len(variants[base])}. Seeds are compared in pairs: "
                "give both as many."
            )
    return base


def _refuse_other_tasks(run: FinishedRun, first: FinishedRun, names: Sequence[str], *, chosen: bool) -> None:
    """Refuse a run that lacks a task, has a further one (unless tasks were chosen), or measured it otherwise."""
    if not chosen and (further := sorted(run.results["tasks"].keys() - set(names))):
        raise EvaluationError(
            f"{run.folder} has measured {', '.join(further)}, {first.folder} has not. Choose tasks with --task."
        )
    for name in names:
        refuse_unlike(run, first, name)


def _compare_task(
    task: LoadedTask, config: EvaluationConfig, runs: Mapping[str, Sequence[FinishedRun]], base: str
) -> list[Comparison]:
    """Compare all variants with the base in one task; p values are not yet corrected."""
    scored = {name: [score_run(run, task, config) for run in of_variant] for name, of_variant in runs.items()}
    values = {name: np.array([score.value for score in scores]) for name, scores in scored.items()}  # (S,)
    draws = {name: np.stack([score.draws for score in scores]) for name, scores in scored.items()}  # (S, samples)
    drafts = []
    for name in (name for name in runs if name != base):
        difference = paired_difference(values[name], values[base], draws[name], draws[base])
        drafts.append(
            Comparison(
                task=task.name,
                metric=task.metric_name,
                higher_is_better=task.metric.higher_is_better,
                rows=len(task.samples),
                clusters=len({sample.cluster for sample in task.samples}),
                variant=name,
                against=base,
                score=float(values[name].mean()),
                other=float(values[base].mean()),
                difference=difference,
                corrected_p=difference.p,
                decision="no difference shown",
            )
        )
    return drafts


def _conclude(draft: Comparison, corrected_p: float) -> Comparison:
    decision = decide(draft.difference.value, corrected_p, higher_is_better=draft.higher_is_better)
    return replace(draft, corrected_p=corrected_p, decision=decision)


def _notes(runs: Sequence[FinishedRun], first: FinishedRun, names: Sequence[str]) -> list[str]:
    found = ((run, differing_questions(run, first, names)) for run in runs)
    return [
        f"{run.folder} was asked otherwise than {first.folder} ({', '.join(differing)})"
        for run, differing in found
        if differing
    ]


__all__ = ["Comparison", "Report", "Variants", "compare_variants"]
