"""Which frames of a clip are taken, by its frames' times."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

VideoSampling = Literal["middles", "linspace"]
_ROUNDING = 1e-6  # 0.1 s * 30 / s is 3, not 2.9999999


@dataclass(frozen=True)
class FrameSampling:
    """How many frames are taken of a clip, and which.

    Args:
        rate: Frames per second of the clip. None: always `maximum` frames.
        minimum: Fewest frames of a clip, however short; a clip that has fewer repeats them.
        maximum: Most frames of a clip, however long.
        multiple: Their number is a multiple of this (the temporal stride): rounded up, but not above `maximum`.
        spread: `middles`: those shown in the middles of as many equal parts of the clip. `linspace`, as
            Uni-MoE-2.0-Omni does: the first, the last and equally many between any two, by their numbers; none twice,
            so a clip that has fewer than `minimum` gives what it has, and their number is rounded down to a
            `multiple`, of which there is one at least.
        repeats: Whether a clip of fewer frames than are wanted repeats them; otherwise it gives what it has.

    Raises:
        ValueError: If no number of frames fits.
    """

    rate: float | None = None
    minimum: int = 1
    maximum: int = 8
    multiple: int = 1
    spread: VideoSampling = "middles"
    repeats: bool = True

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"The frame rate is {self.rate}; it is a positive number of frames per second, or None.")
        if not (1 <= self.minimum <= self.maximum and 1 <= self.multiple <= self.maximum):
            raise ValueError(
                f"No number of frames is at least {self.minimum}, at most {self.maximum} and a multiple of "
                f"{self.multiple}. Choose 1 <= minimum <= maximum and 1 <= multiple <= maximum."
            )

    def count(self, duration: float, available: int) -> int:
        """Frames to take of a clip of `duration` seconds that has so many frames."""
        if self.spread == "linspace":
            most = self.maximum if self.rate is None else duration * self.rate + _ROUNDING
            return max(int(min(max(most, self.minimum), self.maximum, available)) // self.multiple, 1) * self.multiple
        wanted = self.maximum if self.rate is None else round(duration * self.rate)
        wanted = min(max(wanted, self.minimum), self.maximum)
        wanted = wanted if self.repeats else min(wanted, max(available, 1))
        return min(-(-wanted // self.multiple), self.maximum // self.multiple) * self.multiple


@dataclass
class Clip:
    """Sampled frames, the second of each from the clip's start (frames,), float64, and the whole clip's seconds."""

    frames: list[Image.Image]
    times: np.ndarray
    duration: float


def sample_frames(
    starts: np.ndarray, duration: float, sampling: FrameSampling, *, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Choose frames of a clip.

    Args:
        starts: Second at which each frame starts, rising from 0, (available,).
        duration: Seconds of the clip.
        sampling: How many, and which.
        where: Name of the clip in error messages.

    Returns:
        Their indices, never falling, and their times (s), float64, both (frames,): those at which they start or, of
        `linspace`, as if all had been shown equally long.

    Raises:
        ValueError: If the clip has no frames.
    """
    wanted = sampling.count(duration, len(starts))
    if not len(starts):
        raise ValueError(f"{where}: the clip has 0 frames, {wanted} are sampled. Leave it out, or pass its frames.")
    if sampling.spread == "linspace":
        indices = torch.linspace(0, len(starts) - 1, wanted).round().long().numpy()
        step = np.float32(duration / wanted)  # in float32, as the model that it exists for counted
        return indices, (np.arange(wanted, dtype=np.float32) * step).astype(np.float64)
    middles = (2 * np.arange(wanted) + 1) * duration / (2 * wanted)
    rounding = duration / len(starts) / 1000  # a middle that is the start of a frame but for rounding is in that frame
    indices = np.searchsorted(starts, middles + rounding, side="right").clip(1) - 1
    return indices, starts[indices]
