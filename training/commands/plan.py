"""`python -m training plan FILE.yaml`: what each stage will take, before anything is loaded or allocated."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail, plain

from ..monitor.memory import in_use
from ..monitor.sizes import GB

if TYPE_CHECKING:
    from ..planning.plan import StageEstimate

_WIDTH = 160
"""Columns of what does not go to a terminal."""
TOO_LARGE = 1
"""Exit code: a stage does not fit."""


def plan(
    file: Annotated[Path, typer.Argument(help="YAML file with one stage, or a recipe of several.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as for training.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of each machine, a process for each.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of a GPU, GB; what exceeds it is named.")] = None,
    tflops: Annotated[float | None, typer.Option(help="TFLOP/s that a GPU reaches, for the hours.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Plan this stage alone; may be repeated.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
) -> None:
    """Say what stages will take: parameters, memory, steps, operations. Nothing is loaded, nothing is trained."""
    from ..data import DataError
    from ..planning.plan import estimate_recipe

    imports = in_use()

    console, planned, is_over = Console(width=None if sys.stdout.isatty() else _WIDTH), [], False
    try:
        for result in estimate_recipe(
            file, overrides or [], only=stage or [], processes=gpus * nodes, limit=gpu_memory
        ):
            console.rule(plain(f"stage {result.name}"))
            console.print(result.table)
            console.print(describe(result, imports=imports, gpu_memory=gpu_memory, tflops=tflops), highlight=False)
            planned.append(result.as_json(imports=imports))
            is_over = is_over or bool(result.advice)
    except (ConfigError, DataError) as error:
        fail(error)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(planned, indent=1), encoding="utf-8")
    if is_over:
        raise typer.Exit(TOO_LARGE)


def describe(result: "StageEstimate", *, imports: int, gpu_memory: float | None, tflops: float | None) -> Table:
    """Show a planned stage; `imports` are the bytes that Python and libraries have in use in a training."""
    table = Table(show_header=False, box=None)
    memory, batches = result.memory, result.batches
    counts = {name: f"{number:,}" for name, number in result.parameters.items()}
    if result.absent:
        absent = f"{', '.join(result.absent)} by their configurations in configs/parts; a token of text is a byte"
        table.add_row("parts that are not here", plain(absent))
    table.add_row("parameters", f"{counts['total']}, active {counts['active']}, trainable {counts['trainable']}")
    table.add_row(f"memory of each of {result.processes}", str(memory))
    if result.processes > 1:
        sent = asdict(result.traffic)
        table.add_row("sent by each in a step", ", ".join(f"{kind} {size / GB:.3g} GB" for kind, size in sent.items()))
    on_cpu = f"{(imports + result.host.total) / GB:.2f} GB, of which Python and libraries {imports / GB:.2f}"
    table.add_row("memory of a process on a CPU", f"{on_cpu}, and at most one of {result.host}")
    table.add_row("batches", f"{batches.tokens:,.0f} tokens on average, {plain(batches.basis)}")
    steps = "not known without the data" if batches.steps is None else f"{batches.steps:,}"
    table.add_row("steps", f"{steps}, {result.flops / 1e12:.3g} TFLOP each")
    if tflops and batches.steps:
        seconds = result.memory.flops * batches.steps / (tflops * 1e12)
        table.add_row("time", f"{seconds / 3600:.2f} hours at {tflops:g} TFLOP/s")
    if gpu_memory:
        fits = memory.total <= gpu_memory * GB
        table.add_row("fits", f"yes, into {gpu_memory:g} GB" if fits else f"NO, {gpu_memory:g} GB are too little")
    for line in result.advice:
        table.add_row("", plain(line))
    return table


__all__ = ["plan"]
