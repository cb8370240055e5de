"""Files and bytes that hold media: found, named in messages, and opened with PyAV."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import MediaError
from .containers import Layout, NotWhole, inspect
from .limits import Limits
from .naming import FORMS, find_medium, shown

_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,asf,au,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,m4v,matroska,mjpeg,mov,mp3,mpeg,mpegts,"
    "mpegvideo,mxf,nut,ogg,w64,wav,wv"
)
"""FFmpeg's formats that hold what they play; playlists, which open other files, are not among them."""


def medium_name(medium: Any) -> str:
    """How a medium is called in messages: its path, or its type."""
    if isinstance(medium, dict):
        return medium_name(medium["path"]) if medium.get("path") else f"a dict with {sorted(map(str, medium))}"
    return shown(str(medium), 300) if isinstance(medium, (str, os.PathLike)) else f"a {type(medium).__name__}"


def placed(where: str, medium: Any) -> str:
    """Name of a medium in messages that do not say its file: with the path, if there is one."""
    path = medium.get("path") if isinstance(medium, dict) else medium
    is_short = isinstance(path, str | os.PathLike) and len(os.fspath(path)) < 300  # others are base64
    return f"{where}: {medium_name(path)}" if is_short else where


def unreadable(medium: Any, where: str, kind: str, error: Exception | str) -> MediaError:
    """Make the error to raise for a medium that is no medium of this kind."""
    reason = " ".join(str(error).split())
    return MediaError(
        where, f"{medium_name(medium)} cannot be read as a {kind} ({reason}).", "Replace the file, or leave it out."
    )


def open_file(medium: Any, where: str, limits: Limits | None = None) -> str | io.BytesIO:
    """Find the file that a medium names: a path that exists, or the bytes in memory.

    Args:
        medium: What `find_medium` takes.
        where: Name of the medium in error messages.
        limits: Of its size.

    Raises:
        MediaError: If it names none, an address, no file is there, or it is empty.
        LimitError: If it is too large.
    """
    found = find_medium(medium, where=where, limits=limits)
    if isinstance(found, dict) and isinstance(found.get("bytes"), bytes):
        return io.BytesIO(found["bytes"])
    if not isinstance(found, str):
        raise MediaError(where, f"cannot load {medium_name(medium)}.", FORMS)
    return found


@contextmanager
def opened(file: str | io.BytesIO) -> Iterator[BinaryIO]:
    """Return the file, or the bytes in memory, open for reading from the start, whoever else reads it."""
    if isinstance(file, io.BytesIO):
        yield io.BytesIO(file.getvalue())  # which share their bytes
    else:
        with open(file, "rb") as stream:
            yield stream


def read_bytes(file: str | io.BytesIO) -> bytes:
    """All bytes of a file."""
    with opened(file) as stream:
        return stream.read()


def is_motion_jpeg(file: str | io.BytesIO) -> bool:
    """Whether several pictures of JPEG stand in a row, which is a film."""
    with opened(file) as stream:
        if stream.read(3) != b"\xff\xd8\xff":
            return False
        try:
            inspect(stream)
        except NotWhole:
            return True
    return False


def inspect_file(file: str | io.BytesIO, medium: Any, *, where: str, kind: str, most: float = float("inf")) -> Layout:
    """Parts and length of a file by its structure, see `containers.inspect`.

    Raises:
        MediaError: If it is not whole, or cannot be read.
    """
    try:
        with opened(file) as stream:
            return inspect(stream, most=most)
    except NotWhole as error:
        raise unreadable(medium, where, kind, str(error)) from None
    except OSError as error:
        raise unreadable(medium, where, kind, error.strerror or error) from None


@contextmanager
def open_container(file: str | io.BytesIO, medium: Any, *, where: str, kind: str) -> Iterator[Any]:
    """Open a film or a sound with PyAV, whose wheels carry FFmpeg, and close it at the end of the block.

    Args:
        file: Path, or the bytes in memory. A file that names other files is not followed to the network.
        medium: What was passed, for the errors.
        where: Name of the medium in error messages.
        kind: What it is to be, "video" or "sound".

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If the file cannot be opened, or not be decoded in the block.
    """
    try:
        import av
    except ImportError as error:
        extra = "audio" if kind == "sound" else "video"
        raise ImportError(
            f"{where}: decoding {medium_name(medium)} needs PyAV: `pip install unimoe[{extra}]`."
        ) from error
    if isinstance(file, io.BytesIO):
        file.seek(0)
    source = file if isinstance(file, io.BytesIO) else f"file:{file}"
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
        with av.open(source, metadata_errors="replace", container_options=options) as container:
            yield container
    except av.FFmpegError as error:
        raise unreadable(medium, where, kind, error.strerror or error) from error


def states_duration(container: Any) -> bool:
    """Whether the header of this format says how long the film is; that of others is an estimate."""
    return any(name in container.format.name for name in ("mov", "matroska", "avi"))


def check_complete(found: float, stated: float, medium: Any, *, where: str, kind: str) -> None:
    """Refuse a file that ends long before the end that its header states.

    Args:
        found: Seconds that are there.
        stated: Seconds that the header promises; rounding of up to a tenth, and a tenth of a second, passes.
        medium: What was passed, for the error.
        where: Name of the medium in error messages.
        kind: "video" or "sound".

    Raises:
        ValueError: If much is missing.
    """
    if found < 0.9 * stated - 0.1:
        reason = f"it is cut off: it ends after {max(found, 0):.2f} of {stated:.2f} s"
        raise unreadable(medium, where, kind, reason)


def is_array(medium: Any) -> bool:
    """Whether this is an array or tensor; a memoryview, which has dimensions too, holds the bytes of a file."""
    return hasattr(medium, "ndim") and not isinstance(medium, memoryview)


def as_numpy(array: Any, where: str) -> np.ndarray:
    """Make an array of an array, tensor or list.

    Args:
        array: The numbers.
        where: Name of the medium in error messages.

    Raises:
        MediaError: If numpy has no such array: of lists of several lengths, or tensors without values.
    """
    try:
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu()
            return (array.float() if array.dtype.is_floating_point and array.element_size() < 4 else array).numpy()
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"a {type(array).__name__} of these is no array of numbers ({reason})."
        raise MediaError(where, problem, "Pass a plain array of one shape.") from None
