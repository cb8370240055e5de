"""`python -m evaluation compare RUN RUN...`: is one model better than another on the same rows, or is it chance?"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unimoe.errors.terminal import fail
from unimoe.files.writing import write_whole

from ..errors import EvaluationError
from ..report.terminal import print_lines
from .comparison import compare_variants
from .table import comparison_table, explanation, render_markdown
from .variants import collect_variants

_WIDTH = 160  # where there is no terminal to measure


def command(
    runs: Annotated[list[Path] | None, typer.Argument(help="Output folders of evaluations, a variant each.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="NAME=DIR,DIR: seeds of one variant; repeat.")] = None,
    seeds: Annotated[list[Path] | None, typer.Option(help="Folder whose VARIANT-SEED folders are grouped.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Variant that the others are compared with. None: first.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Compare in this task; repeat. None: in all.")] = None,
    samples: Annotated[int, typer.Option(min=1000, help="Bootstrap samples.")] = 10_000,
    data_root: Annotated[Path | None, typer.Option(help="Where the data are, if they were moved.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, too.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
) -> None:
    """Compare evaluations with the first one: paired differences, intervals, p values, and a decision for each."""
    try:
        variants = collect_variants(runs or (), group or (), seeds or ())
        report = compare_variants(variants, against=against, tasks=task or (), samples=samples, data_root=data_root)
    except EvaluationError as error:
        fail(error)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(comparison_table(report))
    print_lines(explanation(report), console=console)
    texts = {markdown: render_markdown(report), json_file: json.dumps(report.to_json(), indent=2) + "\n"}
    for path, text in texts.items():
        if path is not None:
            write_whole(path, text)


__all__ = ["command"]
