"""Texts that others wrote, made harmless where they are shown: in a terminal, and in Markdown."""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, other line ends, marks that turn text around, and halves of letters."""
_MARKS = re.compile(r"[\\`*\[\]|#~!$@]|(?<=\])\(|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What makes links, pictures, emphasis, code, cells, headings, formulas and mentions."""
_HTML = re.compile(r"[<>](?=[A-Za-z/!?])|&(?=[#A-Za-z])|(?<=[\w\"'/-])>")


def visible(text: str) -> str:
    """Return a text whose control characters are written out, such as `\\x1b`: what a terminal shows, and does not
    obey.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def markdown(text: str) -> str:
    """Return a text within a line of Markdown that shows it: without links, pictures, HTML, cells or headings of its
    own.
    """
    line = " ".join(visible(text).split("\n"))
    line = _HTML.sub(lambda found: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[found[0]], line)
    return _MARKS.sub(lambda found: f"\\{found[0]}", line)


__all__ = ["markdown", "visible"]
