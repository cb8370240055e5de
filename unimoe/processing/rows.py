"""Rows of `messages`: their name, what stands beside the dialogue, and the media that their items name.

Evaluation, surgery and analysis read rows with `read_row`; `training.data` turns other layouts into messages first.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..media import find_medium
from ..media.naming import shown
from ..modality import Modality
from .keys import (
    CONTENT_OF_ROWS,
    DIALOGUES,
    IGNORE,
    JUDGED,
    JUDGEMENTS,
    MEDIA_COLUMNS,
    MEDIUM_KEYS,
    REFUSED_IN_ROWS,
    SYSTEM_KEYS,
    THOUGHTS_OF_ROWS,
    TOOL_KEYS,
    USUAL_WITHOUT_TOOLS,
)
from .messages import EXAMPLE, Item, ReadMessage, Turn, check_text, is_usual, join, read_message
from .tags import check_names_inside, check_plain
from .values import holds_nothing, name_of, plain

_SHORT = 5
"""Letters of the shortest key of a row that others are compared with."""


def read_row(values: Any, *, where: str, own: Collection[str] = ()) -> list[ReadMessage]:
    """Read a row of `messages`.

    Args:
        values: What JSON or a table gave.
        where: File and row, for errors.
        own: Further keys that the caller reads.

    Raises:
        DataError: If a message cannot be read, or a key beside them would be lost.
    """
    row = plain(values)
    if not isinstance(row, dict) or holds_nothing(row.get("messages")):
        found = f"the keys {shown(sorted(map(name_of, row)))}" if isinstance(row, dict) else shown(row)
        raise DataError(where, f"expected an object with a list of `messages`, got {found}.", EXAMPLE)
    texts = list(dialogue_texts(row["messages"]))
    for error in unread_keys(row, where=where, own=("id", "messages", *own), texts=texts):
        raise error
    messages = plain(row["messages"])
    if not isinstance(messages, list):
        problem = f"expected a list with at least one message, got {shown(messages)}."
        raise DataError(where, problem, EXAMPLE, key="messages")
    read = [read_message(m, where=where, key=f"messages[{number}]") for number, m in enumerate(messages)]
    for number, message in enumerate(read):
        if isinstance(message.content, str):
            check_plain(message.content, where=where, key=f"messages[{number}].content")
    if (system := read_system(row, (message.role for message in read), where=where)) is not None:
        check_plain(system.content, where=where, key=system.key)
        read.insert(0, ReadMessage("system", system.content))
    return read


def read_system(row: dict[Any, Any], roles: Iterable[str], *, where: str) -> Turn | None:
    """Return the system message that stands beside a dialogue; None if there is none.

    Args:
        row: What JSON or a table gave.
        roles: Of the dialogue.
        where: File and row, for errors.

    Raises:
        DataError: If there are two, or it is no text.
    """
    given = [name for name in SYSTEM_KEYS if not holds_nothing(row.get(name))]
    if not given:
        return None
    if len(given) > 1 or "system" in roles:
        problem = "there is another system message, and only one can be meant."
        raise DataError(where, problem, "Leave one out.", key=given[-1])
    return Turn("system", check_text(row[given[0]], where=where, key=given[0]), given[0])


def read_id(value: Any, *, where: str, key: str = "id") -> str | None:
    """Return a row's own name; None if it has none.

    Args:
        value: What stands there.
        where: File and row, for errors.
        key: Under which it stands.

    Raises:
        DataError: If it is neither text nor whole number.
    """
    given = plain(value)
    if given is None or (isinstance(given, float) and given != given):
        return None
    if isinstance(given, bool) or not isinstance(given, str | int):
        problem = f"expected a string or a whole number, got {shown(given)}."
        raise DataError(where, problem, "Give each row one name.", key=key)
    return given if isinstance(given, str) else name_of(given)


def unread_keys(row: dict[Any, Any], *, where: str, own: Collection[str], texts: Sequence[str]) -> Iterator[DataError]:
    """Errors for keys beside a dialogue whose meaning would be lost.

    Args:
        row: What JSON or a table gave.
        where: File and row.
        own: Keys that are read.
        texts: Of the dialogue; see `dialogue_texts`.
    """
    for name, part in row.items():
        if name in own or name in SYSTEM_KEYS or holds_nothing(part):
            continue
        key = name_of(name)
        known = _in_snake_case(key)
        if known in REFUSED_IN_ROWS and not _changes_nothing(known, plain(part), row):
            yield DataError(where, "this key would be lost.", REFUSED_IN_ROWS[known].replace("KEY", key), key=key)
        elif known in THOUGHTS_OF_ROWS and not _is_off(part) and not (_is_text(part) and _is_said(part, texts)):
            yield DataError(where, "this text is not in the dialogue, and would be lost.", _thoughts(key), key=key)
        elif name in MEDIA_COLUMNS:
            cure = 'Write them into the content of a message, such as {"type": "image", "path": "a.png"}.'
            yield DataError(where, "these media would not be read.", cure, key=key)
        elif name in DIALOGUES:
            yield DataError(where, "there is another dialogue, and only one can be meant.", "Leave one out.", key=key)
        elif name in CONTENT_OF_ROWS and not _is_said(part, texts):
            cure = f"Write it into the dialogue. {IGNORE.replace('KEY', key)}"
            yield DataError(where, "this text is not in the dialogue, and would be lost.", cure, key=key)
        elif (meant := _meant(key)) is not None and name not in CONTENT_OF_ROWS:
            yield DataError(where, "unknown key, which would not be read.", f"Did you mean {meant!r}?", key=key)


def _in_snake_case(key: str) -> str:
    """Return a key as the tables spell it: systemPrompt, System-Prompt and system_prompt are one."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace("-", "_").casefold()


