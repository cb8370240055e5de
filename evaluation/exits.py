"""How a command ends that cannot do what it was asked: one line, no traceback, exit code 2."""

from typing import NoReturn

import typer
from rich.console import Console

from unimoe.errors.visible import visible


def fail(error: Exception) -> NoReturn:
    """Say what is wrong, and exit."""
    line = visible(f"error: {error}")
    Console(stderr=True).print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(2) from None


__all__ = ["fail"]
