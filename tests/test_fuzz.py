"""Whatever stands in messages and rows: success, or one error of `unimoe.errors` that says where, and nothing else."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_kinds import good_rows, write_media
from row_formats import FORMATS, Messages
from tiny_processor import first, item, make_processor, picture, sound, turn

from evaluation.tasks import read_task
from training.config.data import SourceConfig
from training.data.checking.check import Checker
from training.data.formats import parse_row
from training.data.rows import Faults
from unimoe.errors import UniMoEError
from unimoe.integrations.lmms_eval_media import to_messages

pytestmark = pytest.mark.slow
SEED = 19
STRUCTURES = 2000

KEYS = (
    *(
        "role",
        "content",
        "from",
        "value",
        "type",
        "text",
        "image",
        "images",
        "video",
        "audio",
        "speech",
        "voice",
        "path",
    ),
    *(
        "url",
        "base64",
        "data",
        "image_url",
        "input_audio",
        "source",
        "bytes",
        "messages",
        "conversations",
        "system",
        "id",
    ),
    *(
        "tools",
        "tool_calls",
        "name",
        "weight",
        "loss",
        "detail",
        "fps",
        "start",
        "imgae",
        "sampling_rate",
        "prompt",
        "",
    ),
)
WORDS = (
    *("user", "assistant", "system", "tool", "human", "gpt", "text", "image", "video", "audio", "speech", "image_url"),
    *("input_audio", "hello", "", " ", "<image>", "<voice>", "<|image|>", "<|im_end|>", "\ud83d", "\x00", "a" * 5000),
    *("nowhere.png", "https://example.org/a.png", "data:image/png;base64,AAAA", "data:,", "file:///nowhere", "ftp://"),
    *("../..", "/dev/null", "{{ x }}", "[IMG]", "\u2028", "\ufeff"),
)


def deep(levels: int = 3000) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


LEAVES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 10**50,
    lambda: 10**5000,
    lambda: 1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: b"bytes",
    lambda: b"",
    lambda: (),
    lambda: set(),
    lambda: object(),
    lambda: int,
    lambda: len,
    lambda: iter(()),
    lambda: 3 + 4j,
    lambda: np.float32(2),
    lambda: np.str_("user"),
    lambda: np.bytes_(b"user"),
    lambda: np.datetime64("NaT"),
    lambda: np.array(["text", None], dtype=object),
    lambda: np.zeros(0),
    lambda: np.zeros((2, 2)),
    lambda: picture(),
    lambda: sound(0.05),
    lambda: Path("nowhere.png"),
    lambda: str(first("image_kind", "*.png")),
    lambda: deep(),
    lambda: loop(),
    lambda: [[[{"type": "image"}]]],
    lambda: {1: 2, None: 3},
    lambda: list(range(3000)),
)


def anything(rng: random.Random, depth: int = 3) -> Any:
    """A value of any kind."""
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return rng.choice(LEAVES)() if rng.random() < 0.5 else rng.choice(WORDS)
    if kind < 0.6:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = [rng.choice(KEYS) if rng.random() < 0.9 else rng.choice((3, None, b"role", 1.5)) for _ in range(4)]
    return {key: anything(rng, depth - 1) for key in keys}


def places(value: Any, depth: int = 8) -> Iterator[tuple[Any, Any]]:
    """Every list and object within a value with each of its keys."""
    if depth and isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key], depth - 1)


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy with one to three things that are otherwise."""
    value = copy.copy(value) if not isinstance(value, dict | list) else copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = list(places(value))
        if not found or rng.random() < 0.05:
            return anything(rng)
        inner, key = rng.choice(found)
        how = rng.randrange(5)
        if how == 0:
            del inner[key]
        elif how == 1 and isinstance(inner, dict):
            inner[rng.choice(KEYS)] = inner.pop(key)
        elif how == 2 and isinstance(inner, dict):
            inner[rng.choice(KEYS)] = anything(rng, 2)
        elif how == 3 and isinstance(inner, list):
            inner.insert(rng.randrange(len(inner) + 1), anything(rng, 2))
        else:
            inner[key] = anything(rng, 2)
    return value


