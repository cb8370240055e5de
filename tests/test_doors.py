"""Every door reads alike: the same keys are used or refused, and every name of a medium gives the same features."""

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model
from tiny_processor import make_processor, process, sound
from transformers import AnyToAnyPipeline
from transformers.pipelines.any_to_any import Chat

from evaluation.errors import EvaluationError
from evaluation.tasks import read_task
from training.data.formats import parse_row
from unimoe.errors import DataError, UniMoEError
from unimoe.integrations.lmms_eval_media import to_messages
from unimoe.processing import keys
from unimoe.processing.rows import read_row
from unimoe.processing.values import holds_nothing

PROCESSOR = make_processor()
ANSWER = {"role": "assistant", "content": "a cat"}
Messages = list[dict[str, Any]]


def training(messages: Messages, folder: Path) -> Any:
    row = parse_row({"messages": messages}, where="rows.jsonl:1", root=folder)
    assert row is not None
    return row.messages


def evaluation(messages: Messages, folder: Path) -> Any:
    (folder / "task.jsonl").write_text(json.dumps({"messages": messages}))
    (sample,) = read_task(folder / "task.jsonl")
    return [*sample.messages, {"role": "assistant", "content": [{"type": "text", "text": sample.reference}]}]


def processor(messages: Messages, folder: Path) -> Any:
    return messages


def pipeline(messages: Messages, folder: Path) -> Any:
    if all({"role", "content"} <= set(message) for message in messages):
        return Chat(messages)
    return messages  # transformers' pipeline refuses it by itself; what is left is the processor's


def lmms_eval(messages: Messages, folder: Path) -> Any:
    return to_messages(messages, sound="speech")


DOORS = (training, evaluation, processor, pipeline, lmms_eval)
Door = Callable[[Messages, Path], Any]
doors = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


@cache
def pipe() -> AnyToAnyPipeline:
    return AnyToAnyPipeline(model=tiny_model(1), processor=PROCESSOR)


def features(door: Door, messages: Messages, folder: Path) -> dict[str, Any]:
    conversation = door(messages, folder)
    if not isinstance(conversation, Chat):
        return dict(process(PROCESSOR, conversation))
    inputs = pipe().preprocess(conversation, continue_final_message=False, add_generation_prompt=False)
    return {name: value for name, value in inputs.items() if name != "text"}  # the pipeline's own copy of the chat


def outcome(door: Door, messages: Messages, folder: Path) -> dict[str, Any] | str:
    """What the model would get, or the key and problem of the refusal."""
    try:
        return features(door, messages, folder)
    except UniMoEError as error:
        key = error.key.partition("].")[2] if error.key.startswith("messages[") else error.key
        return f"{key}: {error.problem}"


def same(found: list[dict[str, Any] | str]) -> None:
    for other in found[1:]:
        assert type(other) is type(found[0]), found
        if isinstance(other, str) or isinstance(found[0], str):
            assert other == found[0]
        else:
            assert set(other) == set(found[0])
            assert all(torch.equal(torch.as_tensor(other[name]), torch.as_tensor(found[0][name])) for name in other)


def chat(*content: Any, **turn: Any) -> Messages:
    return [{"role": "user", "content": list(content) or "what?", **turn}, ANSWER]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("doors")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(found / "a b.png")
    import soundfile

    soundfile.write(found / "a.wav", sound(0.3), 16_000)
    return found


# Keys

TURN_KEYS: dict[str, Any] = {
    **dict.fromkeys(keys.REFUSED_IN_TURNS, "something"),
    **dict.fromkeys(keys.WEIGHTS, 0.5),
    "conten": "misspelled",
    "whatever": {"a": 1},
}
ITEM_KEYS: dict[str, Any] = {
    **dict.fromkeys(keys.REFUSED_IN_ITEMS, 3),
    "pth": "a.png",
    "detail": "high",
    "text": "both",
}


@pytest.mark.parametrize("key", TURN_KEYS)
def test_a_key_of_a_turn_that_would_be_lost_is_refused_alike(folder: Path, key: str) -> None:
    found = [outcome(door, chat(**{key: TURN_KEYS[key]}), folder) for door in DOORS]
    same(found)
    assert isinstance(found[0], str) and found[0].startswith(f"{key}: ")


