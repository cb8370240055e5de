"""Files and bytes that hold media: found, named in messages, and opened with PyAV."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..errors import MediaError
from .naming import find_medium


def medium_name(medium: Any) -> str:
    """How a medium is called in messages: its path, or its type."""
    if isinstance(medium, dict):
        return medium_name(medium["path"]) if medium.get("path") else f"a dict with {sorted(map(str, medium))}"
    return repr(str(medium)) if isinstance(medium, (str, os.PathLike)) else f"a {type(medium).__name__}"


def unreadable(medium: Any, where: str, kind: str, error: Exception | str) -> ValueError:
    """The error to raise for a medium that is no medium of this kind."""
    return ValueError(
        f"{where}: {medium_name(medium)} cannot be read as a {kind} ({' '.join(str(error).split())}). Replace the "
        "file, or leave it out."
    )


def open_file(medium: Any, where: str) -> str | io.BytesIO:
    """Find the file of a path, bytes or {"bytes", "path"}: a path that exists, or the bytes in memory.

    Raises:
        ValueError: If it is none of these, an address, no file is there, or it is empty.
    """
    found = find_medium(medium, where=where)
    if isinstance(found, dict) and isinstance(found.get("bytes"), bytes):
        return io.BytesIO(found["bytes"])
    if not isinstance(found, str):
        cure = "Pass a path, bytes, an array or tensor, a PIL image, a dict of datasets or a torchcodec decoder."
        raise MediaError(where, f"cannot load {medium_name(medium)}.", cure)
    return found


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
        with av.open(source, metadata_errors="replace", container_options={"protocol_whitelist": "file"}) as container:
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


def to_numpy(array: Any) -> np.ndarray:
    """Make an array of an array, tensor or list."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
    return np.asarray(array)
