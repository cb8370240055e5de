"""Views of pictures and sounds: the same thing, shown or played somewhat differently; each view is a file.

Encoders are frozen and run once over each file, so that changes are drawn here and not while training.
"""

import math
import random
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

TRAINING_VIEWS = 4
HELD_OUT_VIEW = TRAINING_VIEWS
"""Number of the view that no training row shows."""

SAMPLING_RATE = 16_000  # Hz
_LONGEST_SOUND = 2.0  # s: one window of the encoder


def picture_view(path: Path, view: int, *, name: str, flip: bool, side: int) -> Image.Image:
    """Show a picture on a white square: rotated, zoomed, shifted and perhaps in a mirror, by its name and the view.

    Args:
        path: Of a picture that may be transparent.
        view: Number of the view.
        name: Of the picture, which decides with the view what is drawn.
        flip: Whether half of the views are in a mirror.
        side: Of the square, in pixels.
    """
    drawn = random.Random(f"{name} {view}")
    with Image.open(path) as file:
        picture = ImageOps.contain(file.convert("RGBA"), (2 * side, 2 * side))
    zoom, angle = drawn.uniform(0.8, 1.1), drawn.uniform(-10, 10)
    shift = drawn.uniform(-0.06, 0.06), drawn.uniform(-0.06, 0.06)
    if drawn.random() < 0.5 and flip:
        picture = ImageOps.mirror(picture)
    size = max(1, round(zoom * side))
    picture = ImageOps.contain(picture, (size, size)).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    shown = Image.new("RGBA", (side, side), "white")
    corner = [(side - length) // 2 + round(part * side) for length, part in zip(picture.size, shift, strict=True)]
    shown.paste(picture, (corner[0], corner[1]), picture)
    return shown.convert("RGB")


def sound_view(wave: Tensor, rate: int, view: int, *, name: str) -> Tensor:
    """Play a sound faster or slower, louder or softer, and a little later, by its name and the view.

    Args:
        wave: Samples, (N,).
        rate: Their rate, in Hz.
        view: Number of the view.
        name: Of the sound, which decides with the view what is drawn.

    Returns:
        Samples at 16 kHz, 2 s at most.
    """
    from torchaudio.functional import resample

    drawn = random.Random(f"{name} {view}")
    speed, gain, silence = drawn.uniform(0.88, 1.14), drawn.uniform(-6, 3), drawn.uniform(0, 0.1)
    faster = round(rate * speed / 100) * 100  # Hz; in round steps, so that the filter stays small
    wave = resample(wave[: math.ceil(rate * _LONGEST_SOUND * 1.2)], faster, SAMPLING_RATE) * 10 ** (gain / 20)
    wave = torch.nn.functional.pad(wave, (round(silence * SAMPLING_RATE), 0))
    return wave[: round(_LONGEST_SOUND * SAMPLING_RATE)].clamp(-1, 1)
