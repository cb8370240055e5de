"""Rows that are too long: refused, dropped, or cut where a turn or a medium ends, never within a medium or a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Messages = list[dict[str, Any]]
NAMED = 100
"""Rows that a report names; more are only counted."""


class Cut(NamedTuple):
    """What is kept of a row: its first messages and, of the next one, the first items (0: it is left out too)."""

    messages: int
    items: int = 0

    @property
    def is_inside(self) -> bool:
        """Whether the last message kept is not whole, so that its end is no end to learn."""
        return self.items > 0


def keep(messages: Messages, cut: Cut | None) -> Messages:
    """Return the messages that a cut keeps."""
    if cut is None:
        return messages
    whole = messages[: cut.messages]
    if not cut.is_inside:
        return whole
    last = messages[cut.messages]
    return [*whole, {**last, "content": last["content"][: cut.items]}]


def cuts(messages: Messages) -> list[Cut]:
    """Where a row may end if not at its end, the longest first.

    It may end behind an answer, and behind a medium within one; before that the assistant must have said something.
    What would follow without an answer (a last question) has nothing to learn, so that no cut keeps it.
    """
    found: list[Cut] = []
    has_words = False
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for position, item in enumerate(message["content"], start=1):
            has_words = has_words or (item["type"] == "text" and bool(item["text"].strip()))
            is_last = position == len(message["content"])
            if has_words and item["type"] != "text" and not is_last:
                found.append(Cut(number, position))
        if has_words:
            found.append(Cut(number + 1))
    return [cut for cut in reversed(found) if cut != Cut(len(messages))]


def longest_cut(messages: Messages, limit: int, count: Callable[[Messages], int]) -> tuple[Cut, int] | None:
    """Find the longest prefix of a row that fits.

    Args:
        messages: A row's.
        limit: Tokens that it may have.
        count: Counts the tokens of messages.

    Returns:
        The cut and its tokens; None if no cut fits.
    """
    for cut in cuts(messages):
        if (tokens := count(keep(messages, cut))) <= limit:
            return cut, tokens
    return None


@dataclass
class LengthReport:
    """Rows that were too long, by what was done with them; each row once, however often it comes."""

    dropped: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)

    def as_history(self) -> dict[str, dict[str, Any]]:
        """For `history.json`: how many rows were dropped and cut, and the first of them with their tokens."""
        return {
            what: {"rows": len(rows), "tokens": dict(list(rows.items())[:NAMED])}
            for what, rows in (("dropped", self.dropped), ("cut", self.cut))
            if rows
        }

    def lines(self, limit: int | None, named: int = 5) -> Iterator[str]:
        """Report them in a line each for dropped and cut rows."""
        for what, rows in (("dropped", self.dropped), ("cut", self.cut)):
            if rows:
                names = ", ".join(f"{name}: {tokens} tokens" for name, tokens in list(rows.items())[:named])
                more = f" and {len(rows) - named} more" if len(rows) > named else ""
                yield f"{len(rows)} row(s) longer than data.max_length {limit} were {what}: {names}{more}"


def name_rows(rows: Sequence[Any], limit: int = 5) -> str:
    """Name rows (or samples) by place and id, the first few of them."""
    names = ", ".join(f"{row.where} ({row.id})" for row in rows[:limit])
    return names + (f" and {len(rows) - limit} more" if len(rows) > limit else "")


def too_long(names: str, tokens: int, limit: int) -> str:
    """Word the refusal of rows that are longer than they may be."""
    return (
        f"{names}: {tokens} tokens at most, but data.max_length is {limit}. Raise max_length, take these rows out, or "
        "set data.too_long to drop or cut."
    )


__all__ = ["Cut", "LengthReport", "cuts", "keep", "longest_cut", "name_rows", "too_long"]
