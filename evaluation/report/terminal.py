"""The table at the end of an evaluation, and the lines of Python that load what was measured."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unimoe.errors.visible import visible
from unimoe.modality import Modality

Cell = Callable[[dict[str, Any]], str]
_LABEL_WIDTH, _TASK_WIDTH = 25, 13  # characters; four tasks stand side by side in 80


def print_report(results: dict[str, Any], *, console: Console) -> None:
    """Print the table of all tasks, what the models are, and how to load the measured one."""
    names = list(results["tasks"])
    side_by_side = max(1, (console.width - _LABEL_WIDTH) // _TASK_WIDTH)
    for start in range(0, len(names), side_by_side):
        console.print(results_table(results, names[start : start + side_by_side]))
    for name, task in results["tasks"].items():
        for note in task["notes"]:
            console.print(visible(f"{name}: {note}"), highlight=False, markup=False, soft_wrap=True)
    for label in ("model", "baseline"):
        if results[label]:
            line = visible(f"{label}: {describe_model(results[label])}")
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if "parameters" in results["model"]:
        lines = loading_lines(results["model"]["path"])
        console.print(f"\n{lines}", highlight=False, markup=False, soft_wrap=True)


def results_table(results: dict[str, Any], names: Sequence[str]) -> Table:
    """One column for each of these tasks; lines of controls that were not asked for are left out."""
    tasks = [results["tasks"][name] for name in names]
    table = Table(show_header=True)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(escape(visible(name)), justify="right", overflow="fold")
    for label, cell in _lines(results).items():
        table.add_row(escape(visible(label)), *(cell(task) for task in tasks))
    if results["routing"]:
        table.add_section()
        modalities = [results["routing"]["tasks"].get(name, {}) for name in names]
        for key in (modality.key for modality in Modality):
            if any(key in found for found in modalities):
                table.add_row(f"experts used: {key}", *(_experts_used(found.get(key)) for found in modalities))
    return table


def _lines(results: dict[str, Any]) -> dict[str, Cell]:
    """Label of each line of the table, and how a task fills it."""
    lines: dict[str, Cell] = {
        "metric": lambda task: task["metric"],
        "score": lambda task: f"[bold]{task['value']:.3f}[/]",
        "95 % interval": lambda task: f"{task['low']:.3f}-{task['high']:.3f}",
        **{name: partial(_value, name) for name in _further_values(results)},
        "rows": lambda task: f"{task['n']:,}",
        "floor: majority": lambda task: _number(task["floors"].get("majority")),
        "floor: question only": lambda task: _number(task["floors"].get("question_only")),
        "verdict": lambda task: _VERDICT_STYLES[task["verdict"]],
    }
    if any("shuffled" in task for task in results["tasks"].values()):
        lines["shuffled media"] = lambda task: _number(task.get("shuffled", {}).get("value"))
    if results["baseline"]:
        lines[baseline_title(results["baseline"])] = lambda task: _number(task.get("baseline", {}).get("value"))
    lines["unparsed"] = lambda task: f"{task['unparsed_rate']:.1%}"
    return lines


def _further_values(results: dict[str, Any]) -> list[str]:
    """Names of the values that tasks have beside the main one, in order of appearance."""
    return list(dict.fromkeys(name for task in results["tasks"].values() for name in list(task["values"])[1:]))


def _value(name: str, task: dict[str, Any]) -> str:
    """A value of a task that is not its main one."""
    further = dict(list(task["values"].items())[1:])
    return _number(further.get(name, {}).get("value"))


def _experts_used(modality: dict[str, Any] | None) -> str:
    return "-" if modality is None else f"{modality['mean_experts_used']:.1f}"


def baseline_title(baseline: dict[str, Any]) -> str:
    """Its line in the table: `dense baseline`, or `baseline` if it has experts."""
    return "baseline" if baseline["num_experts"] else "dense baseline"


def describe_model(model: dict[str, Any]) -> str:
    """Path, kind and exact parameter counts in one line."""
    if "parameters" not in model:
        return f"recorded predictions in {model['path']}"
    experts = model["num_experts"]
    kind = f"{experts} experts, {model['num_experts_per_tok']} per token" if experts else "dense"
    return f"{model['path']} ({kind}): {model['active_parameters']:,} active of {model['parameters']:,} parameters"


def loading_lines(path: str) -> str:
    """Three lines of Python that load a model folder."""
    return (
        "import unimoe; from transformers import AutoModelForMultimodalLM, AutoProcessor\n"
        f"processor = AutoProcessor.from_pretrained({path!r})\n"
        f"model = AutoModelForMultimodalLM.from_pretrained({path!r})"
    )


_VERDICT_STYLES = {
    "above floor": "[green]above floor[/]",
    "not above floor": "[yellow]not above floor[/]",
    "no floor": "no floor",
}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


__all__ = ["baseline_title", "describe_model", "loading_lines", "print_report", "results_table"]
