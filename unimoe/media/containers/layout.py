"""What the structure of a file tells."""

import re
from typing import BinaryIO, NamedTuple


class NotWhole(Exception):
    """A file that is cut off, joined of several, or differs from its header; the text says which."""


class Layout(NamedTuple):
    """Parts and length of a file.

    Args:
        parts: Begin and end (bytes) of each stream in it that decodes alone, one after the other. Empty: it is one.
        samples: Of each channel, where the structure counts them. None: only decoding tells.
        rate: Of these samples, Hz; 0 where it was not read.
        channels: Of the sound; 1 where they were not read.
        exact: A decoder gives as many; otherwise a few more or less.
        prefix: What a decoder must read before a part, to know how much of it there is.
    """

    parts: tuple[tuple[int, int], ...] = ()
    samples: int | None = None
    rate: int = 0
    channels: int = 1
    exact: bool = False
    prefix: bytes = b""


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Bytes at a position; fewer at the end of the file."""
    file.seek(position)
    return file.read(count)


def holds(file: BinaryIO, begin: int, marker: bytes) -> bool:
    """Whether a marker, a regular expression of at most 32 bytes, stands anywhere behind a position."""
    file.seek(begin)
    before = b""
    while block := file.read(1 << 20):
        if re.search(marker, before + block, re.DOTALL):
            return True
        before = block[-32:]
    return False


def cut_off(missing: int) -> NotWhole:
    """Word the refusal of a file that ends too early."""
    return NotWhole(f"it is cut off: at least {missing} bytes are missing at its end")


JOINED = "several files are joined in it, of which only the first would be read; join them with ffmpeg, or part them"
"""What is said of files that were put one behind the other."""


def check_tail(file: BinaryIO, end: int, size: int, *, own: bytes | tuple[bytes, ...], frame: int = 0) -> None:
    """Refuse what stands behind the end of a sound, unless it is padding or a tag.

    Args:
        file: The file.
        end: Where the sound ends by its header.
        size: Bytes of the file.
        own: What a file of this kind begins with.
        frame: Bytes of a sample of all channels. 0: what follows is no samples.

    Raises:
        NotWhole: If another file follows, or something that may be samples.
    """
    tail = read_at(file, end, 1 << 20)
    rest = tail.lstrip(b"\0")
    if rest.startswith(own):
        raise NotWhole(JOINED)
    is_tag = rest[:3] in (b"TAG", b"ID3") or rest[:8] == b"APETAGEX" or size - end <= 1
    if rest and frame and not is_tag and size - end >= frame:
        raise NotWhole(f"its header promises too little: {size - end} bytes follow behind the sound that it states")
