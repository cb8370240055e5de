"""What all commands share: the application, the console, and how they end."""

import platform
import time
from typing import Any

import typer
from rich.console import Console

from ..errors.terminal import fail, plain

HELP = "Build, convert or change a model, look at its folder, verify it, talk to it, list presets and devices."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
console = Console()


def say(text: str) -> None:
    """Print a line as it is: names of folders, and lists in brackets, are no markup."""
    console.print(plain(text), soft_wrap=True, highlight=False)


def summary(certificate: Any, dtype: Any) -> str:
    """Sum up a certificate in one line."""
    difference = f"Largest difference, in {str(dtype).removeprefix('torch.')}: {certificate.difference:.1e}."
    return f"{certificate.kind}: {certificate.claim} {difference}"


def cost(started: float) -> str:
    """Seconds since a moment of `time.perf_counter`, and this process's largest resident memory where it is known."""
    seconds = f"{time.perf_counter() - started:.0f} s"
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return f"{seconds}, with {peak / 1e9:.1f} GB of memory at the peak"


def load(folder: str, *, with_processor: bool = True, dtype: str = "auto") -> tuple[Any, Any]:
    """Load a unimoe model and its processor, or say in one line why not and exit with code 2."""
    from transformers.utils import logging

    from ..checkpoint.loading import CheckpointError, load_model, load_processor

    logging.disable_progress_bar()
    try:
        model = load_model(folder, dtype=dtype)
        return model, load_processor(folder, model.config) if with_processor else None
    except CheckpointError as error:
        fail(error)
