"""Lines of JSON Lines files, as tools leave them: joined, with byte order marks, with empty lines."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, LimitError
from ..media.limits import Limits, limits_or_default

MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark; of files that were joined, each may have left its own."""
_UNPACK = {b"\x1f\x8b": ("gzip", "gunzip"), b"BZh": ("bzip2", "bunzip2"), b"\xfd7zXZ": ("xz", "unxz")}
_UNPACK |= {b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"PK\x03\x04": ("zip", "unzip")}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def open_text_file(path: str | Path) -> bytes:
    """Return the first bytes of a file that holds JSON, which says whether it can.

    Raises:
        DataError: If it cannot be read, is a pipe or a device, is packed, or is no UTF-8.
    """
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            cure = "Save what it gives as a file, and pass its path."  # it would be waited for, or never end
            raise DataError(str(path), "is a pipe or a device, no file.", cure)
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror}).", "Correct its path.") from None
    for beginning, (name, command) in _UNPACK.items():
        if head.startswith(beginning):
            raise DataError(str(path), f"the file is compressed with {name}.", f"Unpack it first: `{command} {path}`.")
    if head.startswith(_UTF_16):
        raise DataError(str(path), "the file is UTF-16.", "Save it as UTF-8.")
    if head.startswith(b"PAR1"):
        raise DataError(str(path), "the file is a table of parquet.", "Name it .parquet.")
    return head.removeprefix(MARK).lstrip()


def read_lines(path: str | Path, *, limits: Limits | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, number and bytes of each line that is not blank; byte order marks at its start are left out.

    Args:
        path: Of the file.
        limits: `file_bytes` is that of a line. None: those of the environment.

    Raises:
        DataError: As `open_text_file`, and if a line is too long.
    """
    open_text_file(path)
    longest = limits_or_default(limits)
    begin, number = 0, 0
    with open(path, "rb") as file:
        while line := file.readline(longest.file_bytes + 1):
            number += 1
            check_bytes(len(line), "the line", where=f"{path}:{number}", limits=longest)
            text = line
            while text.startswith(MARK):
                text = text.removeprefix(MARK)
            if text.strip():
                yield begin + len(line) - len(text), number, text
            begin += len(line)


def check_bytes(count: int, what: str, *, where: str, limits: Limits) -> None:
    """Refuse a line or a file that is read at once and has more than `file_bytes`.

    Args:
        count: Its bytes, or so many of them that there are too many.
        what: It in words.
        where: File, or file and line.
        limits: Of it.

    Raises:
        DataError: If it does; the cure says how to raise the limit.
    """
    try:
        limits.check("file_bytes", count, f"{what} has {count} bytes or more", where=where)
    except LimitError as error:
        raise DataError(where, error.problem, error.cure) from None


__all__ = ["MARK", "check_bytes", "open_text_file", "read_lines"]
