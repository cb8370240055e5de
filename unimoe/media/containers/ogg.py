"""Ogg (RFC 3533): pages, the first and last of each stream marked; streams may follow each other (chained)."""

import struct
from typing import BinaryIO

from .layout import Layout, NotWhole, cut_off, read_at

_BEGIN, _END = 2, 4


def check_ogg(file: BinaryIO, size: int) -> Layout:
    """Walk the pages; the parts are the chained streams."""
    position, begins = 0, [0]
    open_streams: set[int] = set()
    numbers: dict[int, int] = {}
    while len(head := read_at(file, position, 27)) == 27 and head.startswith(b"OggS"):
        flags, (serial, number) = head[5], struct.unpack("<II", head[14:22])
        if flags & _BEGIN and not open_streams and position:
            begins.append(position)
            numbers.clear()
        if number != numbers.get(serial, -1) + 1 and not flags & _BEGIN:
            raise NotWhole(f"pages are missing before byte {position}")
        numbers[serial] = number
        if flags & _BEGIN:
            open_streams.add(serial)
        table = file.read(head[26])
        position += 27 + head[26] + sum(table)
        if len(table) < head[26] or position > size:
            raise cut_off(max(position - size, 1))
        if flags & _END:
            open_streams.discard(serial)
    if open_streams:
        raise NotWhole("it is cut off: the mark of its last page is missing")
    if size - position > 0 and read_at(file, position, 4) == b"OggS":
        raise cut_off(1)
    return Layout(parts=tuple(zip(begins, [*begins[1:], position], strict=True)) if len(begins) > 1 else ())
