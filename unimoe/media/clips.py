"""Clips: a few frames of a film, an animation or a list of pictures, sampled by time, and the time of each."""

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .files import is_array, open_file, unreadable
from .films import decode_film, film_times
from .pictures import load_picture, upright_rgb
from .sampling import Clip, FrameSampling, sample_frames

SECONDS_OF_A_FRAME = 0.1
"""What browsers show a frame of an animation for that states no duration of its own."""


def load_clip(medium: Any, *, sampling: FrameSampling, where: str = "video") -> Clip:
    """Load sampled frames of one clip, and their times.

    Args:
        medium: Path, bytes or {"bytes", "path"} of a file: animated GIF, WebP and PNG are read by Pillow, all others
            by PyAV, upright and with the times that the file states. Or a decoder with `get_frames_at` (torchcodec's
            VideoDecoder, as `datasets` gives it). Or frames: list of pictures (see `load_picture`), array (F, H, W,
            C) or tensor (F, C, H, W), best as {"frames": frames, "fps": 2.0}. Bare frames have no times: they count
            as one second apart, and are refused where frames are taken by rate.
        sampling: How many frames to take.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the file is missing, damaged or no film, if there are no frames, or if frames are taken by rate
            and their own rate is not known.
        ImportError: If the file needs PyAV, which is not installed.
    """
    if hasattr(medium, "get_frames_at"):
        return _from_decoder(medium, sampling, where)
    if isinstance(medium, dict) and medium.get("frames") is not None:
        return _from_frames(medium["frames"], medium.get("fps"), sampling, where)
    if isinstance(medium, (list, tuple)) or is_array(medium):
        return _from_frames(medium, None, sampling, where)
    file = open_file(medium, where)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        return decode_film(file, medium, sampling=sampling, where=where)
    except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
        raise unreadable(medium, where, "video", error) from error
    with image:
        if image.format != "MPEG":  # which Pillow recognises and cannot decode
            return _from_animation(image, medium, sampling, where)
    return decode_film(file, medium, sampling=sampling, where=where)


def clip_times(medium: Any, *, sampling: FrameSampling, where: str = "video") -> np.ndarray:
    """Times (s) of the frames that `load_clip` would sample; of films and bare frames none is decoded.

    Args:
        medium, sampling, where: As for `load_clip`.

    Raises:
        ValueError: As `load_clip`, as far as the packets of a film show.
        ImportError: If the file needs PyAV, which is not installed.
    """
    if isinstance(medium, dict) and medium.get("frames") is not None:
        starts, duration = _even_times(len(medium["frames"]), medium.get("fps"), sampling, where)
    elif isinstance(medium, (list, tuple)) or is_array(medium):
        starts, duration = _even_times(len(medium), None, sampling, where)
    elif hasattr(medium, "get_frames_at") or is_animation(file := open_file(medium, where)):
        return load_clip(medium, sampling=sampling, where=where).times
    else:
        starts, duration = film_times(file, medium, where=where)
    return starts[sample_frames(starts, duration, sampling, where=where)]


def is_animation(file: str | io.BytesIO) -> bool:
    """Whether Pillow reads this file, so that it has no sound."""
    try:
        with Image.open(file) as image:
            return image.format != "MPEG"
    except Exception:  # whatever is wrong with it, it is not for Pillow
        return False


def _from_frames(frames: Any, fps: float | None, sampling: FrameSampling, where: str) -> Clip:
    if hasattr(frames, "ndim") and frames.ndim != 4:
        raise ValueError(
            f"{where}: a clip as an array has 4 dimensions (frames, height, width, channels), got shape "
            f"{tuple(frames.shape)}. Pass a single frame as a list of one."
        )
    starts, duration = _even_times(len(frames), fps, sampling, where)
    indices = sample_frames(starts, duration, sampling, where=where)
    pictures = {index: load_picture(frames[index], where=f"{where}, frame {index}") for index in set(indices.tolist())}
    return Clip([pictures[index] for index in indices.tolist()], starts[indices], duration)


def _from_decoder(decoder: Any, sampling: FrameSampling, where: str) -> Clip:
    metadata = getattr(decoder, "metadata", None)
    fps, seconds = (getattr(metadata, name, None) for name in ("average_fps", "duration_seconds"))
    if not fps and seconds:
        fps = len(decoder) / seconds
    starts, duration = _even_times(len(decoder), fps or None, sampling, where)
    indices = sample_frames(starts, duration, sampling, where=where)
    batch = decoder.get_frames_at(indices=indices.tolist())
    frames = [load_picture(frame, where=f"{where}, frame {index}") for index, frame in enumerate(batch.data)]
    times = getattr(batch, "pts_seconds", None)
    if times is None:
        return Clip(frames, starts[indices], duration)
    begin = getattr(metadata, "begin_stream_seconds", None) or 0.0
    return Clip(frames, np.asarray(times, dtype=np.float64) - begin, duration)


def _even_times(frames: int, fps: Any, sampling: FrameSampling, where: str) -> tuple[np.ndarray, float]:
    """Starts and duration, seconds, of frames at a constant rate."""
    if fps is None and sampling.rate is not None:
        raise ValueError(
            f"{where}: {sampling.rate:g} frames per second are sampled, but these {frames} frames have no times. Pass "
            '{"frames": frames, "fps": their number per second}, or the file.'
        )
    fps = 1.0 if fps is None else float(fps)
    if not 0 < fps < float("inf"):
        raise ValueError(f"{where}: the frames' rate is {fps:g} per second. State a positive number, such as 24.")
    return np.arange(frames) / fps, frames / fps


def _from_animation(image: Image.Image, medium: Any, sampling: FrameSampling, where: str) -> Clip:
    seconds = []
    try:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()  # WebP states a frame's duration when it is decoded
            seconds.append((image.info.get("duration") or 0) / 1000 or SECONDS_OF_A_FRAME)
    except Exception as error:  # as for opening
        raise unreadable(medium, where, "video", error) from error
    ends = np.cumsum(seconds)
    indices = sample_frames(ends - seconds, float(ends[-1]), sampling, where=where)
    frames = {}
    for index in sorted(set(indices.tolist())):
        image.seek(index)
        frames[index] = upright_rgb(image, medium, where=where)
    return Clip([frames[index] for index in indices.tolist()], (ends - seconds)[indices], float(ends[-1]))
