"""The small files of a stage: written whole or not at all and never through a link, and read strictly."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimoe.errors import ConfigError, UniMoEError
from unimoe.files.strict_json import parse_json


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


def read_noted(path: Path, is_whole: Callable[[Any], bool], what: str) -> Any:
    """What a stage noted of what it was begun with; None if it was begun before that was noted.

    Args:
        path: JSON.
        is_whole: Whether what it holds is what was written.
        what: It was begun with, such as "data are".

    Raises:
        ConfigError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        noted = parse_json(path.read_bytes(), where=str(path))
        if not is_whole(noted):
            raise ConfigError(str(path), f"it does not say what the {what}.")
    except (OSError, UniMoEError) as error:
        problem = f"is damaged ({getattr(error, 'problem', '') or error})."
        cure = f"Bring it back, or remove it if the {what} certainly as at the beginning."
        raise ConfigError(str(path), problem, cure) from None
    return noted


__all__ = ["append", "read_noted", "write_safely"]