@pytest.mark.parametrize("key", ITEM_KEYS)
def test_a_key_of_an_item_that_would_be_lost_is_refused_alike(folder: Path, key: str) -> None:
    item = {"type": "image", "path": str(folder / "a b.png"), key: ITEM_KEYS[key]}
    found = [outcome(door, chat(item), folder) for door in DOORS]
    same(found)
    assert isinstance(found[0], str) and found[0].startswith(f"content[0].{key}: ")


@pytest.mark.parametrize("nothing", [None, "", [], {}, [None]], ids=repr)
def test_what_holds_nothing_passes_everywhere(folder: Path, nothing: Any) -> None:
    names = dict.fromkeys(("tool_calls", "annotations", "name", "reasoning_content", "weight", "anything"), nothing)
    picture = {"type": "image", "path": str(folder / "a b.png")}
    empty = dict.fromkeys(("text", "url", "base64", "detail", "fps", "anything"), nothing)
    plain = [features(door, chat(picture), folder) for door in DOORS]
    same([*plain, *(features(door, chat({**picture, **empty}, **names), folder) for door in DOORS)])


@pytest.mark.parametrize(
    "messages",
    [
        chat(type="message", id="m1", model="gpt", cache_control={"type": "ephemeral"}),
        [{"role": "user", "content": "what?", "weight": 0, "train": False}, {**ANSWER, "weight": 1, "loss": True}],
        [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a cat"}],
        chat({"type": "input_text", "text": "what?"}),
    ],
    ids=["notes", "usual weights", "sharegpt", "text of a client"],
)
def test_what_changes_nothing_passes_everywhere(folder: Path, messages: Messages) -> None:
    same([features(processor, chat(), folder), *(features(door, messages, folder) for door in DOORS)])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "42"}, ANSWER],
        [{"role": "usr", "content": "what?"}, ANSWER],
        [{"role": ["user"], "content": "what?"}, ANSWER],
        [{"role": "user"}, ANSWER],
        [{"role": "user", "content": None}, ANSWER],
        [{"role": "user", "content": {"text": "what?"}}, ANSWER],
        [{"role": "user", "content": 3}, ANSWER],
        chat([{"type": "text", "text": "what?"}]),
        chat("what?"),
        chat({"type": "txt", "text": "what?"}),
        chat({"type": "tool_use", "id": "1"}),
        chat({"type": "text", "text": 3}),
        chat({"type": "text", "text": "a <|im_end|> b"}),
        chat({"type": "text", "text": "a <|image|> b"}),
        chat({"type": "text", "text": "\ud83d"}),
        chat({"type": "image", "path": "a.png", "url": "b.png"}),
        chat({"type": "image", "source": {"type": "file", "file_id": "f1"}}),
        chat({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}),
    ],
)
def test_a_structure_that_cannot_be_read_is_refused_alike(folder: Path, messages: Messages) -> None:
    found = [outcome(door, messages, folder) for door in DOORS]
    same(found)
    assert isinstance(found[0], str)


ROW_KEYS: dict[str, Any] = {
    **dict.fromkeys(keys.REFUSED_IN_ROWS, "something"),
    **dict.fromkeys(keys.JUDGEMENTS, False),
    **dict.fromkeys(keys.CONTENT_OF_ROWS, "not said"),
    "systme": "be brief",
    "imgaes": ["a.png"],
}


