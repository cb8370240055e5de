"""Films: video files, decoded by PyAV, whose packages bring FFmpeg. Frames at chosen moments, and the sound track."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from .files import file_of, name_of, unreadable

SEEK_SECONDS = 2.0
"""Moments farther ahead are reached by a jump to the key frame before them, nearer ones by decoding on."""


def read_frames(
    medium: Any, choose: Callable[[float], np.ndarray], *, where: str
) -> tuple[list[Image.Image], list[float], float]:
    """Decode the frames that a film shows at some moments; no others are kept.

    Args:
        medium: Path, bytes or {"bytes", "path"}.
        choose: From the length of the film (s), the moments (s), ascending.
        where: Name of the medium in error messages.

    Returns:
        Upright RGB frames, the time (s) at which each appears, and the length of the film (s).

    Raises:
        ValueError: If it is no film, or ends before it says it does.
        ImportError: If PyAV is not installed.
    """
    with _opened(medium, where, "video") as container:
        if not container.streams.video:
            raise unreadable(medium, where, "video", ValueError("it has no pictures"))
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        length = _length(container, stream)
        moments = choose(length)
        shown = list(_shown_at(container, stream, moments))
    if not shown:
        raise unreadable(medium, where, "video", ValueError("no frame can be decoded"))
    end = shown[-1][2]
    if moments[-1] > end + 1.0:
        problem = f"it ends after {end:.1f} s of {length:.1f} s: the file is cut off"
        raise unreadable(medium, where, "video", ValueError(problem))
    return [picture for picture, _, _ in shown], [time for _, time, _ in shown], length


def read_track(medium: Any, *, where: str) -> tuple[np.ndarray, int] | None:
    """Decode the sound track of a film, or a sound in a format that only FFmpeg knows.

    Args:
        medium: Path, bytes or {"bytes", "path"}.
        where: Name of the medium in error messages.

    Returns:
        Samples (channels, n) in -1..1 and their rate (Hz); None if there is no track.

    Raises:
        ValueError: If the file cannot be decoded.
        ImportError: If PyAV is not installed.
    """
    with _opened(medium, where, "sound") as container:
        from av import AudioResampler

        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        planar = AudioResampler(format="fltp")
        pieces = [
            piece.to_ndarray()
            for frame in [*container.decode(stream), None]  # None: what the resampler still holds
            for piece in planar.resample(frame)
        ]
        rate = int(stream.rate)
    channels = len(pieces[0]) if pieces else 1
    return np.concatenate([np.zeros((channels, 0), dtype=np.float32), *pieces], axis=1), rate


@contextmanager
def _opened(medium: Any, where: str, kind: str) -> Iterator[Any]:
    """Open a file for decoding; whatever FFmpeg says of it becomes one line."""
    file = file_of(medium, where)
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"{where}: decoding {name_of(medium)} needs PyAV: `pip install unimoe[video]`. Frames in memory do not."
        ) from error
    try:
        with av.open(file) as container:
            yield container
    except av.error.FFmpegError as error:
        raise unreadable(medium, where, kind, error) from error


def _length(container: Any, stream: Any) -> float:
    """Length of a film, s: as it says, or else where its last packet ends."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1_000_000
    packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    end = max((packet.pts + (packet.duration or 0) for packet in packets), default=0)
    return float((end - (stream.start_time or 0)) * stream.time_base)


def _shown_at(container: Any, stream: Any, moments: np.ndarray) -> Iterator[tuple[Image.Image, float, float]]:
    """Yield the picture shown at each moment, when it appears and when it ends, s from the start."""
    base = stream.time_base
    start = stream.start_time or 0
    frames = container.decode(stream)
    shown, following = next(frames, None), next(frames, None)
    for moment in moments:
        ticks = start + round(moment / base)
        if following is not None and ticks - following.pts > SEEK_SECONDS / base:
            container.seek(ticks, stream=stream)
            frames = container.decode(stream)
            shown, following = next(frames, None), next(frames, None)
        while following is not None and following.pts <= ticks:
            shown, following = following, next(frames, None)
        if shown is None:
            return
        time = float((shown.pts - start) * base)
        yield _upright(shown), max(time, 0.0), time + float((shown.duration or 0) * base)


def _upright(frame: Any) -> Image.Image:
    picture: Image.Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


__all__ = ["read_frames", "read_track"]
