"""What a source is made of: counts of rows, formats, media, roles and turns, and how long rows are."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unimoe import Modality

from ..rows import Row


@dataclass
class Census:
    """Counts over the rows of one source; all but `rows` are of rows without a fault."""

    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    """Rows by what they hold, such as `image` or `image + speech`."""
    media: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    turns: array = field(default_factory=lambda: array("l"))
    media_in_rows: array = field(default_factory=lambda: array("l"))
    words: array = field(default_factory=lambda: array("l"))
    tokens: array = field(default_factory=lambda: array("l"))
    duplicates: int = 0
    """Rows whose messages another row before them has too."""
    too_long: int = 0

    def add(self, row: Row, name: str) -> None:
        """Count one row, whose format has this name."""
        items = [item for message in row.messages for item in message["content"]]
        kinds = [item["type"] for item in items if item["type"] != Modality.TEXT.key]
        self.formats[name] += 1
        self.media.update(kinds)
        self.modalities[" + ".join(sorted(set(kinds))) or Modality.TEXT.key] += 1
        self.roles.update(message["role"] for message in row.messages)
        self.turns.append(len(row.messages))
        self.media_in_rows.append(len(kinds))
        self.words.append(sum(len(item["text"].split()) for item in items if item["type"] == Modality.TEXT.key))

    def as_json(self) -> dict[str, Any]:
        """All counts as plain values."""
        lengths = {"tokens": self.tokens} if self.tokens else {"words": self.words}
        return {
            "rows": self.rows,
            **{name: dict(getattr(self, name)) for name in ("formats", "modalities", "media", "roles")},
            "turns": summary(self.turns),
            "media_in_rows": summary(self.media_in_rows),
            "duplicate_rows": self.duplicates,
            "too_long": self.too_long,
            **{name: {**summary(values), "histogram": histogram(values)} for name, values in lengths.items()},
        }


def summary(values: Sequence[int]) -> dict[str, float]:
    """Least, median, mean and largest of some numbers."""
    if not len(values):
        return {}
    found = np.asarray(values)
    return {
        "least": int(found.min()),
        "median": float(np.median(found)),
        "mean": round(float(found.mean()), 2),
        "most": int(found.max()),
        "sum": int(found.sum()),
    }


def histogram(values: Sequence[int]) -> dict[str, int]:
    """How many numbers lie between powers of two; from the first to the last range that has any."""
    if not len(values):
        return {}
    found = np.asarray(values)
    powers = np.where(found > 0, np.floor(np.log2(np.maximum(found, 1))) + 1, 0).astype(int)  # 0: none, 1: 1, 2: 2..3
    counts = np.bincount(powers)
    first = int(powers.min())
    names = ["0", "1", *(f"{2 ** (power - 1)}-{2**power - 1}" for power in range(2, len(counts)))]
    return {names[power]: int(counts[power]) for power in range(first, len(counts))}


__all__ = ["Census", "histogram", "summary"]
