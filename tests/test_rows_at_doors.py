"""Training and evaluation read files and rows alike: what would be lost is refused, what changes nothing passes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.tasks import read_task
from training.config.data import SourceConfig
from training.data.formats import RowForm, parse_row
from training.data.readers.sources import open_source, open_stream
from unimoe.errors import DataError, MediaError, UniMoEError
from unimoe.files.json_lines import read_lines
from unimoe.media import Limits
from unimoe.media.naming import find_medium
from unimoe.processing.conversations import read_conversations
from unimoe.processing.messages import Reading

ANSWER = {"role": "assistant", "content": "a cat"}
BOM = b"\xef\xbb\xbf"


def talk(content: Any = "what?", answer: Any = "a cat") -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("rows")
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(found / name)
    (found / "a.wav").write_bytes(b"RIFF")
    return found


def trained(row: dict[str, Any], folder: Path, **columns: str) -> list[dict[str, Any]]:
    read = parse_row(row, where="rows.jsonl:1", root=folder, form=RowForm(columns=columns))
    assert read is not None
    return read.messages


def evaluated(row: dict[str, Any], folder: Path) -> Any:
    (folder / "task.jsonl").write_text(json.dumps(row))
    return read_task(folder / "task.jsonl")[0]


DOORS = (trained, evaluated)
doors = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


def ids_at_each_door(path: Path) -> list[list[str]]:
    config = SourceConfig(path=str(path))
    readers = (open_source, open_stream, lambda config: read_task(Path(config.path)))
    return [[row.id for row in reader(config)] for reader in readers]


def faults_at_each_door(path: Path) -> list[str]:
    """What each says of the file."""
    found = []
    for read in (open_source, lambda c: list(open_stream(c)), lambda c: read_task(Path(c.path))):
        with pytest.raises(UniMoEError) as refused:
            list(read(SourceConfig(path=str(path))))
        found.append(str(refused.value))
    return found


# Files


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_a_pipe_or_a_device_is_refused_before_it_is_opened(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"x{ending}")
    os.symlink("/dev/zero", tmp_path / f"zero{ending}")
    for name in ("x", "zero"):
        found = faults_at_each_door(tmp_path / f"{name}{ending}")
        assert all("is a pipe or a device" in text for text in found), found


def test_a_pipe_with_the_name_of_a_table_is_no_data_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="There is no data file"):
        open_source(SourceConfig(path=str(tmp_path / "x.parquet")))


def test_a_line_or_a_list_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = json.dumps({"id": "0", "messages": talk()}).encode()
    (tmp_path / "lines.jsonl").write_bytes(short + b"\n" + short.replace(b"what?", b"what?" * 100))
    (tmp_path / "list.json").write_bytes(b"[" + b",".join([short] * 9) + b"]")
    monkeypatch.setenv("UNIMOE_LIMIT_FILE_BYTES", "300")
    for name, place in (("lines.jsonl", "lines.jsonl:2: "), ("list.json", "list.json: ")):
        for text in faults_at_each_door(tmp_path / name):
            assert place in text and "UNIMOE_LIMIT_FILE_BYTES" in text
    (tmp_path / "many.jsonl").write_bytes(b"\n".join([short] * 9))
    assert len(list(read_lines(tmp_path / "many.jsonl"))) == 9


ROWS = [{"id": str(number), "messages": talk(f"what is {number}?")} for number in range(3)]
PRETTY = json.dumps(ROWS, indent=1).encode()


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(ROWS).encode(),
        PRETTY,
        BOM + PRETTY,
        PRETTY.replace(b' {\n  "id": "1"', BOM + b' {\n  "id": "1"'),
        b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS),
        b"\n".join(BOM + json.dumps(row).encode() for row in ROWS),
    ],
    ids=["list on a line", "pretty list", "mark first", "mark within", "pretty objects", "joined lines"],
)
def test_rows_are_found_at_each_door_however_a_file_holds_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert ids_at_each_door(tmp_path / "rows.jsonl") == [["0", "1", "2"]] * 3


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
def test_rows_within_an_object_are_refused_with_the_cure(tmp_path: Path, name: str, indent: int | None) -> None:
    (tmp_path / name).write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent))
    for text in faults_at_each_door(tmp_path / name):
        assert "rows seem to be under 'data'" in text and "jq '.data'" in text


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
def test_a_deep_list_names_the_limit_and_how_to_raise_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[" * 1_000_000)
    for text in faults_at_each_door(tmp_path / name):
        assert "json_depth is 100" in text and "UNIMOE_LIMIT_JSON_DEPTH" in text


# Numbers of media

TEXT = {"type": "text", "text": "which?", "index": None}


def numbered(*numbers: Any) -> list[dict[str, Any]]:
    return [{"type": "image", "text": None, **({} if n is None else {"index": n})} for n in numbers]


def names(messages: list[dict[str, Any]]) -> list[str]:
    return [Path(item["path"]).name for item in messages[0]["content"] if item["type"] == "image"]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((1, 0), ["b.png", "a.png"]), ((0, 1.0), ["a.png", "b.png"]), ((None, None), ["a.png", "b.png"])],
)
def test_an_item_takes_the_medium_of_its_index(folder: Path, numbers: Any, expected: list[str]) -> None:
    row = {"messages": talk([*numbered(*numbers), TEXT]), "images": ["a.png", "b.png"]}
    assert names(trained(row, folder)) == expected


@pytest.mark.parametrize(
    "numbers", [(1, 2), (0, 0), (None, 0), (0, None), (-1, 0), ("0", "1"), (True, False), (0.5, 1)]
)
def test_an_index_that_does_not_fit_is_refused(folder: Path, numbers: Any) -> None:
    row = {"messages": talk([*numbered(*numbers), TEXT]), "images": ["a.png", "b.png"]}
    with pytest.raises(DataError, match=r"messages\[0\]\.content\[\d\]\.index: "):
        trained(row, folder)


def test_an_index_that_two_columns_could_mean_is_refused(folder: Path) -> None:
    row = {"messages": talk([*numbered(0, 1), TEXT]), "image": "a.png", "images": ["b.png"]}
    with pytest.raises(DataError, match=r"index: "):
        trained(row, folder)


def test_an_index_counts_entries_that_hold_nothing(folder: Path) -> None:
    row = {"messages": talk([*numbered(1), TEXT]), "images": [None, "b.png"]}
    assert names(trained(row, folder)) == ["b.png"]


def test_an_index_without_media_to_count_is_refused(folder: Path) -> None:
    content = [*numbered(1), TEXT]
    for door in DOORS:
        with pytest.raises(UniMoEError):
            door({"messages": talk(content)}, folder)
    with pytest.raises(DataError, match=r"content\[0\]\.index"):
        read_conversations(talk(content), reading=Reading())
    named = {"type": "image", "path": str(folder / "a.png"), "index": 7}
    for door in DOORS:
        door({"messages": talk([named, TEXT])}, folder)


# Keys of rows


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("label", value) for value in (False, True, 0, 1.0, "true", "rejected", np.bool_(False))),
        *((key, "B is better") for key in ("preference", "preferred", "rejected_output", "chosen_messages")),
        *((key, "Be brief.") for key in ("system_msg", "system_instruction", "systemInstruction", "sys")),
        *((key, [1, 0]) for key in ("mask", "lossMask", "completion_mask", "assistant_masks")),
        *((key, "a step") for key in ("reasoning", "rationale", "thinking", "reasoningContent", "chain_of_thought")),
        ("thinking", True),
        ("reasoning", {"effort": "high"}),
        ("toolCalls", [{"name": "f"}]),
    ],
)
def test_a_key_that_changes_the_meaning_is_refused_with_the_way_to_ignore_it(
    folder: Path, key: str, value: Any
) -> None:
    row = {"messages": talk(), key: value}
    with pytest.raises(DataError) as refused:
        trained(row, folder)
    assert refused.value.key == key and f"columns: {{{key}: ignore}}" in refused.value.cure
    assert len(trained(row, folder, **{key: "ignore"})) == 2
    row[key] = value.item() if isinstance(value, np.generic) else value
    with pytest.raises(EvaluationError) as other:
        evaluated(row, folder)
    assert other.value.key == key and other.value.problem == refused.value.problem


@doors
@pytest.mark.parametrize(
    "beside",
    [
        {"label": "cat", "labelled_by": "ann", "score_chosen": 0.5, "system_fingerprint": "fp_1", "n_masks": 3},
        {"rationale": "A  cat", "thinking": False, "reasoning": None},
        {"tools": "[]", "functions": "", "tool_calls": " {} ", "tool_choice": "auto", "response_format": None},
        {"parallel_tool_calls": False, "response_format": {"type": "text"}},
        {"parallel_tool_calls": True, "tools": None, "tool_choice": "none"},
    ],
    ids=["bookkeeping", "said or off", "no tools", "parallel", "none"],
)
def test_what_changes_nothing_passes_at_each_door(folder: Path, door: Any, beside: dict[str, Any]) -> None:
    assert door({"messages": talk(), **beside}, folder)


@doors
@pytest.mark.parametrize(
    "beside",
    [
        {"tools": '[{"name": "f"}]'},
        {"tool_choice": "required"},
        {"parallel_tool_calls": True, "tools": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_tools_that_are_meant_are_refused_at_each_door(folder: Path, door: Any, beside: dict[str, Any]) -> None:
    with pytest.raises(UniMoEError, match="this key would be lost"):
        door({"messages": talk(), **beside}, folder)


# Tags and names of media within texts

FOREIGN = (
    *("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>", "<|AUDIO|>", "<|image_1|>", "<image 1>"),
    *("<ImageHere>", "<start_of_image>", "[IMG]", "<im_patch>", "<|video_pad|>", "<image_soft_token>"),
)


@doors
@pytest.mark.parametrize("answers", [False, True], ids=["asked", "answered"])
@pytest.mark.parametrize("text", ["<image>hi", "hi <speech>", *FOREIGN, "<img>a.png</img>hi", "<audio>no.wav</audio>"])
def test_a_medium_that_a_plain_string_means_is_refused(folder: Path, door: Any, text: str, answers: bool) -> None:
    said = talk("what?", text) if answers else talk(text)
    with pytest.raises(UniMoEError) as refused:
        door({"messages": said}, folder)
    assert "type" in refused.value.cure
    as_items = talk([{"type": "text", "text": text}]) if not answers else None
    if as_items and "</" not in text:
        assert door({"messages": as_items}, folder)


@doors
@pytest.mark.parametrize(
    "text", ["the <img> tag, see [image] and [Video]", "a < image > b", "vision [1]", "an <imagine> tag", "<b>hi</b>"]
)
def test_words_that_mean_no_medium_pass(folder: Path, door: Any, text: str) -> None:
    assert door({"messages": talk(text, text)}, folder)


@doors
def test_a_file_that_a_typed_text_names_is_refused(folder: Path, door: Any) -> None:
    for text in ("<img>a.png</img>hi", "say <audio> a.wav </audio>"):
        with pytest.raises(UniMoEError, match=r"content\[0\]\.text: a medium is named within the text"):
            door({"messages": talk([{"type": "text", "text": text}])}, folder)
    assert door({"messages": talk([{"type": "text", "text": "<img>none.png</img> is a tag"}])}, folder)


@doors
@pytest.mark.parametrize("text", ["<image>hi", "<IMG_CONTEXT>", "<img>a.png</img>"])
def test_a_system_prompt_beside_the_dialogue_is_a_plain_string_too(folder: Path, door: Any, text: str) -> None:
    with pytest.raises(UniMoEError):
        door({"messages": talk(), "system": text}, folder)


# Media


def deep(levels: int) -> list[Any]:
    found: list[Any] = ["a.png"]
    for _ in range(levels):
        found = [found]
    return found


def itself() -> list[Any]:
    found: list[Any] = []
    found += [found] * 50
    return found


def dict_itself() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["path"] = found
    return found


@pytest.mark.parametrize(
    "value", [deep(100_000), deep(20), itself(), dict_itself()], ids=["deep", "20", "list", "dict"]
)
def test_lists_that_stand_too_deep_within_each_other_are_no_medium(folder: Path, value: Any) -> None:
    with pytest.raises(MediaError, match="too deep within each other"):
        find_medium(value, where="x", folder=folder)
    with pytest.raises(DataError):
        trained({"messages": talk([{"type": "video", "video": value}])}, folder)


def test_an_entry_of_a_column_that_holds_nothing_is_no_medium(folder: Path) -> None:
    nothing = {"bytes": None, "path": None}
    row = {"messages": talk("<image>what?"), "images": [None, "a.png", nothing, float("nan")]}
    assert names(trained(row, folder)) == ["a.png"]
    with pytest.raises(DataError, match=r"images: 2 <image> tag\(s\) but 1 image file"):
        trained({**row, "messages": talk("<image><image>what?")}, folder)


def test_scalars_of_pyarrow_name_media_wherever_they_stand(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    data = (folder / "a.png").read_bytes()
    for value in (
        {"bytes": pyarrow.scalar(data), "path": None},
        {"bytes": pyarrow.scalar(None, pyarrow.binary()), "path": pyarrow.scalar("a.png")},
        pyarrow.scalar({"bytes": data, "path": None}),
        pyarrow.scalar("a.png"),
    ):
        found = find_medium(value, where="x", folder=folder)
        assert found in ({"bytes": data, "path": None}, str(folder / "a.png"))


def test_limits_say_what_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"{}\n" + b" " * 50)
    with pytest.raises(UniMoEError, match="line"):
        list(read_lines(tmp_path / "x.jsonl", limits=Limits(file_bytes=10)))
