"""How a command ends that cannot do what it was asked: one message, no traceback, exit code 2."""

import re
from typing import NoReturn

import typer
from rich.console import Console

from unimoe.errors import ConfigError
from unimoe.errors.terminal import plain


def fail(error: Exception) -> NoReturn:
    """Say what is wrong, and exit."""
    # A worker process wraps its error in a traceback; the last exception's own message is what counts.
    message = re.split(r"\n[\w.]+Error: ", str(error))[-1].strip()
    Console(stderr=True).print(f"[red]Error:[/red] {plain(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)(?:.*by signal: ([\w ]+))?")


def explain(error: OSError | RuntimeError, output: str) -> Exception | None:
    """What to say of an error of the machine: a lost process, a killed worker, a file; None of one that is a bug's.

    Args:
        error: Which ended a training.
        output: Of the stage.
    """
    from .distributed.processes import is_lost_connection

    again = f"Go on from the last checkpoint in {output} with --resume."
    if found := _WORKER.search(str(error)):
        return ConfigError(
            output,
            f"process {found[1].strip()}, which loaded data for it, was killed ({found[2] or 'it is gone'}).",
            f"If memory was short, lower data.num_workers or turn cache_media off. {again}",
        )
    if is_lost_connection(error):
        first_line = str(error).splitlines()[0]
        return ConfigError(
            f"Another process is gone, or its host cannot be reached ({first_line}). Go on with --resume."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return ConfigError(str(error.filename), f"{error.strerror}.", f"Cure this. {again}")
    return None


__all__ = ["explain", "fail"]