def good_conversation(rng: random.Random) -> list[Any]:
    media = [item("image", picture()), item("speech", sound(0.1)), item("image", str(first("image_kind", "*.png")))]
    asked = turn("what?", rng.choice(media), rng.choice(media), "is it")
    system = [{"role": "system", "content": "be brief"}] if rng.random() < 0.3 else []
    return [*system, asked, {"role": "assistant", "content": "a thing"}]


def refused_or_read(call: Callable[[], Any], seen: Any) -> bool:
    """Whether it was read; otherwise the error is of one line, and says where and what to do."""
    try:
        call()
    except UniMoEError as error:
        assert str(error) and "\n" not in str(error), (seen, error)
        assert len(str(error)) < 3000
        return False
    return True


def test_any_structure_of_messages_is_read_or_refused_by_processor_and_count() -> None:
    rng, processor, read = random.Random(SEED), make_processor(), 0
    for number in range(STRUCTURES):
        messages = anything(rng) if number % 4 == 0 else mutate(good_conversation(rng), rng)
        is_read = refused_or_read(
            lambda given=messages: processor.apply_chat_template(given, tokenize=True, return_dict=True), messages
        )
        is_counted = refused_or_read(lambda given=messages: processor.count_tokens(given), messages)
        assert is_counted or not is_read or isinstance(messages[0], list), messages
        refused_or_read(lambda given=messages: to_messages(given, sound="speech"), messages)
        read += is_read
    assert STRUCTURES / 50 < read < STRUCTURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("fuzz")
    write_media(found)
    return found


@pytest.mark.parametrize("form", FORMATS[:4], ids=lambda form: form.name)
def test_any_mutated_row_is_read_or_refused(form: Messages, folder: Path) -> None:
    rng, rows, read = random.Random(f"{SEED}{form.name}"), good_rows(form), 0
    for _ in range(STRUCTURES):
        row = mutate(rng.choice(rows), rng)
        is_read = refused_or_read(lambda given=row: parse_row(given, where="rows.jsonl:1", root=folder), row)
        faults = Faults("rows.jsonl:1", keep=True)
        parse_row(row, where="rows.jsonl:1", root=folder, faults=faults)
        assert is_read == (not faults), (row, faults.found)
        assert all(error.where == "rows.jsonl:1" for error in faults.found)
        read += is_read
    assert STRUCTURES / 50 < read < STRUCTURES


def as_json(row: Any) -> bytes:
    """A row as JSON as far as it can be, sometimes damaged."""
    try:
        return json.dumps(row, default=str).encode("utf-8", "surrogatepass").replace(b"\n", b" ")
    except (TypeError, ValueError, RecursionError):
        return b'{"messages": ' + b"[" * 500


def damage(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return rng.choice(
        [raw, raw[:at], raw[:at] + raw, raw[:at] + b"\xff" + raw[at:], raw[:at] + raw[at + 1 :], raw + raw]
    )


@pytest.mark.parametrize("form", FORMATS[:4], ids=lambda form: form.name)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_any_file_of_mutated_rows_is_checked_to_its_end(form: Messages, suffix: str, folder: Path) -> None:
    rng, rows = random.Random(f"{SEED}{form.name}{suffix}"), good_rows(form)
    lines = [damage(as_json(mutate(rng.choice(rows), rng)), rng).replace(b"\n", b" ") for _ in range(STRUCTURES // 4)]
    file = folder / f"all_{form.name}{suffix}"
    file.write_bytes(b"\n".join(lines))
    report = Checker()(SourceConfig(path=str(file)))
    assert report.problems and all(str(file) in error.where for error in report.problems)
    assert suffix == ".json" or report.census.rows == sum(bool(line.strip()) for line in lines)


def test_any_row_of_a_task_is_read_or_refused(folder: Path) -> None:
    rng, rows = random.Random(SEED), good_rows(FORMATS[0])
    file = folder / "task.jsonl"
    for _ in range(STRUCTURES // 4):
        row = damage(as_json(mutate(rng.choice(rows), rng)), rng)
        file.write_bytes(row)
        refused_or_read(lambda: read_task(file), row)
