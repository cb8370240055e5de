"""Which frames of a clip are taken, by its frames' times."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class FrameSampling:
    """How many frames are taken of a clip; which: those shown in the middles of as many equal parts of it.

    Args:
        rate: Frames per second of the clip. None: always `maximum` frames.
        minimum: Fewest frames of a clip, however short; a clip that has fewer repeats them.
        maximum: Most frames of a clip, however long.
        multiple: Their number is a multiple of this (the temporal stride): rounded up, but not above `maximum`.

    Raises:
        ValueError: If no number of frames fits.
    """

    rate: float | None = None
    minimum: int = 1
    maximum: int = 8
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"The frame rate is {self.rate}; it is a positive number of frames per second, or None.")
        if not (1 <= self.minimum <= self.maximum and 1 <= self.multiple <= self.maximum):
            raise ValueError(
                f"No number of frames is at least {self.minimum}, at most {self.maximum} and a multiple of "
                f"{self.multiple}. Choose 1 <= minimum <= maximum and 1 <= multiple <= maximum."
            )

    def count(self, duration: float) -> int:
        """Frames to take of a clip of `duration` seconds."""
        wanted = self.maximum if self.rate is None else round(duration * self.rate)
        wanted = min(max(wanted, self.minimum), self.maximum)
        return min(-(-wanted // self.multiple), self.maximum // self.multiple) * self.multiple


@dataclass
class Clip:
    """Sampled frames, the second of each from the clip's start (frames,), float64, and the whole clip's seconds."""

    frames: list[Image.Image]
    times: np.ndarray
    duration: float


def sample_frames(starts: np.ndarray, duration: float, sampling: FrameSampling, *, where: str) -> np.ndarray:
    """Choose the frames shown in the middles of equal parts of the clip.

    Args:
        starts: Second at which each frame starts, rising from 0, (available,).
        duration: Seconds of the clip.
        sampling: How many.
        where: Name of the clip in error messages.

    Returns:
        Their indices, never falling, (frames,).

    Raises:
        ValueError: If the clip has no frames.
    """
    wanted = sampling.count(duration)
    if not len(starts):
        raise ValueError(f"{where}: the clip has 0 frames, {wanted} are sampled. Leave it out, or pass its frames.")
    middles = (2 * np.arange(wanted) + 1) * duration / (2 * wanted)
    rounding = duration / len(starts) / 1000  # a middle that is the start of a frame but for rounding is in that frame
    return np.searchsorted(starts, middles + rounding, side="right").clip(1) - 1
