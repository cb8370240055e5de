"""Pictures: from a file, an image or an array to an upright RGB image."""

from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from .files import is_array, open_file, to_numpy, unreadable

CHANNELS = (1, 3, 4)


def is_picture(medium: Any) -> bool:
    """Whether this is a decoded picture: a PIL image, or an array or tensor with two or three dimensions."""
    return isinstance(medium, Image.Image) or getattr(medium, "ndim", None) in (2, 3)


def load_picture(medium: Any, *, where: str = "image") -> Image.Image:
    """Load one picture as an upright RGB image.

    Args:
        medium: Path, bytes, {"bytes", "path"}, PIL image, or array or tensor of shape (H, W), (H, W, C) or (C, H, W)
            with C of 1, 3 or 4; integers in 0..255, or floats in 0..1 or in 0..255. Where both channel layouts fit, an
            array is read as (H, W, C) and a tensor as (C, H, W). An alpha channel is dropped. Grey images of 16 bit
            are scaled from 0..65535.
        where: Name of the medium in error messages, such as "row 0, image 1".

    Raises:
        ValueError: If the file is missing or is no picture, or the array has another shape or range.
    """
    if is_array(medium):
        return _from_array(medium, where)
    if isinstance(medium, Image.Image):
        return upright_rgb(medium, medium, where=where)
    file = open_file(medium, where)
    try:
        image = Image.open(file)
    except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
        raise unreadable(medium, where, "picture", error) from error
    with image:
        return upright_rgb(image, medium, where=where)


def picture_size(medium: Any, *, where: str = "image") -> tuple[int, int]:
    """Width and height (pixels) of what `load_picture` gives; of a file, only the header is read.

    Args:
        medium, where: As for `load_picture`.

    Raises:
        ValueError: As `load_picture`, as far as the header shows.
    """
    if is_array(medium):
        return _from_array(medium, where).size
    if isinstance(medium, Image.Image):
        return _upright_size(medium)
    file = open_file(medium, where)
    try:
        with Image.open(file) as image:
            return _upright_size(image)
    except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
        raise unreadable(medium, where, "picture", error) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # on its side, and perhaps mirrored
    return (height, width) if lies else (width, height)


def upright_rgb(image: Image.Image, medium: Any, *, where: str) -> Image.Image:
    """Decode the current frame of an image, turn it as its EXIF data say, and make it RGB.

    Args:
        image: As Pillow opened it.
        medium: What it was opened from, for the error.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the file is damaged, or pixels of 32 bit lie outside of 0..255.
    """
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
            image.info.pop("transparency", None)  # which would make image processors treat a colour as no colour
            return image
    except Exception as error:  # as for opening
        raise unreadable(medium, where, "picture", error) from error
    pixels = np.asarray(image)
    return _from_array(pixels if image.mode in ("I", "F") else pixels // 257, where)  # 65535 -> 255


def _from_array(array: Any, where: str) -> Image.Image:
    pixels = to_numpy(array)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    layouts = [axis for axis in (0, -1) if pixels.ndim == 3 and pixels.shape[axis] in CHANNELS]
    if not layouts or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise ValueError(
            f"{where}: a picture as an array has the shape (height, width), (height, width, channels) or (channels, "
            f"height, width) with {CHANNELS} channels of numbers, got {tuple(array.shape)} of {pixels.dtype}. Pass "
            "each picture alone and so."
        )
    if layouts[0 if isinstance(array, torch.Tensor) else -1] == 0:
        pixels = pixels.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"{where}: pixels lie in {low:g}..{high:g}, but must lie in 0..1 (floats) or 0..255. Pass the picture "
            "before it is normalised."
        )
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels * (255 if high <= 1 else 1))
    pixels = pixels.astype(np.uint8)
    return Image.fromarray(pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3])
