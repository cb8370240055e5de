"""Pictures as arrays and tensors: which axis holds the channels, and what the numbers mean."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import MediaError
from .files import as_numpy, is_array
from .limits import Limits

CHANNELS = (1, 3, 4)
_OVERSHOOT = 0.35
"""By which part of their range sharp resizing (bicubic, Lanczos) takes pixels beyond its ends."""
_DARKEST = 16.0
"""Floats of 0..255 that do not reach it may as well be of 0..1 with highlights."""


def pixel_scale(arrays: Iterable[Any], where: str) -> float:
    """Return what floats of a whole medium are multiplied with to lie in 0..255: one rule for all of its frames.

    Args:
        arrays: Pictures or frames, arrays or tensors; others do not count.
        where: Name of the medium in error messages.

    Returns:
        255 for floats in 0..1, 1 for floats in 0..255, each with an overshoot.

    Raises:
        MediaError: If numbers lie elsewhere, or their range is that of neither.
    """
    floats, integers = _Range(), _Range()
    for pixels in (as_numpy(array, where) for array in arrays if is_array(array)):
        if pixels.dtype.kind in "fiu" and pixels.size:
            (floats if pixels.dtype.kind == "f" else integers).add(pixels)
    if integers.low < 0 or integers.high > 255 or integers.is_mask:
        raise _refusal(integers, where)
    if floats.low > floats.high:
        return 1.0
    for top in (1.0, 255.0):
        is_bright = top == 1 or floats.high > _DARKEST
        if is_bright and floats.low >= -_OVERSHOOT * top and floats.high <= (1 + _OVERSHOOT) * top:
            return 255.0 / top
    raise _refusal(floats, where)


class _Range:
    """Smallest and largest of the numbers that were added."""

    def __init__(self) -> None:
        self.low, self.high, self.is_mask = float("inf"), -float("inf"), False

    def add(self, pixels: np.ndarray) -> None:
        """Take numbers in; NaN stays."""
        low, high = float(pixels.min()), float(pixels.max())
        self.low, self.high = float(np.minimum(self.low, low)), float(np.maximum(self.high, high))
        self.is_mask = self.high == 1 and pixels.dtype != np.uint8  # of a mask, or nearly black


def picture_of_array(array: Any, where: str, limits: Limits, *, scale: float | None = None) -> Image.Image:
    """Make an RGB image of an array or tensor; alpha is put on white.

    Args:
        array: As for `load_picture`.
        where: Name of the medium in error messages.
        limits: Of pixels.
        scale: Of a part of a larger medium, `pixel_scale` of the whole. None: found from this one.

    Raises:
        MediaError: If it has another shape or range.
        LimitError: If it is too large.
    """
    pixels = _channels_last(array, where)
    height, width = pixels.shape[:2]
    limits.check("picture_pixels", width * height, f"the picture has {width} x {height} pixels", where=where)
    scale = pixel_scale([pixels], where) if scale is None else scale
    if pixels.dtype.kind == "f":
        pixels = np.rint((pixels * np.float32(scale)).clip(0, 255))
    elif pixels.dtype == bool:
        pixels = pixels * 255
    pixels = pixels.astype(np.uint8)
    if pixels.shape[-1] == 4:
        colours, alpha = pixels[..., :-1].astype(np.uint16), pixels[..., -1:].astype(np.uint16)
        pixels = ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return Image.fromarray(pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels)


def _channels_last(array: Any, where: str) -> np.ndarray:
    """Return the picture as (H, W, C)."""
    pixels = as_numpy(array, where)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    layouts = [axis for axis in (0, -1) if pixels.ndim == 3 and pixels.shape[axis] in CHANNELS]
    if not layouts or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise MediaError(
            where,
            "a picture as an array has the shape (height, width), (height, width, channels) or (channels, height, "
            f"width) with {CHANNELS} channels of numbers, got {tuple(array.shape)} of {pixels.dtype}.",
            "Pass each picture alone and so.",
        )
    is_first = layouts[0 if isinstance(array, torch.Tensor) else -1] == 0
    return pixels.transpose(1, 2, 0) if is_first else pixels


def _refusal(found: _Range, where: str) -> MediaError:
    return MediaError(
        where,
        f"pixels lie in {found.low:g}..{found.high:g}, but must lie in 0..1 (floats) or 0..255.",
        "Pass the picture before it is normalised, best as uint8.",
    )


__all__ = ["picture_of_array", "pixel_scale"]
