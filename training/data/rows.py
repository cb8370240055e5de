"""What every format of data becomes: rows of messages; and what is said of a row that is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from unimoe import Modality
from unimoe.errors import DataError, UniMoEError


@dataclass(frozen=True)
class Row:
    """A dialogue whose contents are lists of items.

    An item has `type` and, by it, `text`; or `path` (of a file that exists, or a list of frames of a video); or, for a
    medium without a file, the type's own name, with what `unimoe.media` loads, such as `{"bytes": ..., "path": ...}`.
    """

    id: str
    where: str
    messages: list[dict[str, Any]]


def row_kinds(row: Row) -> set[str]:
    """Modalities of a row's media; `text` if it has none."""
    kinds = {item["type"] for message in row.messages for item in message["content"]} - {Modality.TEXT.key}
    return kinds or {Modality.TEXT.key}


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
        self.take(DataError(self.where, problem, cure, key=key))

    def take(self, error: UniMoEError) -> None:
        """Keep an error as a fault.

        Raises:
            DataError: Unless faults are kept.
        """
        fault = (
            error if isinstance(error, DataError) else DataError(self.where, error.problem, error.cure, key=error.key)
        )
        if not self.keep:
            raise fault
        self.found.append(fault)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keep what is raised in the block as a fault.

        Raises:
            DataError: Unless faults are kept.
        """
        try:
            yield
        except UniMoEError as error:
            self.take(error)

    def note(self, key: str, item: dict[str, Any]) -> None:
        """Note an item with one file, or the bytes of one; a frame of a video is noted as a picture."""
        if self.keep:
            self.media.append((key, item))

    def __bool__(self) -> bool:
        return bool(self.found)


__all__ = ["Faults", "Row", "row_kinds"]
