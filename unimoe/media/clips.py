"""Clips: whatever holds moving pictures becomes frames, each with its time, and a sound track if there is one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .files import file_of, unreadable
from .films import read_frames, read_track
from .pictures import load_picture
from .sounds import load_sound, prepare_samples


@dataclass(frozen=True)
class FrameSampling:
    """How many frames of a clip are taken.

    Args:
        rate: Frames per second. None: always `maximum`.
        minimum, maximum: Bounds of their number.
        multiple: Their number is a multiple of it; it divides `maximum`.
    """

    rate: float | None = None
    minimum: int = 1
    maximum: int = 8
    multiple: int = 1

    def count(self, length: float) -> int:
        """Frames of a clip of `length` seconds."""
        wanted = self.maximum if self.rate is None else round(length * self.rate)
        bounded = min(max(wanted, self.minimum, 1), self.maximum)
        return min(-(-bounded // self.multiple) * self.multiple, self.maximum)

    def moments(self, length: float) -> np.ndarray:
        """Middles (s) of as many equal parts of a clip of `length` seconds."""
        count = self.count(length)
        return (np.arange(count) + 0.5) * length / count


@dataclass
class Clip:
    """Sampled frames, the time (s from the start) at which each appears, and the length of the whole clip (s)."""

    frames: list[Image.Image]
    times: np.ndarray
    length: float


def load_clip(medium: Any, *, sampling: FrameSampling, where: str = "video") -> Clip:
    """Sample frames of one clip, from the middles of equal parts of it; short clips repeat frames.

    Args:
        medium: Path, bytes or {"bytes", "path"} of a file; a decoder with `get_frames_at` (torchcodec's VideoDecoder,
            as `datasets` gives it); or the frames: a list of pictures (see `load_picture`), an array (F, H, W, C) or a
            tensor (F, C, H, W), or {"frames": any of these, "fps": frames per second}. Animated GIF, WebP and PNG are
            read by Pillow, all other files by PyAV. Frames without a rate count as one a second.
        sampling: How many frames.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the file is missing, or nothing can be decoded from it, or there are no frames, or frames are
            to be taken at a rate from a clip that has none.
        ImportError: If the file needs PyAV, which is not installed.
    """
    if hasattr(medium, "get_frames_at"):
        return _from_decoder(medium, sampling, where)
    if _has_frames(medium):
        return _from_frames(medium["frames"], medium.get("fps"), sampling, where)
    if isinstance(medium, (list, tuple)) or hasattr(medium, "ndim"):
        return _from_frames(medium, None, sampling, where)
    return _from_animation(medium, sampling, where) or Clip(*_film(medium, sampling, where))


def load_clip_sound(medium: Any, *, sampling_rate: int, where: str = "video") -> np.ndarray | None:
    """Load the sound track of a clip as mono float32 samples (n,) at `sampling_rate`; None if it has none.

    Args:
        medium: As in `load_clip`. Frames have none, unless they come as {"frames", "fps", "audio": a sound}.
        sampling_rate: Wanted rate, Hz.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the track cannot be decoded, or the medium is a decoder, which gives pictures alone.
        ImportError: If the file needs PyAV, which is not installed.
    """
    if hasattr(medium, "get_frames_at"):
        raise ValueError(
            f"{where}: a {type(medium).__name__} gives no sound. Pass the path or the bytes of the film, or "
            "video_sound=None."
        )
    if _has_frames(medium):
        sound = medium.get("audio")
        return None if sound is None else load_sound(sound, sampling_rate=sampling_rate, where=f"{where}, audio")
    if isinstance(medium, (list, tuple)) or hasattr(medium, "ndim") or _is_animation(medium, where):
        return None
    track = read_track(medium, where=where)
    if track is None or track[0].size == 0:
        return None
    return prepare_samples(*track, sampling_rate=sampling_rate, where=where)


def _has_frames(medium: Any) -> bool:
    return isinstance(medium, dict) and medium.get("frames") is not None


def _from_frames(frames: Any, fps: Any, sampling: FrameSampling, where: str) -> Clip:
    if hasattr(frames, "ndim") and frames.ndim != 4:
        raise ValueError(
            f"{where}: a clip as an array has 4 dimensions (frames, height, width, channels), got shape "
            f"{tuple(frames.shape)}."
        )
    if fps is not None and not 0 < float(fps) < float("inf"):
        raise ValueError(f"{where}: fps is {fps}. State the frames per second, such as 25.")
    if fps is None and sampling.rate is not None:
        raise ValueError(
            f"{where}: {sampling.rate:g} frames a second are to be taken from frames whose rate is unknown. Pass "
            '{"frames": frames, "fps": frames per second}, or video_frame_rate=None.'
        )
    indices, times, length = _indices(len(frames), float(fps or 1.0), sampling, where)
    pictures = [load_picture(frames[index], where=f"{where}, frame {index}") for index in indices]
    return Clip(pictures, times, length)


def _from_decoder(decoder: Any, sampling: FrameSampling, where: str) -> Clip:
    fps = getattr(getattr(decoder, "metadata", None), "average_fps", None)
    indices, times, length = _indices(len(decoder), float(fps or 1.0), sampling, where)
    batch = decoder.get_frames_at(indices=indices)
    return Clip([load_picture(frame, where=where) for frame in batch.data], times, length)


def _indices(available: int, fps: float, sampling: FrameSampling, where: str) -> tuple[list[int], np.ndarray, float]:
    """Frames to take of so many at a rate, their times (s), and the length of all (s)."""
    if available == 0:
        raise ValueError(
            f"{where}: the clip has 0 frames, {sampling.maximum} are sampled. Leave it out, or pass its frames."
        )
    wanted = sampling.count(available / fps)
    indices = [(2 * index + 1) * available // (2 * wanted) for index in range(wanted)]
    return indices, np.array(indices) / fps, available / fps


def _is_animation(medium: Any, where: str) -> bool:
    try:
        with Image.open(file_of(medium, where)):
            return True
    except UnidentifiedImageError:
        return False


def _from_animation(medium: Any, sampling: FrameSampling, where: str) -> Clip | None:
    """Frames of an animated picture, by the durations that it states; None if it is no picture."""
    try:
        with Image.open(file_of(medium, where)) as image:
            ends = np.cumsum([_duration(image, index) for index in range(getattr(image, "n_frames", 1))])
            length = float(ends[-1])
            indices = np.searchsorted(ends, sampling.moments(length), side="right").clip(max=len(ends) - 1)
            frames = []
            for index in indices.tolist():
                image.seek(index)
                frames.append(image.convert("RGB"))
            starts = np.concatenate([[0.0], ends[:-1]])
            return Clip(frames, starts[indices], length)
    except UnidentifiedImageError:
        return None  # a film
    except Exception as error:  # as of pictures
        raise unreadable(medium, where, "video", error) from error


def _duration(image: Image.Image, index: int) -> float:
    """Seconds that one frame of an animation is shown; those that state none, as browsers do, a tenth."""
    image.seek(index)
    return (image.info.get("duration") or 100) / 1000


def _film(medium: Any, sampling: FrameSampling, where: str) -> tuple[list[Image.Image], np.ndarray, float]:
    frames, times, length = read_frames(medium, sampling.moments, where=where)
    return frames, np.array(times), length


__all__ = ["Clip", "FrameSampling", "load_clip", "load_clip_sound"]
