"""Films: the frames of a file at chosen times, decoded with PyAV from the nearest key frames, none kept but those."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from .files import check_complete, inspect_file, is_motion_jpeg, open_container, placed, states_duration, unreadable
from .limits import Limits
from .sampling import Clip, FrameSampling, sample_frames

MICROSECONDS = 1_000_000
"""FFmpeg's unit of the times of a whole file, in a second."""
_BACK = Fraction(1, 4)
"""Seconds by which times may fall within one film; some cameras are that careless."""
_WIDEST = 8
"""Width of a pixel over its height, beyond which a stated one is taken for an error."""
ASSUMED_RATE = Fraction(25)
"""Frames per second of a stream that states neither times nor rate; FFmpeg's own assumption."""


@dataclass
class _Index:
    """What the packets of a film say without being decoded, in units of `time_base` (s)."""

    stamps: list[int]  # when each frame is shown, rising
    end: int
    keys: list[tuple[int, int]]  # key frames: when shown, and where to seek
    time_base: Fraction
    counted: bool = False  # the stream has no times: stamps count its frames

    @property
    def seconds(self) -> tuple[np.ndarray, float]:
        """Start of each frame and the film's duration, counted from its first frame."""
        start = self.stamps[0]
        starts = np.array([float((stamp - start) * self.time_base) for stamp in self.stamps])
        return starts, float((self.end - start) * self.time_base)


def decode_film(file: str | BytesIO, medium: Any, *, sampling: FrameSampling, where: str, limits: Limits) -> Clip:
    """Decode the sampled frames of a film.

    The packets are read once for their times, without decoding; then each sampled frame is decoded from the nearest
    key frame before it. What stays in memory are the times of all frames and the sampled pictures.

    Args:
        file: Path, or the bytes in memory.
        medium: What was passed, for the errors.
        sampling: How many frames to take.
        where: Name of the medium in error messages.
        limits: Of its length and its pixels.

    Raises:
        MediaError: If the file is damaged, cut off, joined or no film.
        LimitError: If it is too long or too large.
        ImportError: If PyAV is not installed.
    """
    index = _find_frames(file, medium, where, limits)
    starts, duration = index.seconds
    indices, times = sample_frames(starts, duration, sampling, where=where)
    wanted = sorted({index.stamps[i] for i in indices})
    with open_container(file, medium, where=where, kind="video") as container:
        stream = _video_stream(container, medium, where, limits)
        pixels = _decoded_frames(index, wanted) * stream.width * stream.height
        limits.check("film_pixels", pixels, f"{pixels} pixels of it would be decoded", where=placed(where, medium))
        pictures = _pictures_at(container, stream, index, wanted)
    if len(pictures) < len(wanted):
        raise unreadable(medium, where, "video", f"of {len(index.stamps)} frames, none can be decoded")
    return Clip([pictures[index.stamps[i]] for i in indices], times, duration)


def film_times(file: str | BytesIO, medium: Any, *, where: str, limits: Limits) -> tuple[np.ndarray, float]:
    """Read when each frame of a film starts (s), rising from 0, and how long the film is (s), from its packets alone.

    Raises:
        MediaError: If the file is cut off, joined or no film.
        LimitError: If it is too long or too large.
        ImportError: If PyAV is not installed.
    """
    return _find_frames(file, medium, where, limits).seconds


def _find_frames(file: str | BytesIO, medium: Any, where: str, limits: Limits) -> _Index:
    """Index of a film that has frames."""
    if not is_motion_jpeg(file):  # whose pictures stand in a row
        inspect_file(file, medium, where=where, kind="video")
    with open_container(file, medium, where=where, kind="video") as container:
        stream = _video_stream(container, medium, where, limits)
        index = _read_index(container, stream, medium, where, limits)
    if index is None:
        with open_container(file, medium, where=where, kind="video") as container:
            index = _count_frames(container, _video_stream(container, medium, where, limits), medium, where, limits)
    if not index.stamps:
        raise unreadable(medium, where, "video", "it has 0 frames")
    _, seconds = index.seconds
    limits.check("film_seconds", seconds, f"the film has {seconds:.0f} s", where=placed(where, medium))
    return index


def _decoded_frames(index: _Index, wanted: list[int]) -> int:
    """Frames that are decoded on the way to those that are wanted: each from the key frame before it."""
    shown = [key for key, _ in index.keys]
    total, last = 0, -1
    for target in wanted:
        at = bisect_right(index.stamps, target)
        number = bisect_right(shown, target) - 1
        begin = bisect_right(index.stamps, shown[number] - 1) if number > 0 else 0
        total += at - max(begin, last)
        last = at
    return total


