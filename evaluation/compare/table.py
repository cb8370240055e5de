"""A report of comparisons as a table in the terminal and in Markdown."""

from collections.abc import Callable
from typing import Literal

from rich.markup import escape
from rich.table import Table

from unimoe.errors.visible import markdown, visible

from ..report.markdown import markdown_table
from .comparison import Comparison, Report
from .paired import LEVEL

Column = Callable[[Comparison], str]
_STYLES = {"better": "green", "worse": "red", "no difference shown": "yellow"}
_NO_DIFFERENCE = "No difference shown does not say that there is none."


def columns(report: Report) -> dict[str, Column]:
    """Title of each column, and how a comparison fills it."""
    found: dict[str, Column] = {
        "task": lambda row: f"{row.task} ({row.rows:,} rows)",
        "metric": lambda row: row.metric if row.higher_is_better else f"{row.metric}, lower is better",
        "variant": lambda row: row.variant,
        "score": lambda row: f"{row.score:.3f}",
        report.against: lambda row: f"{row.other:.3f}",
        "difference": lambda row: f"{row.difference.value:+.3f}",
        "95 % interval": lambda row: _interval(row.difference.low, row.difference.high),
    }
    if report.seeds > 1:
        found["rows alone"] = lambda row: _interval(row.difference.rows_low, row.difference.rows_high)
    found |= {"p": lambda row: format_p(row.difference.p), "p, Holm": lambda row: format_p(row.corrected_p)}
    return found | {"verdict": lambda row: row.verdict}


def comparison_table(report: Report) -> Table:
    """The table for a terminal; tasks apart."""
    table = Table(show_header=True)
    shown = columns(report)
    for title in shown:
        side: Literal["left", "right"] = "left" if title in ("task", "metric", "variant", "verdict") else "right"
        table.add_column(escape(visible(title)), justify=side)
    before = None
    for row in report.comparisons:
        if before not in (None, row.task):
            table.add_section()
        before = row.task
        *cells, verdict = (escape(visible(fill(row))) for fill in shown.values())
        table.add_row(*cells, f"[{_STYLES[verdict]}]{verdict}[/]")
    return table


def render_markdown(report: Report) -> str:
    """The table in Markdown, and below it how to read it."""
    shown = columns(report)
    table = markdown_table([list(shown), *([fill(row) for fill in shown.values()] for row in report.comparisons)])
    return "\n".join([table, "", *map(markdown, explanation(report)), ""])


def explanation(report: Report) -> list[str]:
    """Sentences that say what the numbers of a report are."""
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
    verdict = f"A verdict needs p < {LEVEL:g} after Holm's correction for {many} comparisons."
    return [*lines, f"{verdict} {_NO_DIFFERENCE}", *(f"Note: {note}." for note in report.notes)]


_FEW = 30


def format_p(value: float) -> str:
    """Three decimals; what would round to 0 as `< 0.001`."""
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def _interval(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"


__all__ = ["columns", "comparison_table", "explanation", "format_p", "render_markdown"]