def _changes_nothing(name: str, part: Any, row: dict[Any, Any]) -> bool:
    """Whether a key that is refused says what happens anyway: no tools, loss on answers, or no judgement."""
    if is_usual(name, part, "assistant"):
        return True
    if name in JUDGEMENTS:
        return not (part in (0, 1) if isinstance(part, bool | int | float) else name_of(part).casefold() in JUDGED)
    if name in USUAL_WITHOUT_TOOLS:
        has_tools = any(name in row and not _is_empty(plain(row[name])) for name in TOOL_KEYS)
        return not has_tools and part in USUAL_WITHOUT_TOOLS[name]
    return _is_empty(part)


def _is_empty(part: Any) -> bool:
    """Whether a value says nothing, also as a text that holds JSON."""
    return holds_nothing(part) or (isinstance(part, str) and part.strip() in ("", "[]", "{}", "null", "[{}]"))


def _is_off(part: Any) -> bool:
    return plain(part) is False


def _is_text(part: Any) -> bool:
    return isinstance(plain(part), str)


def _thoughts(key: str) -> str:
    return f"Write it into the answer. {IGNORE.replace('KEY', key)}"


def _is_said(part: Any, texts: Sequence[str]) -> bool:
    """Whether texts of a dialogue hold a text, or all are held by it; what is neither text nor list is no content."""
    part = plain(part)
    if not isinstance(part, str):
        return not isinstance(part, list | dict)
    text = _normal(part)
    return any(text in said for said in texts) or (bool(texts) and all(said in text for said in texts))


def dialogue_texts(dialogue: Any) -> Iterator[str]:
    """Return the texts of turns, as far as they are some, in small letters with single spaces."""
    turns = plain(dialogue)
    for turn in turns if isinstance(turns, list) else ():
        turn = plain(turn)
        content = plain(turn.get("content", turn.get("value"))) if isinstance(turn, dict) else None
        for item in content if isinstance(content, list) else [content]:
            text = item.get("text") if isinstance(item := plain(item), dict) else item
            if isinstance(text, str):
                yield _normal(text)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


@lru_cache(maxsize=1_000)  # the same keys stand in each row of a file
def _meant(name: str) -> str | None:
    """Return the key that is read and that this one is one slip away from: a letter more, less, other, or two
    exchanged.
    """
    known = [key for key in (*DIALOGUES, *MEDIA_COLUMNS, *SYSTEM_KEYS) if len(key) >= _SHORT]
    near = get_close_matches(name.casefold(), known, n=3, cutoff=0.7)
    return next((key for key in near if _is_one_slip(name.casefold(), key)), None)


def _is_one_slip(name: str, key: str) -> bool:
    if len(name) > len(key):
        name, key = key, name
    start = next((n for n, (a, b) in enumerate(zip(name, key, strict=False)) if a != b), len(name))
    if len(name) < len(key):
        return len(key) - len(name) == 1 and name[start:] == key[start + 1 :]
    rest = name[start + 1 :] == key[start + 1 :]
    exchanged = name[start : start + 2] == key[start : start + 2][::-1] and name[start + 2 :] == key[start + 2 :]
    return rest or exchanged


def find_item(item: Item, *, where: str, folder: str | Path | None) -> dict[str, Any]:
    """Return the item of a row with its medium found.

    Args:
        item: As `read_item` gives it.
        where: File and row, for errors.
        folder: Where relative paths start from.

    Returns:
        {"type": "text", "text"}; {"type", "path"} of a file that exists, or of the frames of a clip; or {"type",
        KIND: ...} with what `unimoe.media` loads.

    Raises:
        DataError: If there is no medium, or what stands there names none.
        MediaError: As `find_medium`.
    """
    if item.kind == "text":
        check_names_inside(item.value, where=where, key=join(item.key, "text"), folder=folder or "")
        return item.as_dict()
    if item.value is None:
        names = ", ".join(f"`{name}`" for name in (item.kind, *MEDIUM_KEYS))
        raise DataError(
            where,
            f"the item has no medium: expected one of {names}.",
            f"Give each item one {item.kind}.",
            key=item.key,
        )
    found = find_medium(item.value, where=where, key=item.key, folder=folder)
    if not _can_be(found, item.kind):
        frames = ", or the list of its frames" if item.kind == Modality.VIDEO.key else ""
        problem = f"expected the path of a file{frames}, got {shown(item.value)}."
        raise DataError(where, problem, _cure(item.kind), key=item.key)
    files = found if isinstance(found, list) else [found]
    return {"type": item.kind, "path" if all(isinstance(file, str) for file in files) else item.kind: found}


def _can_be(found: Any, kind: str) -> bool:
    """Whether a value can be a medium: a file, its bytes, or what is decoded."""
    if isinstance(found, list):
        return bool(found) and kind == Modality.VIDEO.key and all(_can_be(f, Modality.IMAGE.key) for f in found)
    if isinstance(found, dict):
        return any(found.get(part) is not None for part in ("bytes", "array", "frames"))
    return not isinstance(found, int | float | complex | None)


def _cure(kind: str) -> str:
    if kind == Modality.VIDEO.key:
        return "Write the path of the clip, or a list of the paths of its frames."
    return f"Write the path of one {'picture' if kind == Modality.IMAGE.key else 'sound'}."


__all__ = ["dialogue_texts", "find_item", "read_id", "read_row", "read_system", "unread_keys"]
