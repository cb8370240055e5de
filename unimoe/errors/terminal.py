"""Texts that others wrote (rows, names of files and stages, errors), made harmless for a console of rich."""

from rich.markup import escape

from unimoe.errors.visible import visible


def plain(text: str) -> str:
    """A text as markup of rich that shows it as it is: control characters are written out, brackets are brackets."""
    return escape(visible(text))


__all__ = ["plain"]
