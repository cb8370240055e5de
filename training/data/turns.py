"""Turns of a dialogue as rows write them, and the media of the row's columns, become messages with typed items.

A text that is written as a plain string may hold tags such as `<image>`, which are filled with the media of the
columns in order; so are items like {"type": "image"} without a medium. The text of a typed item is taken as it is.
"""

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unimoe import Modality
from unimoe.placeholders import CHAT_TOKENS, PLACEHOLDER
from unimoe.suggest import did_you_mean

from .media_values import KINDS, Item, is_absent, read_base64, read_medium
from .rows import Faults, shorten

ROLES = ("system", "user", "assistant")
TAGS = {**{kind: kind for kind in KINDS}, "voice": Modality.SPEECH.key}
"""What each tag stands for; `<voice>` is one only in rows that have `voice`."""

_TAG = re.compile(r"<(" + "|".join(TAGS) + r")>")
_KEYS_OF_MEDIA = ("path", "url", "base64")
_CONTROL = re.compile(PLACEHOLDER.pattern + "|" + "|".join(map(re.escape, CHAT_TOKENS)))


class Turn(NamedTuple):
    """One turn: its role, None if that is wrong; its content, string or list of items; and the content's key."""

    role: str | None
    content: Any
    key: str


class Column(NamedTuple):
    """One medium of a column, not yet read, and its place in the row."""

    key: str
    value: Any


@dataclass
class Media:
    """The media of a row's columns, taken one after the other by the tags of each kind.

    Args:
        columns: By kind, in order.
        root: Folder that relative paths start from.
        faults: Takes what is wrong.
        has_voice: The row has `voice`, so that `<audio>` and `<voice>` stand for speech if it has no sounds.
    """

    columns: dict[str, list[Column]]
    root: Path
    faults: Faults
    has_voice: bool = False
    tags: Counter[str] = field(default_factory=Counter)
    misplaced: set[str] = field(default_factory=set)
    is_unsure: bool = False
    """Contents that are wrong may have had tags, so that they cannot be counted."""

    def __post_init__(self) -> None:
        self._waiting = {kind: deque(columns) for kind, columns in self.columns.items()}

    def kind_of(self, tag: str) -> str | None:
        """What a tag stands for in this row; None if it is plain text."""
        if tag == "voice" and not self.has_voice:
            return None
        if tag == Modality.AUDIO.key and self.has_voice and not self.columns.get(tag):
            return Modality.SPEECH.key
        return TAGS[tag]

    def take(self, kind: str) -> Item | None:
        """The next medium of a kind; None if there is none, or it is wrong."""
        self.tags[kind] += 1
        if not (waiting := self._waiting.get(kind)):
            return None
        column = waiting.popleft()
        return read_medium(column.value, kind, key=column.key, root=self.root, faults=self.faults)

    def check_all_taken(self, key: str) -> None:
        """Refuse tags without media and media without tags.

        Args:
            key: Place of the dialogue, named where the row has no column of the kind.
        """
        for kind in () if self.is_unsure else KINDS:
            tags, files = self.tags[kind], len(self.columns.get(kind, ()))
            if tags != files and kind not in self.misplaced:
                column = self.columns[kind][0].key.partition("[")[0] if files else key
                self.faults.add(
                    column,
                    f"{tags} <{kind}> tag(s) but {files} {kind} file(s).",
                    f"Give each file one tag; where <{kind}> is plain text, write the content as "
                    '[{"type": "text", "text": ...}] in `messages`.',
                )


def read_turns(turns: list[Turn], media: Media) -> list[dict[str, Any]]:
    """Turn turns into messages, of which only those without a fault are whole."""
    if media.has_voice and not any(_has_speech_tag(turn.content, media) for turn in turns):
        turns = _voice_first(turns, media)
    messages = []
    for turn in turns:
        content = _tagged(turn, turn.content, media) if isinstance(turn.content, str) else _items(turn, media)
        messages.append({"role": turn.role, "content": content})
        if turn.role == "assistant":
            _check_answer(turn, content, media.faults)
    return messages


def _has_speech_tag(content: Any, media: Media) -> bool:
    tags = _TAG.findall(content) if isinstance(content, str) else []
    return any(media.kind_of(tag) == Modality.SPEECH.key for tag in tags)


def _voice_first(turns: list[Turn], media: Media) -> list[Turn]:
    """Uni-MoE: what is spoken stands before the text of the first question if no tag says where."""
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None or not isinstance(turns[first].content, str):
        return turns
    tags = "<voice>" * len(media.columns.get(Modality.SPEECH.key, ()))
    asked = turns[first]._replace(content=tags + turns[first].content)
    return [*turns[:first], asked, *turns[first + 1 :]]


