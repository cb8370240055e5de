"""Data files are checked row by row; every refusal names file and line, the key and the cure."""

import pytest

from training.data.schema import DataError, read_rows

ANSWER = {"role": "assistant", "content": "yes"}


def question(*content, **message):
    return {"messages": [{"role": "user", "content": list(content), **message}, ANSWER]}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"of a picture")
    return path


def test_messages_keep_their_items_and_resolve_media_against_the_data_file(write_jsonl, picture):
    row = question({"type": "image", "path": "a.png"}, {"type": "text", "text": "what?"})
    path = write_jsonl({"id": 7, **row}, "", {"messages": [{"role": "user", "content": "hi"}, ANSWER]})
    first, second = read_rows(path)
    assert (first.id, first.where) == ("7", f"{path}:1")
    assert first.messages[0]["content"] == [{"type": "image", "path": str(picture)}, {"type": "text", "text": "what?"}]
    assert second.id == second.where == f"{path}:3"
    assert second.messages[0]["content"] == [{"type": "text", "text": "hi"}]


def test_the_medium_may_stand_under_its_kind_and_root_may_be_given(write_jsonl, picture, tmp_path):
    (tmp_path / "sub").mkdir()
    path = write_jsonl(question({"type": "image", "image": "a.png"}), name="sub/data.jsonl")
    (row,) = read_rows(path, media_root=tmp_path)
    assert row.messages[0]["content"][0]["path"] == str(picture)


def test_llava_tags_are_filled_in_order_in_both_file_kinds(write_jsonl, picture, tmp_path):
    (tmp_path / "b.png").write_bytes(b"of another")
    turns = [
        {"from": "human", "value": "<image>\nfirst?"},
        {"from": "gpt", "value": "one"},
        {"from": "human", "value": "and <image>?"},
        {"from": "gpt", "value": "two"},
    ]
    values = {"id": "x", "image": ["a.png", "b.png"], "conversations": turns}
    (row,) = read_rows(write_jsonl(values))
    kinds = [[item["type"] for item in message["content"]] for message in row.messages]
    assert kinds == [["image", "text"], ["text"], ["text", "image", "text"], ["text"]]
    assert row.messages[2]["content"][1]["path"].endswith("b.png")
    as_list = tmp_path / "list.json"
    as_list.write_text(f"[{write_jsonl(values).read_text()}]")
    (again,) = read_rows(as_list)
    assert again.messages == row.messages and again.where == f"{as_list}: row 0"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", r"data\.jsonl:2: not valid JSON"),
        ("[1]", r":2: expected a JSON object, got list"),
        ({"mesages": []}, r":2: neither `messages` nor `conversations`, only \['mesages'\]"),
        ({"messages": []}, r"messages: expected a list with at least one message"),
        ({"messages": [{"role": "user", "content": "hi"}]}, r"no message of the assistant"),
        (
            {"messages": [{"role": "usr", "content": "hi"}]},
            r"messages\[0\]\.role: unknown role 'usr'. Did you mean 'user'",
        ),
        ({"messages": [{"role": "user", "contents": "hi"}]}, r"`content` is missing. Did you mean 'contents'"),
        (
            question({"type": "imgae", "path": "a.png"}),
            r"content\[0\]\.type: unknown item type 'imgae'. Did you mean 'image'",
        ),
        (
            question({"type": "image", "pth": "a.png"}),
            r"content\[0\]\.pth: unknown key, which would not be read. Did you mean 'path'",
        ),
        (question({"type": "image"}), r"expected one of `image`, `path`, `url`, `base64`"),
        (question({"type": "image", "path": 3}), r"expected the path of a file, got 3"),
        (
            question({"type": "image", "path": "no.png"}),
            r"there is no file '.*no\.png'. Correct the path; relative ones start from",
        ),
        (question("text"), r"expected an item like"),
        ({"image": "a.png", "conversations": [{"from": "gpt", "value": "x"}]}, r"0 <image> tag\(s\) but 1 image file"),
        (
            {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]},
            r"1 <image> tag\(s\) but 0",
        ),
        ({"conversations": [{"from": "robot", "value": "x"}]}, r"conversations\[0\]\.from: unknown role 'robot'"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_key(write_jsonl, picture, row, message):
    good = question({"type": "text", "text": "hi"})
    with pytest.raises(DataError, match=message):
        read_rows(write_jsonl(good, row))


def test_missing_and_empty_files_are_refused(write_jsonl, tmp_path):
    with pytest.raises(DataError, match="There is no data file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(write_jsonl(""))
