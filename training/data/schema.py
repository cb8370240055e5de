"""Data files in, validated rows out. Every error names file and line, the key, and the cure.

Formats, told apart row by row:
- messages: `{"id"?, "messages": [{"role", "content": text or [{"type": "image", "path"}, {"type": "text", "text"}]}]}`
- LLaVA: `{"id"?, "image"?: path or list, "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}`;
  `video`, `audio` and `speech` with `<video>`, `<audio>`, `<speech>` work alike.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimoe import MEDIA, Modality
from unimoe.suggest import did_you_mean

ROLES = ("system", "user", "assistant")
LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MEDIA_KEYS = tuple(modality.key for modality in MEDIA)
_TAG = re.compile(r"<(" + "|".join(MEDIA_KEYS) + r")>")

Item = dict[str, Any]


class DataError(ValueError):
    """A row that cannot be trained on; the message names it."""


@dataclass(frozen=True)
class Row:
    """A dialogue whose media are files that exist; contents are lists of items with `type` and `text` or `path`."""

    id: str
    where: str
    messages: list[dict[str, Any]]


def read_rows(path: str | Path, *, media_root: str | Path | None = None) -> list[Row]:
    """Read and check all rows of a data file.

    Args:
        path: A .json file with a list, or a .jsonl file with one object on each line.
        media_root: Folder that relative media paths start from. None: the data file's folder.

    Raises:
        DataError: At the first row that is not of a known format, or whose medium does not exist.
    """
    path = Path(path)
    root = Path(media_root) if media_root is not None else path.parent
    if not path.is_file():
        raise DataError(
            f"There is no data file {str(path)!r} (looked in {os.getcwd()!r}). Correct its path in the mixture."
        )
    rows = [parse_row(values, where=where, root=root) for where, values in _objects(path)]
    if not rows:
        raise DataError(f"{path}: the file has no rows. Leave it out of the mixture.")
    return rows


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield `file:line` and the parsed value of each row; in a JSON list, the row's number stands for the line."""
    with open(path, encoding="utf-8") as file:
        if path.suffix == ".json":
            values = _parse_json(file.read(), str(path), "The file must hold one JSON list")
            if not isinstance(values, list):
                raise DataError(
                    f"{path}: expected a list of rows, got {type(values).__name__}. For JSON Lines, name it .jsonl."
                )
            yield from ((f"{path}: row {index}", row) for index, row in enumerate(values))
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _parse_json(line, where, "Each line must be one JSON object")


def _parse_json(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}). {expected}.") from None


def parse_row(values: Any, *, where: str, root: Path) -> Row:
    """Check one row and bring it to the form of `Row`.

    Args:
        values: The parsed JSON.
        where: `file:line`, for messages.
        root: Folder that relative media paths start from.

    Raises:
        DataError: If the row is not of a known format.
    """
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(values).__name__}.")
    _check_media_keys(values, where)
    if "messages" in values:
        messages = values["messages"]
    elif "conversations" in values:
        messages = _from_llava(values, where)
    else:
        raise DataError(
            f"{where}: neither `messages` nor `conversations`, only {sorted(values)}. Write "
            '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'
        )
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: messages: expected a list with at least one message, got {messages!r}.")
    parsed = [_message(message, f"{where}: messages[{index}]", root) for index, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in parsed):
        raise DataError(f"{where}: messages: no message of the assistant, so there is nothing to learn. Add one.")
    return Row(str(values.get("id", where)), where, parsed)


def _check_media_keys(values: dict[str, Any], where: str) -> None:
    """Refuse media that would not be read: beside `messages`, or under a name such as `images`."""
    read = () if "messages" in values else MEDIA_KEYS
    for key, value in values.items():
        if value and key not in read and key.removesuffix("s") in MEDIA_KEYS:
            cure = ' Write them into `content`, such as {"type": "image", "path": "a.png"}.'
            raise DataError(
                f"{where}: {key}: these media would not be read.{did_you_mean(key, read) if read else cure}"
            )


