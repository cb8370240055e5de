"""report.md: the scores of an evaluation as Markdown, to paste into a model card or an issue."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .report import baseline_title, describe_model


def table_cells(results: dict[str, Any]) -> list[list[str]]:
    """The table of all tasks: titles, then a line for each; without columns of controls that were not asked for."""
    tasks = results["tasks"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "metric": lambda task: task["metric"],
        "score": lambda task: f"{task['value']:.3f}",
        "95 % interval": lambda task: f"{task['low']:.3f} - {task['high']:.3f}",
        "rows": lambda task: f"{task['n']:,}",
        "unparsed": lambda task: f"{task['unparsed_rate']:.1%}",
    }
    if any(task["floor"] is not None for task in tasks.values()):
        columns["floor"] = lambda task: _number(task["floor"])
        columns["verdict"] = lambda task: task["verdict"]
    if any("shuffled" in task for task in tasks.values()):
        columns["media shuffled"] = lambda task: _number(task.get("shuffled", {}).get("value"))
    if results["baseline"]:
        columns[baseline_title(results["baseline"])] = lambda task: _number(task.get("baseline", {}).get("value"))
    return [["task", *columns], *([name, *(cell(task) for cell in columns.values())] for name, task in tasks.items())]


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them titles, as a Markdown table."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def write_markdown(path: Path, results: dict[str, Any]) -> None:
    """Write scores, further values and categories of all tasks."""
    parts = [f"# Evaluation of {results['model']['path']}", describe_model(results["model"])]
    if results["baseline"]:
        parts.append(f"baseline: {describe_model(results['baseline'])}")
    parts.append(markdown_table(table_cells(results)))
    for name, task in results["tasks"].items():
        if details := _details(task):
            parts += [f"## {name}", *details]
    decoding = ", ".join(f"{key} {value}" for key, value in results["decoding"].items())
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    parts.append(f"Decoding: {decoding}. Versions: {versions}.")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _details(task: dict[str, Any]) -> list[str]:
    parts = []
    if len(task["values"]) > 1:
        parts.append(markdown_table([["value", "", "95 % interval"], *map(_cells, task["values"].items())]))
    for axis, found in task["categories"].items():
        lines = [[*_cells(item), f"{item[1]['n']:,}"] for item in found.items()]
        parts.append(markdown_table([[axis, task["metric"], "95 % interval", "rows"], *lines]))
    return parts


def _cells(item: tuple[str, dict[str, Any]]) -> list[str]:
    name, value = item
    return [name, f"{value['value']:.3f}", f"{value['low']:.3f} - {value['high']:.3f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


__all__ = ["markdown_table", "table_cells", "write_markdown"]
