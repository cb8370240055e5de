"""One row of a task: the messages that are asked, the reference answer, and which media it is about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A question with its reference answer.

    Args:
        id: Unique within the task.
        messages: What is asked, typed items with resolved media paths; without the reference turn.
        reference: Text of the last assistant turn; of a multiple choice, the letter of the right option, or its text.
        answers: Those of several annotators. None: `(reference,)`.
        cluster: Rows of one cluster are not independent (several questions about one picture).
        where: File and line, for errors.
        choices: Texts of the options A, B, ... of a multiple choice.
        group: Rows of one group count together (rotations of a question, both questions about a picture).
        categories: Axis -> category, such as `{"subject": "physics"}`; scores are told for each.
    """

    id: str
    messages: tuple[Message, ...]
    reference: str
    answers: tuple[str, ...] = ()
    cluster: str = ""
    where: str = ""
    choices: tuple[str, ...] = ()
    group: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (self.reference,))

    @property
    def media(self) -> list[Message]:
        """Media items in order of appearance."""
        return media_items(self.messages)

    @property
    def question(self) -> str:
        """All text of the user turns: what a model sees that is blind to media."""
        texts = (item["text"] for item in iterate_items(self.messages, role="user") if item["type"] == "text")
        return "\n".join(texts)

    def with_prompt(self, prompt: str | None) -> "Sample":
        """Append a text to the last user turn."""
        if not prompt:
            return self
        *before, last = self.messages
        asked = {**last, "content": [*last["content"], {"type": "text", "text": prompt}]}
        return replace(self, messages=(*before, asked))


def ask(*content: Message | str) -> tuple[Message, ...]:
    """Make one user turn of media items and texts, in the order in which they are given."""
    items = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]
    return ({"role": "user", "content": items},)


def iterate_items(messages: tuple[Message, ...], role: str | None = None) -> Iterator[Message]:
    """Yield the content items of all turns, or of the turns of one role."""
    for message in messages:
        if role is None or message["role"] == role:
            yield from message["content"]


def media_items(messages: tuple[Message, ...]) -> list[Message]:
    """List the items that are not text."""
    return [item for item in iterate_items(messages) if item["type"] != "text"]


def media_signature(items: list[Message]) -> str:
    """Write media as a text that is equal for equal media."""
    return repr([sorted(item.items()) for item in items])


__all__ = ["Message", "Sample", "ask", "iterate_items", "media_items", "media_signature"]
