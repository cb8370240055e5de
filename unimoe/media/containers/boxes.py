"""Files made of chunks that state their size: WAV and AVI (RIFF), W64, AIFF, AU, CAF, MP4 (ISO 14496-12), Matroska."""

import struct
from typing import BinaryIO

from .layout import JOINED, Layout, NotWhole, check_tail, cut_off, holds, read_at

_UNKNOWN = 0x7FFF0000
"""Sizes from here on, and 0, are written by programs that could not go back to the header: all that follows counts."""

_OPEN = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")
"""Ids of what may have no size: a segment, a cluster."""
_RIFF = (b"RIFF", b"RIFX", b"RF64")


def check_riff(file: BinaryIO, size: int) -> Layout:
    """WAV and AVI: RIFF chunks, 32 bit (RF64: 64 bit in a chunk `ds64`)."""
    order = ">" if read_at(file, 0, 4) == b"RIFX" else "<"
    (stated,) = struct.unpack(order + "I", read_at(file, 4, 4).ljust(4, b"\0"))
    kind = read_at(file, 8, 4)
    if kind == b"WAVE":
        return _check_wav(file, size, order)
    end = 8 + stated + stated % 2
    if not 0 < stated < 0xFFFFFFFF:
        return Layout()
    if end - 1 > size:
        raise cut_off(end - size)
    while read_at(file, end, 4) == b"RIFF":  # an AVI of more than 2 GB goes on in further lists
        if read_at(file, end + 8, 4) == kind:
            raise NotWhole(JOINED)
        (stated,) = struct.unpack("<I", read_at(file, end + 4, 4).ljust(4, b"\0"))
        end += 8 + stated + stated % 2
    return Layout()


def _check_wav(file: BinaryIO, size: int, order: str) -> Layout:
    frame = rate = channels = 0
    is_pcm, long_size = False, None
    position = 12
    while len(head := read_at(file, position, 8)) == 8:
        name, (stated,) = head[:4], struct.unpack(order + "I", head[4:])
        begin = position + 8
        if name == b"ds64":
            long_size = struct.unpack("<Q", read_at(file, begin + 8, 8).ljust(8, b"\0"))[0]
        elif name == b"fmt ":
            fields = read_at(file, begin, 26)
            code, channels, rate, _, frame, _ = struct.unpack(order + "HHIIHH", fields[:16].ljust(16, b"\0"))
            code = struct.unpack(order + "H", fields[24:26].ljust(2, b"\0"))[0] if code == 0xFFFE else code
            is_pcm = code in (1, 3, 6, 7)  # integers, floats, A-law, mu-law
        elif name == b"data":
            if long_size is not None and stated == 0xFFFFFFFF:
                stated = long_size
            return _wav_data(file, begin, stated, size, frame if is_pcm else 0, rate)._replace(channels=channels)
        position = begin + stated + stated % 2
    raise cut_off(max(position - size, 1))


def _wav_data(file: BinaryIO, begin: int, stated: int, size: int, frame: int, rate: int) -> Layout:
    there = size - begin
    if there > 0 and stated >= _UNKNOWN and stated > there:
        if holds(file, begin, b"WAVEfmt "):
            raise NotWhole(JOINED)
        return _counted(there, frame, rate)
    if there > 0 and stated == 0 and not _is_chunk(file, begin, size):
        header = read_at(file, 0, begin - 4) + struct.pack("<I", min(there, 0xFFFFFFFF))  # decoders believe the 0
        return _counted(there, frame, rate)._replace(parts=((begin, size),), prefix=header)
    if stated > there:
        raise cut_off(stated - there)
    end = begin + stated + stated % 2
    while end < size and _is_chunk(file, end, size):
        (length,) = struct.unpack("<I", read_at(file, end + 4, 4))
        end += 8 + length + length % 2
    if end < size:
        check_tail(file, end, size, own=_RIFF, frame=frame or 1)
    return _counted(stated, frame, rate)


def _is_chunk(file: BinaryIO, position: int, size: int) -> bool:
    """Whether a chunk begins here and ends in the file."""
    head = read_at(file, position, 8)
    if len(head) < 8 or head[:4] in _RIFF or not all(32 <= byte < 127 for byte in head[:4]):
        return False
    return bool(position + 8 + struct.unpack("<I", head[4:])[0] <= size)


