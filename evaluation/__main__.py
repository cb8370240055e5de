"""Command line: `python -m evaluation --model DIR --config FILE [key.sub=value ...]`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging

from unimoe.settings import ConfigError

from .config import load_config
from .errors import EvaluationError
from .report import print_report
from .run import Run, evaluate

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_WIDTH = 120  # where there is no terminal to measure


@app.command()
def main(
    model: Annotated[str, typer.Option(help="Folder (or Hub id) of the model.")],
    config: Annotated[Path, typer.Option(help="YAML file of the evaluation.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, e.g. tasks.vqa.limit=100")] = None,
    baseline: Annotated[str | None, typer.Option(help="Model to compare with, on the same rows.")] = None,
    shuffled_media: Annotated[
        bool, typer.Option("--shuffled-media", help="Ask again about other rows' media: does it really look?")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions of an earlier run.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder of results.json; instead of the config's output.")
    ] = None,
) -> None:
    """Measure a model: answers, scores with intervals and floors, routing; results.json and a table."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
        transformers_logging.disable_progress_bar()
    try:
        settings = load_config(config, overrides or ())
        run = Run(config=settings, output=output or settings.output, overwrite=overwrite, console=console)
        results = evaluate(run, model=model, baseline=baseline, shuffled_media=shuffled_media)
    except (ConfigError, EvaluationError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    print_report(results, console=console)
    console.print(f"\n{run.output / 'results.json'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