def _message(message: Any, where: str, root: Path) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: expected an object with `role` and `content`, got {message!r}.")
    for key in ("role", "content"):
        if key not in message:
            raise DataError(f"{where}: `{key}` is missing.{did_you_mean(key, message)}")
    if unknown := [key for key in message if key not in ("role", "content") and message[key] is not None]:
        raise DataError(f"{where}.{unknown[0]}: unknown key, which would not be read. Take it out.")
    if message["role"] not in ROLES:
        raise DataError(f"{where}.role: unknown role {message['role']!r}.{did_you_mean(str(message['role']), ROLES)}")
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise DataError(f"{where}.content: expected a string or a list of items, got {content!r}.")
    items = [_item(item, f"{where}.content[{index}]", root) for index, item in enumerate(content)]
    return {"role": message["role"], "content": items}


def _item(item: Any, where: str, root: Path) -> Item:
    kinds = ("text", *MEDIA_KEYS)
    if not isinstance(item, dict) or "type" not in item:
        raise DataError(f'{where}: expected an item like {{"type": "text", "text": "..."}}, got {item!r}.')
    kind = item["type"]
    if kind not in kinds:
        raise DataError(f"{where}.type: unknown type {kind!r}.{did_you_mean(str(kind), kinds)}")
    keys = ("text",) if kind == "text" else ("path", kind)
    if unknown := [key for key in item if key not in ("type", *keys)]:
        raise DataError(f"{where}.{unknown[0]}: unknown key.{did_you_mean(unknown[0], keys)}")
    given = [item[key] for key in keys if key in item]
    if len(given) != 1:
        raise DataError(f"{where}: expected one of {', '.join(f'`{key}`' for key in keys)}, got {sorted(item)}.")
    if kind == "text":
        if not isinstance(given[0], str):
            raise DataError(f"{where}.text: expected a string, got {given[0]!r}.")
        return {"type": "text", "text": given[0]}
    return {"type": kind, "path": _media_path(given[0], kind, where, root)}


def _media_path(value: Any, kind: str, where: str, root: Path) -> str | list[str]:
    """Resolve a path, or the list of frames of a video, against the root, and check that it exists."""
    if kind == Modality.VIDEO.key and isinstance(value, list) and value:
        return [str(_media_path(frame, Modality.IMAGE.key, where, root)) for frame in value]
    if not isinstance(value, str):
        raise DataError(f"{where}: expected the path of a file, got {value!r}.")
    path = root / value
    if not path.is_file():
        raise DataError(
            f"{where}: there is no file {str(path)!r}. Media paths are relative to the "
            "data file, or to the mixture's `media_root`."
        )
    return str(path)


def _from_llava(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Turn LLaVA's `conversations` into messages; tags are filled with the row's media in order."""
    waiting = {key: _as_list(values[key], key) for key in MEDIA_KEYS if values.get(key) is not None}
    given = {key: len(media) for key, media in waiting.items()}
    if not isinstance(values["conversations"], list):
        raise DataError(f"{where}: conversations: expected a list, got {values['conversations']!r}.")
    messages, tags = [], dict.fromkeys(given, 0)
    for index, turn in enumerate(values["conversations"]):
        place = f"{where}: conversations[{index}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise DataError(f'{place}: expected {{"from": "human", "value": "..."}}, got {turn!r}.')
        if turn.get("from") not in LLAVA_ROLES:
            raise DataError(
                f"{place}.from: unknown role {turn.get('from')!r}.{did_you_mean(str(turn.get('from')), LLAVA_ROLES)}"
            )
        content: list[Item] = []
        for position, piece in enumerate(_TAG.split(turn["value"])):
            if position % 2 == 0:
                content += [{"type": "text", "text": piece.strip()}] if piece.strip() else []
                continue
            tags[piece] = tags.get(piece, 0) + 1
            if waiting.get(piece):
                content.append({"type": piece, "path": waiting[piece].pop(0)})
        messages.append({"role": LLAVA_ROLES[turn["from"]], "content": content or ""})
    for key, count in tags.items():
        if count != given.get(key, 0):
            raise DataError(
                f"{where}: {count} <{key}> tag(s) but {given.get(key, 0)} {key} file(s). Give each file one tag; "
                f"where <{key}> is plain text, write the row as `messages`."
            )
    return messages


def _as_list(value: Any, key: str) -> list[Any]:
    """A row's media of one kind; a list under `video` is the frames of one clip."""
    return value if isinstance(value, list) and key != Modality.VIDEO.key else [value]
