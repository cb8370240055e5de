"""The documentation shows the one table of keys."""

from pathlib import Path

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
