"""Turns of a dialogue as rows write them, and the media of the row's columns, become messages with typed items.

A text that is written as a plain string may hold tags such as `<image>`, which are filled with the media of the
columns in order; so are items like {"type": "image"} without a medium. The text of a typed item is taken as it is.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unimoe import Modality
from unimoe.errors import DataError
from unimoe.media.naming import shown
from unimoe.processing.keys import KINDS
from unimoe.processing.messages import Item, Turn, check_text, read_content, read_item
from unimoe.processing.rows import find_item
from unimoe.processing.tags import TAG, TAGS, check_foreign, check_names_inside, foreign_placeholders

from .rows import Faults


class Column(NamedTuple):
    """One medium of a column, not yet read, its place in the row, and its number in the column."""

    key: str
    value: Any
    number: int = 0


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
    foreign: list[str] = field(default_factory=list)
    """Placeholders of other makers in plain strings."""
    misplaced: set[str] = field(default_factory=set)
    is_unsure: bool = False
    """Contents that are wrong may have had tags, so that they cannot be counted."""

    def __post_init__(self) -> None:
        self._waiting = {kind: deque(columns) for kind, columns in self.columns.items()}
        self._by_index: dict[str, bool] = {}

    def kind_of(self, tag: str) -> str | None:
        """Say what a tag stands for in this row; None if it is plain text."""
        if tag == "voice" and not self.has_voice:
            return None
        if tag == Modality.AUDIO.key and self.has_voice and not self.columns.get(tag):
            return Modality.SPEECH.key
        return TAGS[tag]

    def take(self, kind: str) -> dict[str, Any] | None:
        """Return the next medium of a kind; None if there is none, or it is wrong."""
        self.tags[kind] += 1
        if not (waiting := self._waiting.get(kind)):
            return None
        column = waiting.popleft()
        return self.find(Item(kind, column.value, column.key))

    def take_tag(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the medium of a tag; None if there is none, or it is wrong."""
        if not self.columns.get(kind):
            return self.take(kind)
        with self.faults.taken():
            return self.take_item(Item(kind, None, key))
        return None

    def take_item(self, item: Item) -> dict[str, Any] | None:
        """Return the medium of an item without one: that of its index, or the next.

        Raises:
            DataError: If the index names none that is left, or not every item of the kind has one.
        """
        key, waiting = f"{item.key}.index", self._waiting[item.kind]
        if self._by_index.setdefault(item.kind, item.index is not None) != (item.index is not None):
            problem = f"some {item.kind} items of the row have an index, and others, or tags, have none."
            raise DataError(self.faults.where, problem, "Give each an index, or none.", key=key)
        if item.index is None:
            return self.take(item.kind)
        is_number = isinstance(item.index, int | float) and not isinstance(item.index, bool)
        meant = [column for column in waiting if is_number and column.number == item.index]
        if len(meant) != 1:
            count = len(self.columns[item.kind])
            problem = f"{shown(item.index)} is no {item.kind} of the row's {count} that is left; they count from 0."
            cure = f"Give each {item.kind} one item, and its number in one column."
            raise DataError(self.faults.where, problem, cure, key=key)
        waiting.remove(meant[0])
        waiting.appendleft(meant[0])
        return self.take(item.kind)

    def find(self, item: Item) -> dict[str, Any] | None:
        """Return an item with its medium found; None if it is wrong."""
        with self.faults.taken():
            found = find_item(item, where=self.faults.where, folder=self.root)
            if item.kind != Modality.TEXT.key:
                self._note(item.key, found)
            return found
        return None

    def _note(self, key: str, item: dict[str, Any]) -> None:
        medium = item.get("path", item.get(item["type"]))
        if item["type"] != Modality.VIDEO.key or not isinstance(medium, list):
            self.faults.note(key, item)
            return
        for number, frame in enumerate(medium):
            name = "path" if isinstance(frame, str) else Modality.IMAGE.key
            self.faults.note(f"{key}[{number}]", {"type": Modality.IMAGE.key, name: frame})

    def check_all_taken(self, key: str) -> None:
        """Refuse tags without media and media without tags.

        Args:
            key: Place of the dialogue, named where the row has no column of the kind.
        """
        for kind in () if self.is_unsure else KINDS:
            tags, files = self.tags[kind], len(self.columns.get(kind, ()))
            if tags != files and kind not in self.misplaced:
                column = self.columns[kind][0].key.partition("[")[0] if files else key
                cure = (
                    f"Give each file one tag; where <{kind}> is plain text, write the content as "
                    '[{"type": "text", "text": ...}] in `messages`.'
                )
                if tags < files and self.foreign:
                    cure = f"The text has {self.foreign[0]} of another maker: write <{kind}> where each {kind} stands."
                self.faults.add(column, f"{tags} <{kind}> tag(s) but {files} {kind} file(s).", cure)


