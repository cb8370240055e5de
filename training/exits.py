"""How a command ends that cannot do what it was asked: one message, no traceback, exit code 2."""

import re
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape


def fail(error: Exception) -> NoReturn:
    """Say what is wrong, and exit."""
    # A worker process wraps its error in a traceback; the last exception's own message is what counts.
    message = re.split(r"\n[\w.]+Error: ", str(error))[-1].strip()
    Console(stderr=True).print(f"[red]Error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


__all__ = ["fail"]
