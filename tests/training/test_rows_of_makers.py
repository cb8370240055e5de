"""Rows as others make them are read, or refused with the cure that is true."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from fault_kinds import write_media

from training.config.data import SourceConfig
from training.data import DataError
from training.data.readers.sources import open_source, open_stream

BOM = b"\xef\xbb\xbf"
TALK = [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "a cat"}]


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"id": str(number), "messages": TALK, "images": ["good.png"], **changes}


ROWS = [row(number) for number in range(3)]
LINES = [json.dumps(values).encode() for values in ROWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("makers")
    write_media(found)
    return found


def read(folder: Path, data: bytes, name: str, **keys: Any) -> list[str]:
    """Ids of the rows of a file, read at random and as a stream."""
    (folder / name).write_bytes(data)
    config = SourceConfig(path=str(folder / name), **keys)
    ids = [values.id for values in open_source(config)]
    assert [values.id for values in open_stream(config)] == ids
    return ids


FILES = {
    "lines.jsonl": b"\n".join(LINES),
    "joined.jsonl": BOM + LINES[0] + b"\r\n" + BOM + LINES[1] + b"\r\n\r\n" + BOM + BOM + LINES[2],
    "lines.json": b"\n".join(LINES),
    "joined.json": BOM + LINES[0] + b"\n" + BOM + LINES[1] + b"\n" + LINES[2] + b"\n",
    "one after the other.json": b"".join(LINES),
    "pretty.json": b"\n".join(json.dumps(values, indent=2).encode() for values in ROWS),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "list on a line.jsonl": json.dumps(ROWS).encode(),
    "list on lines.jsonl": BOM + json.dumps(ROWS, indent=1).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_found_however_a_file_holds_them(folder: Path, name: str) -> None:
    assert read(folder, FILES[name], name) == ["0", "1", "2"]


def test_one_object_in_a_json_file_is_one_row(folder: Path) -> None:
    assert read(folder, json.dumps(ROWS[0], indent=1).encode(), "single.json") == ["0"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES[0]), r"compressed with gzip. Unpack it first: `gunzip "),
        ("a.json", gzip.compress(LINES[0]), r"compressed with gzip"),
        ("a.jsonl.bz2", bz2.compress(LINES[0]), r"compressed with bzip2"),
        ("a.jsonl.xz", lzma.compress(LINES[0]), r"compressed with xz"),
        ("a.jsonl", b"PAR1" + bytes(9), r"a table of parquet. Name it .parquet"),
        ("wide.jsonl", LINES[0].decode().encode("utf-16"), r"the file is UTF-16. Save it as UTF-8"),
        ("in.json", json.dumps({"data": ROWS}).encode(), r"rows seem to be under 'data'.* `jq '.data' .*in.json"),
        ("in2.json", json.dumps({"version": 1, "train": ROWS}).encode(), r"rows seem to be under 'train'"),
        ("word.json", b'"rows"', r"expected a list of rows, got str"),
        ("cut.json", json.dumps(ROWS).encode()[:-30], r"row 2: not valid JSON"),
        ("two lists.json", json.dumps(ROWS).encode() * 2, r"not valid JSON \(Something stands behind the list"),
        ("two.jsonl", LINES[0] + LINES[1], r":1: not valid JSON \(Extra data.*Put each object on a line of its own"),
        ("deep.jsonl", b"[" * 5000, r"json_depth"),
        ("deep2.jsonl", b'{"messages": ' + b"[" * 5000, r"json_depth"),
        ("number.jsonl", b'{"id": ' + b"9" * 9000 + b"}", r"number_digits"),
        ("double.jsonl", b'{"id": 1, "id": 2}', r":1: id: the key is given twice"),
    ],
)
def test_other_files_are_refused_with_the_cure(folder: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder, data, name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"instruction": "what?", "input": "", "output": "a cat"},
            r"`columns: {instruction: user, output: assistant}`\.$",
        ),
        ({"instruction": "what?", "input": "3", "output": "a"}, r"What `input` says must then be written into"),
        ({"prompt": "what?", "chosen": "a", "rejected": "b"}, r"{prompt: user, chosen: assistant, rejected: ignore}"),
        ({"question": "what?", "answer": "a"}, r"{question: user, answer: assistant}"),
    ],
)
def test_rows_in_columns_are_refused_with_the_columns_to_write(folder: Path, values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder, json.dumps(values).encode(), "columns.jsonl")


def test_columns_that_are_said_to_be_ignored_are(folder: Path) -> None:
    values = json.dumps({"prompt": "what?", "chosen": "a", "rejected": "b"}).encode()
    meaning = {"prompt": "user", "chosen": "assistant"}
    with pytest.raises(DataError, match=r"rejected: this key would be lost.*columns: {rejected: ignore}"):
        read(folder, values, "pairs.jsonl", columns=meaning)
    assert len(read(folder, values, "pairs.jsonl", columns={**meaning, "rejected": "ignore"})) == 1
    further = json.dumps({"instruction": "add", "input": "1 and 2", "output": "3"}).encode()
    with pytest.raises(DataError, match="input: this text is not in the dialogue"):
        read(folder, further, "pairs.jsonl", columns={"instruction": "user", "output": "assistant"})


def test_turns_under_conversations_may_be_spelled_either_way(folder: Path) -> None:
    mixed = [{"from": "human", "value": "<image>what?"}, {"role": "assistant", "content": "a cat"}]
    for turns in (TALK, mixed):
        values = {"id": "0", "conversations": turns, "image": "good.png"}
        assert read(folder, json.dumps(values).encode(), "spelled.jsonl") == ["0"]


@pytest.mark.parametrize(
    "token",
    ["<img>", "<Image>", "<|image_pad|>", "<image_soft_token>", "[IMG]", "<IMG_CONTEXT>", "<image_00>", "<ImageHere>"],
)
def test_placeholders_of_other_makers_are_named_where_a_medium_is_meant(folder: Path, token: str) -> None:
    said = [{"role": "user", "content": f"{token}what?"}, TALK[1]]
    with pytest.raises(DataError) as refused:
        read(folder, json.dumps(row(messages=said)).encode(), "foreign.jsonl")
    assert token in refused.value.cure and "write <image>" in refused.value.cure
    bare = json.dumps(row(messages=said, images=[])).encode()
    if token == "<img>":  # of HTML
        assert read(folder, bare, "foreign.jsonl") == ["0"]
    else:
        with pytest.raises(DataError, match="of another maker, and the row has no column of media"):
            read(folder, bare, "foreign.jsonl")
    both = [{"role": "user", "content": f"<image>what is {token}?"}, TALK[1]]
    assert read(folder, json.dumps(row(messages=both)).encode(), "foreign.jsonl") == ["0"]


def test_a_medium_that_is_named_within_a_text_is_refused(folder: Path) -> None:
    said = [{"role": "user", "content": "Picture 1: <img>good.png</img>\nwhat?"}, TALK[1]]
    with pytest.raises(DataError, match=r"messages\[0\]\.content: a medium is named within the text"):
        read(folder, json.dumps(row(messages=said, images=None)).encode(), "inside.jsonl")
