"""The formats of rows, told apart row by row: what they have in common is a dialogue, and media beside or within it.

`docs/data.md` shows each. A format says where turns and media stand; `turns` makes messages of them.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from unimoe import Modality
from unimoe.suggest import did_you_mean

from .media_values import KINDS, PICTURE_ENDINGS, is_absent
from .rows import Faults, Row, shorten
from .turns import ROLES, Column, Media, Turn, read_turns

Format = Literal["messages", "columns", "llava", "uni_moe", "pairs"]

_ROLES_OF_LLAVA = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_VOICE = ("voice", "voices")
_COLUMNS = {
    **{name: kind for kind in KINDS for name in (kind, f"{kind}s")},
    "speeches": Modality.SPEECH.key,
    **dict.fromkeys(_VOICE, Modality.SPEECH.key),
}
"""The kind of media of each column that rows may have."""
_ENDINGS = (
    *PICTURE_ENDINGS,
    *(".gif", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"),
    *(".mp4", ".mkv", ".webm", ".avi", ".mov"),
)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_TOOLS = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_EXAMPLE = 'Write {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'


class RowForm(NamedTuple):
    """What is said of the rows of a source.

    Args:
        format: The only one allowed. None: each row may have its own.
        columns: New meaning of columns: name -> one of `COLUMN_MEANINGS`.
    """

    format: Format | None = None
    columns: dict[str, str] = {}


ANY_FORM = RowForm()
"""Nothing is said."""


def row_format(values: Any, form: RowForm = ANY_FORM) -> Format | None:
    """The format of a row's values; None if it is none."""
    if not isinstance(values, dict):
        return None
    names = {form.columns.get(name, name) for name, value in values.items() if value is not None}
    if "conversations" in names and "messages" not in names:
        return "uni_moe" if names.intersection(_VOICE) or _is_frames(values.get("video")) else "llava"
    if "messages" in names:
        return "columns" if _media_columns(values, form) else "messages"
    return "pairs" if "assistant" in form.columns.values() else None


def parse_row(
    values: Any, *, where: str, root: Path, form: RowForm = ANY_FORM, faults: Faults | None = None
) -> Row | None:
    """Check one row and bring it to the form of `Row`.

    Args:
        values: What JSON or a table gave.
        where: File and row, for messages.
        root: Folder that relative media paths start from.
        form: What is said of the rows.
        faults: Takes what is wrong. None: the first fault is raised.

    Returns:
        The row; where faults are kept, what of it is without one, or None if that is nothing.

    Raises:
        DataError: If there is a fault, unless faults are kept.
    """
    faults = Faults(where) if faults is None else faults
    if not isinstance(values, dict):
        faults.add("", f"expected a JSON object, got {type(values).__name__}.", _EXAMPLE)
        return None
    row_id = _read_id(values, form, faults)
    found = _find_format(values, form, faults)
    if found is None:
        return None
    turns, key = _FORMATS[found](values, form, faults)
    columns = {} if found == "messages" else _media_columns(values, form)
    has_voice = found == "uni_moe" and any(values.get(name) for name in _VOICE)
    media = Media(columns, root, faults, has_voice=has_voice)
    media.is_unsure = _check_unread(values, form, columns, faults)
    if found == "pairs":
        turns = _media_first(turns, media)
    messages = read_turns(turns, media)
    if turns:
        media.check_all_taken(key)
    if not faults:
        _check_order(messages, key, faults)
    return Row(where if row_id is None else row_id, where, messages)


def _read_id(values: dict[str, Any], form: RowForm, faults: Faults) -> str | None:
    """The row's own name; None if it has none."""
    name = _source_of("id", form)
    given = values.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int):
        faults.add(name, f"expected a string or a whole number, got {shorten(given)}.", "Give each row one name.")
        return None
    return str(given)


def _source_of(target: str, form: RowForm) -> str:
    """The column that is mapped to a target, or has its name."""
    return next((name for name, meaning in form.columns.items() if meaning == target), target)


def _find_format(values: dict[str, Any], form: RowForm, faults: Faults) -> Format | None:
    found = row_format(values, form)
    dialogues = [name for name in ("messages", "conversations") if values.get(name) is not None]
    if found is None:
        missing = [name for name in ("messages", "conversations") if name in values]
        if missing:
            faults.add(missing[0], "expected a list of messages, got None.", _EXAMPLE)
            return None
        hint = did_you_mean(next(iter(sorted(values, key=_likeness, reverse=True)), ""), ("messages", "conversations"))
        cure = hint.strip() if hint.startswith(" Did") else _EXAMPLE
        faults.add("", f"neither `messages` nor `conversations`, only {shorten(sorted(values))}.", cure)
    elif len(dialogues) == 2:
        faults.add("conversations", "there are `messages` too, and only one can be meant.", "Leave one out.")
        return None
    elif form.format is not None and found != form.format:
        faults.add("", f"the row is in the format {found}, the source says {form.format}.", "Leave `format` out.")
    return found


