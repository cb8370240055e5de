"""Runs a stage: open -> build -> report -> train -> finish, an ordinary `save_pretrained` folder with its metadata."""

from pathlib import Path

from rich.console import Console

from ..checkpoint.folder import is_complete
from ..config.stage import StageConfig
from .finished import check_finished
from .output import check_output
from .output_lock import OutputLock
from .stage import Stage


def run_stage(
    config: StageConfig,
    *,
    name: str = "stage",
    title: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Run one stage and return its output folder.

    Args:
        config: The stage.
        name: Its name, for the model card.
        title: What the progress bar says. None: the name.
        resume: Go on from the last checkpoint in the output, if there is one; do nothing if the stage is complete.
        console: Where progress goes. None: standard output.

    Raises:
        ConfigError: If the start, a part or an argument does not fit.
        DataError: If a row of the data does not fit.
        NonFiniteLoss: If the loss becomes NaN or infinite.
    """
    check_output(config, resume=resume)
    if resume and is_complete(config):
        check_finished(config)
        return Path(config.output)
    with OutputLock(config.output):
        stage = Stage.open(config, name=name, title=title or name, resume=resume, console=console or Console())
        with stage.memory:
            stage.build()
            stage.report()
            stage.train()
            return stage.finish()


__all__ = ["run_stage"]
