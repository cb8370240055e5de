"""Films for tests: frame i is grey of brightness 10 * i (or as told), so that what was sampled can be read off."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (48, 32)


def write_film(
    path: Path,
    shades: Sequence[int],
    *,
    fps: int = 10,
    times: Sequence[float] | None = None,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: np.ndarray | None = None,
    sound_rate: int = 16_000,
    sound_codec: str = "aac",
    sound_delay: float = 0.0,
) -> Path:
    """Write a film whose left half is as bright as `shades` say and whose right half is black.

    Args:
        path: The suffix chooses the format.
        shades: Brightness of each frame.
        fps: Frames per second.
        times: Seconds at which each frame starts. None: at a constant rate.
        codec, options: Of the video.
        rotation: Degrees counter-clockwise by which players turn the film.
        sound: Mono samples in -1..1. None: no sound track.
        sound_rate, sound_codec: Of the sound track.
        sound_delay: Seconds by which the sound starts after the film.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        tick = Fraction(1, fps) if times is None else Fraction(1, 1000)
        video.time_base = video.codec_context.time_base = tick
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound_codec, rate=sound_rate, layout="mono") if sound is not None else None
        for index, shade in enumerate(shades):
            pixels = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
            pixels[:, : SIZE[0] // 2] = shade
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index if times is None else round(times[index] / tick), tick
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            piece = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            piece.sample_rate, piece.time_base = sound_rate, Fraction(1, sound_rate)
            piece.pts = round(sound_delay * sound_rate)
            container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def brightness(frames: Sequence[Image.Image]) -> list[int]:
    """What the left half of each frame shows."""
    return [int(np.asarray(frame)[2, 2, 0]) for frame in frames]
