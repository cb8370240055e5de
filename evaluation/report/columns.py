"""What all reports write alike: the columns of a task's scores, numbers, intervals, and a model in one line."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

Row = TypeVar("Row")
Columns = dict[str, Callable[[Row], str]]
"""Title of each column, and how a row fills it."""
Task = dict[str, Any]
"""What results.json says of a task, or of one of its values or categories: `value`, `low`, `high` and so on."""


def number(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """Write a value; a dash where there is none."""
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def interval(low: float | None, high: float | None, *, between: str = " - ", signed: bool = False) -> str:
    """Write the two ends of an interval."""
    return f"{number(low, signed=signed)}{between}{number(high, signed=signed)}"


def span(task: Task, *, between: str = " - ") -> str:
    """Write the 95 % interval of a value."""
    return interval(task["low"], task["high"], between=between)


def count(task: Task) -> str:
    """Write how many rows there are."""
    return f"{task['n']:,}"


def unparsed(task: Task) -> str:
    """Write the share of the answers that could not be read."""
    return f"{task['unparsed_rate']:.1%}"


def p_value(value: float) -> str:
    """Write a p value; what would round to 0 as `< 0.001`."""
    return number(value) if value >= 0.0005 else "< 0.001"


def fill(columns: Columns[Row], rows: Iterable[Row]) -> list[list[str]]:
    """Fill the columns: their titles, then the cells of each row."""
    return [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]


def value_columns(title: str, value: str) -> Columns[tuple[str, Task]]:
    """Return columns of named values, such as those of a metric or of the categories of an axis.

    Args:
        title: Of the names.
        value: Title of the values.
    """
    return {
        title: lambda item: item[0],
        value: lambda item: number(item[1]["value"]),
        "95 % interval": lambda item: span(item[1]),
    }


def task_columns(results: dict[str, Any]) -> Columns[Task]:
    """Return columns of a table with a line for each task; without controls that were not asked for."""
    tasks = results["tasks"].values()
    columns: Columns[Task] = {
        "metric": lambda task: task["metric"],
        "score": lambda task: number(task["value"]),
        "95 % interval": span,
        "rows": count,
        "unparsed": unparsed,
    }
    if any(task["floor"] is not None for task in tasks):
        columns |= {"floor": lambda task: number(task["floor"]), "verdict": lambda task: task["verdict"]}
    return columns | _controls(results, shuffled="media shuffled")


def task_lines(results: dict[str, Any]) -> Columns[Task]:
    """Return lines of a narrow table with a column for each task: further values and both floors, too."""
    lines: Columns[Task] = {
        "metric": lambda task: task["metric"],
        "score": lambda task: number(task["value"]),
        "95 % interval": lambda task: span(task, between="-"),
    }
    for name in dict.fromkeys(name for task in results["tasks"].values() for name in _further(task)):
        lines[name] = partial(_further_value, name)
    lines |= {
        "rows": count,
        "floor: majority": lambda task: number(task["floors"].get("majority")),
        "floor: question only": lambda task: number(task["floors"].get("question_only")),
        "verdict": lambda task: task["verdict"],
    }
    return lines | _controls(results, shuffled="shuffled media") | {"unparsed": unparsed}


def _further(task: Task) -> dict[str, Task]:
    """Return values of a task beside its main one, in their order."""
    return dict(list(task["values"].items())[1:])


def _further_value(name: str, task: Task) -> str:
    return number(_further(task).get(name, {}).get("value"))


def _controls(results: dict[str, Any], *, shuffled: str) -> Columns[Task]:
    columns: Columns[Task] = {}
    if any("shuffled" in task for task in results["tasks"].values()):
        columns[shuffled] = lambda task: number(task.get("shuffled", {}).get("value"))
    if results["baseline"]:
        columns[baseline_title(results["baseline"])] = lambda task: number(task.get("baseline", {}).get("value"))
    return columns


def baseline_title(baseline: dict[str, Any]) -> str:
    """Name the baseline's scores: `dense baseline`, or `baseline` if it has experts."""
    return "baseline" if baseline["num_experts"] else "dense baseline"


def describe_model(model: dict[str, Any]) -> str:
    """Describe a model in one line: path, kind and exact parameter counts."""
    if "parameters" not in model:
        return f"predictions in {model['path']}"
    experts = model["num_experts"]
    kind = f"{experts} experts, {model['num_experts_per_tok']} per token" if experts else "dense"
    if task := model.get("reserved_task"):
        kind += f", task {task} on"
    return f"{model['path']} ({kind}): {model['active_parameters']:,} active of {model['parameters']:,} parameters"


__all__ = [
    "Columns",
    "Task",
    "baseline_title",
    "count",
    "describe_model",
    "fill",
    "interval",
    "number",
    "p_value",
    "span",
    "task_columns",
    "task_lines",
    "unparsed",
    "value_columns",
]
