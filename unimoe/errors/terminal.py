"""What a console of rich shows: texts of others, made harmless, and the message with which a command fails."""

import re
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from .visible import visible


def plain(text: str) -> str:
    """Return a text as markup of rich that shows it as it is: control characters written out, brackets brackets."""
    return escape(visible(text))


def fail(error: Exception | str) -> NoReturn:
    """Say what is wrong in one message, without a traceback, and exit with code 2."""
    # A worker process wraps its error in a traceback; the last exception's own message is what counts.
    message = re.split(r"\n[\w.]+Error: ", str(error))[-1].strip()
    Console(stderr=True).print(f"[red]Error:[/red] {plain(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2) from None


__all__ = ["fail", "plain"]
