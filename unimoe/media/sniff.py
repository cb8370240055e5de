"""What bytes are, by the first of them."""

from typing import Literal

HEAD = 512
"""Bytes that are enough to tell."""

Kind = Literal["a picture", "a sound", "a film", "a web page", "a pointer", "text", ""]

_BEGINNINGS: dict[bytes, Kind] = {
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"II*\x00": "a picture",
    b"MM\x00*": "a picture",
    b"BM": "a picture",
    b"fLaC": "a sound",
    b"OggS": "a sound",
    b"ID3": "a sound",
    b"FORM": "a sound",
    b".snd": "a sound",
    b"caff": "a sound",
    b"\x1a\x45\xdf\xa3": "a film",
    b"FLV\x01": "a film",
    b"\x00\x00\x01\xba": "a film",
    b"\x00\x00\x01\xb3": "a film",
}
_RIFF: dict[bytes, Kind] = {b"WAVE": "a sound", b"WEBP": "a picture", b"AVI ": "a film"}
_BRANDS: dict[bytes, Kind] = {
    b"M4A": "a sound",
    b"M4B": "a sound",
    b"avi": "a picture",
    b"hei": "a picture",
    b"mif": "a picture",
}


def what_is(head: bytes) -> Kind:
    """Say what a file holds whose first bytes these are; "" if that is not known."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return _RIFF.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:11], "a film")
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if _is_mpeg_audio(head):
        return "a sound"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer"
    is_text = bool(text) and all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    return "text" if is_text else ""


def _is_mpeg_audio(head: bytes) -> bool:
    """Whether a frame of MPEG audio (MP3, AAC as ADTS) begins here: 11 set bits, then a layer and rates that exist."""
    return len(head) > 2 and head[0] == 0xFF and head[1] >= 0xE0 and head[1] != 0xFF and head[2] >> 4 != 15


__all__ = ["HEAD", "Kind", "what_is"]
