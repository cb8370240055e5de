"""MPEG audio (MP3, ISO 11172-3 and 13818-3): frames one after the other, of which a Xing or VBRI header counts all."""

from typing import BinaryIO, NamedTuple

from .layout import Layout, NotWhole, read_at

_KBITS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_VERSIONS = {3: (1, 1), 2: (2, 2), 0: (2, 4)}
"""Of the header's two bits: table of bit rates, divisor of the sampling rates (MPEG 1, 2, 2.5)."""
_LAYER_3 = 1
"""Of the header's two bits; decoders know counts in this layer alone."""
_SLACK = 1
"""Frames by which a count may differ: some encoders count the one that states it."""


class _Frame(NamedTuple):
    length: int
    samples: int
    rate: int


def is_mpeg_audio(file: BinaryIO, size: int) -> bool:
    """Whether two frames follow each other at the begin, behind a tag."""
    begin = skip_tags(file)
    first = _frame(read_at(file, begin, 4))
    return first is not None and (
        begin + first.length >= size or _frame(read_at(file, begin + first.length, 4)) is not None
    )


def check_mpeg_audio(file: BinaryIO, size: int, most: float) -> Layout:
    """Walk the frames and compare their number with what the first one states; no further than `most` samples."""
    begin = skip_tags(file)
    data = read_at(file, begin, size)
    first = _frame(data)
    assert first is not None
    stated = _stated_frames(data[: first.length])
    count, end, is_cut = _walk(data, most / first.samples)
    samples = count * first.samples
    frames = count - (stated is not None)
    if stated is not None and is_cut and frames < stated:
        raise NotWhole(f"it is cut off: {frames} of {stated} frames are whole")
    is_as_stated = stated is not None and abs(frames - stated) <= _SLACK
    if samples > most or is_as_stated or (data[1] >> 1 & 3) != _LAYER_3:
        return Layout(samples=samples, rate=first.rate)
    if frames < (stated or 0):
        raise NotWhole(f"it is cut off: {frames} of {stated} frames are there")
    start = begin + (first.length if stated is not None else 0)  # joined, or nothing is stated: decoders would guess
    return Layout(((start, begin + end),), samples, first.rate, prefix=_counting_frame(data[:4], frames))


def _counting_frame(head: bytes, frames: int) -> bytes:
    """Return a frame as `head` begins, which holds no sound and states how many follow, in Xing's form."""
    head = bytes([head[0], head[1] | 1, (head[2] & 0x0C) | 0xC0, head[3]])  # no check sum, long enough
    found = _frame(head)
    assert found is not None
    is_first, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    body = bytes(side) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (head + body).ljust(found.length, b"\0")


def _walk(data: bytes, most: float) -> tuple[int, int, bool]:
    """Count whole frames; tell where the last one ends, and whether part of one follows. What stands between them is
    skipped."""
    count = at = end = 0
    is_cut = False
    while at + 4 <= len(data) and count <= most:
        frame = _frame(data[at : at + 4])
        if frame is not None and (at == end or _follows(data, at + frame.length)):
            is_cut = at + frame.length > len(data)
            count += not is_cut
            at = end = at + frame.length
        elif data[at : at + 3] == b"ID3" and len(data) > at + 10:
            at += 10 + _synchsafe(data[at + 6 : at + 10])
            end = at
        elif (at := data.find(b"\xff", at + 1)) < 0:
            break
    return count, min(end, len(data)), is_cut


def _follows(data: bytes, at: int) -> bool:
    return at >= len(data) or _frame(data[at : at + 4]) is not None


def _frame(head: bytes) -> _Frame | None:
    """Length and samples of the frame that begins here; None if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = _VERSIONS.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)
    bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version is None or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    table, divisor = version
    kbits = _KBITS[(table, layer if table == 1 or layer == 1 else 2)][bits]
    hertz = _RATES[rate] // divisor
    if layer == 1:
        return _Frame((12_000 * kbits // hertz + padding) * 4, 384, hertz)
    samples = 576 if layer == 3 and table == 2 else 1152
    return _Frame(samples * 125 * kbits // hertz + padding, samples, hertz)


def _stated_frames(first: bytes) -> int | None:
    """Frames that the first one counts, in Xing's or Fraunhofer's form; None if it holds sound instead."""
    for name in (b"Xing", b"Info"):
        if (at := first.find(name, 0, 64)) >= 0 and first[at + 7] & 1:
            return int.from_bytes(first[at + 8 : at + 12], "big")
    if (at := first.find(b"VBRI", 0, 64)) >= 0:
        return int.from_bytes(first[at + 14 : at + 18], "big")
    return None


def skip_tags(file: BinaryIO) -> int:
    """Where the frames begin, behind tags of ID3v2."""
    position = 0
    while (head := read_at(file, position, 10))[:3] == b"ID3" and len(head) == 10:
        position += 10 + _synchsafe(head[6:]) + (10 if head[5] & 0x10 else 0)
    return position


def _synchsafe(data: bytes) -> int:
    """Return a number of seven bits a byte."""
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value
