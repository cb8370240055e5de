"""What the media of rows are, wherever they lie: a digest of names and sizes, in one number for any number of them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimoe import Modality

from .rows import Row

Facts = dict[str, Any]


class MediaDigest:
    """Media that rows name: how many, how large together, and a digest of their names and sizes in any order.

    Names count from the media root on, so that data may move.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self.files = self.bytes = self._sum = 0

    def add(self, row: Row) -> None:
        """Take notice of the media of a row."""
        for message in row.messages:
            for item in message["content"]:
                if item["type"] != Modality.TEXT.key:
                    for path in media_paths(item.get("path", item.get(item["type"]))):
                        self._add(path)

    def _add(self, path: str) -> None:
        try:
            size = os.stat(path).st_size
        except OSError:  # told by whoever opens it
            size = -1
        full = os.path.abspath(path)
        name = os.path.relpath(full, self.root) if full.startswith(self.root + os.sep) else full
        digest = hashlib.sha256(f"{name}\0{size}".encode("utf-8", "surrogatepass")).digest()
        self.files, self.bytes = self.files + 1, self.bytes + max(size, 0)
        self._sum = (self._sum + int.from_bytes(digest)) % 2**256  # a sum has no order, and needs no list

    def facts(self) -> Facts:
        """All of it as plain values."""
        return {"files": self.files, "bytes": self.bytes, "digest": f"{self._sum:064x}"}


def media_paths(medium: Any) -> Iterator[str]:
    """Paths of the files of a medium; what stands in the row itself has none."""
    if isinstance(medium, str | os.PathLike):
        yield os.fspath(medium)
    elif isinstance(medium, dict):
        if medium.get("bytes") is None and isinstance(medium.get("path"), str):
            yield medium["path"]
    elif isinstance(medium, list | tuple):
        for part in medium:
            yield from media_paths(part)


__all__ = ["Facts", "MediaDigest", "media_paths"]
