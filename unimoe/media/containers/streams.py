"""Films made of packets: Flash (FLV), Windows Media (ASF), MPEG transport streams."""

import struct
from typing import BinaryIO

from .layout import JOINED, Layout, NotWhole, cut_off, read_at

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_TS_PACKET = 188


def check_flv(file: BinaryIO, size: int) -> Layout:
    """Tags with their size, and the size of each behind it."""
    position = int.from_bytes(read_at(file, 5, 4), "big") + 4
    while len(head := read_at(file, position, 11)) == 11:
        if head.startswith(b"FLV\x01"):
            raise NotWhole(JOINED)
        if head[0] & 0x1F not in (8, 9, 18):  # sound, film, script
            return Layout()
        position += 11 + int.from_bytes(head[1:4], "big") + 4
    if head or position > size:
        raise cut_off(max(position - size, 1))
    return Layout()


def check_asf(file: BinaryIO, size: int) -> Layout:
    """Objects with their size at the top: header, data, index."""
    position = 0
    while len(head := read_at(file, position, 24)) == 24:
        if position and head.startswith(ASF_HEADER):
            raise NotWhole(JOINED)
        (length,) = struct.unpack("<Q", head[16:])
        if length < 24:  # 0: it was streamed
            return Layout()
        position += length
        if position > size:
            raise cut_off(position - size)
    return Layout()


def is_transport_stream(file: BinaryIO, size: int) -> bool:
    """Whether packets of 188 bytes follow each other."""
    head = read_at(file, 0, 3 * _TS_PACKET)
    return size > 2 * _TS_PACKET and head[0] == head[_TS_PACKET] == head[2 * _TS_PACKET] == 0x47


def check_transport_stream(file: BinaryIO, size: int) -> Layout:
    """Packets of one size, the last of which is whole."""
    if size % _TS_PACKET:
        raise cut_off(_TS_PACKET - size % _TS_PACKET)
    return Layout()
