"""What data are, wherever they lie: digests of data files, and of names and sizes of the media that their rows name.

A training that goes on must see the rows that it would have seen. Moved data are the same; changed ones are not.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from unimoe.errors import DataError

from ..config.data import SourceConfig
from .media_digest import Facts
from .mixture.dataset import Source
from .readers.sources import Rows, RowStream
from .readers.tables import Table, parquet_files
from .rows import Row

BLOCK, BLOCKS = 2**20, 64
"""Of a stream, whose file may be larger than a disk of ours: bytes of a block, and blocks that are looked at."""


def describe_source(config: SourceConfig, source: Source) -> Facts:
    """Say what the data of a source are.

    Args:
        config: What the stage says of it.
        source: It, opened.

    Returns:
        `path`, `rows` (None of a stream), `sha256` of what identifies them and, but for streams, `media`.

    Raises:
        DataError: If a file cannot be read.
    """
    facts: Facts = {"path": config.path, "rows": None, "sha256": digest_of_files(config)}
    if facts["sha256"] is None:
        facts["sha256"] = _digest_of_names(config, source.rows)
    if isinstance(source.rows, Rows):
        facts |= {"rows": len(source.rows), "media": source.rows.media.facts()}
    return facts


def digest_of_files(config: SourceConfig) -> str | None:
    """SHA-256 of the file of a source or, of several, of the list of their names and digests; None if it has none.

    Raises:
        DataError: If a file cannot be read.
    """
    path = Path(config.path)
    files = [path] if path.is_file() else list(map(Path, parquet_files(config.path)))
    if not files and path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    try:
        digests = [_digest(file, sampled=config.stream) for file in files]
    except OSError as error:
        raise DataError(config.path, f"cannot be read ({error.strerror}).", "Correct its path or rights.") from None
    if path.is_file() or not files:
        return digests[0] if files else None
    inside = path if path.is_dir() else path.parent
    names = [os.path.relpath(file, inside) for file in files]
    lines = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _digest_of_names(config: SourceConfig, rows: Sequence[Row] | RowStream) -> str:
    """Digest of what names a data set on the Hub: its id, and what `datasets` knows of its version."""
    fingerprint = rows.file.fingerprint if isinstance(rows, Rows) and isinstance(rows.file, Table) else ""
    named = "\0".join([config.path, config.subset or "", config.split or "", fingerprint])
    return hashlib.sha256(named.encode()).hexdigest()


def count_rows(config: SourceConfig) -> int | None:
    """Rows of a source; None if they cannot be counted."""
    try:
        return len(Rows(config))
    except (OSError, ValueError):
        return None


def _digest(path: Path, *, sampled: bool) -> str:
    """SHA-256 of a file; sampled, of its size and of blocks that are spread evenly over a large one."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not sampled or size <= BLOCK * BLOCKS:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return _digest_of_blocks(file, size)


def _digest_of_blocks(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for block in range(BLOCKS):
        file.seek((size - BLOCK) * block // (BLOCKS - 1))
        digest.update(file.read(BLOCK))
    return digest.hexdigest()


__all__ = ["Facts", "count_rows", "describe_source", "digest_of_files"]
