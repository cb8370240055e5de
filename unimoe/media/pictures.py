"""Pictures: from a file or an image to an upright RGB image, what is transparent on white."""

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import LimitError
from .files import inspect_file, is_array, open_file, placed, unreadable
from .limits import Limits, limits_or_default
from .pixels import picture_of_array

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TIFF", "WEBP"
)  # fmt: skip
"""Of files that are read as pictures, where Pillow has them; never those that other programs are started for (EPS)."""


def is_picture(medium: Any) -> bool:
    """Whether this is a decoded picture: a PIL image, or an array or tensor with two or three dimensions."""
    return isinstance(medium, Image.Image) or getattr(medium, "ndim", None) in (2, 3)


def load_picture(medium: Any, *, where: str = "image", limits: Limits | None = None) -> Image.Image:
    """Load one picture as an upright RGB image; what is transparent is put on white.

    Args:
        medium: What `find_medium` takes, PIL image, or array or tensor of shape (H, W), (H, W, C) or (C, H, W) with C
            of 1, 3 or 4, the last of 4 alpha; integers in 0..255, or floats in 0..1 or in 0..255. Where both
            channel layouts fit, an array is read as (H, W, C) and a tensor as (C, H, W). Grey images of 16 bit are
            scaled from 0..65535.
        where: Name of the medium in error messages, such as "row 0, image 1".
        limits: None: those of the environment.

    Raises:
        MediaError: If the file is missing, not whole or no picture, or the array has another shape or range.
        LimitError: If it has too many pixels.
    """
    limits = limits_or_default(limits)
    if is_array(medium):
        return picture_of_array(medium, where, limits)
    if isinstance(medium, Image.Image):
        check_pixels(medium, where, limits)
        return upright_rgb(medium, medium, where=where, limits=limits)
    file = open_file(medium, where, limits)
    inspect_file(file, medium, where=where, kind="picture")
    with open_image(file, medium, where=where, limits=limits) as image:
        return upright_rgb(image, medium, where=where, limits=limits)


def picture_size(medium: Any, *, where: str = "image", limits: Limits | None = None) -> tuple[int, int]:
    """Width and height (pixels) of what `load_picture` gives; of a file, only the header is read.

    Args:
        medium: As for `load_picture`.
        where: File and row, for errors.
        limits: None: those of the environment.

    Raises:
        MediaError, LimitError: As `load_picture`, as far as the header shows.
    """
    limits = limits_or_default(limits)
    if is_array(medium):
        return picture_of_array(medium, where, limits).size
    if isinstance(medium, Image.Image):
        return _upright_size(medium, medium, where)
    file = open_file(medium, where, limits)
    inspect_file(file, medium, where=where, kind="picture")
    with open_image(file, medium, where=where, limits=limits) as image:
        return _upright_size(image, medium, where)


def formats() -> list[str]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_image(file: str | io.BytesIO, medium: Any, *, where: str, limits: Limits) -> Image.Image:
    """Open a file with Pillow, without decoding it.

    Args:
        file: Path, or the bytes in memory.
        medium: What was passed, for the errors.
        where: Name of the medium in error messages.
        limits: Of pixels.

    Raises:
        MediaError: If it is no picture of one of `FORMATS`.
        LimitError: If it has too many pixels.
    """
    try:
        image = Image.open(file, formats=formats())
    except Image.DecompressionBombError as error:
        raise too_large(error, medium, where, limits) from error
    except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
        reason = f"not one of {', '.join(formats())}" if isinstance(error, Image.UnidentifiedImageError) else error
        raise unreadable(medium, where, "picture", reason) from error
    check_pixels(image, placed(where, medium), limits)
    return image


def too_large(error: Exception, medium: Any, where: str, limits: Limits) -> LimitError:
    """Make the error for a size that Pillow refuses; beyond ours, `PIL.Image.MAX_IMAGE_PIXELS` is to be raised too.

    Args:
        error: Of Pillow.
        medium: What was opened.
        where: Name of the medium.
        limits: Of pixels.
    """
    what = f"the picture is too large ({error})"
    return limits.refusal("picture_pixels", what, where=placed(where, medium))


def check_pixels(image: Image.Image, where: str, limits: Limits) -> None:
    """Refuse a picture that is too large, before it is decoded.

    Args:
        image: As Pillow opened it.
        where: Name of the medium in error messages.
        limits: Of pixels.

    Raises:
        LimitError: If it has too many.
    """
    width, height = image.size
    limits.check("picture_pixels", width * height, f"the picture has {width} x {height} pixels", where=where)


def _upright_size(image: Image.Image, medium: Any, where: str) -> tuple[int, int]:
    width, height = image.size
    try:
        if image.format == "TIFF":  # whose size Pillow has turned
            return width, height
        lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # on its side, and perhaps mirrored
    except Exception as error:  # as for opening
        raise unreadable(medium, where, "picture", error) from error
    return (height, width) if lies else (width, height)


def upright_rgb(image: Image.Image, medium: Any, *, where: str, limits: Limits) -> Image.Image:
    """Decode the current frame of an image, turn it as its EXIF data say, and make it RGB on white.

    Args:
        image: As Pillow opened it.
        medium: What it was opened from, for the error.
        where: Name of the medium in error messages.
        limits: Of pixels.

    Raises:
        MediaError: If the file is damaged, or pixels of 32 bit lie outside of 0..255.
    """
    file_format = image.format
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)  # which copies any other
        if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            return _on_white(image)
        pixels = np.asarray(image)
    except Exception as error:  # as for opening
        raise unreadable(medium, where, "picture", error) from error
    if image.mode.startswith("I;16"):
        opaque = pixels != image.info.get("transparency", -1)
        pixels = np.where(opaque, pixels // 257, 255)  # 65535 -> 255
    elif image.mode == "I" and file_format == "PPM":  # of 16 bit, where it is not of 8
        pixels = pixels // 257
    return picture_of_array(pixels, where, limits)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        image = image.convert("RGB")
    else:
        coloured = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", coloured.size, "white")
        image.paste(coloured, mask=coloured.getchannel("A"))
    image.info.pop("transparency", None)  # which would make image processors treat a colour as no colour
    return image


__all__ = [
    "FORMATS",
    "check_pixels",
    "formats",
    "is_picture",
    "load_picture",
    "open_image",
    "picture_size",
    "too_large",
    "upright_rgb",
]
