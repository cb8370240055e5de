"""Command line: `python -m evaluation --model DIR --config FILE [key.sub=value ...]`, and `... compare RUN RUN`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging
from typer.core import TyperGroup

from unimoe.settings import ConfigError

from .compare import command as compare
from .config import load_config
from .errors import EvaluationError
from .exits import fail
from .report import print_report
from .run import Run, evaluate


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
        fail(error)
    print_report(results, console=console)
    console.print(f"\n{run.output / 'results.json'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
