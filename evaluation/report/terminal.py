"""The table at the end of an evaluation, and the lines of Python that load what was measured."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unimoe.errors.visible import visible
from unimoe.modality import Modality

from .answers import distinct_answers
from .columns import describe_model, number, task_lines

_LABEL_WIDTH, _TASK_WIDTH = 25, 13  # characters; four tasks stand side by side in 80
_STYLES = {
    "above floor": "green",
    "not above floor": "yellow",
    "better": "green",
    "worse": "red",
    "no difference shown": "yellow",
}
"""Of verdicts."""


def print_report(results: dict[str, Any], *, console: Console) -> None:
    """Print the table of all tasks, what the models are, and how to load the measured one."""
    names = list(results["tasks"])
    side_by_side = max(1, (console.width - _LABEL_WIDTH) // _TASK_WIDTH)
    for start in range(0, len(names), side_by_side):
        console.print(results_table(results, names[start : start + side_by_side]))
    notes = [f"{name}: {distinct_answers(task)}" for name, task in results["tasks"].items()]
    notes += [f"{name}: {note}" for name, task in results["tasks"].items() for note in task["notes"]]
    models = [f"{label}: {describe_model(results[label])}" for label in ("model", "baseline") if results[label]]
    print_lines([*notes, *models], console=console)
    if "parameters" in results["model"]:
        lines = loading_lines(results["model"]["path"], task=results["model"].get("reserved_task"))
        console.print(f"\n{lines}", highlight=False, markup=False, soft_wrap=True)


def print_lines(lines: Sequence[str], *, console: Console) -> None:
    """Print lines as they are; nothing in them is obeyed."""
    for line in lines:
        console.print(visible(line), highlight=False, markup=False, soft_wrap=True)


def results_table(results: dict[str, Any], names: Sequence[str]) -> Table:
    """Make a table with a column for each of these tasks; lines of controls that were not asked for are left out."""
    tasks = [results["tasks"][name] for name in names]
    table = Table(show_header=True)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(plain(name), justify="right", overflow="fold")
    for label, cell in task_lines(results).items():
        style = "bold" if label == "score" else ""
        table.add_row(plain(label), *(styled(cell(task), style) for task in tasks))
    if results["routing"]:
        table.add_section()
        modalities = [results["routing"]["tasks"].get(name, {}) for name in names]
        for key in (modality.key for modality in Modality):
            if any(key in found for found in modalities):
                used = (found.get(key, {}).get("mean_experts_used") for found in modalities)
                table.add_row(f"experts used: {key}", *(number(value, digits=1) for value in used))
    return table


def plain(text: str) -> str:
    """Make a cell that says a text, whatever it holds."""
    return escape(visible(text))


def styled(text: str, style: str = "") -> str:
    """Make a cell in a style; without one, verdicts in theirs."""
    style = style or _STYLES.get(text, "")
    return f"[{style}]{plain(text)}[/]" if style else plain(text)


def loading_lines(path: str, *, task: str | None = None) -> str:
    """Write the three lines of Python that load a model folder, and one that turns a task on, if there is one."""
    turn_on = f"\nfrom unimoe.moe.tasks import set_task; set_task(model, {task!r})" if task else ""
    return (
        "import unimoe; from transformers import AutoModelForMultimodalLM, AutoProcessor\n"
        f"processor = AutoProcessor.from_pretrained({path!r})\n"
        f"model = AutoModelForMultimodalLM.from_pretrained({path!r}){turn_on}"
    )


__all__ = ["loading_lines", "plain", "print_lines", "print_report", "results_table", "styled"]