def _tagged(turn: Turn, text: str, media: Media) -> list[Item]:
    """Items of a text with tags; space around tags is left out."""
    pieces = _TAG.split(text)  # text, tag, text, ...
    kinds = [media.kind_of(tag) for tag in pieces[1::2]]
    check_text(text, turn.key, media.faults)
    if not any(kinds):
        return [{"type": "text", "text": text}]
    if turn.role == "assistant":
        media.misplaced.update(filter(None, kinds))
        tag = next(tag for tag, kind in zip(pieces[1::2], kinds, strict=True) if kind)
        media.faults.add(
            turn.key,
            f"the tag <{tag}> stands in an answer.",
            "The assistant answers in words: move the tag to a question. A medium in an answer, or "
            f'<{tag}> as plain text, is written as typed items: "content": [{{"type": ...}}].',
        )
        return [{"type": "text", "text": text}]
    items: list[Item] = []
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            items += [{"type": "text", "text": piece.strip()}] if piece.strip() else []
        elif (kind := media.kind_of(piece)) is None:
            items.append({"type": "text", "text": f"<{piece}>"})
        elif (item := media.take(kind)) is not None:
            items.append(item)
    return items


def _items(turn: Turn, media: Media) -> list[Item]:
    if turn.content is None:  # which has been said
        media.is_unsure = True
        return []
    if not isinstance(turn.content, list) or not turn.content:
        what = "an answer is a string" if turn.role == "assistant" else "expected a string"
        media.faults.add(
            turn.key, f"{what} or a list of items, got {shorten(turn.content)}.", "Write the text as a string."
        )
        media.is_unsure = True
        return []
    before = len(media.faults.found)
    items = [_item(item, f"{turn.key}[{number}]", media) for number, item in enumerate(turn.content)]
    media.is_unsure |= len(media.faults.found) > before
    return [item for item in items if item is not None]


def _item(item: Any, key: str, media: Media) -> Item | None:
    """One typed item, brought to the form of `Row`; None if something is wrong."""
    faults, kinds = media.faults, ("text", *KINDS)
    if not isinstance(item, dict) or "type" not in item:
        faults.add(
            key,
            f'expected an item like {{"type": "text", "text": "..."}}, got {shorten(item)}.',
            f"Give it a type: {', '.join(kinds)}.",
        )
        return None
    kind = item["type"]
    if kind not in kinds:
        faults.add(f"{key}.type", f"unknown type {shorten(kind)}.", did_you_mean(str(kind), kinds).strip())
        return None
    allowed = ("text",) if kind == "text" else (kind, *_KEYS_OF_MEDIA)
    held = {name: value for name, value in item.items() if name != "type" and value is not None}
    if unknown := [name for name in held if name not in allowed]:
        faults.add(f"{key}.{unknown[0]}", "unknown key.", did_you_mean(unknown[0], allowed).strip())
        return None
    if kind == "text":
        return _text_item(held, key, faults)
    held = {name: value for name, value in held.items() if name == "path" or not is_absent(value)}
    if not held and media.columns.get(kind):
        return media.take(kind)
    if len(held) != 1:
        faults.add(
            key,
            f"expected one of {', '.join(f'`{name}`' for name in allowed)}, got {sorted(item)}.",
            f"Give each item one {kind}.",
        )
        return None
    (name, value), *_ = held.items()
    if name == "base64":
        return read_base64(value, kind, key=f"{key}.base64", faults=faults)
    return read_medium(value, kind, key=f"{key}.{name}", root=media.root, faults=faults)


def _text_item(held: dict[str, Any], key: str, faults: Faults) -> Item | None:
    text = held.get("text")
    if not isinstance(text, str):
        faults.add(f"{key}.text", f"expected a string, got {shorten(text)}.", "Write the text as a string.")
        return None
    check_text(text, f"{key}.text", faults)
    return {"type": "text", "text": text}


def check_text(text: str, key: str, faults: Faults) -> None:
    """Refuse a text that holds a token of the model's input, or half of a character."""
    if match := _CONTROL.search(text):
        what = "ends or begins a turn" if match.group() in CHAT_TOKENS else "would be taken for a medium"
        faults.add(key, f"the text holds {match.group()}, which {what}.", "Remove it, or write it otherwise.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        faults.add(
            key,
            f"half of a character at position {error.start} (a lone surrogate).",
            "Write the text again from its source, in UTF-8.",
        )


def _check_answer(turn: Turn, content: list[Item], faults: Faults) -> None:
    parts = turn.content if isinstance(turn.content, list) else [turn.content]
    is_whole = len(content) == len(parts) > 0  # otherwise it is wrong already
    if is_whole and not any(item["type"] == "text" and item["text"].strip() for item in content):
        faults.add(turn.key, "the answer is empty, so there is nothing to learn.", "Fill it, or leave the turn out.")


__all__ = ["ROLES", "Column", "Media", "Turn", "check_text", "read_turns"]
