"""The formats of rows, told apart row by row: what they have in common is a dialogue, and media beside or within it.

`docs/data.md` shows each. A format says where turns and media stand; `turns` makes messages of them. Which keys a row
and a turn may have is decided in `unimoe.processing`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unimoe import Modality
from unimoe.errors.suggest import did_you_mean
from unimoe.media.naming import shown
from unimoe.processing.keys import DIALOGUES, KINDS, MEDIA_COLUMNS, ROLES, VOICE
from unimoe.processing.messages import EXAMPLE, Turn, read_turn
from unimoe.processing.rows import dialogue_texts, read_id, read_system, unread_keys
from unimoe.processing.values import holds_nothing, name_of, plain

from .rows import Faults, Row
from .turns import Column, Media, read_turns, tags_first

Format = Literal["messages", "columns", "llava", "uni_moe", "pairs"]

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of files that are frames where they are listed as one video; a GIF is a clip of its own."""
_ENDINGS = (
    *_PICTURE_ENDINGS,
    *(".gif", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"),
    *(".mp4", ".mkv", ".webm", ".avi", ".mov"),
)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_PAIRS = (
    *(("instruction", "output"), ("question", "answer"), ("prompt", "completion"), ("prompt", "response")),
    *(("query", "response"), ("input", "output"), ("prompt", "chosen")),
)
"""Columns of other makers that are a question and its answer."""


class RowForm(NamedTuple):
    """What is said of the rows of a source.

    Args:
        format: The only one allowed. None: each row may have its own.
        columns: New meaning of columns: name -> one of `COLUMN_MEANINGS`.
    """

    format: Format | None = None
    columns: dict[str, str] = {}

    def source_of(self, target: str) -> str:
        """Return the column that is mapped to a target, or has its name."""
        return next((name for name, meaning in self.columns.items() if meaning == target), target)

    @property
    def is_pairs(self) -> bool:
        """Whether columns are said to be answers."""
        return "assistant" in self.columns.values()


ANY_FORM = RowForm()
"""Nothing is said."""


def row_format(values: Any, form: RowForm = ANY_FORM) -> Format | None:
    """Return the format of a row's values; None if it is none."""
    values = plain(values)
    if not isinstance(values, dict):
        return None
    names = {form.columns.get(name, name) for name, value in values.items() if plain(value) is not None}
    if "conversations" in names and "messages" not in names:
        return "uni_moe" if names.intersection(VOICE) or _is_frames(values.get("video")) else "llava"
    if "messages" in names:
        return "columns" if _media_columns(values, form) else "messages"
    return "pairs" if form.is_pairs else None


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
    values = plain(values)
    if not isinstance(values, dict):
        faults.add("", f"expected a JSON object, got {type(values).__name__}.", EXAMPLE)
        return None
    row_id, id_key = None, form.source_of("id")
    with faults.taken():
        row_id = read_id(values.get(id_key), where=where, key=id_key)
    found = _find_format(values, form, faults)
    if found is None:
        return None
    before = len(faults.found)
    turns, key = _read_pair(values, form, faults) if found == "pairs" else _read_dialogue(values, found, form, faults)
    columns = {} if found == "messages" else _media_columns(values, form)
    has_voice = found == "uni_moe" and any(not holds_nothing(values.get(name)) for name in VOICE)
    media = Media(columns, root, faults, has_voice=has_voice, is_unsure=len(faults.found) > before)
    media.is_unsure |= _check_unread(values, form, columns, turns, faults)
    if found == "pairs":
        turns = _media_first(turns, media)
    messages = read_turns(turns, media)
    if turns:
        media.check_all_taken(key)
    if not faults:
        _check_order(turns, key, faults)
    return Row(where if row_id is None else row_id, where, messages)


def _find_format(values: dict[Any, Any], form: RowForm, faults: Faults) -> Format | None:
    found = row_format(values, form)
    if found is None:
        missing = [name for name in DIALOGUES if name in values]
        if missing:
            faults.add(missing[0], "expected a list of messages, got None.", EXAMPLE)
            return None
        names = sorted(map(name_of, values))
        faults.add("", f"neither `messages` nor `conversations`, only {shown(names)}.", _cure_of_columns(values))
    elif all(values.get(name) is not None for name in DIALOGUES):
        faults.add("conversations", "there are `messages` too, and only one can be meant.", "Leave one out.")
        return None
    elif form.format is not None and found != form.format:
        faults.add("", f"the row is in the format {found}, the source says {form.format}.", "Leave `format` out.")
    return found


def _cure_of_columns(values: dict[Any, Any]) -> str:
    """Say what to do about a row without a dialogue: its question and answer may stand in columns."""
    asked, answer = next((pair for pair in _PAIRS if set(pair) <= set(values)), ("", ""))
    if answer:
        ignored = ", rejected: ignore" if answer == "chosen" else ""
        further = "input" in values and asked == "instruction" and not holds_nothing(values["input"])
        said = " What `input` says must then be written into `instruction`." if further else ""
        return f"Say what its columns are: `columns: {{{asked}: user, {answer}: assistant{ignored}}}`.{said}"
    likely = next(iter(sorted(map(name_of, values), key=_likeness, reverse=True)), "")
    hint = did_you_mean(likely, DIALOGUES)
    return hint.strip() if hint.startswith(" Did") else EXAMPLE


def _likeness(name: str) -> float:
    from difflib import SequenceMatcher

    return max(SequenceMatcher(None, name[:40], known).ratio() for known in DIALOGUES)


def _media_columns(values: dict[Any, Any], form: RowForm) -> dict[str, list[Column]]:
    """Return the media beside the dialogue, by kind."""
    found: dict[str, list[Column]] = {}
    for name, value in values.items():
        kind = form.columns.get(name, MEDIA_COLUMNS.get(name, ""))
        if kind in KINDS and not holds_nothing(value):
            found.setdefault(kind, []).extend(_entries(name, plain(value), kind))
    return found


def _entries(name: str, value: Any, kind: str) -> list[Column]:
    """Return the media of one column: one, a list of them; or a list of pictures, which under `video` is one clip."""
    if not isinstance(value, list) or (kind == Modality.VIDEO.key and name == kind and _is_frames(value)):
        return [Column(name, value)]
    entries = [Column(f"{name}[{number}]", medium, number) for number, medium in enumerate(value)]
    return [entry for entry in entries if not _is_null(entry.value)]


def _is_null(value: Any) -> bool:
    """Whether a table has filled the place of a medium with nothing; an empty text is a fault of its row."""
    return not isinstance(plain(value), str | list | bytes) and holds_nothing(value)


def _is_frames(value: Any) -> bool:
    """Whether a list is the frames of one clip: pictures alone."""
    value = plain(value)
    return isinstance(value, list) and bool(value) and all(map(_is_picture, value))


def _is_picture(value: Any) -> bool:
    value = plain(value)
    if isinstance(value, dict):
        data, name = value.get("bytes"), value.get("path")
        return data.startswith(_PICTURES) if isinstance(data, bytes) else isinstance(name, str) and _is_picture(name)
    return isinstance(value, str) and value[-8:].lower().endswith(_PICTURE_ENDINGS)


def _check_unread(
    values: dict[Any, Any], form: RowForm, columns: dict[str, list[Column]], turns: list[Turn], faults: Faults
) -> bool:
    """Refuse keys that would be lost, and media under a name that no format knows; say if there are."""
    before = len(faults.found)
    own = {"id", *DIALOGUES, *MEDIA_COLUMNS, *form.columns}
    texts = list(dialogue_texts([{"content": turn.content} for turn in turns]))
    for error in unread_keys(values, where=faults.where, own=own, texts=texts):
        faults.take(error)
    if len(faults.found) == before and not columns and not _holds_media(turns):
        for name, value in values.items():
            if name not in own and _names_media(plain(value)):
                hint = did_you_mean(name_of(name), MEDIA_COLUMNS)
                cure = hint.strip() if hint.startswith(" Did") else f"Rename it to one of {', '.join(KINDS)}."
                faults.add(name_of(name), "these media would not be read: no format knows this key.", cure)
    return len(faults.found) > before


def _names_media(value: Any) -> bool:
    first = plain(value[0]) if isinstance(value, list) and value else value
    is_file = isinstance(first, str) and first[-8:].lower().endswith(_ENDINGS) and "\n" not in first
    return is_file or (isinstance(first, dict) and {"bytes", "path"} <= set(first) and not holds_nothing(first))


def _holds_media(turns: list[Turn]) -> bool:
    """Whether a content has an item that is not text."""
    items = [plain(item) for turn in turns if isinstance(turn.content, list) for item in turn.content]
    return any(not isinstance(item, dict) or name_of(item.get("type")) != "text" for item in items)


def _read_dialogue(values: dict[Any, Any], found: Format, form: RowForm, faults: Faults) -> tuple[list[Turn], str]:
    name = form.source_of("messages" if found in ("messages", "columns") else "conversations")
    dialogue = plain(values.get(name))
    if not isinstance(dialogue, list) or not dialogue:
        faults.add(name, f"expected a list with at least one message, got {shown(dialogue)}.", EXAMPLE)
        return [], name
    turns = []
    for number, value in enumerate(dialogue):
        with faults.taken():
            turn = read_turn(value, where=faults.where, key=f"{name}[{number}]")
            is_sharegpt = turn.key.endswith(".value") and isinstance(turn.content, str)
            turns.append(turn._replace(content=turn.content.strip()) if is_sharegpt else turn)
    with faults.taken():
        system = form.source_of("system")
        beside = {"system": values.get(system)} if system in form.columns else values
        if (stated := read_system(beside, [turn.role for turn in turns], where=faults.where)) is not None:
            turns.insert(0, stated)
    for role in ("user", "assistant") if form.is_pairs else ():
        if not holds_nothing(values.get(form.source_of(role))):
            faults.add(form.source_of(role), f"there are `{name}` too, and only one can be meant.", "Leave one out.")
    return turns, name


def _read_pair(values: dict[Any, Any], form: RowForm, faults: Faults) -> tuple[list[Turn], str]:
    turns = []
    for role in ROLES:
        name = form.source_of(role)
        text = plain(values.get(name))
        if name not in form.columns or (role == "system" and holds_nothing(text)):
            continue
        if not isinstance(text, str):
            faults.add(name, f"expected the text of the {role}, got {shown(text)}.", "Fill it, or take out the row.")
            continue
        turns.append(Turn(role, text, name))
    if turns and turns[0].role == "assistant":
        turns.insert(0, Turn("user", "", form.source_of("assistant")))
    if form.source_of("system") not in form.columns:
        with faults.taken():
            if (stated := read_system(values, [], where=faults.where)) is not None:
                turns.insert(0, stated)
    return turns, form.source_of("assistant")


def _media_first(turns: list[Turn], media: Media) -> list[Turn]:
    """Put a tag in front of the question for each medium of a table that has no tag of its own."""
    asked = "".join(turn.content for turn in turns if turn.role == "user" and isinstance(turn.content, str))
    tags = [f"<{kind}>" * len(columns) for kind, columns in media.columns.items() if f"<{kind}>" not in asked]
    return tags_first(turns, "".join(tags))


def _check_order(turns: Sequence[Turn], key: str, faults: Faults) -> None:
    """Refuse dialogues that leave nothing to learn, or an answer to nothing."""
    roles = [turn.role for turn in turns]
    places = [turn.key.removesuffix(".content").removesuffix(".value") for turn in turns]
    spoken = [role for role in roles if role != "system"]
    if "assistant" not in roles:
        faults.add(key, "no message of the assistant, so there is nothing to learn.", "Add its answer.")
    elif "system" in roles[1:]:
        number = roles.index("system", 1)
        faults.add(places[number], "a system message stands behind another one.", "Put it first, and once.")
    elif spoken[0] == "assistant":
        faults.add(
            places[roles.index("assistant")],
            "the assistant speaks first, so its answer belongs to no question.",
            "Put the user's turn before it; its content may be empty.",
        )
    elif spoken[-1] != "assistant":
        faults.add(
            places[-1],
            "nobody answers the last turn, so it is never learned.",
            "Add the answer, or leave the turn out.",
        )


__all__ = ["Format", "RowForm", "parse_row", "row_format"]
