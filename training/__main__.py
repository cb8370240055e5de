"""`python -m training FILE.yaml [key=value ...]`: runs a stage, or the stages of a recipe one after the other."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from unimoe.errors import UniMoEError
from unimoe.errors.terminal import fail, plain

from .commands.check import command as check_data
from .commands.doctor import doctor
from .commands.merge import merge
from .commands.plan import plan
from .config.recipe import load_recipe, select_stages


class Commands(TyperGroup):
    """Commands of which `train` need not be named: launchers put options of their own in front of its arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `train` in front, unless another command or help is asked for."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["train", *args])


app = typer.Typer(cls=Commands, add_completion=False, help="Train models in stages that are data.")
app.callback()(lambda: None)
app.command("check")(check_data)
app.command()(doctor)
app.command()(merge)
app.command()(plan)


@app.command()
def consolidate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder checkpoint-STEP in the output of an unfinished stage.")],
    out: Annotated[Path, typer.Argument(help="New folder for the model, its processor and its metadata.")],
) -> None:
    """Make one ordinary model of a checkpoint, whatever stage of ZeRO and however many processes wrote it."""
    from .stage.consolidate import consolidate

    try:
        consolidate(checkpoint, out)
    except (OSError, ValueError) as error:
        fail(error)
    Console().print(plain(f"written to {out}"), highlight=False)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="YAML file with one stage, or a recipe of several.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, e.g. scale=0.1.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this stage alone; may be repeated.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Run this stage and those after it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip complete stages; go on from the last checkpoint.")
    ] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", "--local-rank", hidden=True)] = -1,
) -> None:
    """Train one stage or a whole recipe. Every stage's output is an ordinary `save_pretrained` folder."""
    from .stage.output import check_outputs

    try:
        recipe = load_recipe(file, overrides or [])
        stages = select_stages(recipe, only=only or [], start=start)
        check_outputs(stages, resume=resume)
    except UniMoEError as error:
        fail(error)
    from transformers.utils import logging

    from .distributed.processes import launched
    from .monitor.curves import CURVES_FILE, plot_curves
    from .monitor.values import NonFiniteLoss
    from .stage.explain import explain
    from .stage.run import run_stage

    logging.disable_progress_bar()
    console = Console(quiet=launched()[0] > 0)  # of several processes, the first one speaks
    for number, (name, config) in enumerate(stages.items(), start=1):
        title = f"stage {number}/{len(stages)} {name}"
        console.rule(plain(title))
        try:
            output = run_stage(config, name=name, title=title, resume=resume, console=console)
        except (UniMoEError, NonFiniteLoss) as error:
            fail(error)
        except (OSError, RuntimeError) as error:
            if (explained := explain(error, config.output)) is None:
                raise
            fail(explained)
        console.print(plain(f"{name}: written to {output}"))
        if recipe.output and len(recipe.stages) > 1 and not console.quiet:
            outputs = {name: Path(stage.output) for name, stage in recipe.stages.items()}
            try:
                plot_curves(outputs, Path(recipe.output) / CURVES_FILE)
            except UniMoEError as error:  # the models are as they are
                console.print(f"{CURVES_FILE} is not drawn: {plain(str(error))}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
