"""FLAC (RFC 9639): the header may count the samples; the last frame, which is numbered, says how many there are."""

from functools import cache
from typing import BinaryIO

from .layout import JOINED, Layout, NotWhole, cut_off, holds, read_at

_BLOCK_SIZES = {
    1: 192,
    **{code: 576 << code - 2 for code in range(2, 6)},
    **{code: 1 << code for code in range(8, 16)},
}
_TAIL = 1 << 20
"""Bytes at the end among which the last frame is searched; a frame of 8 channels of 24 bit is smaller."""


def check_flac(file: BinaryIO, size: int) -> Layout:
    """Compare the samples that the header states with the end of the last frame."""
    info = read_at(file, 8, 34)
    if len(info) < 34:
        raise cut_off(34 - len(info))
    rate = int.from_bytes(info[10:13], "big") >> 4
    stated = int.from_bytes(info[13:18], "big") & ((1 << 36) - 1)
    fixed = int.from_bytes(info[:2], "big")
    frames = _skip_metadata(file, size)
    if holds(file, frames, b"fLaC[\x00\x80]\x00\x00\x22"):
        raise NotWhole(JOINED)
    tail = read_at(file, max(frames, size - _TAIL), _TAIL)
    if not rate or (last := _last_frame(tail, fixed)) is None:
        return Layout()
    begin, end = last
    if stated and end != stated:
        much = "too much" if stated > end else "too little"
        raise NotWhole(f"its header promises {much}: {stated} samples, and it ends after {end}")
    channels = (info[12] >> 1 & 7) + 1
    layout = Layout(
        samples=end, rate=rate, channels=channels, exact=_crc(tail[begin:], 0x8005, 16) == 0
    )  # whole, and nothing behind it
    if stated:
        return layout
    counted = int.from_bytes(info[10:18], "big") | end  # decoders want to be told
    return layout._replace(parts=((26, size),), prefix=read_at(file, 0, 18) + counted.to_bytes(8, "big"))


def _skip_metadata(file: BinaryIO, size: int) -> int:
    position = 4
    while len(head := read_at(file, position, 4)) == 4:
        position += 4 + int.from_bytes(head[1:], "big")
        if position > size:
            raise cut_off(position - size)
        if head[0] & 0x80:
            break
    return position


def _last_frame(tail: bytes, fixed: int) -> tuple[int, int] | None:
    """Begin (byte) of the last frame, and the sample behind it; None if no frame is found."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (end := _frame_end(tail[at : at + 16], fixed)) is not None:
            return at, end
    return None


def _frame_end(head: bytes, fixed: int) -> int | None:
    """Sample behind the frame whose header this is; None if it is none, by its check sum."""
    ones = 8 - (head[4] ^ 0xFF).bit_length() if len(head) > 4 else 1
    length = max(ones, 1)
    code = head[2] >> 4 if len(head) > 2 else 0
    at = 4 + length
    if ones == 1 or ones > 7 or len(head) < at + 5 or code == 0 or head[3] & 1:
        return None
    number = head[4] & ((1 << 7 - ones) - 1) if ones else head[4]
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    if code in (6, 7):
        block = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        block = _BLOCK_SIZES[code]
    rate = head[2] & 15
    at += 1 if rate == 12 else 2 if rate in (13, 14) else 0
    if len(head) <= at or _crc(head[:at], 0x07, 8) != head[at]:
        return None
    return (number if head[1] & 1 else number * fixed) + block


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Check sum of a frame's header (8 bits, x^8 + x^2 + x + 1) or of a frame (16 bits, x^16 + x^15 + x^2 + 1)."""
    table = _crc_table(polynomial, bits)
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


@cache
def _crc_table(polynomial: int, bits: int) -> list[int]:
    table, top, mask = [], 1 << bits - 1, (1 << bits) - 1
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table
