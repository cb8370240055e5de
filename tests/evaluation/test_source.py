import json
from pathlib import Path

from evaluation.tasks.source import Source


def test_rows_are_lines_whatever_separators_their_texts_hold(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    (tmp_path / "rows.tsv").write_text(f"text\tid\n{text}\t1\n", encoding="utf-8")
    source = Source("made", tmp_path, "")
    assert [row["text"] for _, row in source.rows("rows.jsonl")] == [text]
    assert [row for _, row in source.rows("rows.tsv")] == [{"text": text, "id": "1"}]


def test_lines_of_objects_are_read_whatever_the_ending(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"a": 1}\n{"a": 2}\n')
    source = Source("made", tmp_path, "")
    assert list(source.lines("rows.json")) == [
        (f"{tmp_path}/rows.json:1", {"a": 1}),
        (f"{tmp_path}/rows.json:2", {"a": 2}),
    ]
