"""docs/media.md says what the limits are."""

import re
from dataclasses import fields
from pathlib import Path

from unimoe.media import Limits

PAGE = Path(__file__).parents[2] / "docs" / "media.md"


def limits_table() -> str:
    """The table of limits, from the docstring and the defaults of `Limits`."""
    meanings = dict(re.findall(r"^        (\w+): (.*)$", Limits.__doc__ or "", re.MULTILINE))
    rows = [f"| `{field.name}` | {field.default:,} | {meanings[field.name]} |" for field in fields(Limits)]
    return "\n".join(["| limit | default | of what |", "|---|---|---|", *rows])


def test_the_page_has_the_limits_as_they_are() -> None:
    assert limits_table() in PAGE.read_text(encoding="utf-8"), f"docs/media.md needs:\n{limits_table()}"