def _likeness(name: Any) -> float:
    from difflib import SequenceMatcher

    return max(SequenceMatcher(None, str(name), known).ratio() for known in ("messages", "conversations"))


def _media_columns(values: dict[str, Any], form: RowForm) -> dict[str, list[Column]]:
    """The media beside the dialogue, by kind."""
    found: dict[str, list[Column]] = {}
    for name, value in values.items():
        kind = form.columns.get(name, _COLUMNS.get(name))
        if kind not in KINDS or is_absent(value):
            continue
        found.setdefault(kind, []).extend(_entries(name, value, kind))
    return found


def _entries(name: str, value: Any, kind: str) -> list[Column]:
    """The media of one column: one, a list of them; or a list of pictures, which under `video` is one clip."""
    if not isinstance(value, list) or (kind == Modality.VIDEO.key and name == kind and _is_frames(value)):
        return [Column(name, value)]
    return [Column(f"{name}[{number}]", medium) for number, medium in enumerate(value)]


def _is_frames(value: Any) -> bool:
    """Whether a list is the frames of one clip: pictures alone."""
    return isinstance(value, list) and bool(value) and all(map(_is_picture, value))


def _is_picture(value: Any) -> bool:
    if isinstance(value, dict):
        data, name = value.get("bytes"), value.get("path")
        return data.startswith(_PICTURES) if isinstance(data, bytes) else _is_picture(name)
    return isinstance(value, str) and value.lower().endswith(PICTURE_ENDINGS)


def _check_unread(values: dict[str, Any], form: RowForm, columns: dict[str, list[Column]], faults: Faults) -> bool:
    """Refuse media that would not be read, as they stand under a name that no format knows; say if there are."""
    is_unread = False
    for name, value in values.items():
        if name in form.columns or name in _COLUMNS or is_absent(value):
            continue
        first = value[0] if isinstance(value, list) else value
        is_file = isinstance(first, str) and first.lower().endswith(_ENDINGS) and "\n" not in first
        is_bytes = isinstance(first, dict) and {"bytes", "path"} <= set(first)
        if (is_file or is_bytes) and not columns and not _holds_media(values, form):
            hint = did_you_mean(str(name), _COLUMNS)
            cure = hint.strip() if hint.startswith(" Did") else f"Rename it to one of {', '.join(KINDS)}."
            faults.add(str(name), "these media would not be read: no format knows this key.", cure)
            is_unread = True
    return is_unread


def _holds_media(values: dict[str, Any], form: RowForm) -> bool:
    """Whether a content of the messages has an item that is not text."""
    messages = values.get(_source_of("messages", form))
    contents = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    items = [item for content in contents if isinstance(content, list) for item in content]
    return any(not isinstance(item, dict) or item.get("type") != "text" for item in items)


def _read_messages(values: dict[str, Any], form: RowForm, faults: Faults) -> tuple[list[Turn], str]:
    name = _source_of("messages", form)
    turns = []
    for number, message in enumerate(_dialogue(values, name, faults)):
        key = f"{name}[{number}]"
        if not isinstance(message, dict):
            faults.add(key, f"expected an object with `role` and `content`, got {shorten(message)}.", _EXAMPLE)
            turns.append(Turn(None, None, key))
            continue
        role, content = (_required(message, part, key, faults) for part in ("role", "content"))
        unknown = [part for part, value in message.items() if part not in ("role", "content") and value is not None]
        if unknown and role is not None and content is not None:
            faults.add(f"{key}.{unknown[0]}", "unknown key, which would not be read.", "Take it out.")
        if role is not None and role not in ROLES:
            _refuse_role(role, f"{key}.role", ROLES, faults)
            role = None
        turns.append(Turn(role, content, f"{key}.content"))
    return turns, name


