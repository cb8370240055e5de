"""Texts that others wrote, made harmless where they are shown: in a terminal, and in Markdown."""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, other line ends, marks that turn text around, and halves of letters."""
_LETTERS = re.compile(r"[\\`*\[\]()|#~!$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")
_FIRST = re.compile(r"\A([-+=]|\d+(?=\.))")


def visible(text: str) -> str:
    """A text whose control characters are written out, such as `\\x1b`: what a terminal shows, and does not obey."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def markdown(text: str) -> str:
    """A text as Markdown that shows it on one line: without links, pictures, HTML, cells or headings of its own."""
    line = " ".join(visible(text).split("\n"))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _FIRST.sub(_escape_first, _LETTERS.sub(lambda found: f"\\{found[0]}", line))


def _escape_first(found: re.Match[str]) -> str:
    """What would begin a list or underline a heading at the start of a line."""
    return f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}"


__all__ = ["markdown", "visible"]
