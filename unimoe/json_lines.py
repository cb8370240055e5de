"""Lines of JSON Lines files, as tools leave them: joined, with byte order marks, with empty lines."""

from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark; of files that were joined, each may have left its own."""
_UNPACK = {b"\x1f\x8b": ("gzip", "gunzip"), b"BZh": ("bzip2", "bunzip2"), b"\xfd7zXZ": ("xz", "unxz")}
_UNPACK |= {b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"PK\x03\x04": ("zip", "unzip")}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def open_text_file(path: str | Path) -> bytes:
    """The first bytes of a file that holds JSON, which says whether it can.

    Raises:
        DataError: If it cannot be read, is packed, or is no UTF-8.
    """
    try:
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


def read_lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, number and bytes of each line that is not blank; byte order marks at its start are left out.

    Raises:
        DataError: As `open_text_file`.
    """
    open_text_file(path)
    begin = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            text = line
            while text.startswith(MARK):
                text = text.removeprefix(MARK)
            if text.strip():
                yield begin + len(line) - len(text), number, text
            begin += len(line)


__all__ = ["MARK", "open_text_file", "read_lines"]