def _counted(length: int, frame: int, rate: int) -> Layout:
    """Layout of `length` bytes of samples, `frame` of each of which are one moment; 0: they are compressed."""
    return Layout(samples=length // frame, rate=rate, exact=True) if frame and rate else Layout()


def check_w64(file: BinaryIO, size: int) -> Layout:
    """Sony's Wave64: the file's size stands behind its first id of 16 bytes."""
    (stated,) = struct.unpack("<Q", read_at(file, 16, 8).ljust(8, b"\0"))
    if stated > size:
        raise cut_off(stated - size)
    if stated and size > stated + 8:  # whose decoder takes what follows for samples
        check_tail(file, stated, size, own=b"riff")
        raise NotWhole(f"its header promises too little: {size - stated} bytes follow behind its end")
    return Layout()


def check_nist(file: BinaryIO, size: int) -> Layout:
    """SPHERE of NIST: a header in text, then the samples."""
    head = read_at(file, 0, 1024)
    fields = {words[0]: words[2] for words in map(bytes.split, head.splitlines()) if len(words) == 3}
    try:
        begin = int(head.splitlines()[1])
        samples, width, channels = (
            int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")
        )
    except (KeyError, ValueError, IndexError):
        return Layout()
    end = begin + samples * width * channels
    if end > size:
        raise cut_off(end - size)
    check_tail(file, end, size, own=b"NIST", frame=max(width * channels, 1))
    return Layout()


def check_aiff(file: BinaryIO, size: int) -> Layout:
    """AIFF and AIFF-C: chunks of IFF, big endian; COMM states the samples, SSND holds them."""
    if read_at(file, 8, 4) not in (b"AIFF", b"AIFC"):
        return Layout()
    samples, frame, position, found = 0, 0, 12, False
    is_pcm = True
    while len(head := read_at(file, position, 8)) == 8 and head[:4].decode("latin-1").isprintable():
        name, (stated,) = head[:4], struct.unpack(">I", head[4:])
        begin = position + 8
        if name == b"FORM":
            raise NotWhole(JOINED)
        if name == b"COMM":
            channels, samples, bits = struct.unpack(">hIh", read_at(file, begin, 8).ljust(8, b"\0"))
            frame = max(channels, 0) * ((max(bits, 0) + 7) // 8)
            is_pcm = read_at(file, 8, 4) == b"AIFF" or read_at(file, begin + 18, 4) in (b"NONE", b"sowt", b"twos")
        if name == b"SSND":
            found = True
            if begin + stated > size:
                raise cut_off(begin + stated - size)
            if is_pcm and frame and (stated - 8) // frame != samples:
                raise NotWhole(f"its header states {samples} samples, and {max(stated - 8, 0) // frame} are in it")
        position = begin + stated + stated % 2
    if not found:
        raise cut_off(max(position - size, 1))
    check_tail(file, min(position, size), size, own=b"FORM", frame=frame or 1)
    return Layout()


def check_au(file: BinaryIO, size: int) -> Layout:
    """Sun's AU: one header, one block of samples; 0xffffffff stands for all that follows."""
    begin, stated, code, rate, channels = struct.unpack(">5I", read_at(file, 4, 20).ljust(20, b"\0"))
    frame = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(code, 0) * channels
    there = size - begin
    if there > 0 and stated == 0xFFFFFFFF:
        if holds(file, begin, rb"\.snd\0\0\0"):
            raise NotWhole(JOINED)
        return _counted(there, frame, rate)._replace(channels=channels)
    if stated > there:
        raise cut_off(stated - there)
    check_tail(file, begin + stated, size, own=b".snd", frame=frame or 1)
    return _counted(stated, frame, rate)._replace(channels=channels)


def check_caf(file: BinaryIO, size: int) -> Layout:
    """Apple's CAF: chunks with sizes of 64 bit; -1 stands for all that follows."""
    position = 8
    while len(head := read_at(file, position, 12)) == 12:
        name, (stated,) = head[:4], struct.unpack(">q", head[4:])
        if name == b"data":
            if stated >= 0 and position + 12 + stated > size:
                raise cut_off(position + 12 + stated - size)
            if stated >= 0:
                check_tail(file, position + 12 + stated, size, own=b"caff")
            return Layout()
        if not name.decode("latin-1").isprintable() or stated < 0:
            break
        position += 12 + stated
    raise cut_off(max(position - size, 1))


def check_iso(file: BinaryIO, size: int) -> Layout:
    """MP4, MOV, M4A, 3GP, AVIF: boxes; the last may run to the end of the file."""
    position = 0
    seen: set[bytes] = set()
    while len(head := read_at(file, position, 16)) >= 8:
        (length,), name = struct.unpack(">I", head[:4]), head[4:8]
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length == 0 or not name.decode("latin-1").isprintable() or length < 8:
            break
        if name == b"ftyp" and b"moov" in seen | ({b"moov"} if b"mdat" in seen else set()):
            raise NotWhole(JOINED)
        seen.add(name)
        position += length
        if position > size:
            raise cut_off(position - size)
    return Layout()


def check_ebml(file: BinaryIO, size: int) -> Layout:
    """Matroska and WebM: a header and a segment of clusters, of unknown size where they were streamed."""
    position = 0
    while position < size:
        head = read_at(file, position, 12)
        id_bytes = _length_of_number(head[:1])
        size_bytes = _length_of_number(head[id_bytes : id_bytes + 1])
        if not id_bytes or not size_bytes:
            break
        identity, begin = head[:id_bytes], position + id_bytes + size_bytes
        if position and identity == b"\x1a\x45\xdf\xa3":
            raise NotWhole(JOINED)
        length = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        is_unknown = length == (1 << 7 * size_bytes) - 1
        position = begin if is_unknown and identity in _OPEN else begin + length
        if position > size:
            raise cut_off(position - size)
    return Layout()


def _length_of_number(first: bytes) -> int:
    """Bytes of a number whose first byte this is: one more than the zeros that it begins with."""
    return 9 - first[0].bit_length() if first and first[0] else 0
