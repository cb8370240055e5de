"""Data files in, validated rows out. Every error names file and row, the key, and the cure.

`formats` tells the formats of rows apart, `sources` reads the kinds of files.
"""

from collections.abc import Sequence
from pathlib import Path

from unimoe.errors import DataError

from ..config.data import SourceConfig
from .formats import parse_row
from .readers.sources import open_source
from .rows import Row


def read_rows(path: str | Path, *, media_root: str | Path | None = None) -> Sequence[Row]:
    """Read and check all rows of a data file.

    Args:
        path: A .jsonl, .json or .parquet file, or another source of `docs/data.md`.
        media_root: Folder that relative media paths start from. None: the data file's folder.

    Returns:
        The rows, each parsed again when it is asked for.

    Raises:
        DataError: At the first row that is not of a known format, or whose medium does not exist.
    """
    root = None if media_root is None else str(media_root)
    return open_source(SourceConfig(path=str(path), media_root=root))


__all__ = ["DataError", "Row", "parse_row", "read_rows"]
