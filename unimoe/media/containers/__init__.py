"""Whether a file is whole, by its structure: every container says itself where it ends, and its parts are counted.

Decoders do not tell: of two joined files they give the first, of a cut one what is there, and of a header that is
wrong what it says. In: a file. Out: where its parts begin and end and how many samples it holds, or what is wrong.
"""

import io
from collections.abc import Callable
from typing import BinaryIO

from .boxes import check_aiff, check_au, check_caf, check_ebml, check_iso, check_nist, check_riff, check_w64
from .flac import check_flac
from .layout import Layout, NotWhole, read_at
from .mpeg import check_mpeg_audio, is_mpeg_audio, skip_tags
from .ogg import check_ogg
from .pictures import check_bmp, check_gif, check_jpeg, check_png
from .streams import ASF_HEADER, check_asf, check_flv, check_transport_stream, is_transport_stream

_CHECKS: dict[bytes, Callable[[BinaryIO, int], Layout]] = {
    b"RIFF": check_riff,
    b"RIFX": check_riff,
    b"RF64": check_riff,
    b"riff": check_w64,
    b"FORM": check_aiff,
    b".snd": check_au,
    b"caff": check_caf,
    b"fLaC": check_flac,
    b"NIST": check_nist,
    b"OggS": check_ogg,
    b"\x89PNG": check_png,
    b"\xff\xd8\xff": check_jpeg,
    b"GIF8": check_gif,
    b"BM": check_bmp,
    b"FLV\x01": check_flv,
    ASF_HEADER[:4]: check_asf,
    b"\x1a\x45\xdf\xa3": check_ebml,
}
_ISO = frozenset([b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"moof"])


def inspect(file: BinaryIO, *, most: float = float("inf")) -> Layout:
    """Find the parts of a file.

    Args:
        file: Open for reading; its position is changed.
        most: Samples of each channel after which a sound need not be walked further.

    Returns:
        Its layout; of a format that is not known here, one that says nothing.

    Raises:
        NotWhole: If it is cut off, files are joined in it, or its header and its content differ.
    """
    size = file.seek(0, 2)
    if (begin := skip_tags(file)) and not is_mpeg_audio(file, size):  # a tag that players skip, decoders do not
        file.seek(begin)
        inner = inspect(io.BytesIO(file.read()), most=most)
        parts = inner.parts or ((0, size - begin),)
        return inner._replace(parts=tuple((start + begin, end + begin) for start, end in parts))
    head = read_at(file, 0, 12)
    if head[4:8] in _ISO:
        return check_iso(file, size)
    for length in (4, 3, 2):
        if check := _CHECKS.get(head[:length]):
            return check(file, size)
    if is_transport_stream(file, size):
        return check_transport_stream(file, size)
    return check_mpeg_audio(file, size, most) if is_mpeg_audio(file, size) else Layout()


__all__ = ["Layout", "NotWhole", "inspect"]
