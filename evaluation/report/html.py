"""report.html: one self-contained page with scores, categories, worst answers with their media, and routing."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimoe.errors.visible import visible
from unimoe.files.writing import write_whole
from unimoe.modality import Modality

from ..loading import LoadedTask
from ..metrics import Scores
from ..tasks import Sample
from .answers import answer_cells, confusion_cells, distinct_answers
from .columns import count, describe_model, number, span, unparsed
from .embed import embed
from .markdown import decoding, table_cells

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_CATEGORIES = 40
"""Most categories of an axis that are shown, the lowest scores first."""
_ANSWERS = 20
"""Most distinct answers that are shown, those given most often first."""


@dataclass(frozen=True)
class Answered:
    """A row with what a model answered, and what that is worth.

    Args:
        sample: The row.
        prediction: Text of the answer.
        score: Numerator and denominator of the task's metric.
        unparsed: Whether no answer could be read.
    """

    sample: Sample
    prediction: str
    score: tuple[float, float]
    unparsed: bool


def worst_answers(task: LoadedTask, predictions: Sequence[str], scores: Scores, *, most: int) -> list[Answered]:
    """Find the rows whose answers are worth least, drawn across the wanted answers.

    The worst row of each wanted answer comes first, then the second worst of each, and so on. Of rows that are worth
    the same, those come first whose wanted answer is missed most often.

    Args:
        task: With the rows.
        predictions: Of each row.
        scores: Of the predictions; where a row's denominator is 0 there is nothing to judge.
        most: How many rows at most.
    """
    pairs, higher_is_better = scores.main, task.metric.higher_is_better
    ratios = pairs[:, 0] / np.where(pairs[:, 1] == 0, np.nan, pairs[:, 1])
    badness = -ratios if higher_is_better else ratios
    order = [row for row in np.argsort(-badness, kind="stable") if not np.isnan(badness[row])]
    perfect = -max(np.nanmax(ratios), 1.0) if higher_is_better else 0.0
    bad = [int(row) for row in order if badness[row] > perfect]
    _, wanted = task.read(predictions)
    missed = Counter(wanted[row] for row in bad)
    before: Counter[str] = Counter()
    turns: dict[int, int] = {}
    for row in bad:
        turns[row] = before[wanted[row]]
        before[wanted[row]] += 1
    bad.sort(key=lambda row: (turns[row], -badness[row], -missed[wanted[row]], row))
    return [
        Answered(task.samples[row], predictions[row], (pairs[row, 0], pairs[row, 1]), bool(scores.unparsed[row]))
        for row in bad[:most]
    ]


def write_page(
    path: Path, results: dict[str, Any], worst: dict[str, list[Answered]], *, plots: Sequence[Path] = ()
) -> None:
    """Write the page of an evaluation.

    Args:
        path: Of the page.
        results: The contents of results.json.
        worst: Rows to show, by task.
        plots: Pictures of the routing.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE.read_text("utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    page = template.render(
        title=f"Evaluation of {results['model']['path']}",
        model=describe_model(results["model"]),
        baseline=results["baseline"] and describe_model(results["baseline"]),
        table=table_cells(results),
        tasks=[_task(name, task, worst.get(name, [])) for name, task in results["tasks"].items()],
        routing=_routing(results["routing"], plots),
        decoding=decoding(results),
        versions=versions,
    )
    write_whole(path, visible(page))


def _task(name: str, task: dict[str, Any], worst: list[Answered]) -> dict[str, Any]:
    values = _values(task["values"])
    if judged := task.get("judged"):
        values += f"; judged by {judged['by']}: {_values(judged['values'])}, {judged['unread']} replies not read"
    metric = "" if task["metric"] in task["values"] else f"{task['metric']}: "
    notes = " ".join(filter(None, [*task["notes"], task.get("note", "")]))
    return {
        "name": name,
        "metric": task["metric"],
        "summary": f"{metric}{values}. {count(task)} rows, {unparsed(task)} unparsed. {notes}",
        "categories": {axis: _lines(found) for axis, found in task["categories"].items()},
        "distinct": distinct_answers(task),
        "answers": answer_cells(task, most=_ANSWERS),
        "confusion": confusion_cells(task),
        "worst": [_row(answered) for answered in worst],
        "how": f"{task['data']} (SHA-256 {task['data_hash'][:16]}), normalised: {task['normaliser']}",
        "prompt": task["prompt"],
    }


def _values(found: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{key} {number(value['value'])} [{span(value)}]" for key, value in found.items())


def _lines(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the lines of the table of an axis, with bars up to the largest value."""
    top = max([1.0, *(entry["high"] or 0.0 for entry in found.values())])
    lines = sorted(found.items(), key=lambda item: item[1]["value"] or 0.0)[:_CATEGORIES]
    return [
        {
            "name": name,
            "value": number(entry["value"]),
            "interval": span(entry),
            "n": count(entry),
            "width": f"{100 * (entry['value'] or 0.0) / top:.1f}",
            "low_at": f"{100 * (entry['low'] or 0.0) / top:.1f}",
            "span": f"{100 * ((entry['high'] or 0.0) - (entry['low'] or 0.0)) / top:.1f}",
        }
        for name, entry in lines
    ]


def _row(answered: Answered) -> dict[str, Any]:
    sample = answered.sample
    numerator, denominator = answered.score
    return {
        "id": sample.id,
        "question": sample.question,
        "answers": " | ".join(dict.fromkeys((sample.reference, *sample.answers))),
        "prediction": answered.prediction,
        "score": f"{numerator:g} of {denominator:g}",
        "unparsed": answered.unparsed,
        "media": [shown for item in sample.media for shown in embed(item)],
    }


def _routing(routing: dict[str, Any] | None, plots: Sequence[Path]) -> dict[str, Any] | None:
    if not routing:
        return None
    keys = [modality.key for modality in Modality]
    lines = [
        [task, key, *_numbers(found[key])] for task, found in routing["tasks"].items() for key in keys if key in found
    ]
    return {
        "summary": (
            f"Layers {', '.join(map(str, routing['layers']))} are sparse, with {routing['num_experts']} experts. "
            "Experts used is the exponential of the entropy; specialisation is how far a modality's use of experts is "
            "from that of all modalities, as a share of the largest possible."
        ),
        "plots": [f"data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}" for plot in plots],
        "lines": lines,
    }


def _numbers(found: dict[str, Any]) -> list[str]:
    means = [np.mean(found[key]) for key in ("entropy", "specialisation", "null_share")]
    return [number(found["mean_experts_used"], digits=2), *map(number, means)]


__all__ = ["Answered", "worst_answers", "write_page"]
