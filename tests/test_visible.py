"""Texts of others are shown and make nothing: no code of a terminal, no link, picture or tag of Markdown."""

import re

import pytest

from unimoe.errors.visible import markdown, visible

HOSTILE = [
    "![x](http://evil/x.png)",
    "[x](http://evil)",
    "[x][y]",
    "<img src=http://evil/x.png onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</td><td>",
    "<!-- hidden",
    "<?php",
    "&lt;script&gt;&#60;b&#62;",
    "a | b || c",
    "`code` ``more``",
    "*bold* __strong__ _slant_ ~~gone~~",
    "# heading",
    "$x$ $$y$$",
    "@everyone",
    "http://evil www.evil.com WWW.evil.com ftp://evil",
    "a\nb\n\n# c\n- d",
    "a\r\n| b |",
    "\\![x](y)",
    "\\",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eback",
    "\u2028# c",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_a_text_is_one_line_that_shows_the_text(text: str) -> None:
    said = markdown(text)
    assert "\n" not in said and "\r" not in said and not re.search("[\x00-\x1f\x7f-\x9f\u2028\u202e]", said)
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", said)  # what an escape takes its meaning from
    assert not re.search(r"[|`*\[\]#~!$@]|://|www\.|<[a-z/!?]|&(?!amp;|lt;|gt;)", bare, re.IGNORECASE), said
    assert "](" not in said and "![" not in said and "<img" not in said and "<script" not in said


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_reads_as_the_text(text: str) -> None:
    """As CommonMark reads it: a backslash before a mark is none, entities are what they stand for."""
    read = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown(text))
    for name, mark in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        read = read.replace(name, mark)
    assert read == visible(text).replace("\n", " ")


@pytest.mark.parametrize(
    "text", ["runs/my_model", "multiple_choice", "(200 rows)", "< 0.001", "+0.200", "95 % interval"]
)
def test_plain_names_and_numbers_stay_as_they_are(text: str) -> None:
    assert markdown(text) == text


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert visible("\x1b[31mred\tb\nc\x07\x9b\u202e") == "\\x1b[31mred\tb\nc\\x07\\x9b\\u202e"
    visible("\ud800 caf\u00e9 \U0001f600").encode()
