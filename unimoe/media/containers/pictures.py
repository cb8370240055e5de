"""Pictures: PNG and its animations, JPEG, GIF, BMP; walked to their end, behind which another one may stand."""

import re
from typing import BinaryIO

from .layout import JOINED, Layout, NotWhole, cut_off, read_at

PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""In JPEG's coded data, what is no stuffed byte and no restart."""


def check_png(file: BinaryIO, size: int) -> Layout:
    """Chunks (RFC 2083); an animation counts its frames."""
    position, stated, frames = 8, 0, 0
    while len(head := read_at(file, position, 8)) == 8:
        name = head[4:]
        stated = int.from_bytes(file.read(4), "big") if name == b"acTL" else stated
        frames += name == b"fcTL"
        position += 12 + int.from_bytes(head[:4], "big")
        if position > size:
            raise cut_off(position - size)
        if name == b"IEND":
            break
    if frames != stated:
        raise NotWhole(f"its header states {stated} frames, and {frames} are in it")
    return _check_end(file, position, PNG)


def check_jpeg(file: BinaryIO, size: int) -> Layout:
    """Segments (ITU T.81, annex B); a file with several pictures of its own says so (MPF)."""
    data = read_at(file, 0, size)
    at, has_several = 2, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:  # the end
            return Layout() if has_several else _check_end(file, at + 2, b"\xff\xd8\xff")
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        has_several |= marker == 0xE2 and data[at + 4 : at + 8] == b"MPF\0"
        at += 2 + length
        if marker == 0xDA and (found := _MARKER.search(data, at)):
            at = found.start()
    return Layout()  # whether it is cut off, its decoder says


def check_gif(file: BinaryIO, size: int) -> Layout:
    """Blocks (GIF 89a, appendix B)."""
    _, end = walk_gif(file, size)
    return _check_end(file, end, b"GIF8")


def walk_gif(file: BinaryIO, most: int) -> tuple[int, int]:
    """Count the pictures of a GIF, up to `most`, without decoding any; and where the file ends."""
    file.seek(0)
    head = file.read(13).ljust(13, b"\0")
    _skip_colours(file, head[10])
    frames = 0
    while frames < most and (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            frames += 1
            _skip_colours(file, file.read(9).ljust(9, b"\0")[8])
        file.read(1)  # label of an extension, or size of a code
        while (length := file.read(1)) and length != b"\0":
            file.seek(length[0], 1)
    return frames, file.tell()


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)


def check_bmp(file: BinaryIO, size: int) -> Layout:
    """Return a header that states the size of the file."""
    stated = int.from_bytes(read_at(file, 2, 4), "little")
    return _check_end(file, stated, b"BM") if 26 < stated < size else Layout()


def _check_end(file: BinaryIO, end: int, own: bytes) -> Layout:
    if read_at(file, end, 16).lstrip(b"\0\r\n").startswith(own):
        raise NotWhole(JOINED)
    return Layout()
