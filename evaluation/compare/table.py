"""A report of comparisons as a table in the terminal and in Markdown."""

from typing import Literal

from rich.table import Table

from unimoe.errors.visible import markdown

from ..report.columns import Columns, fill, interval, number, p_value
from ..report.markdown import markdown_table
from ..report.terminal import plain, styled
from .comparison import Comparison, Report
from .paired import LEVEL

_NO_DIFFERENCE = "No difference shown does not say that there is none."


def columns(report: Report) -> Columns[Comparison]:
    """Return the columns of a table with a line for each comparison."""
    found: Columns[Comparison] = {
        "task": lambda row: f"{row.task} ({row.rows:,} rows)",
        "metric": lambda row: row.metric if row.higher_is_better else f"{row.metric}, lower is better",
        "variant": lambda row: row.variant,
        "score": lambda row: number(row.score),
        report.against: lambda row: number(row.other),
        "difference": lambda row: number(row.difference.value, signed=True),
        "95 % interval": lambda row: _interval(row.difference.low, row.difference.high),
    }
    if report.seeds > 1:
        found["rows alone"] = lambda row: _interval(row.difference.rows_low, row.difference.rows_high)
    found |= {"p": lambda row: p_value(row.difference.p), "p, Holm": lambda row: p_value(row.corrected_p)}
    return found | {"decision": lambda row: row.decision}


def comparison_table(report: Report) -> Table:
    """Make the table for a terminal; tasks stand apart."""
    table = Table(show_header=True)
    titles, *lines = fill(columns(report), report.comparisons)
    for title in titles:
        side: Literal["left", "right"] = "left" if title in ("task", "metric", "variant", "decision") else "right"
        table.add_column(plain(title), justify=side)
    before = None
    for row, (*cells, decision) in zip(report.comparisons, lines, strict=True):
        if before not in (None, row.task):
            table.add_section()
        before = row.task
        table.add_row(*map(plain, cells), styled(decision))
    return table


def render_markdown(report: Report) -> str:
    """Write the table in Markdown, and below it how to read it."""
    table = markdown_table(fill(columns(report), report.comparisons))
    return "\n".join([table, "", *map(markdown, explanation(report)), ""])


def explanation(report: Report) -> list[str]:
    """Say in sentences what the numbers of a report are."""
    many = len(report.comparisons)
    said = f"Differences to {report.against} on the same rows; intervals and p values from {report.samples:,} "
    if report.seeds > 1:
        said += (
            f"bootstrap samples of the rows' clusters and Student's t over {report.seeds} seeds; `rows alone` leaves "
            "the seeds out."
        )
    else:
        said += "bootstrap samples of the rows' clusters. One model each: nothing is said of other seeds."
    lines = [said]
    few = [f"{row.task} ({row.clusters})" for row in report.comparisons if row.clusters < _FEW]
    if few:
        lines.append(f"Fewer than {_FEW} clusters, so that intervals are too narrow: {', '.join(dict.fromkeys(few))}.")
    decision = f"A decision needs p < {LEVEL:g} after Holm's correction for {many} comparisons."
    return [*lines, f"{decision} {_NO_DIFFERENCE}", *(f"Note: {note}." for note in report.notes)]


_FEW = 30


def _interval(low: float, high: float) -> str:
    return interval(low, high, between=" to ", signed=True)


__all__ = ["columns", "comparison_table", "explanation", "render_markdown"]
