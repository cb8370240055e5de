"""Files that are written as a whole or not at all, whoever else writes or reads them."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name and rename it; its folder is created.

    Args:
        path: The file.
        content: Text is written in UTF-8; half a letter, which has no UTF-8, as its escape.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name[:100]}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed, or a link
    with partial.open("xb") as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    partial.replace(path)


__all__ = ["write_whole"]
