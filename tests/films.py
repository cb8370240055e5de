"""Films for tests, written with PyAV: each frame has a brightness that tells its number."""

from fractions import Fraction
from pathlib import Path

import numpy as np

FPS = 10
STEP = 6  # of brightness from frame to frame


def write_film(
    path: Path,
    *,
    seconds: float = 4.0,
    sound: np.ndarray | None = None,
    times: list[float] | None = None,
    size: tuple[int, int] = (64, 48),
    key_frames: int = 12,
    rate: int = 16_000,
) -> Path:
    """Write a film of 10 frames a second, or with frames at `times` (s), and a sound track of mono samples."""
    import av

    moments = [index / FPS for index in range(round(seconds * FPS))] if times is None else times
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height = size
        video.pix_fmt, video.time_base, video.gop_size = "yuv420p", Fraction(1, 1000), key_frames
        video.codec_context.time_base = Fraction(1, 1000)
        video.codec_context.bit_rate = 8_000_000
        audio = None if sound is None else container.add_stream("aac", rate=rate, layout="mono")
        for index, moment in enumerate(moments):
            pixels = np.full((size[1], size[0], 3), min(index * STEP, 255), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(moment * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            samples.sample_rate = rate
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path
