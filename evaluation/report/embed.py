"""Media of a row as data URIs, for a page that carries them: pictures, frames of clips, sounds to play."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from unimoe.media import FrameSampling, load_clip, load_clip_sound, load_picture, load_sound

from ..tasks.sample import Message

_SIDE, _FRAMES, _SECONDS, _RATE = 320, 4, 30.0, 16000


@dataclass(frozen=True)
class Embedded:
    """A medium as a page shows it.

    Args:
        kind: `picture`, `sound`, or `missing` where it could not be read.
        uri: Its contents.
        note: What was left out, or why it is missing.
    """

    kind: str
    uri: str = ""
    note: str = ""


def embed(item: Message) -> list[Embedded]:
    """Embed a media item of a message: a clip is its frames side by side, and its sound if it has one."""
    medium = item.get(item["type"]) or item.get("path") or item.get("url")
    try:
        return _EMBED[item["type"]](medium)
    except (ImportError, OSError, ValueError) as error:
        return [Embedded("missing", note=str(error))]


def _picture(medium: Any) -> list[Embedded]:
    return [Embedded("picture", _picture_uri(load_picture(medium)))]


def _sound(medium: Any) -> list[Embedded]:
    return [_shortened(load_sound(medium, sampling_rate=_RATE))]


def _clip(medium: Any) -> list[Embedded]:
    frames = [frame.convert("RGB") for frame in load_clip(medium, sampling=FrameSampling(maximum=_FRAMES)).frames]
    strip = Image.new("RGB", (sum(frame.width for frame in frames), max(frame.height for frame in frames)))
    left = 0
    for frame in frames:
        strip.paste(frame, (left, 0))
        left += frame.width
    shown = [Embedded("picture", _picture_uri(strip, side=_SIDE * 2), f"{len(frames)} frames")]
    track = None if isinstance(medium, list | tuple) else load_clip_sound(medium, sampling_rate=_RATE)
    return shown if track is None or not len(track) else [*shown, _shortened(track)]


_EMBED = {"image": _picture, "video": _clip, "audio": _sound, "speech": _sound}


def _picture_uri(picture: Image.Image, *, side: int = _SIDE) -> str:
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return _uri("image/jpeg", content.getvalue())


def _shortened(samples: Any) -> Embedded:
    import soundfile

    most = int(_SECONDS * _RATE)
    content = io.BytesIO()
    soundfile.write(content, samples[:most], _RATE, format="MP3")  # small, and every browser plays it
    note = f"the first {_SECONDS:.0f} of {math.ceil(len(samples) / _RATE)} s" if len(samples) > most else ""
    return Embedded("sound", _uri("audio/mpeg", content.getvalue()), note)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


__all__ = ["Embedded", "embed"]
