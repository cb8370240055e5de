"""One conversation or a batch of them, as calls pass them."""

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..media.naming import shown
from .messages import Reading, ReadMessage, read_message
from .values import plain


def read_conversations(conversation: Any, *, reading: Reading) -> tuple[list[list[ReadMessage]], bool]:
    """Read one conversation or a batch of them.

    Args:
        conversation: A list of messages, a list of such lists, or objects that have them under `messages`.
        reading: What the door allows.

    Returns:
        The conversations, and whether it was a batch.

    Raises:
        DataError: If there is no message, or one cannot be read; it names row, message and key.
    """
    given = _messages_of(conversation, "the conversation")
    is_batched = isinstance(plain(given[0]), list) or hasattr(given[0], "messages")
    rows = [_messages_of(row, f"row {number}") for number, row in enumerate(given)] if is_batched else [given]
    return [
        [read_message(m, where=f"row {row}, message {turn}", reading=reading) for turn, m in enumerate(messages)]
        for row, messages in enumerate(rows)
    ], is_batched


def _messages_of(value: Any, where: str) -> list[Any]:
    found = plain(value if isinstance(value, dict) else getattr(value, "messages", value))
    if not isinstance(found, list) and isinstance(found, Sequence) and not isinstance(found, str | bytes | bytearray):
        found = list(found)
    if not isinstance(found, list):
        cure = 'Pass a list of messages: [{"role": "user", "content": "..."}].'
        raise DataError(where, f"expected a list of messages, got {shown(value)}.", cure)
    if not found:
        raise DataError(where, "the conversation is empty.", "Pass at least one message.")
    return found


__all__ = ["read_conversations"]