@pytest.mark.parametrize("key", ROW_KEYS)
def test_a_key_of_a_row_that_would_be_lost_is_refused_alike(folder: Path, key: str) -> None:
    row = {"messages": chat(), key: ROW_KEYS[key]}
    (folder / "row.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as trained:
        parse_row(row, where=f"{folder / 'row.jsonl'}:1", root=folder)
    with pytest.raises(EvaluationError) as evaluated:
        read_task(folder / "row.jsonl")
    assert str(trained.value) == str(evaluated.value) and trained.value.key == key


@pytest.mark.parametrize(
    "beside",
    [
        {"tools": [], "history": None, "loss": None, "systme": ""},
        {
            "source": "coco",
            "split": "train",
            "score": 0.5,
            "dataset": "a",
            "index": 3,
            "meta": {"a": [1]},
            "height": 2,
        },
        {"prompt": "What?", "answer": "A  cat", "text": "user: what? assistant: a cat"},
        {"weight": 1, "train": True, "input": 3},
    ],
    ids=["nothing", "bookkeeping", "said in the dialogue", "what happens anyway"],
)
def test_what_is_no_content_passes_beside_a_dialogue(folder: Path, beside: dict[str, Any]) -> None:
    row = {"messages": chat(), **beside}
    (folder / "row.jsonl").write_text(json.dumps(row))
    trained = parse_row(row, where="x", root=folder)
    assert trained is not None and [message["role"] for message in trained.messages] == ["user", "assistant"]
    assert len(read_task(folder / "row.jsonl")) == 1


@pytest.mark.parametrize("key", keys.SYSTEM_KEYS)
def test_a_system_prompt_beside_the_dialogue_is_its_first_message(folder: Path, key: str) -> None:
    row = {"messages": chat(), key: "be brief"}
    (folder / "row.jsonl").write_text(json.dumps(row))
    trained = parse_row(row, where="x", root=folder)
    assert trained is not None
    system = {"role": "system", "content": [{"type": "text", "text": "be brief"}]}
    assert trained.messages[0] == system == read_task(folder / "row.jsonl")[0].messages[0]
    twice = {**row, "messages": [{"role": "system", "content": "no"}, *row["messages"]]}
    for read in (lambda: parse_row(twice, where="x", root=folder), lambda: read_row(twice, where="x")):
        with pytest.raises(DataError, match=f"x: {key}: there is another system message"):
            read()


@pytest.mark.parametrize("name", ["tools", "documents", "enable_thinking", "whatever"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_an_argument_that_the_template_drops_is_refused_and_one_that_it_uses_is_not(name: str, tokenize: bool) -> None:
    given: Any = [{"title": "a", "text": "b"}]
    with pytest.raises(DataError, match=rf"apply_chat_template: {name}: the chat template does not use"):
        PROCESSOR.apply_chat_template(chat(), tokenize=tokenize, **{name: given})
    own = "{% if NAME %}{{ NAME }}{% endif %}{{ messages[0]['content'] }}".replace("NAME", name)
    assert "title" in PROCESSOR.apply_chat_template(chat(), chat_template=own, **{name: given})
    assert PROCESSOR.apply_chat_template(chat(), tokenize=False, **{name: None}).startswith("<|im_start|>user")


def test_a_template_of_ones_own_keeps_the_keys_and_roles_that_it_uses() -> None:
    turn = "{{ m.role }}:{{ m.name }}:{{ m['content'] }}{% if m.role == 'tool' %}!{% endif %}"
    own = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    called = [{"role": "user", "name": "ann", "content": "what?"}, {"role": "tool", "content": "42"}]
    assert PROCESSOR.apply_chat_template(called, chat_template=own) == "user:ann:what?tool::42!"
    with pytest.raises(DataError, match="row 0, message 0: name: this key would be lost"):
        PROCESSOR.apply_chat_template(called)


@pytest.mark.parametrize(
    "conversation", [None, 3, "hi", {"messages": []}, {}, [], [[]], iter([ANSWER]), [None], b"hi"]
)
def test_what_is_no_conversation_is_refused(conversation: Any) -> None:
    for call in (PROCESSOR.apply_chat_template, PROCESSOR.count_tokens):
        with pytest.raises(DataError):
            call(conversation)


def test_sanitized_texts_may_hold_control_tokens() -> None:
    text = "a <|im_end|> b <|image|>"
    out = process(PROCESSOR, chat({"type": "text", "text": text}), sanitize_control_tokens=True)
    assert text in PROCESSOR.decode(out["input_ids"][0])


# Media


def names_of(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Every way in which an item of JSON names a file."""
    data = path.read_bytes()
    text = base64.b64encode(data).decode()
    mime = "image/png" if kind == "image" else "audio/wav"
    uri = f"data:{mime};base64,{text}"
    names = {
        "path": {"type": kind, "path": str(path)},
        "kind": {"type": kind, kind: str(path)},
        "url": {"type": kind, "url": path.as_uri()},
        "url unquoted": {"type": kind, "url": f"file://{path}"},
        "data address": {"type": kind, "url": uri},
        "bare base64": {"type": kind, kind: text},
        "base64": {"type": kind, "base64": text},
        "data": {"type": kind, "data": text},
        "base64 of data address": {"type": kind, "base64": uri},
        "bytes as base64": {"type": kind, kind: {"bytes": text, "path": None}},
        "dict of datasets": {"type": kind, kind: {"bytes": None, "path": str(path)}},
        "source": {"type": kind, "source": {"type": "base64", "media_type": mime, "data": text}},
    }
    if kind == "image":
        names["image_url"] = {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}}
        names["image_url plain"] = {"type": "image_url", "image_url": path.as_uri()}
        names["input_image"] = {"type": "input_image", "image_url": uri}
    else:
        names["input_audio"] = {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
        names["audio_url"] = {"type": "audio_url", "audio_url": {"url": uri}}
    return names


@doors
@pytest.mark.parametrize("kind", ["image", "speech"])
def test_every_name_of_a_medium_gives_the_same_features_at_every_door(folder: Path, door: Door, kind: str) -> None:
    path = folder / ("a b.png" if kind == "image" else "a.wav")
    names = names_of(path, kind)
    if door is lmms_eval:  # takes the ending of a name for the kind of bytes without one
        names = {name: item for name, item in names.items() if "bytes" not in name}
    same(
        [features(processor, chat({"type": kind, kind: path}), folder)]
        + [features(door, chat(item), folder) for item in names.values()]
    )


@pytest.mark.parametrize("door", [training, processor, pipeline, lmms_eval], ids=lambda door: door.__name__)
def test_media_in_memory_give_the_same_features_where_a_door_can_carry_them(folder: Path, door: Door) -> None:
    picture = Image.open(folder / "a b.png")
    array = np.asarray(picture)
    forms = [folder / "a b.png", picture, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    if door is not lmms_eval:
        forms += [(folder / "a b.png").read_bytes()]
    same([features(door, chat({"type": "image", "image": form}), folder) for form in forms])


@pytest.mark.parametrize(
    "medium",
    [
        "nowhere.png",
        "https://example.org/a.png",
        "file:///nowhere/a.png",
        "file://host/a.png",
        "data:image/png;base64,@@",
        17,
    ],
)
def test_a_medium_that_is_none_is_refused_at_every_door(folder: Path, medium: Any) -> None:
    found = [outcome(door, chat({"type": "image", "image": medium}), folder) for door in DOORS]
    assert all(isinstance(problem, str) for problem in found), found


@pytest.mark.parametrize(
    "nothing", [None, float("nan"), np.float32("nan"), np.datetime64("NaT"), "", b"", (), np.zeros(0), {"a": None}]
)
def test_values_of_tables_that_hold_nothing(nothing: Any) -> None:
    assert holds_nothing(nothing)


def test_values_of_tables_are_read_as_those_of_json(folder: Path) -> None:
    import pandas
    import pyarrow

    path = str(folder / "a b.png")
    item = {"type": np.str_("image"), "path": pyarrow.scalar(path), "url": pandas.NA, "text": float("nan")}
    asked = {"role": np.str_("user"), "content": np.array([item], dtype=object), "name": pandas.NaT}
    table = {
        "messages": np.array([asked, ANSWER], dtype=object),
        "id": np.int64(7),
        "tools": float("nan"),
        "images": None,
    }
    row = parse_row(table, where="x", root=folder)
    assert row is not None and row.id == "7"
    assert row.messages[0] == {"role": "user", "content": [{"type": "image", "path": path}]}
    same([features(door, [asked, ANSWER], folder) for door in (training, processor, lmms_eval)])
