"""Files and folders that are written as a whole or not at all, whoever else writes or reads them, and never through a
link.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UniMoEError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, have it on the disk and rename it; its folder is made, a link is replaced.

    Args:
        path: The file.
        content: Text is written in UTF-8; half a letter, which has no UTF-8, as its escape.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name[:100]}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed, or a link
    with partial.open("xb") as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append(path: Path, text: str) -> None:
    """Append `text` to the ordinary file `path`, which is made if it is not there.

    Raises:
        OSError: If it is a link or a pipe, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "a", encoding="utf-8") as file:
        file.write(text)


def require_new(out: str | Path) -> None:
    """Refuse a folder that is there already, before work is done for it.

    Args:
        out: The folder.

    Raises:
        UniMoEError: If there is such a file or folder.
    """
    if os.path.lexists(out):
        raise UniMoEError(str(out), "there is such a file or folder already.", "Choose another OUT.")


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Fill a folder beside `out` in the block, which gets that name at its end; what fails leaves none.

    Args:
        out: The folder, which is not there yet; those around it are made.

    Yields:
        The folder to fill.

    Raises:
        UniMoEError: If there is such a file or folder.
    """
    out = Path(out)
    require_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        made = Path(work, out.name)
        made.mkdir()
        yield made
        made.rename(out)


__all__ = ["append", "new_folder", "require_new", "write_whole"]
