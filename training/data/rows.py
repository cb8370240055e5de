"""What every format of data becomes: rows of messages; and what is said of a row that is none."""

from dataclasses import dataclass, field
from typing import Any

from unimoe.errors import DataError


@dataclass(frozen=True)
class Row:
    """A dialogue whose contents are lists of items.

    An item has `type` and, by it, `text`; or `path` (of a file that exists, or a list of frames of a video); or, for a
    medium without a file, the type's own name, with what `unimoe.media` loads, such as `{"bytes": ..., "path": ...}`.
    """

    id: str
    where: str
    messages: list[dict[str, Any]]


@dataclass
class Faults:
    """What is wrong with one row: the first fault is raised or, to show all, each is kept.

    Args:
        where: File and row.
        keep: Keep the faults instead of raising the first; and note the media of the row with their places.
    """

    where: str
    keep: bool = False
    found: list[DataError] = field(default_factory=list)
    media: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, key: str, problem: str, cure: str) -> None:
        """State a fault.

        Raises:
            DataError: Unless faults are kept.
        """
        error = DataError(self.where, problem, cure, key=key)
        if not self.keep:
            raise error
        self.found.append(error)

    def note(self, key: str, item: dict[str, Any]) -> None:
        """Note an item with one file, or the bytes of one; a frame of a video is noted as a picture."""
        if self.keep:
            self.media.append((key, item))

    def __bool__(self) -> bool:
        return bool(self.found)


def shorten(value: Any, length: int = 80) -> str:
    """How a value is quoted in a message: its beginning, on one line."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


__all__ = ["Faults", "Row", "shorten"]
