"""Command line: `python -m evaluation --model DIR --config FILE [key.sub=value ...]`, and `... compare RUN RUN`.

Instead of a file, `--tasks pope,mmbench --data-root DIR` names published benchmarks; instead of a model,
`--predictions DIR` names answers that are there already.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging
from typer.core import TyperGroup

from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail

from .compare.command import command as compare
from .config import load_config
from .errors import EvaluationError
from .report.terminal import print_report
from .run import Run, evaluate
from .tasks import BENCHMARKS


class Commands(TyperGroup):
    """Commands of which `run` need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front, unless another command or help is asked for."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["run", *args])


app = typer.Typer(
    cls=Commands, add_completion=False, pretty_exceptions_enable=False, help="Measure models, and compare them."
)
app.command("compare")(compare)
_WIDTH = 120  # where there is no terminal to measure


@app.command("run")
def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, e.g. tasks.vqa.limit=100")] = None,
    model: Annotated[str | None, typer.Option(help="Folder (or Hub id) of the model.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these predictions instead: a folder of NAME.jsonl, or one file."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of the evaluation.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Published benchmarks by name, a,b,...; with --config, some of its tasks.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data; benchmarks have a folder each.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Model to compare with, on the same rows.")] = None,
    shuffled_media: Annotated[
        bool, typer.Option("--shuffled-media", help="Ask again about other rows' media: does it really look?")
    ] = False,
    routing: Annotated[
        bool,
        typer.Option("--routing/--no-routing", help="Count which experts each modality uses, per task and layer."),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions of an earlier run.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder of results.json; instead of the config's output.")
    ] = None,
) -> None:
    """Measure a model: answers, scores with intervals and floors, routing; results.json, reports and a table."""
    console = own_console()
    try:
        check_options(model=model, predictions=predictions, config=config, tasks=tasks, shuffled=shuffled_media)
        chosen = [name for name in (tasks or "").split(",") if name]
        changes = [*(overrides or ()), *([] if routing else ["routing_rows=0"])]
        settings = load_config(config, changes, tasks=chosen, data_root=data_root, output=output)
        run = Run(config=settings, output=settings.output, overwrite=overwrite, console=console)
        results = evaluate(run, model=model, predictions=predictions, baseline=baseline, shuffled_media=shuffled_media)
    except (ConfigError, EvaluationError) as error:
        fail(error)
    except OSError as error:  # a folder that cannot be written, a disk that is full
        fail(EvaluationError(f"{error.filename}: {error.strerror}") if error.filename else error)
    print_report(results, console=console)
    for name in ("results.json", "report.md", "report.html"):
        console.print(f"{run.output / name}", highlight=False, markup=False, soft_wrap=True)


def own_console() -> Console:
    """Open the console of this process; of several processes, only the first one prints."""
    if int(os.environ.get("RANK", "0")):
        transformers_logging.disable_progress_bar()
        return Console(quiet=True)
    console = Console()
    if console.is_terminal:
        return console
    transformers_logging.disable_progress_bar()
    return Console(width=_WIDTH)


def check_options(
    *, model: str | None, predictions: Path | None, config: Path | None, tasks: str | None, shuffled: bool
) -> None:
    """Refuse a command that does not say what is measured, or on what.

    Raises:
        EvaluationError: Naming the options.
    """
    if (model is None) == (predictions is None):
        raise EvaluationError("name either --model, which answers, or --predictions, which are scored as they are")
    if predictions is not None and shuffled:
        raise EvaluationError("--shuffled-media asks a model again: name --model instead of --predictions")
    if config is None and not tasks:
        raise EvaluationError(f"name --config FILE, or --tasks: {', '.join(BENCHMARKS)}")


if __name__ == "__main__":
    app()
