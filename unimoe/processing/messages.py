"""Conversations, turns and items, read by one table of keys at every door: training rows, the processor,
pipelines, evaluation, lmms-eval.

In: what people and programs write. Out: messages `{"role", "content"}` whose content is a text or a list of items,
`{"type": "text", "text": ...}` or `{"type": kind, kind: medium as it was named}`. What the medium's name leads to is
found by `unimoe.media.naming`; `rows` reads what stands beside a dialogue.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import DataError
from ..errors.suggest import did_you_mean
from ..media.naming import shown
from .keys import (
    CLIENT_KEYS,
    ITEM_TYPES,
    KINDS,
    MEDIUM_KEYS,
    NOTES_OF_ITEMS,
    NOTES_OF_TURNS,
    REFUSED_IN_ITEMS,
    REFUSED_IN_TURNS,
    REFUSED_TYPES,
    ROLE_NAMES,
    ROLES,
    TOOL_ROLES,
    WEIGHTS,
)
from .placeholders import CHAT_TOKENS, PLACEHOLDER
from .values import holds_nothing, name_of, plain

Sound = Literal["audio", "speech"]
Message = dict[str, Any]
EXAMPLE = 'Write {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'
_CONTROL = re.compile(PLACEHOLDER.pattern + "|" + "|".join(map(re.escape, CHAT_TOKENS)))


class Reading(NamedTuple):
    """What a door allows.

    Args:
        sound: What sounds are that clients name without saying whether somebody speaks.
        sanitized: Control tokens in texts will be read as plain text, so they are allowed.
        used: Whether a key is used by what reads the messages: a chat template of one's own. It then stays.
    """

    sound: Sound = "speech"
    sanitized: bool = False
    used: Callable[[str], bool] = lambda key: False


ROWS = Reading()
"""What rows of files allow."""


class Item(NamedTuple):
    """One item: its kind; its text, or the medium as it was named, None if there is none; the key of it; keys that are
    used; and where there is no medium, the number of the one that is meant."""

    kind: str
    value: Any
    key: str
    more: dict[str, Any] = {}
    index: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Return the item of a message."""
        held = {} if self.value is None else {self.kind: self.value}
        return {"type": self.kind, **held, **self.more}


class Turn(NamedTuple):
    """One turn: its role, its content as it was written, the key of that, and keys that are used."""

    role: str
    content: Any
    key: str
    more: dict[str, Any] = {}


def read_item(value: Any, *, where: str, key: str = "", reading: Reading = ROWS) -> Item:
    """Read an item of a content.

    Args:
        value: What stands there.
        where: File and row, or row and message, for errors.
        key: Place within.
        reading: What the door allows.

    Raises:
        DataError: If its type is unknown, or it has a key that would be lost, two media, or a text that is none.
    """
    item = plain(value)
    if not isinstance(item, dict) or "type" not in item:
        example = '{"type": "text", "text": "..."}'
        cure = f"Give it a type: text, {', '.join(KINDS)}."
        raise DataError(where, f"expected an item like {example}, got {shown(value)}.", cure, key=key)
    kind = _kind(plain(item["type"]), where, join(key, "type"), reading)
    allowed = ("text",) if kind == "text" else (kind, *MEDIUM_KEYS, *CLIENT_KEYS[kind])
    more = {}
    for name, part in item.items():
        if name in ("type", *allowed) or holds_nothing(part):
            continue
        if isinstance(name, str) and reading.used(name):
            more[name] = part
        elif not _is_note(name, plain(part)):
            _refuse_key(name, REFUSED_IN_ITEMS, ("type", *allowed), where, key)
    if kind == "text":
        return Item(
            "text", check_text(item.get("text"), where=where, key=join(key, "text"), reading=reading), key, more
        )
    value, name = _medium(item, allowed, where, key)
    if isinstance(value, str) and reading.used("url"):  # a template of one's own shows where the medium is
        more["url"] = value
    index = None if value is not None or "index" in more else plain(item.get("index"))
    return Item(kind, value, join(key, name), more, None if holds_nothing(index) else index)


def _kind(form: Any, where: str, key: str, reading: Reading) -> str:
    if isinstance(form, str) and form in ITEM_TYPES:
        return reading.sound if ITEM_TYPES[form] == "sound" else ITEM_TYPES[form]
    cure = REFUSED_TYPES.get(form) if isinstance(form, str) else None
    raise DataError(
        where, f"unknown item type {shown(form)}.", cure or did_you_mean(name_of(form), ITEM_TYPES).strip(), key=key
    )


def _is_note(name: Any, part: Any) -> bool:
    return name in NOTES_OF_ITEMS or (name == "detail" and name_of(part) == "auto")


