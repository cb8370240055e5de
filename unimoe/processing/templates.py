"""What a chat template takes: messages with their media held, keys and arguments that it uses; all else is refused."""

import inspect
import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from transformers.processing_utils import ProcessorMixin

from ..errors import DataError
from ..errors.suggest import did_you_mean
from ..modality import Modality
from .conversations import read_conversations
from .keys import KINDS
from .messages import Message, Reading, ReadMessage
from .placeholders import CHAT_TEMPLATE, Held
from .values import holds_nothing

_STRUCTURE = ("role", "content", "type", "text", *KINDS)
_ARGUMENTS = set(inspect.signature(ProcessorMixin.apply_chat_template).parameters) - {"tools", "documents"}
"""Of transformers' call, which does something with each, whatever the template."""
_MEDIA_ARGUMENTS = ("images", "videos", "audio", "speech")
CannotTake = Callable[[Modality, str, str], DataError]


def uses_key(template: str, key: str) -> bool:
    """Whether a template of one's own names a key of a message or item, or a role, as `.key` or in quotes."""
    is_named = rf"""\.{re.escape(key)}\b|["']{re.escape(key)}["']"""
    return template != CHAT_TEMPLATE and key not in _STRUCTURE and bool(re.search(is_named, template))


def uses_argument(template: str, name: str) -> bool:
    """Whether a template of one's own names a variable `name`."""
    return template != CHAT_TEMPLATE and bool(re.search(rf"\b{re.escape(name)}\b", template))


def messages_for(
    template: str, conversation: Any, *, modalities: Collection[Modality], sanitized: bool, cannot_take: CannotTake
) -> tuple[list[list[Message]], bool]:
    """Bring one conversation or a batch to the form that templates take, each medium as a `Held`.

    Args:
        template: Chat template; the keys of messages that it names stay.
        conversation: Messages, or a list of lists of messages.
        modalities: That the processor takes.
        sanitized: Whether texts may hold control tokens.
        cannot_take: Makes the error for another modality, of its place and key.

    Returns:
        The conversations, and whether it was a batch.

    Raises:
        DataError: If one cannot be read.
    """
    reading = Reading("speech" if Modality.SPEECH in modalities else "audio", sanitized, partial(uses_key, template))
    read, is_batched = read_conversations(conversation, reading=reading)
    for row, messages in enumerate(read):
        for turn, message in enumerate(messages):
            for item in message.items:
                modality = Modality.from_key(item.kind)
                if modality is not Modality.TEXT and modality not in modalities:
                    raise cannot_take(modality, f"row {row}, message {turn}", item.key)
    return [[_held(message) for message in messages] for messages in read], is_batched


def _held(message: ReadMessage) -> Message:
    content: Any = message.content
    if not isinstance(content, str):
        is_held = [item.kind != "text" and not isinstance(item.value, Held | None) for item in content]
        content = [
            (item._replace(value=Held(item.value)) if held else item).as_dict()
            for item, held in zip(content, is_held, strict=True)
        ]
    return {"role": message.role, "content": content, **message.more}


def check_arguments(arguments: dict[str, Any], template: str, known: Collection[str]) -> None:
    """Refuse arguments that a template would drop, and take out those that hold nothing.

    Args:
        arguments: Of a call; changed in place.
        template: Chat template; those that it names stay.
        known: Further arguments that are not the template's.

    Raises:
        DataError: If there is one.
    """
    known = _ARGUMENTS.union(known)
    for name in [name for name in arguments if name not in known and not uses_argument(template, name)]:
        if not holds_nothing(arguments.pop(name)):
            hint = did_you_mean(name, known).strip()
            raise DataError(
                "apply_chat_template",
                "the chat template does not use this argument, so it would be lost.",
                hint if hint.startswith("Did") else "Leave it out, or pass a chat_template that uses it.",
                key=name,
            )


def check_media(conversations: list[list[Message]], arguments: dict[str, Any]) -> None:
    """Refuse items without a medium, unless media come with the call.

    Args:
        conversations: As `messages_for` gives them.
        arguments: Of the call.

    Raises:
        DataError: If there is one; it names row, message and item.
    """
    if any(name in arguments for name in _MEDIA_ARGUMENTS):
        return
    for row, messages in enumerate(conversations):
        for turn, message in enumerate(messages):
            items = [] if isinstance(message["content"], str) else message["content"]
            for number, item in enumerate(items):
                if item.get(kind := item["type"]) is None:
                    raise DataError(
                        f"row {row}, message {turn}",
                        f"the {kind} item has no medium.",
                        f"Give it one, under {kind!r}, 'path' or 'url', or leave it out.",
                        key=f"content[{number}]",
                    )


__all__ = ["check_arguments", "check_media", "messages_for", "uses_argument", "uses_key"]