def read_turns(turns: list[Turn], media: Media) -> list[dict[str, Any]]:
    """Turn turns into messages, of which only those without a fault are whole."""
    if media.has_voice and not any(_has_speech_tag(turn.content, media) for turn in turns):
        turns = voice_first(turns, media)
    messages = []
    for turn in turns:
        before = len(media.faults.found)
        content = _tagged(turn, turn.content, media) if isinstance(turn.content, str) else _items(turn, media)
        messages.append({"role": turn.role, "content": content})
        if turn.role == "assistant" and len(media.faults.found) == before:
            _check_answer(turn, content, media.faults)
    return messages


def _has_speech_tag(content: Any, media: Media) -> bool:
    tags = TAG.findall(content) if isinstance(content, str) else []
    return any(media.kind_of(tag) == Modality.SPEECH.key for tag in tags)


def voice_first(turns: list[Turn], media: Media) -> list[Turn]:
    """Uni-MoE: what is spoken stands before the text of the first question if no tag says where."""
    return tags_first(turns, "<voice>" * len(media.columns.get(Modality.SPEECH.key, ())))


def tags_first(turns: list[Turn], tags: str) -> list[Turn]:
    """Put tags in front of the first question, if it is a text."""
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None or not isinstance(turns[first].content, str):
        return turns
    asked = turns[first]._replace(content=tags + turns[first].content)
    return [*turns[:first], asked, *turns[first + 1 :]]


def _tagged(turn: Turn, text: str, media: Media) -> list[dict[str, Any]]:
    """Items of a text with tags; space around tags is left out."""
    pieces = TAG.split(text)  # text, tag, text, ...
    kinds = [media.kind_of(tag) for tag in pieces[1::2]]
    before = len(media.faults.found)
    with media.faults.taken():
        check_text(text, where=media.faults.where, key=turn.key)
    media.foreign += foreign_placeholders(text)
    named = len(media.faults.found)
    with media.faults.taken():
        check_names_inside(text, where=media.faults.where, key=turn.key)
    media.is_unsure |= len(media.faults.found) > named
    with media.faults.taken():
        if not media.columns and len(media.faults.found) == before:
            check_foreign(text, where=media.faults.where, key=turn.key)
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
    items: list[dict[str, Any]] = []
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            items += [{"type": "text", "text": piece.strip()}] if piece.strip() else []
        elif (kind := media.kind_of(piece)) is None:
            items.append({"type": "text", "text": f"<{piece}>"})
        elif (item := media.take_tag(kind, turn.key)) is not None:
            items.append(item)
    return items


def _items(turn: Turn, media: Media) -> list[dict[str, Any]]:
    before, found = len(media.faults.found), []
    if isinstance(turn.content, list):
        for number, item in enumerate(turn.content):
            with media.faults.taken():
                read = read_item(item, where=media.faults.where, key=f"{turn.key}[{number}]")
                is_tag = read.kind != "text" and read.value is None and media.columns.get(read.kind)
                found.append(media.take_item(read) if is_tag else media.find(read))
    else:
        with media.faults.taken():
            read_content(turn, where=media.faults.where)
    media.is_unsure |= len(media.faults.found) > before
    return [item for item in found if item is not None]


def _check_answer(turn: Turn, content: list[dict[str, Any]], faults: Faults) -> None:
    if not any(item["type"] == "text" and item["text"].strip() for item in content):
        faults.add(turn.key, "the answer is empty, so there is nothing to learn.", "Fill it, or leave the turn out.")


__all__ = ["Column", "Media", "read_turns", "tags_first"]
