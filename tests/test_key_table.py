"""The documentation shows the one table of keys, and every kind of augmentation."""

import re
from pathlib import Path
from typing import get_args

from training.config.data import AugmentConfig
from unimoe.processing import keys

PAGE = Path(__file__).parents[1] / "docs/data.md"
BEGIN, END = "<!-- table of keys: begin -->\n", "\n<!-- table of keys: end -->"


def test_the_page_shows_the_table_that_rows_are_read_by() -> None:
    """To renew it, put what `unimoe.processing.keys.key_table()` gives between the marks."""
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == keys.key_table()


def test_no_key_of_a_place_stands_in_two_tables() -> None:
    for level in ("row", "turn", "item"):
        read = [set(entry.keys) for entry in keys.entries() if entry.level == level]
        doubles = {key for number, one in enumerate(read) for other in read[number + 1 :] for key in one & other}
        usual = {*keys.WEIGHTS, *keys.JUDGEMENTS, *keys.USUAL_WITHOUT_TOOLS, "index"}
        assert doubles <= usual, level  # of which some values pass


def test_the_page_has_a_row_for_every_kind_of_augmentation() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = {
        (modality, key)
        for row in rows
        for modality in re.findall(r"`(\w+)`", row[1])
        for key in re.findall(r"`(\w+)`", row[2])
    }
    for modality, field in AugmentConfig.model_fields.items():
        (kind,) = (part for part in get_args(field.annotation) if part is not type(None))
        assert {(modality, key) for key in kind.model_fields} <= listed, modality
