"""Clips: a few frames of a film, an animation or a list of pictures, sampled by time, and the time of each."""

from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError
from .animations import decode_animation, is_animation
from .files import is_array, open_file
from .films import decode_film, film_times
from .limits import Limits, limits_or_default
from .naming import check_keys
from .pictures import load_picture
from .pixels import picture_of_array, pixel_scale
from .sampling import Clip, FrameSampling, sample_frames


def load_clip(medium: Any, *, sampling: FrameSampling, where: str = "video", limits: Limits | None = None) -> Clip:
    """Load sampled frames of one clip, and their times.

    Args:
        medium: What `find_medium` takes: animated GIF, WebP and PNG are read by Pillow, all others by PyAV, upright,
            with square pixels and with the times that the file states. Or a decoder with `get_frames_at` (torchcodec's
            VideoDecoder, as `datasets` gives it). Or frames: list of pictures (see `load_picture`), array (F, H, W,
            C) or tensor (F, C, H, W), best as {"frames": frames, "fps": 2.0}. Bare frames have no times: they count
            as one second apart, and are refused where frames are taken by rate. Floats of all frames have one range.
        sampling: How many frames to take.
        where: Name of the medium in error messages.
        limits: None: those of the environment.

    Raises:
        MediaError: If the file is missing, damaged or no film, if there are no frames, or if frames are taken by rate
            and their own rate is not known.
        LimitError: If it is too long, or its frames are too large or too many.
        ImportError: If the file needs PyAV, which is not installed.
    """
    limits = limits_or_default(limits)
    if hasattr(medium, "get_frames_at"):
        return _from_decoder(medium, sampling, where, limits)
    if is_frames(medium):
        return _from_frames(medium, sampling, where, limits)
    file = open_file(medium, where, limits)
    decode = decode_animation if is_animation(file) else decode_film
    return decode(file, medium, sampling=sampling, where=where, limits=limits)


def clip_times(
    medium: Any, *, sampling: FrameSampling, where: str = "video", limits: Limits | None = None
) -> np.ndarray:
    """Return the times (s) of the frames that `load_clip` would sample; of films and bare frames none is decoded.

    Args:
        medium: As for `load_clip`.
        sampling: Which frames, as for `load_clip`.
        where: File and row, for errors.
        limits: None: those of the environment.

    Raises:
        MediaError, LimitError, ImportError: As `load_clip`, as far as the packets of a film show.
    """
    limits = limits_or_default(limits)
    if is_frames(medium):
        frames, fps = _frames_of(medium, where)
        starts, duration = _even_times(len(frames), fps, sampling, where)
    elif hasattr(medium, "get_frames_at") or is_animation(file := open_file(medium, where, limits)):
        return load_clip(medium, sampling=sampling, where=where, limits=limits).times
    else:
        starts, duration = film_times(file, medium, where=where, limits=limits)
    return sample_frames(starts, duration, sampling, where=where)[1]


def is_frames(medium: Any) -> bool:
    """Whether this is frames, and names no film."""
    is_dict = isinstance(medium, dict) and medium.get("frames") is not None
    return is_dict or isinstance(medium, list | tuple) or is_array(medium)


def _frames_of(medium: Any, where: str) -> tuple[Any, Any]:
    """Frames and their number per second, None where it is not known."""
    fps = None
    if isinstance(medium, dict):
        check_keys(medium, ("frames", "fps", "path"), where)
        medium, fps = medium["frames"], medium.get("fps")
    if not (isinstance(medium, list | tuple) or is_array(medium)):
        raise MediaError(
            where, f"frames are a list of pictures or an array, got a {type(medium).__name__}.", "Pass them so."
        )
    if is_array(medium) and medium.ndim != 4:
        raise MediaError(
            where,
            f"a clip as an array has 4 dimensions (frames, height, width, channels), got shape {tuple(medium.shape)}.",
            "Pass a single frame as a list of one.",
        )
    return medium, fps


def _from_frames(medium: Any, sampling: FrameSampling, where: str, limits: Limits) -> Clip:
    frames, fps = _frames_of(medium, where)
    starts, duration = _even_times(len(frames), fps, sampling, where)
    indices, times = sample_frames(starts, duration, sampling, where=where)
    scale = pixel_scale([frames] if is_array(frames) else frames, where)
    pictures = {
        index: _frame(frames[index], scale, f"{where}, frame {index}", limits) for index in set(indices.tolist())
    }
    return Clip([pictures[index] for index in indices.tolist()], times, duration)


def _frame(frame: Any, scale: float | None, where: str, limits: Limits) -> Image.Image:
    if is_array(frame):
        return picture_of_array(frame, where, limits, scale=scale)
    return load_picture(frame, where=where, limits=limits)


def _from_decoder(decoder: Any, sampling: FrameSampling, where: str, limits: Limits) -> Clip:
    metadata = getattr(decoder, "metadata", None)
    fps, seconds = (getattr(metadata, name, None) for name in ("average_fps", "duration_seconds"))
    if not fps and seconds:
        fps = len(decoder) / seconds
    starts, duration = _even_times(len(decoder), fps or None, sampling, where)
    indices, times = sample_frames(starts, duration, sampling, where=where)
    batch = decoder.get_frames_at(indices=indices.tolist())
    frames = [
        load_picture(frame, where=f"{where}, frame {index}", limits=limits) for index, frame in enumerate(batch.data)
    ]
    shown = getattr(batch, "pts_seconds", None)
    if shown is None or sampling.spread == "linspace":
        return Clip(frames, times, duration)
    begin = getattr(metadata, "begin_stream_seconds", None) or 0.0
    return Clip(frames, np.asarray(shown, dtype=np.float64) - begin, duration)


def _even_times(frames: int, fps: Any, sampling: FrameSampling, where: str) -> tuple[np.ndarray, float]:
    """Return the starts and duration, seconds, of frames at a constant rate."""
    if fps is None and sampling.rate is not None:
        raise MediaError(
            where,
            f"{sampling.rate:g} frames per second are sampled, but these {frames} frames have no times.",
            'Pass {"frames": frames, "fps": their number per second}, or the file.',
        )
    try:
        rate = 1.0 if fps is None else float(fps)
    except (TypeError, ValueError):
        rate = 0.0
    if isinstance(fps, str | bool) or not 0 < rate < float("inf"):
        raise MediaError(where, f"the frames' rate is {fps!r} per second.", "State a positive number, such as 24.")
    return np.arange(frames) / rate, frames / rate


__all__ = ["clip_times", "is_frames", "load_clip"]