def _refuse_key(name: Any, refused: dict[str, str], known: Collection[str], where: str, key: str) -> None:
    if isinstance(name, str) and name in refused:
        raise DataError(where, "this key would be lost.", refused[name], key=join(key, name))
    hint = did_you_mean(name_of(name), known).strip()
    cure = hint if hint.startswith("Did") else "Take it out."
    raise DataError(where, "unknown key, which would not be read.", cure, key=join(key, name_of(name)))


def _medium(item: dict[Any, Any], allowed: Sequence[str], where: str, key: str) -> tuple[Any, str]:
    """Return the one medium of an item and the key that it stands under; None if each key holds nothing."""
    kind = allowed[0]
    held = [name for name in allowed if not holds_nothing(item.get(name))]
    if len(held) > 1:
        one = f"Give each item one {kind}."
        raise DataError(
            where, f"the item has {len(held)} media: {', '.join(f'`{name}`' for name in held)}.", one, key=key
        )
    if not held:  # a loader says of an empty list that it is no clip, of no bytes that they are no file
        given = {name: plain(item.get(name)) for name in allowed}
        empty = [name for name, value in given.items() if hasattr(value, "shape") or value in ([], {}, b"")]
        return (given[empty[0]], empty[0]) if empty else (None, "")
    (name,) = held
    return _as_named(plain(item[name]), name, where, join(key, name)), name


def _as_named(value: Any, name: str, where: str, key: str) -> Any:
    """Return a medium as `find_medium` knows it, of the way in which clients write it."""
    if name in ("base64", "data"):
        return {"bytes": value, "path": None}
    if name not in (*CLIENT_KEYS["image"], *CLIENT_KEYS["video"], *CLIENT_KEYS["audio"]):
        return value
    if not isinstance(value, dict):
        return {"bytes": value, "path": None} if name == "input_audio" else value
    inner = ("url", "data")
    for part, content in value.items():
        is_form = name == "source" and part == "type" and name_of(content) in ("base64", "url")
        if part not in inner and not is_form and not holds_nothing(content) and not _is_note(part, plain(content)):
            _refuse_key(part, REFUSED_IN_ITEMS, inner, where, key)
    held = [part for part in inner if not holds_nothing(value.get(part))]
    if len(held) != 1:
        raise DataError(
            where, f"expected one of `url`, `data`, got {shown(sorted(map(name_of, value)))}.", "Give it one.", key=key
        )
    return value["url"] if held == ["url"] else {"bytes": value["data"], "path": None}


def check_text(text: Any, *, where: str, key: str = "", reading: Reading = ROWS) -> str:
    """Refuse a text that is no string, holds a token of the model's input, or half of a character.

    Args:
        text: What stands where a text should.
        where: File and row, or row and message, for errors.
        key: Place within.
        reading: What the door allows.

    Returns:
        The text.

    Raises:
        DataError: If it does not fit; the message names the place and the cure.
    """
    text = plain(text)
    if not isinstance(text, str):
        raise DataError(where, f"expected a string, got {shown(text)}.", "Write the text as a string.", key=key)
    if not reading.sanitized and (match := _CONTROL.search(text)):
        what = "ends or begins a turn" if match.group() in CHAT_TOKENS else "would be taken for a medium"
        cure = (
            "Remove it, or write it otherwise; a call may pass sanitize_control_tokens=True to have it read as plain "
            "text."
        )
        raise DataError(where, f"the text holds {match.group()}, which {what}.", cure, key=key)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"half of a character at position {error.start} (a lone surrogate)."
        raise DataError(where, problem, "Write the text again from its source, in UTF-8.", key=key) from None
    return text


def read_turn(value: Any, *, where: str, key: str = "", reading: Reading = ROWS) -> Turn:
    """Read the role and the keys of a turn, spelled `role` and `content` or `from` and `value`; its content is not
    looked into.

    Args:
        value: What stands in the dialogue.
        where: File and row, or row and message, for errors.
        key: Place within.
        reading: What the door allows.

    Raises:
        DataError: If one is missing or unknown, or the turn has a key that would be lost.
    """
    turn = plain(value)
    if not isinstance(turn, dict):
        raise DataError(where, f"expected an object with `role` and `content`, got {shown(value)}.", EXAMPLE, key=key)
    names = _spelling(turn)
    given = plain(turn.get(names[0]))
    more, unknown = _other_keys(turn, names, where=where, key=key, reading=reading)
    for name in names:
        if name not in turn and not (more and name == names[1]):
            hint = did_you_mean(name, map(name_of, turn)).strip()
            cure = hint if hint.startswith("Did") else "Write it, or leave the turn out."
            raise DataError(where, f"`{name}` is missing.", cure, key=key)
    if unknown:
        _refuse_key(unknown[0], REFUSED_IN_TURNS, names, where, key)
    role, content = _role(given, where, join(key, names[0]), reading), plain(turn.get(names[1]))
    if content is None or (isinstance(content, float) and content != content):
        if not more:
            raise DataError(where, "it is null.", "Fill it, or leave the turn out.", key=join(key, names[1]))
        content = ""
    return Turn(role, content, join(key, names[1]), more)


