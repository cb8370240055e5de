"""report.md: the scores of an evaluation as Markdown, to paste into a model card or an issue.

Names that come from rows, folders and configurations are escaped: they are shown, and make nothing of their own.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unimoe.errors.visible import markdown
from unimoe.files.writing import write_whole

from .terminal import baseline_title, describe_model


def table_cells(results: dict[str, Any]) -> list[list[str]]:
    """The table of all tasks: titles, then a line for each; without columns of controls that were not asked for."""
    tasks = results["tasks"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "metric": lambda task: task["metric"],
        "score": lambda task: number(task["value"]),
        "95 % interval": span,
        "rows": lambda task: f"{task['n']:,}",
        "unparsed": lambda task: f"{task['unparsed_rate']:.1%}",
    }
    if any(task["floor"] is not None for task in tasks.values()):
        columns["floor"] = lambda task: number(task["floor"])
        columns["verdict"] = lambda task: task["verdict"]
    if any("shuffled" in task for task in tasks.values()):
        columns["media shuffled"] = lambda task: number(task.get("shuffled", {}).get("value"))
    if results["baseline"]:
        columns[baseline_title(results["baseline"])] = lambda task: number(task.get("baseline", {}).get("value"))
    return [["task", *columns], *([name, *(cell(task) for cell in columns.values())] for name, task in tasks.items())]


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them titles, as a Markdown table; the cells are texts, whatever they hold."""
    lines = [f"| {' | '.join(map(markdown, line))} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def write_markdown(path: Path, results: dict[str, Any]) -> None:
    """Write scores, further values and categories of all tasks."""
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
    """How the answers were decoded, with the tasks if they differ in it."""
    tasks = defaultdict(list)
    for name, task in results["tasks"].items():
        found = task["decoding"]
        tasks["recorded" if found is None else ", ".join(f"{key} {value}" for key, value in found.items())].append(
            name
        )
    if len(tasks) == 1:
        return next(iter(tasks))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in tasks.items())


def _details(task: dict[str, Any]) -> list[str]:
    parts = []
    if len(task["values"]) > 1:
        parts.append(markdown_table([["value", "", "95 % interval"], *map(_cells, task["values"].items())]))
    if judged := task.get("judged"):
        title = [f"judged by {judged['by']}", "mean", "95 % interval"]
        parts.append(markdown_table([title, *map(_cells, judged["values"].items())]))
        parts.append(f"{judged['unread']} of {task['n']:,} replies of the judge could not be read and count as 0.")
    for axis, found in task["categories"].items():
        lines = [[*_cells(item), f"{item[1]['n']:,}"] for item in found.items()]
        parts.append(markdown_table([[axis, task["metric"], "95 % interval", "rows"], *lines]))
    return parts


def _cells(item: tuple[str, dict[str, Any]]) -> list[str]:
    name, value = item
    return [name, number(value["value"]), span(value)]


def number(value: float | None) -> str:
    """A value with three decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def span(value: dict[str, Any]) -> str:
    """The 95 % interval of a value."""
    return f"{number(value['low'])} - {number(value['high'])}"


__all__ = ["decoding", "markdown_table", "number", "span", "table_cells", "write_markdown"]
