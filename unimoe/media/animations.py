"""Animations: GIF, PNG and WebP files whose frames Pillow decodes one after the other."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError
from .containers.pictures import walk_gif
from .files import inspect_file, is_motion_jpeg, opened, placed, unreadable
from .limits import Limits
from .pictures import check_pixels, formats, open_image, too_large, upright_rgb
from .sampling import Clip, FrameSampling, sample_frames

_COMPOSED = 8
"""Frames that an animation counts as at the least: its frames are composed in several copies of the canvas."""
SECONDS_OF_A_FRAME = 0.1
"""What browsers show a frame of an animation for that states no duration of its own."""


def is_animation(file: str | io.BytesIO) -> bool:
    """Whether Pillow reads this file, so that it is no film and has no sound; pictures of JPEG in a row are a film."""
    try:
        with Image.open(file, formats=formats()) as image:
            return image.format != "JPEG" or not is_motion_jpeg(file)
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
    inspect_file(file, medium, where=where, kind="video")
    with open_image(file, medium, where=where, limits=limits) as image:
        frames = _count_frames(file, image, medium, where, limits)
        seconds = []
        try:
            for index in range(frames):
                image.seek(index)
                check_pixels(image, placed(where, medium), limits)  # pages of TIFF have sizes of their own
                image.load()  # WebP states a frame's duration when it is decoded
                seconds.append((image.info.get("duration") or 0) / 1000 or SECONDS_OF_A_FRAME)
        except MediaError:
            raise
        except Image.DecompressionBombError as error:
            raise too_large(error, medium, where, limits) from error
        except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
            raise unreadable(medium, where, "video", error) from error
        ends = np.cumsum(seconds)
        indices, times = sample_frames(ends - seconds, float(ends[-1]), sampling, where=where)
        pictures = {}
        for index in sorted(set(indices.tolist())):
            image.seek(index)
            pictures[index] = upright_rgb(image, medium, where=where, limits=limits)
    return Clip([pictures[index] for index in indices.tolist()], times, float(ends[-1]))


def _count_frames(file: str | io.BytesIO, image: Image.Image, medium: Any, where: str, limits: Limits) -> int:
    place = placed(where, medium)
    check_pixels(image, place, limits)
    try:
        if image.format == "GIF":
            with opened(file) as stream:
                frames, _ = walk_gif(stream, limits.animation_frames + 1)
        else:
            frames = getattr(image, "n_frames", 1)
    except Exception as error:  # as for decoding
        raise unreadable(medium, where, "video", error) from error
    limits.check("animation_frames", frames, f"the animation has {frames} frames or more", where=place)
    composed = 1 if frames == 1 else max(frames, _COMPOSED)
    pixels = composed * image.width * image.height
    limits.check("animation_pixels", pixels, f"the animation has {pixels} pixels in {composed} frames", where=place)
    return max(frames, 1)


__all__ = ["decode_animation", "is_animation"]
