"""Rows of .jsonl and .json files; what is wrong with one is a fault of its row."""

import os
from pathlib import Path
from typing import Any

from unimoe.errors import DataError, UniMoEError
from unimoe.files import json_rows
from unimoe.files.json_rows import JsonRows
from unimoe.files.strict_json import parse_json

from ..rows import Faults

BAD = object()
"""What stands for a row that is no JSON."""


class JsonFile(JsonRows):
    """Rows of one file, by number; each is read and parsed when it is asked for.

    Args:
        path: A file with one list, or one object after the other.

    Raises:
        DataError: If there is no such file, or it is not of that form at all.
    """

    def __init__(self, path: str) -> None:
        check_exists(path)
        super().__init__(path)

    def values(self, number: int, faults: Faults) -> Any:
        """Read what a row holds; `BAD` if it is no JSON, which the faults then say."""
        return parse_line(self.raw(number), faults)


def check_exists(path: str) -> None:
    """Refuse the path of a file that is not there.

    Raises:
        DataError: If there is none.
    """
    if not Path(path).exists():
        raise DataError(
            f"There is no data file {path!r} (looked in {os.getcwd()!r}). Correct its path in the mixture."
        )


def has_lines(path: str) -> bool:
    """Whether the rows of a file are its lines.

    Raises:
        DataError: If there is no such file, or it holds no JSON.
    """
    check_exists(path)
    return json_rows.has_lines(path)


def parse_line(raw: bytes, faults: Faults) -> Any:
    """Parse one row; `BAD` if it is no JSON, which the faults then say."""
    try:
        return parse_json(raw, where=faults.where)
    except UniMoEError as error:
        faults.take(error)
        return BAD


__all__ = ["BAD", "JsonFile", "check_exists", "has_lines", "parse_line"]