def _other_keys(
    turn: dict[Any, Any], names: tuple[str, str], *, where: str, key: str, reading: Reading
) -> tuple[dict[str, Any], list[Any]]:
    """Keys of a turn that are used, and those that nobody knows; one that is known and would be lost is refused."""
    role, used, unknown = ROLE_NAMES.get(name_of(plain(turn.get(names[0]))), ""), {}, []
    for name, part in turn.items():
        if name in names or holds_nothing(part) or is_usual(name, plain(part), role):
            continue
        if isinstance(name, str) and reading.used(name):
            used[name] = part
        elif isinstance(name, str) and name in REFUSED_IN_TURNS:
            _refuse_key(name, REFUSED_IN_TURNS, names, where, key)
        elif name not in NOTES_OF_TURNS and not (name == "type" and name_of(part) == "message"):
            unknown.append(name)
    return used, unknown


def _spelling(turn: dict[Any, Any]) -> tuple[str, str]:
    """Return the names of role and content that a turn uses."""
    is_sharegpt = "value" in turn and "content" not in turn
    role = "from" if "role" not in turn and ("from" in turn or is_sharegpt) else "role"
    return role, "value" if "content" not in turn and ("value" in turn or role == "from") else "content"


def is_usual(name: Any, part: Any, role: str) -> bool:
    """Whether a key says what happens anyway: loss on answers alone.

    Args:
        name: The key.
        part: Its value.
        role: Of the turn.
    """
    is_number = isinstance(part, bool | int | float) and part == (1 if role == "assistant" else 0)
    return name in WEIGHTS and is_number


def _role(role: Any, where: str, key: str, reading: Reading) -> str:
    if isinstance(role, str) and reading.used(role):
        return role
    if isinstance(role, str) and role in ROLE_NAMES:
        return ROLE_NAMES[role]
    if isinstance(role, str) and role in TOOL_ROLES:
        cure = "What tools say is not read here: write it into a turn of the user, or take the row out."
    else:
        cure = did_you_mean(name_of(role), ROLE_NAMES).strip()
    raise DataError(where, f"unknown role {shown(role)}.", cure, key=key)


def read_content(turn: Turn, *, where: str, reading: Reading = ROWS) -> str | list[Item]:
    """Read the content of a turn: a text, or items.

    Args:
        turn: As `read_turn` gives it.
        where: File and row, or row and message, for errors.
        reading: What the door allows.

    Raises:
        DataError: As `read_item`, and if it is neither.
    """
    if isinstance(turn.content, list):
        items = [
            read_item(item, where=where, key=f"{turn.key}[{number}]", reading=reading)
            for number, item in enumerate(turn.content)
        ]
        for item in items:
            if item.index is not None:  # media of a call fill items in their order
                problem = "the number of a medium, of which there is no column to count here."
                cure = f"Give the item its {item.kind} itself, or leave `index` out."
                raise DataError(where, problem, cure, key=join(item.key, "index"))
        return items
    if not isinstance(turn.content, str):
        problem = f"expected a string or a list of items, got {shown(turn.content)}."
        raise DataError(where, problem, "Write the text as a string.", key=turn.key)
    return check_text(turn.content, where=where, key=turn.key, reading=reading)


class ReadMessage(NamedTuple):
    """A turn whose content has been read."""

    role: str
    content: str | list[Item]
    more: dict[str, Any] = {}

    @property
    def items(self) -> list[Item]:
        """The content as items."""
        return [Item("text", self.content, "")] if isinstance(self.content, str) else self.content


def read_message(value: Any, *, where: str, key: str = "", reading: Reading = ROWS) -> ReadMessage:
    """Read one turn and its content.

    Args:
        value: What stands in the dialogue.
        where: File and row, or row and message, for errors.
        key: Place within.
        reading: What the door allows.

    Raises:
        DataError: As `read_turn` and `read_content`.
    """
    turn = read_turn(value, where=where, key=key, reading=reading)
    return ReadMessage(turn.role, read_content(turn, where=where, reading=reading), turn.more)


def join(key: str, name: str) -> str:
    """Place of a key `name` within another `key`."""
    return f"{key}.{name}" if key and name else key or name


__all__ = [
    "EXAMPLE",
    "ROLES",
    "ROWS",
    "Item",
    "Message",
    "ReadMessage",
    "Reading",
    "Sound",
    "Turn",
    "check_text",
    "is_usual",
    "join",
    "read_content",
    "read_item",
    "read_message",
    "read_turn",
]
