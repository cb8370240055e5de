"""Animations: GIF, PNG and WebP files whose frames Pillow decodes one after the other."""

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .files import opened, placed, unreadable
from .limits import Limits
from .pictures import check_pixels, formats, open_image, upright_rgb
from .sampling import Clip, FrameSampling, sample_frames

SECONDS_OF_A_FRAME = 0.1
"""What browsers show a frame of an animation for that states no duration of its own."""


def is_animation(file: str | io.BytesIO) -> bool:
    """Whether Pillow reads this file, so that it is no film and has no sound."""
    try:
        with Image.open(file, formats=formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever is wrong with it, it is not for Pillow
        return False


def decode_animation(
    file: str | io.BytesIO, medium: Any, *, sampling: FrameSampling, where: str, limits: Limits
) -> Clip:
    """Decode the sampled frames of an animation; a picture that does not move is a clip of one frame.

    Args:
        file: Path, or the bytes in memory.
        medium: What was passed, for the errors.
        sampling: How many frames to take.
        where: Name of the medium in error messages.
        limits: Of its frames and its pixels.

    Raises:
        MediaError: If it is damaged.
        LimitError: If it has too many or too large frames; they are counted before any is decoded.
    """
    with open_image(file, medium, where=where, limits=limits) as image:
        frames = _count_frames(file, image, medium, where, limits)
        seconds = []
        try:
            for index in range(frames):
                image.seek(index)
                image.load()  # WebP states a frame's duration when it is decoded
                seconds.append((image.info.get("duration") or 0) / 1000 or SECONDS_OF_A_FRAME)
        except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
            raise unreadable(medium, where, "video", error) from error
        ends = np.cumsum(seconds)
        indices = sample_frames(ends - seconds, float(ends[-1]), sampling, where=where)
        pictures = {}
        for index in sorted(set(indices.tolist())):
            image.seek(index)
            pictures[index] = upright_rgb(image, medium, where=where, limits=limits)
    return Clip([pictures[index] for index in indices.tolist()], (ends - seconds)[indices], float(ends[-1]))


def _count_frames(file: str | io.BytesIO, image: Image.Image, medium: Any, where: str, limits: Limits) -> int:
    place = placed(where, medium)
    check_pixels(image, place, limits)
    try:
        if image.format == "GIF":
            with opened(file) as stream:
                frames = _gif_frames(stream, limits.animation_frames + 1)
        else:
            frames = getattr(image, "n_frames", 1)
    except Exception as error:  # as for decoding
        raise unreadable(medium, where, "video", error) from error
    limits.check("animation_frames", frames, f"the animation has {frames} frames or more", where=place)
    pixels = frames * image.width * image.height
    limits.check("animation_pixels", pixels, f"the animation has {pixels} pixels in {frames} frames", where=place)
    return max(frames, 1)


def _gif_frames(stream: BinaryIO, most: int) -> int:
    """Count the pictures of a GIF (89a, appendix B), up to `most`, without decoding any."""
    head = stream.read(13)
    _skip_colours(stream, head[10])
    frames = 0
    while frames < most and (kind := stream.read(1)) in (b"!", b","):
        if kind == b",":
            frames += 1
            _skip_colours(stream, stream.read(9)[8])
        stream.read(1)  # label of an extension, or size of a code
        while size := stream.read(1):
            if size == b"\0":
                break
            stream.seek(size[0], 1)
    return frames


def _skip_colours(stream: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        stream.seek(3 << (flags & 7) + 1, 1)


__all__ = ["decode_animation", "is_animation"]
