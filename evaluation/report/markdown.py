"""report.md: the scores of an evaluation as Markdown, to paste into a model card or an issue.

Names that come from rows, folders and configurations are escaped: they are shown, and make nothing of their own.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimoe.errors.visible import markdown
from unimoe.files.writing import write_whole

from .answers import answer_cells, distinct_answers
from .columns import Columns, Task, count, describe_model, fill, task_columns, value_columns

_ANSWERS = 10
"""Most distinct answers that are shown."""


def table_cells(results: dict[str, Any]) -> list[list[str]]:
    """Fill the table of all tasks: titles, then a line for each task."""
    (titles, *lines), names = fill(task_columns(results), results["tasks"].values()), results["tasks"]
    return [["task", *titles], *([name, *line] for name, line in zip(names, lines, strict=True))]


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table of lines of cells, the first of them titles; the cells are texts, whatever they hold."""
    lines = [f"| {' | '.join(map(markdown, line))} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def write_markdown(path: Path, results: dict[str, Any]) -> None:
    """Write scores, further values, distinct answers and categories of all tasks."""
    parts = [
        f"# Evaluation of {markdown(results['model']['path'])}",
        f"model: {markdown(describe_model(results['model']))}",
    ]
    if results["baseline"]:
        parts.append(f"baseline: {markdown(describe_model(results['baseline']))}")
    parts.append(markdown_table(table_cells(results)))
    for name, task in results["tasks"].items():
        if details := _details(task):
            parts += [f"## {markdown(name)}", *details]
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    parts.append(f"Decoding: {markdown(decoding(results))}. Versions: {markdown(versions)}.")
    write_whole(path, "\n\n".join(parts) + "\n")


def decoding(results: dict[str, Any]) -> str:
    """Say how the answers were decoded, with the tasks if they differ in it."""
    tasks = defaultdict(list)
    for name, task in results["tasks"].items():
        found = task["decoding"]
        tasks["unknown" if found is None else ", ".join(f"{key} {value}" for key, value in found.items())].append(name)
    if len(tasks) == 1:
        return next(iter(tasks))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in tasks.items())


def _details(task: dict[str, Any]) -> list[str]:
    parts = []
    if len(task["values"]) > 1:
        parts.append(_values(value_columns("value", ""), task["values"]))
    if judged := task.get("judged"):
        parts.append(_values(value_columns(f"judged by {judged['by']}", "mean"), judged["values"]))
        parts.append(f"{judged['unread']} of {count(task)} replies of the judge could not be read and count as 0.")
    parts += [markdown(distinct_answers(task)) + ".", markdown_table(answer_cells(task, most=_ANSWERS))]
    for axis, found in task["categories"].items():
        parts.append(_values({**value_columns(axis, task["metric"]), "rows": lambda item: count(item[1])}, found))
    return parts


def _values(columns: Columns[tuple[str, Task]], found: dict[str, Task]) -> str:
    return markdown_table(fill(columns, found.items()))


__all__ = ["decoding", "markdown_table", "table_cells", "write_markdown"]
