"""docs/media.md says what the limits are."""

import re
from dataclasses import fields
from pathlib import Path

from unimoe.media import Limits
from unimoe.media.naming import WAYS

PAGE = Path(__file__).parents[2] / "docs" / "media.md"


def limits_table() -> str:
    """The table of limits, from the docstring and the defaults of `Limits`."""
    meanings = dict(re.findall(r"^        (\w+): (.*)$", Limits.__doc__ or "", re.MULTILINE))
    rows = [f"| `{field.name}` | {field.default:,} | {meanings[field.name]} |" for field in fields(Limits)]
    return "\n".join(["| limit | default | of what |", "|---|---|---|", *rows])


def test_the_page_has_the_limits_as_they_are() -> None:
    assert limits_table() in PAGE.read_text(encoding="utf-8"), f"docs/media.md needs:\n{limits_table()}"


def doors_table() -> str:
    """The table of names of a medium, from the reader's own list."""
    doors = "| named by | for example | training rows, `check` | processor, pipeline | evaluation | lmms-eval |"
    rows = [
        f"| {way} | {example} | {'yes' if in_rows else 'no'} | yes | {'yes' if in_rows else 'no'} | yes |"
        for way, (example, in_rows) in WAYS.items()
    ]
    return "\n".join([doors, "|---|---|---|---|---|---|", *rows])


def test_the_page_has_the_names_of_a_medium_as_they_are_read() -> None:
    assert doors_table() in PAGE.read_text(encoding="utf-8"), f"docs/media.md needs:\n{doors_table()}"
