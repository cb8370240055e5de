import json
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.tasks.row import Row, Text
from evaluation.tasks.source import Source


class Texts(Row):
    text: Text
    id: Text = ""


def test_rows_are_lines_whatever_separators_their_texts_hold(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    (tmp_path / "rows.tsv").write_text(f"text\tid\n{text}\t1\n", encoding="utf-8")
    source = Source("made", tmp_path, "")
    assert [row.text for row in source.rows("rows.jsonl", Texts)] == [text]
    assert [(row.text, row.id) for row in source.rows("rows.tsv", Texts)] == [(text, "1")]


def test_lines_of_objects_are_read_whatever_the_ending(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"a": 1}\n{"a": 2}\n')
    source = Source("made", tmp_path, "")
    assert [(row.where, row.values) for row in source.lines("rows.json", Row)] == [
        (f"{tmp_path}/rows.json:1", {"a": 1}),
        (f"{tmp_path}/rows.json:2", {"a": 2}),
    ]


@pytest.mark.parametrize(
    "content",
    [
        '{"id": 1, "id": 2}',
        '{"id": NaN}',
        '{"id": 1e999}',
        '{"id": ' + "9" * 1000 + "}",
        "[" * 5000 + "]" * 5000,
        '{"id": ' * 500 + "1" + "}" * 500,
        '{"id": 1',
        "null",
        "7",
        '"text"',
    ],
)
def test_what_is_no_row_is_one_error_with_file_and_line(tmp_path: Path, content: str) -> None:
    source = Source("made", tmp_path, "")
    for name, read in (("rows.jsonl", source.rows), ("rows.txt", source.lines)):
        (tmp_path / name).write_text('{"id": 0}\n' + content + "\n")
        with pytest.raises(EvaluationError, match=rf"^{tmp_path}/{name}:2: "):
            list(read(name, Row))
    (tmp_path / "rows.json").write_text(f"[{content}]")
    with pytest.raises(EvaluationError, match=rf"^{tmp_path}/rows\.json"):
        list(source.rows("rows.json", Row))
    (tmp_path / "keyed.json").write_text(f'{{"a": {content}}}')
    with pytest.raises(EvaluationError, match=rf"^{tmp_path}/keyed\.json"):
        list(source.keyed("keyed.json", Row, "id"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 50])
def test_what_is_no_table_is_one_error_with_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(EvaluationError, match=rf"^{tmp_path}/rows\.parquet: not a parquet file"):
        list(Source("made", tmp_path, "").rows("rows.parquet", Row))


def test_cells_that_no_table_holds_are_one_error_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"a,b\n1,2\n3\r4,5\n")
    with pytest.raises(EvaluationError, match=rf"^{tmp_path}/rows\.csv:3: "):
        list(Source("made", tmp_path, "").rows("rows.csv", Row))
