"""Writes the small files of a stage whole or not at all, and never through a link."""

import os
from pathlib import Path


def write_safely(path: Path, text: str) -> None:
    """Write a file under another name, have it on the disk and rename it; a link with its name is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed, or a link
    with partial.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append(path: Path, text: str) -> None:
    """Append to an ordinary file, which is made if it is not there.

    Raises:
        OSError: If it is a link or a pipe, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "a", encoding="utf-8") as file:
        file.write(text)


__all__ = ["append", "write_safely"]