def _video_stream(container: Any, medium: Any, where: str, limits: Limits) -> Any:
    stream = container.streams.best("video")
    if stream is None or "attached_pic" in str(stream.disposition):
        kind = "only sound: pass it as audio or speech" if container.streams.audio else "no video stream"
        raise unreadable(medium, where, "video", f"it holds {kind}")
    if stream.codec_context is None:
        raise unreadable(medium, where, "video", "no decoder is known for what it holds")
    width, height = stream.width or 0, stream.height or 0
    limits.check(
        "picture_pixels", width * height, f"its frames have {width} x {height} pixels", where=placed(where, medium)
    )
    return stream


def _read_index(container: Any, stream: Any, medium: Any, where: str, limits: Limits) -> _Index | None:
    """Return the times of all frames; None if the format gives a frame none, as AVI does with reordered ones."""
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        return None
    own, latest = [], Fraction(0)
    for packet in container.demux():
        if not packet.size or packet.is_discard:  # the end of a stream, or frames before the start of a cut
            continue
        if packet.pts is not None:
            latest = max(latest, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream_index == stream.index:
            own.append((packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
            limits.check(
                "film_frames", len(own), f"the film has {len(own)} frames or more", where=placed(where, medium)
            )
    if any(pts is None for pts, *_ in own):
        return None
    if container.duration and states_duration(container):
        found = float(latest) - (container.start_time or 0) / MICROSECONDS
        check_complete(found, container.duration / MICROSECONDS, medium, where=where, kind="video")
    _check_order([dts * stream.time_base for _, dts, *_ in own if dts is not None], medium, where)
    stamps = sorted({pts for pts, *_ in own})
    keys = sorted((pts, pts if dts is None else dts) for pts, dts, _, is_key in own if is_key)
    end = max((pts + duration for pts, _, duration, _ in own), default=0)
    if stamps and end == stamps[-1]:  # the last frame states no duration: as long as the others are
        end += round(np.median(np.diff(stamps)) if len(stamps) > 1 else 1 / _rate(stream) / stream.time_base)
    return _Index(stamps, end, keys, stream.time_base)


def _check_order(times: list[Fraction], medium: Any, where: str) -> None:
    """Refuse a film whose times of decoding (s) begin anew: frames of equal times would be lost."""
    for before, after in pairwise(times):
        if after < before - _BACK:
            raise unreadable(medium, where, "video", f"several films are joined in it, at {float(before):.1f} s")


def _rate(stream: Any) -> Fraction:
    return stream.average_rate or stream.guessed_rate or ASSUMED_RATE


def _count_frames(container: Any, stream: Any, medium: Any, where: str, limits: Limits) -> _Index:
    count = 0
    for count, _ in enumerate(container.decode(stream), start=1):
        limits.check("film_frames", count, f"the film has {count} frames or more", where=placed(where, medium))
    return _Index(list(range(count)), count, [(0, 0)], 1 / _rate(stream), counted=True)


def _stamped(container: Any, stream: Any, counted: bool) -> Iterator[tuple[int, Any]]:
    for number, frame in enumerate(container.decode(stream)):
        stamp = number if counted else frame.pts
        if stamp is not None:
            yield stamp, frame


def _pictures_at(container: Any, stream: Any, index: _Index, wanted: list[int]) -> dict[int, Image.Image]:
    """Return the picture shown at each wanted stamp: the first at or after it, at the end the last that can be
    decoded.
    """
    pictures: dict[int, Image.Image] = {}
    shown = [key for key, _ in index.keys]
    frames = _stamped(container, stream, index.counted)
    stamp, frame = index.stamps[0] - 1, None
    for target in wanted:
        number = bisect_right(shown, target) - 1
        if number > 0 and shown[number] > stamp:
            container.seek(index.keys[number][1], stream=stream)
            frames = _stamped(container, stream, index.counted)
            stamp, frame = next(frames, (stamp, frame))
            if stamp > target:  # it landed too late: from the start, then
                container.seek(index.keys[0][1], stream=stream)
                frames = _stamped(container, stream, index.counted)
                stamp = index.stamps[0] - 1
        while stamp < target and (following := next(frames, None)) is not None:
            stamp, frame = following
        if frame is not None:
            picture = _square(frame.to_image(), stream)  # decoded frames are raw: only the sampled become pictures
            pictures[target] = picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
    return pictures


def _square(picture: Image.Image, stream: Any) -> Image.Image:
    """Return the picture as it is shown: old cameras state pixels that are not square."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if ratio == 1 or not 1 / _WIDEST <= ratio <= _WIDEST:
        return picture
    width, height = picture.size  # the shorter side grows, so that nothing is lost
    size = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
    return picture.resize(size, Image.Resampling.BICUBIC)