def _read_conversations(values: dict[str, Any], form: RowForm, faults: Faults) -> tuple[list[Turn], str]:
    name = _source_of("conversations", form)
    turns = []
    for number, turn in enumerate(_dialogue(values, name, faults)):
        key = f"{name}[{number}]"
        if not isinstance(turn, dict):
            faults.add(
                key, f'expected {{"from": "human", "value": "..."}}, got {shorten(turn)}.', "Write each turn so."
            )
            turns.append(Turn(None, None, key))
            continue
        speaker, value = (_required(turn, part, key, faults) for part in ("from", "value"))
        role = None
        if speaker is not None:
            role = _ROLES_OF_LLAVA.get(speaker) if isinstance(speaker, str) else None
            if role is None:
                _refuse_role(speaker, f"{key}.from", _ROLES_OF_LLAVA, faults)
        if value is not None and not isinstance(value, str):
            faults.add(
                f"{key}.value",
                f'expected {{"from": "human", "value": "..."}}, got {shorten(value)}.',
                "Write the text as a string; media stand beside the dialogue.",
            )
            value = None
        turns.append(Turn(role, None if value is None else value.strip(), f"{key}.value"))
    return turns, name


def _read_pair(values: dict[str, Any], form: RowForm, faults: Faults) -> tuple[list[Turn], str]:
    turns = []
    for role in ROLES:
        name = _source_of(role, form)
        if role == "system" and values.get(name) is None:
            continue
        if name not in form.columns:
            continue
        text = values.get(name)
        if not isinstance(text, str):
            faults.add(name, f"expected the text of the {role}, got {shorten(text)}.", "Fill it, or take out the row.")
            text = None
        turns.append(Turn(role, text, name))
    if turns and turns[0].role == "assistant":
        turns.insert(0, Turn("user", "", _source_of("assistant", form)))
    return turns, _source_of("assistant", form)


_FORMATS = {
    "messages": _read_messages,
    "columns": _read_messages,
    "llava": _read_conversations,
    "uni_moe": _read_conversations,
    "pairs": _read_pair,
}


def _dialogue(values: dict[str, Any], name: str, faults: Faults) -> list[Any]:
    turns = values.get(name)
    if isinstance(turns, list) and turns:
        return turns
    faults.add(name, f"expected a list with at least one message, got {shorten(turns)}.", _EXAMPLE)
    return []


def _required(message: dict[str, Any], part: str, key: str, faults: Faults) -> Any:
    """The value of a key that each message has; None if it has not, which is said."""
    if part not in message:
        hint = did_you_mean(part, message).strip()
        faults.add(
            key, f"`{part}` is missing.", hint if hint.startswith("Did") else "Write it, or leave the turn out."
        )
    elif message[part] is None:
        faults.add(f"{key}.{part}", "it is null.", "Fill it, or leave the turn out.")
    return message.get(part)


def _refuse_role(role: Any, key: str, known: Any, faults: Faults) -> None:
    if role in _TOOLS:
        cure = "What tools say is not trained here: write it into a turn of the user, or take the row out."
    else:
        cure = did_you_mean(str(role), known).strip()
    faults.add(key, f"unknown role {shorten(role)}.", cure)


def _media_first(turns: list[Turn], media: Media) -> list[Turn]:
    """Put a tag in front of the question for each medium of a table that has no tag of its own."""
    asked = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
    if asked is None or not isinstance(turns[asked].content, str):
        return turns
    turn = turns[asked]
    tags = [
        f"<{kind}>" * len(columns) for kind, columns in media.columns.items() if f"<{kind}>" not in str(turn.content)
    ]
    return [*turns[:asked], turn._replace(content="".join(tags) + turn.content), *turns[asked + 1 :]]


def _check_order(messages: list[dict[str, Any]], key: str, faults: Faults) -> None:
    """Refuse dialogues that leave nothing to learn, or an answer to nothing."""
    roles = [message["role"] for message in messages]
    spoken = [role for role in roles if role != "system"]
    if "assistant" not in roles:
        faults.add(key, "no message of the assistant, so there is nothing to learn.", "Add its answer.")
    elif "system" in roles[1:]:
        number = roles.index("system", 1)
        faults.add(f"{key}[{number}]", "a system message stands behind another one.", "Put it first, and once.")
    elif spoken[0] == "assistant":
        faults.add(
            f"{key}[{roles.index('assistant')}]",
            "the assistant speaks first, so its answer belongs to no question.",
            "Put the user's turn before it; its content may be empty.",
        )
    elif spoken[-1] != "assistant":
        faults.add(
            f"{key}[{len(roles) - 1}]",
            "nobody answers the last turn, so it is never learned.",
            "Add the answer, or leave the turn out.",
        )


__all__ = ["Format", "RowForm", "parse_row", "row_format"]
